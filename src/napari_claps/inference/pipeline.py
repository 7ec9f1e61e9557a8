"""The one loop behind the command line, the plugin and the tests: image and targets in, slices out."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_claps.errors import BundleError, InputError
from napari_claps.inference.decision import Finding, Scores, decide
from napari_claps.inference.preprocess import display_limits, to_unit_rgb
from napari_claps.inference.region import check_region, cropped, pasted
from napari_claps.inference.scales import FIELD_SIDE, MULTIPLE, scaled_shape, working_side
from napari_claps.methods import CALIBRATED_METHOD, find_method
from napari_claps.methods.base import Query
from napari_claps.settings import Settings
from napari_claps.trust.conformal import band_level, why_no_band
from napari_claps.types import Modality, ModalityGuess, Prompt, RetinalImage, SliceResult
from napari_claps.words.vocabulary import MODALITIES, MODALITY_TEMPLATES, kind_of, make_prompt, parse_modality

if TYPE_CHECKING:
    from napari_claps.inference.single_scale import ScaleResult
    from napari_claps.models.bundles.bundle import Bundle


class Pipeline:
    """Finds and segments targets in retinal images.

    Parameters
    ----------
    bundle : Bundle
    settings : Settings
    """

    def __init__(self, bundle: Bundle, settings: Settings | None = None) -> None:
        from napari_claps.methods import make_prompter

        self.bundle = bundle
        self.settings = settings or Settings()
        self._method = find_method(self.settings.method)
        self._prompter = make_prompter(self.settings.method, bundle, seed=self.settings.seed)

    @classmethod
    def from_settings(cls, settings: Settings | None = None) -> Pipeline:
        """Load the bundle that the settings name.

        Raises
        ------
        BundleError, DeviceError
        """
        from napari_claps.models.bundles.bundle import load_bundle

        settings = settings or Settings()
        return cls(load_bundle(settings.bundle, device=settings.device, models_folder=settings.models_folder), settings)

    def with_settings(self, **values: Any) -> Pipeline:
        """Return a pipeline with the same bundle and other settings."""
        return Pipeline(self.bundle, replace(self.settings, **values))

    def method_settings(self, modality: Modality) -> dict[str, Any]:
        """Return the settings of the method in a modality; none for "claps", whose thresholds are the bundle's."""
        options = getattr(self._prompter, "options", {}).get(modality)
        return {} if options is None else asdict(options)

    def detect_modality(self, image: RetinalImage) -> ModalityGuess:
        """Decide the modality: the settings' word first, then the file's, then CLIP's.

        CLIP compares the whole field (for a volume three slices of it) with
        the signatures of all modalities that the bundle knows.
        """
        if self.settings.modality != "auto":
            return ModalityGuess(parse_modality(self.settings.modality), None, "user")
        if image.modality is not None:
            return ModalityGuess(image.modality, None, "file")
        from napari_claps.inference.single_scale import encode_whole

        n = image.n_slices
        chosen = sorted({n // 4, n // 2, (3 * n) // 4})
        planes = [self._plane(image, i, self._limits(image)) for i in chosen]
        embedding = encode_whole(self.bundle, planes, FIELD_SIDE).mean(0)
        known = [m for m in MODALITIES if m in self.bundle.manifest.modalities]
        texts = [t.format(signature=MODALITIES[m].signature) for m in known for t in MODALITY_TEMPLATES]
        signatures = self.bundle.clip_text(tuple(texts)).unflatten(0, (len(known), -1)).mean(1)
        signatures = signatures / signatures.norm(dim=1, keepdim=True)
        clip = self.bundle.require_clip("naming the modality", "Name the modality yourself (--modality)")
        logits = clip.scale * (signatures @ (embedding / embedding.norm()))
        p = logits.softmax(0).tolist()
        best = int(np.argmax(p))
        return ModalityGuess(known[best], p[best], "detected", dict(zip(map(str, known), p, strict=True)))

    def prompts(self, targets: Sequence[str | Prompt], modality: Modality) -> tuple[Prompt, ...]:
        """Turn what the user typed into prompts, without doubles; a `Prompt` stays as it is.

        Raises
        ------
        PromptError
            If a target is unknown or does not exist in the modality.
        BundleError
            If the bundle was not trained for it.
        """
        if not targets:
            raise InputError("No target was given. Name at least one, such as "
                             f"{', '.join(self.bundle.manifest.targets(modality)[:3]) or 'vessel'}.")
        made: dict[str, Prompt] = {}
        manifest = self.bundle.manifest
        for text in targets:
            prompt = text if isinstance(text, Prompt) else manifest.worded(make_prompt(text, modality))
            if prompt.target and manifest.pair(modality, prompt.target) is None:
                raise BundleError(
                    f"Bundle {manifest.name} was not trained for {prompt.target} in {MODALITIES[modality].signature}. "
                    f"In this modality it finds: {', '.join(manifest.targets(modality)) or 'nothing'}. "
                    "Choose one of these, or a bundle that was trained for it.")
            if not prompt.target and modality not in manifest.modalities:
                raise BundleError(f"Bundle {manifest.name} was not trained on {MODALITIES[modality].signature}. "
                                  f"It knows: {', '.join(manifest.modalities)}.")
            made.setdefault(prompt.label, prompt)
        return tuple(made.values())

    def run(self, image: RetinalImage, targets: Sequence[str | Prompt], *, modality: ModalityGuess | None = None,
            slices: Sequence[int] | None = None,
            region: tuple[int, int, int, int] | None = None) -> Generator[SliceResult, None, None]:
        """Segment slice by slice.

        Everything that can be wrong with the request is checked here, before
        the generator is returned.

        Parameters
        ----------
        image : RetinalImage
        targets : sequence of str or Prompt
            Ids, synonyms or free texts.
        modality : ModalityGuess, optional
            If it was decided before.
        slices : sequence of int, optional
            Only these slices, in this order; all by default.
        region : tuple of int, optional
            (y0, x0, y1, x1) in pixels, end exclusive: only this part of every
            slice is looked at; masks and boxes are those of the whole slice.

        Yields
        ------
        SliceResult

        Raises
        ------
        InputError, PromptError, BundleError
        """
        order = list(range(image.n_slices)) if slices is None else [int(i) for i in slices]
        wrong = [i for i in order if not 0 <= i < image.n_slices]
        if wrong or not order:
            raise InputError(f"{image.source}: slices {wrong or 'none'} asked for, but it has slices "
                             f"0 to {image.n_slices - 1}.")
        if region is not None:
            check_region(region, image)
        guess = modality or self.detect_modality(image)
        prompts = self.prompts(targets, guess.modality)
        self._check_coverage(prompts, guess.modality)
        return self._run(image, guess, prompts, order, region)

    def _run(self, image: RetinalImage, guess: ModalityGuess, prompts: tuple[Prompt, ...], order: list[int],
             region: tuple[int, int, int, int] | None) -> Generator[SliceResult, None, None]:
        limits = self._limits(image)
        for start in range(0, len(order), self.settings.batch_size):
            chunk = order[start:start + self.settings.batch_size]
            if region is None:
                yield from self._segment(image, guess, prompts, chunk, limits)
            else:
                part = cropped(image, region)
                # A part is looked at in the scale of the whole, or small things would change their size.
                zoom = max(part.plane_shape) / max(image.plane_shape)
                for result in self._segment(part, guess, prompts, chunk, limits, zoom):
                    yield pasted(result, region, image.plane_shape)

    def _segment(self, image: RetinalImage, guess: ModalityGuess, prompts: tuple[Prompt, ...], chunk: list[int],
                 limits: tuple[float, float] | None, zoom: float = 1.0) -> list[SliceResult]:
        """Segment a few slices together; `zoom` is their long side as a part of the whole image's."""
        begin = time.perf_counter()
        shape = image.plane_shape
        planes = [self._plane(image, i, limits) for i in chunk]
        found: list[dict[str, Finding]] = [{} for _ in chunk]
        coverage = self.settings.coverage
        seconds: dict[str, float] = {"read": (time.perf_counter() - begin) / len(chunk)}
        for side, group in self._by_side(self.queries(prompts, guess.modality), shape, zoom).items():
            # What others are told from is looked at with them, and left out of the result.
            beside = self._beside(guess.modality, [query.prompt for query in group])
            asked = [*group, *self.queries(beside, guess.modality)]
            results, means = self._look(planes, side, asked, guess.modality, chunk)
            for stage, value in results[0].seconds.items():
                seconds[stage] = seconds.get(stage, 0.0) + value
            begin = time.perf_counter()
            area = float(np.prod(shape)) / float(np.prod(scaled_shape(shape, side)))
            for s, (result, mean) in enumerate(zip(results, means, strict=True)):
                for i, query in enumerate(group):
                    scores = Scores(result.probability[i], float(result.presence[i]), result.boxes[i])
                    found[s][query.prompt.label] = decide(
                        query, scores, area=area, slice_index=chunk[s],
                        score_threshold=self.settings.score_threshold or 0.0, mean=None if mean is None else mean[i],
                        level=None if coverage is None else band_level(query.pair, coverage))
            seconds["objects"] = seconds.get("objects", 0.0) + (time.perf_counter() - begin) / len(chunk)
        return [self._result(index, guess, prompts, found[s], dict(seconds)) for s, index in enumerate(chunk)]

    def _look(self, planes: list[np.ndarray], side: int, queries: list[Query], modality: Modality,
              chunk: list[int]) -> tuple[list[ScaleResult], list[np.ndarray] | list[None]]:
        """What the networks say of each slice, and the mean of the ensemble where one is asked for."""
        mirrored = self.settings.mirrored and self._method.calibrated
        if self.settings.uncertainty:
            from napari_claps.inference.ensemble import segment_ensemble

            return segment_ensemble(self.bundle, self._prompter, planes, side, queries, modality=modality,
                                    seed=self.settings.seed, slices=chunk, mirrored=mirrored)
        from napari_claps.inference.single_scale import segment_at_scale

        results = segment_at_scale(self.bundle, self._prompter, planes, side, queries, mirrored=mirrored)
        return results, [None] * len(planes)

    @staticmethod
    def _result(index: int, guess: ModalityGuess, prompts: tuple[Prompt, ...], found: dict[str, Finding],
                seconds: dict[str, float]) -> SliceResult:
        """Put the findings of a slice together, in the order of the prompts."""
        def planes(name: str) -> dict[str, np.ndarray]:
            return {p.label: plane for p in prompts if (plane := getattr(found[p.label], name)) is not None}

        boxes = tuple(box for finding in found.values() for box in finding.boxes)
        presence = {p.label: found[p.label].presence for p in prompts}
        return SliceResult(index, guess, prompts, planes("mask"), boxes, presence, seconds,
                           uncertainty=planes("uncertainty"), inner=planes("inner"), outer=planes("outer"))

    def _check_coverage(self, prompts: Sequence[Prompt], modality: Modality) -> None:
        """Refuse a coverage that nobody calibrated."""
        coverage = self.settings.coverage
        if coverage is None:
            return
        if not self._method.calibrated or self.settings.score_threshold is not None:
            raise InputError(f"coverage = {coverage} was calibrated for the method {CALIBRATED_METHOD} with the "
                             "bundle's own thresholds: leave out the other method and the score threshold, or the "
                             "coverage.")
        if not self.settings.mirrored and modality in self.bundle.manifest.mirrored:
            raise InputError(f"coverage = {coverage} was calibrated for a mean over mirrored images: leave out "
                             "--no-mirroring (mirrored = false), or the coverage.")
        missing = []
        for prompt in prompts:
            pair = self.bundle.manifest.pair(modality, prompt.target)
            if pair is None or band_level(pair, coverage) is None:
                missing.append(f"{prompt.label} ({why_no_band(pair, coverage)})")
        if missing:
            raise BundleError(f"Bundle {self.bundle.manifest.name} has no inner and outer masks of coverage {coverage} "
                              f"in {MODALITIES[modality].signature} for: {'; '.join(missing)}. Leave these targets or "
                              "the coverage out, or ask for less.")

    def queries(self, prompts: Sequence[Prompt], modality: Modality) -> list[Query]:
        """Prompts with their thresholds; free text gets the defaults, and is absent unless the mask head is sure.

        The presence of a compact target holds for the calibrated method; the others answer by boxes or none.
        """
        manifest, found = self.bundle.manifest, []
        for prompt in prompts:
            pair = manifest.pair(modality, prompt.target) or manifest.free_pair(modality, prompt.label)
            if not (kind_of(prompt.target).is_whole or self._method.calibrated):
                pair = replace(pair, presence=0.0, calibration={})
            found.append(Query(prompt, pair))
        return found

    def _beside(self, modality: Modality, group: Sequence[Prompt]) -> list[Prompt]:
        """Prompts of known targets that others of the group have to be compared with."""
        from napari_claps.inference.artery_vein import compared_with

        def usual(target: str) -> Prompt:
            return self.bundle.manifest.worded(make_prompt(target, modality))

        asked = [p.target for p in group if p.target and p.text == usual(p.target).text]
        return [usual(t) for t in compared_with(asked) if self.bundle.manifest.pair(modality, t)]

    @staticmethod
    def _by_side(queries: Sequence[Query], shape: tuple[int, int], zoom: float) -> dict[int, list[Query]]:
        """Group queries by the scale at which they are looked for: one encoder pass serves a group."""
        groups: dict[int, list[Query]] = {}
        for query in queries:
            whole = (round(shape[0] / zoom), round(shape[1] / zoom))
            side = max(MULTIPLE, round(working_side(query.pair.modality, kind_of(query.prompt.target), whole) * zoom))
            groups.setdefault(side, []).append(query)
        return groups

    @staticmethod
    def _limits(image: RetinalImage) -> tuple[float, float] | None:
        """Grey range of the whole image, so that all slices of a volume are mapped alike."""
        return None if image.data.dtype == np.uint8 else display_limits(image.data, source=image.source)

    @staticmethod
    def _plane(image: RetinalImage, index: int, limits: tuple[float, float] | None) -> np.ndarray:
        return to_unit_rgb(image.plane(index), limits=limits, source=image.source)
