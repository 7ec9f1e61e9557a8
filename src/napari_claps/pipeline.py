"""The one loop behind the command line, the plugin and the tests: image and targets in, slices out."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from napari_claps.errors import BundleError, InputError
from napari_claps.masks import drop_low_scores, extract_objects, match_boxes
from napari_claps.models.manifest import Pair
from napari_claps.preprocess import display_limits, to_unit_rgb
from napari_claps.settings import Settings
from napari_claps.types import Box, Modality, ModalityGuess, Prompt, RetinalImage, SliceResult
from napari_claps.views import FIELD_SIDE, MULTIPLE, scaled_shape, working_side
from napari_claps.vocabulary import MODALITIES, MODALITY_TEMPLATES, TARGETS, Kind, make_prompt, parse_modality

if TYPE_CHECKING:
    from napari_claps.models.bundle import Bundle


def check_region(region: tuple[int, int, int, int], image: RetinalImage) -> None:
    """Refuse a region that is not inside the image, or too small.

    Raises
    ------
    InputError
    """
    y0, x0, y1, x1 = region
    height, width = image.plane_shape
    if not (0 <= y0 < y1 <= height and 0 <= x0 < x1 <= width) or min(y1 - y0, x1 - x0) < 8:
        raise InputError(f"{image.source}: the region (y0, x0, y1, x1) = {tuple(region)} must lie inside the image of "
                         f"{height} x {width} pixels and have at least 8 x 8 pixels.")


def cropped(image: RetinalImage, region: tuple[int, int, int, int]) -> RetinalImage:
    """A view of the part of an image that lies in the region."""
    y0, x0, y1, x1 = region
    rows, columns = slice(y0, y1), slice(x0, x1)
    data = image.data[:, rows, columns] if image.is_volume else image.data[rows, columns]
    return dataclasses.replace(image, data=data, localizer=None, scan_lines=None, layers={})


def pasted(result: SliceResult, region: tuple[int, int, int, int], shape: tuple[int, int]) -> SliceResult:
    """The result of a region as that of the whole slice."""
    y0, x0, y1, x1 = region
    masks = {}
    for label, mask in result.masks.items():
        masks[label] = np.zeros(shape, mask.dtype)
        masks[label][y0:y1, x0:x1] = mask
    boxes = tuple(dataclasses.replace(b, y0=b.y0 + y0, y1=b.y1 + y0, x0=b.x0 + x0, x1=b.x1 + x0) for b in result.boxes)
    return dataclasses.replace(result, masks=masks, boxes=boxes)


class Pipeline:
    """Finds and segments targets in retinal images.

    Parameters
    ----------
    bundle : Bundle
    settings : Settings
    """

    def __init__(self, bundle: Bundle, settings: Settings | None = None) -> None:
        from napari_claps.prompters import make_prompter

        self.bundle = bundle
        self.settings = settings or Settings()
        self._prompter = make_prompter(self.settings.method, bundle)

    @classmethod
    def from_settings(cls, settings: Settings | None = None) -> Pipeline:
        """Load the bundle that the settings name.

        Raises
        ------
        BundleError, DeviceError
        """
        from napari_claps.models.bundle import load_bundle

        settings = settings or Settings()
        return cls(load_bundle(settings.bundle, device=settings.device), settings)

    def detect_modality(self, image: RetinalImage) -> ModalityGuess:
        """Decide the modality: the settings' word first, then the file's, then CLIP's.

        CLIP compares the whole field (for a volume three slices of it) with
        the signatures of all modalities that the bundle knows.
        """
        if self.settings.modality != "auto":
            return ModalityGuess(parse_modality(self.settings.modality), None, "user")
        if image.modality is not None:
            return ModalityGuess(image.modality, None, "file")
        from napari_claps.field import encode_field

        n = image.n_slices
        chosen = sorted({n // 4, n // 2, (3 * n) // 4})
        planes = [self._plane(image, i, self._limits(image)) for i in chosen]
        embedding = encode_field(self.bundle, planes, FIELD_SIDE).mean(0)
        known = [m for m in MODALITIES if m in self.bundle.manifest.modalities]
        texts = [t.format(signature=MODALITIES[m].signature) for m in known for t in MODALITY_TEMPLATES]
        signatures = self.bundle.clip_text(tuple(texts)).unflatten(0, (len(known), -1)).mean(1)
        signatures = signatures / signatures.norm(dim=1, keepdim=True)
        logits = self.bundle.clip.scale * (signatures @ (embedding / embedding.norm()))
        p = logits.softmax(0).tolist()
        best = int(np.argmax(p))
        return ModalityGuess(known[best], p[best], "detected", dict(zip(map(str, known), p, strict=True)))

    def prompts(self, targets: Sequence[str], modality: Modality) -> tuple[Prompt, ...]:
        """Turn what the user typed into prompts, without doubles.

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
            prompt = make_prompt(text, modality)
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

    def run(self, image: RetinalImage, targets: Sequence[str], *, modality: ModalityGuess | None = None,
            slices: Sequence[int] | None = None,
            region: tuple[int, int, int, int] | None = None) -> Iterator[SliceResult]:
        """Segment slice by slice.

        Everything that can be wrong with the request is checked here, before
        the generator is returned.

        Parameters
        ----------
        image : RetinalImage
        targets : sequence of str
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
        return self._run(image, guess, prompts, order, region)

    def _run(self, image: RetinalImage, guess: ModalityGuess, prompts: tuple[Prompt, ...], order: list[int],
             region: tuple[int, int, int, int] | None) -> Iterator[SliceResult]:
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
        from napari_claps.field import segment_field

        begin = time.perf_counter()
        shape = image.plane_shape
        planes = [self._plane(image, i, limits) for i in chunk]
        pairs = {p.label: self._pair(guess.modality, p) for p in prompts}
        masks: list[dict[str, np.ndarray]] = [{} for _ in chunk]
        boxes: list[list[Box]] = [[] for _ in chunk]
        presence: list[dict[str, float]] = [{} for _ in chunk]
        seconds: dict[str, float] = {"read": (time.perf_counter() - begin) / len(chunk)}
        for side, group in self._by_side(guess.modality, prompts, shape, zoom).items():
            results = segment_field(self.bundle, self._prompter, planes, side, group, [pairs[p.label] for p in group])
            for stage, value in results[0].seconds.items():
                seconds[stage] = seconds.get(stage, 0.0) + value
            begin = time.perf_counter()
            area = float(np.prod(shape)) / float(np.prod(scaled_shape(shape, side)))
            for s, result in enumerate(results):
                for i, prompt in enumerate(group):
                    score = float(result.presence[i])
                    objects, found = self._objects(prompt, pairs[prompt.label], result.probability[i], score,
                                                   result.boxes[i], area, chunk[s])
                    masks[s][prompt.label] = objects
                    boxes[s].extend(found)
                    presence[s][prompt.label] = score
            seconds["objects"] = seconds.get("objects", 0.0) + (time.perf_counter() - begin) / len(chunk)
        return [
            SliceResult(index, guess, prompts, {p.label: masks[s][p.label] for p in prompts}, tuple(boxes[s]),
                        presence[s], dict(seconds))
            for s, index in enumerate(chunk)
        ]

    def _objects(self, prompt: Prompt, pair: Pair, probability: np.ndarray, presence: float,
                 detected: Sequence[tuple[float, float, float, float, float]], area: float,
                 index: int) -> tuple[np.ndarray, tuple[Box, ...]]:
        """Mask and boxes of one prompt; empty where the presence says absent."""
        if presence < pair.presence:
            return np.zeros(probability.shape, np.uint16), ()
        whole = prompt.target is not None and TARGETS[prompt.target].kind in (Kind.TREE, Kind.BAND)
        objects = extract_objects(probability, threshold=pair.threshold, min_area=pair.min_area * area, whole=whole)
        found = match_boxes(objects, probability, detected, name=prompt.label, slice_index=index)
        return drop_low_scores(objects, found, self.settings.score_threshold or 0.0)

    def _pair(self, modality: Modality, prompt: Prompt) -> Pair:
        """Thresholds of a prompt; free text gets the defaults, and is absent unless the mask head is sure."""
        return self.bundle.manifest.pair(modality, prompt.target) or Pair(modality, prompt.label, presence=0.5)

    @staticmethod
    def _by_side(modality: Modality, prompts: Sequence[Prompt], shape: tuple[int, int],
                 zoom: float) -> dict[int, list[Prompt]]:
        """Group prompts by the scale at which they are looked for: one encoder pass serves a group."""
        groups: dict[int, list[Prompt]] = {}
        for prompt in prompts:
            kind = TARGETS[prompt.target].kind if prompt.target else Kind.OBJECT
            whole = (round(shape[0] / zoom), round(shape[1] / zoom))
            side = max(MULTIPLE, round(working_side(modality, kind, whole) * zoom))
            groups.setdefault(side, []).append(prompt)
        return groups

    @staticmethod
    def _limits(image: RetinalImage) -> tuple[float, float] | None:
        """Grey range of the whole image, so that all slices of a volume are mapped alike."""
        return None if image.data.dtype == np.uint8 else display_limits(image.data, source=image.source)

    @staticmethod
    def _plane(image: RetinalImage, index: int, limits: tuple[float, float] | None) -> np.ndarray:
        return to_unit_rgb(image.plane(index), limits=limits, source=image.source)
