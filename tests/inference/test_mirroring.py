"""Images that are looked at mirrored too: the looks are put together rightly, and only where the bundle asks for it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.tiles import fuse_tiles
from napari_claps.errors import BundleError, InputError
from napari_claps.inference import mirroring as mirroring_module
from napari_claps.inference import single_scale
from napari_claps.inference.mirroring import looks
from napari_claps.inference.pipeline import Pipeline
from napari_claps.inference.single_scale import ScaleResult, segment_at_scale
from napari_claps.methods import make_prompter
from napari_claps.methods.base import Query
from napari_claps.models.bundles.bundle import Bundle, load_bundle
from napari_claps.models.bundles.manifest import Pair, read_manifest
from napari_claps.settings import Settings
from napari_claps.trust.prompt_check import check_prompts
from napari_claps.types import Modality, RetinalImage
from napari_claps.words.vocabulary import make_prompt


@pytest.fixture(scope="module")
def mirroring(tiny_bundle: Path) -> Bundle:
    """The tiny bundle, if it asked to look at fundus photographs mirrored too."""
    bundle = load_bundle(tiny_bundle, device="cpu")
    return replace(bundle, manifest=replace(bundle.manifest, mirrored=(Modality.CFP,)))


def fundus(shape: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(shape[1]).random((*shape, 3)).astype(np.float32)


def asked(bundle: Bundle, plane: np.ndarray, *targets: str, **options: bool) -> ScaleResult:
    """What is said of a plane at its own size, in tiles if it is large."""
    queries = [Query(make_prompt(t, Modality.CFP), bundle.manifest.pair(Modality.CFP, t)) for t in targets]
    prompter = make_prompter("claps", bundle)
    return segment_at_scale(bundle, prompter, [plane], max(plane.shape), queries, **options)[0]


@pytest.mark.parametrize("shape", [(64, 96), (61, 95)])
def test_mirrored_looks_are_turned_back_and_averaged(mirroring: Bundle, shape: tuple[int, int],
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(single_scale, "resized", lambda masks, size, shape: masks)  # as the mask head makes them
    targets, plane = ("vessel", "optic_disc"), fundus(shape)  # by text alone, and half by boxes
    once, mean = (asked(mirroring, plane, *targets, mirrored=way) for way in (False, True))
    even = np.pad(plane, ((0, shape[0] % 2), (0, shape[1] % 2), (0, 0)), mode="edge")
    flips = ((), (1,), (0,), (0, 1))
    single = [asked(mirroring, np.flip(even, axes), *targets, mirrored=False) for axes in flips]
    turned = [np.flip(r.probability, [a + 1 for a in axes]) for r, axes in zip(single, flips, strict=True)]
    np.testing.assert_allclose(mean.probability, np.mean(turned, axis=0), atol=1e-5)
    np.testing.assert_allclose(mean.presence, np.mean([r.presence for r in single], axis=0), atol=1e-5)
    assert np.abs(mean.probability - once.probability).max() > 1e-3, "a single look says something else"
    assert mean.boxes == once.boxes and mean.boxes[1], "boxes are those of the image as it is"


def test_the_mirrored_image_has_the_mirrored_mask(mirroring: Bundle) -> None:
    plane = fundus((64, 96))
    for axes in ((0,), (1,), (0, 1)):
        there, back = asked(mirroring, plane, "vessel"), asked(mirroring, np.flip(plane, axes), "vessel")
        np.testing.assert_allclose(np.flip(back.probability, [a + 1 for a in axes]), there.probability, atol=1e-5)


def test_only_what_the_bundle_asks_for_is_looked_at_mirrored(mirroring: Bundle, tiny_bundle: Path) -> None:
    plane = fundus((64, 96))
    plain = asked(load_bundle(tiny_bundle, device="cpu"), plane, "vessel")
    np.testing.assert_array_equal(plain.probability, asked(mirroring, plane, "vessel", mirrored=False).probability)
    assert looks(mirroring.manifest, Modality.OCT) == ((),) and len(looks(mirroring.manifest, Modality.CFP)) == 4


@pytest.mark.parametrize("shape", [(700, 1400), (991, 1401)])
def test_mirrored_tiles_of_any_network_lie_on_the_same_grid(shape: tuple[int, int]) -> None:
    """A network that answers with the image itself says the same in every look, if none is shifted."""
    image = fundus(shape)
    once, mean = (fuse_tiles(image, max(shape), "cpu", lambda view, tile: view[0, :1, ::2, ::2] + view[0, :1, 1::2, ::2]
                             + view[0, :1, ::2, 1::2] + view[0, :1, 1::2, 1::2], flips)
                  for flips in (((),), ((), (1,), (0,), (0, 1))))
    np.testing.assert_allclose(mean, once, atol=1e-4)


def photograph() -> RetinalImage:
    return RetinalImage((fundus((64, 96)) * 255).astype(np.uint8), rgb=True, modality=Modality.CFP)


def masks_of(bundle: Bundle, **settings: object) -> np.ndarray:
    pipeline = Pipeline(bundle, Settings(**settings))
    return next(iter(pipeline.run(photograph(), ["vessel"]))).masks["vessel"]


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of looks at each image that the networks see."""
    counts: list[int] = []
    count = mirroring_module.mirrorings
    monkeypatch.setattr(mirroring_module, "mirrorings",
                        lambda modality: counts.append(len(count(modality))) or count(modality))
    return counts


@pytest.mark.usefixtures("small_views")
def test_settings_and_method_decide(mirroring: Bundle, looked: list[int]) -> None:
    masks_of(mirroring)
    assert looked == [4]
    masks_of(mirroring, mirrored=False)
    masks_of(mirroring, method="salip")
    check_prompts(Pipeline(mirroring), photograph(), ["vessel", "optic_disc"])
    assert looked == [4], "others, and the check of the prompts, look once"


@pytest.mark.usefixtures("small_views")
def test_with_uncertainty_presence_stays_that_of_all_looks(mirroring: Bundle) -> None:
    plain, uncertain = (next(iter(Pipeline(mirroring, Settings(uncertainty=way)).run(photograph(), ["optic_disc"])))
                        for way in (False, True))
    assert uncertain.presence == pytest.approx(plain.presence, abs=1e-5)
    assert uncertain.uncertainty and uncertain.seconds["encode"] > plain.seconds["encode"]


def test_coverage_was_calibrated_for_all_looks(mirroring: Bundle) -> None:
    band = {"outer": {"0.8": 0.2}, "inner": {"0.8": 0.8}, "n_inner": 20, "n_outer": 20}
    pairs = tuple(Pair(m, t, **band) for m, t in ((Modality.CFP, "vessel"), (Modality.OCT, "drusen")))
    bundle = replace(mirroring, manifest=replace(mirroring.manifest, pairs=pairs))
    once = Pipeline(bundle, Settings(mirrored=False, coverage=0.8))
    with pytest.raises(InputError, match=r"calibrated for a mean over mirrored images: leave out --no-mirroring"):
        once.run(photograph(), ["vessel"])
    scan = RetinalImage((fundus((64, 96))[..., 0] * 255).astype(np.uint8), modality=Modality.OCT)
    once.run(scan, ["drusen"])  # is looked at once anyway


def test_the_bundle_names_its_modalities(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_bundle, tmp_path / "tiny")
    text = (folder / "bundle.toml").read_text()
    assert read_manifest(folder).mirrored == ()
    (folder / "bundle.toml").write_text(text + '[views]\nmirrored = ["cfp", "slo"]\n')
    assert read_manifest(folder).mirrored == (Modality.CFP, Modality.SLO)
    (folder / "bundle.toml").write_text(text + '[views]\nmirrored = ["xray"]\n')
    with pytest.raises(BundleError, match=r"bundle.toml: is not a readable bundle description .*'xray'"):
        read_manifest(folder)
