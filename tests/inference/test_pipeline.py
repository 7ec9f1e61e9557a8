"""The loop: slices out, checks before the first one, and errors that say what to do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import skimage.data

from napari_claps.errors import BundleError, InputError, PromptError
from napari_claps.inference.pipeline import Pipeline
from napari_claps.settings import Settings
from napari_claps.types import Modality, RetinalImage


@pytest.fixture(scope="module")
def pipeline(tiny_bundle: Path) -> Pipeline:
    return Pipeline.from_settings(Settings(bundle=str(tiny_bundle), device="cpu"))


def volume(n: int = 4, dtype: type = np.uint8) -> RetinalImage:
    data = (np.random.default_rng(0).random((n, 40, 64)) * 255).astype(dtype)
    return RetinalImage(data, modality=Modality.OCT, source="volume.tif")


def test_a_volume_gives_a_result_per_slice(pipeline: Pipeline) -> None:
    results = list(pipeline.run(volume(), ["drusen", "IRF"]))
    assert [r.index for r in results] == [0, 1, 2, 3]
    for result in results:
        assert list(result.masks) == ["drusen", "intraretinal_fluid"]
        assert all(m.shape == (40, 64) and m.dtype == np.uint16 for m in result.masks.values())
        assert all(b.slice_index == result.index and b.y1 <= 40 and b.x1 <= 64 for b in result.boxes)
        assert {b.instance for b in result.boxes if b.label == "drusen"} == set(np.unique(result.masks["drusen"])) - {0}
        assert set(result.presence) == set(result.masks) and result.modality.decided_by == "file"


def test_batches_give_what_single_slices_give(pipeline: Pipeline, tiny_bundle: Path) -> None:
    together = Pipeline(pipeline.bundle, Settings(bundle=str(tiny_bundle), batch_size=3))
    for a, b in zip(pipeline.run(volume(), ["drusen", "retina"]), together.run(volume(), ["drusen", "retina"]),
                    strict=True):
        for label in a.masks:
            assert ((a.masks[label] > 0) == (b.masks[label] > 0)).mean() > 0.999  # rounding only


def test_chosen_slices_only_and_lazily(pipeline: Pipeline) -> None:
    stream = pipeline.run(volume(100), ["drusen"], slices=[7, 3])
    assert next(stream).index == 7 and next(stream).index == 3
    assert next(stream, None) is None


def test_large_photographs_are_tiled(pipeline: Pipeline) -> None:
    data = (np.random.default_rng(0).random((300, 340, 3)) * 255).astype(np.uint8)
    image = RetinalImage(data, rgb=True, modality=Modality.CFP)
    result = next(iter(pipeline.run(image, ["vessel", "disc"])))
    assert {m.shape for m in result.masks.values()} == {(300, 340)}


def test_arteries_are_the_same_whether_veins_are_asked_for_or_not(small_views: None) -> None:
    """They are always compared; what was not asked for is not in the result."""
    shipped = Pipeline.from_settings(Settings(device="cpu"))
    photograph = skimage.data.retina()[300:556, 500:756]
    image = RetinalImage(photograph, rgb=True, modality=Modality.CFP)
    (alone,), (both,) = (tuple(shipped.run(image, asked)) for asked in (["artery"], ["vessel", "vein", "artery"]))
    assert list(alone.masks) == ["artery"] and list(both.masks) == ["vessel", "vein", "artery"]
    assert both.masks["artery"].any() and both.masks["vein"].any()
    np.testing.assert_array_equal(alone.masks["artery"], both.masks["artery"])
    assert alone.presence["artery"] == pytest.approx(both.presence["artery"], abs=1e-5)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_other_types_of_pixels(pipeline: Pipeline, dtype: type) -> None:
    assert len(list(pipeline.run(volume(2, dtype), ["drusen"]))) == 2


def test_modality_is_detected_with_probabilities(pipeline: Pipeline) -> None:
    image = RetinalImage((np.random.default_rng(0).random((60, 60)) * 255).astype(np.uint8))
    guess = pipeline.detect_modality(image)
    assert guess.decided_by == "detected" and guess.modality in (Modality.CFP, Modality.OCT)
    assert abs(sum(guess.probabilities.values()) - 1) < 1e-5 and guess.probability == max(guess.probabilities.values())


def test_the_users_word_counts_first(pipeline: Pipeline, tiny_bundle: Path) -> None:
    mine = Pipeline(pipeline.bundle, Settings(bundle=str(tiny_bundle), modality="cfp"))
    assert mine.detect_modality(volume()).modality is Modality.CFP


@pytest.mark.parametrize(("targets", "error", "message"), [
    (["drusn"], PromptError, "Did you mean drusen"), (["optic_cup"], PromptError, "does not exist in an OCT B-scan"),
    (["shrm"], BundleError, "was not trained for shrm.*it finds: drusen"), ([], InputError, "No target was given"),
])
def test_wrong_requests_fail_before_the_first_slice(pipeline: Pipeline, targets: list[str], error: type,
                                                    message: str) -> None:
    with pytest.raises(error, match=message):
        pipeline.run(volume(), targets)


def test_modality_the_bundle_does_not_know(pipeline: Pipeline) -> None:
    image = RetinalImage(np.zeros((40, 40), np.uint8), modality=Modality.OCTA)
    with pytest.raises(BundleError, match="not trained for vessel in an en-face OCT angiogram"):
        pipeline.run(image, ["vessel"])
    with pytest.raises(BundleError, match="not trained on an en-face OCT angiogram. It knows: cfp, oct"):
        pipeline.run(image, ["dark central spot"])


def test_slices_out_of_range_are_named(pipeline: Pipeline) -> None:
    with pytest.raises(InputError, match=r"volume\.tif: slices \[9\] asked for, but it has slices 0 to 3"):
        pipeline.run(volume(), ["drusen"], slices=[0, 9])


def test_nan_is_found_before_work(pipeline: Pipeline) -> None:
    data = np.ones((2, 40, 64), np.float32)
    data[1, 3, 3] = np.nan
    with pytest.raises(InputError, match="NaN"):
        list(pipeline.run(RetinalImage(data, modality=Modality.OCT), ["drusen"]))


def test_free_text_runs_and_keeps_its_words(pipeline: Pipeline) -> None:
    result = next(iter(pipeline.run(volume(1), ["dark round cyst"])))
    assert result.prompts[0].target is None and "dark round cyst" in result.masks


def test_doubles_are_asked_once(pipeline: Pipeline) -> None:
    assert len(next(iter(pipeline.run(volume(1), ["IRF", "intraretinal_fluid", "irf"]))).masks) == 1


def test_score_threshold_drops_objects(pipeline: Pipeline, tiny_bundle: Path) -> None:
    strict = Pipeline(pipeline.bundle, Settings(bundle=str(tiny_bundle), score_threshold=1.0))
    result = next(iter(strict.run(volume(1), ["drusen"])))
    assert not result.boxes and not result.masks["drusen"].any()


def test_a_region_is_looked_at_alone_and_pasted_back(pipeline: Pipeline) -> None:
    image = volume(2)
    for result in pipeline.run(image, ["drusen"], region=(4, 10, 36, 50)):
        mask = result.masks["drusen"]
        assert mask.shape == (40, 64) and mask[4:36, 10:50].any()
        mask[4:36, 10:50] = 0
        assert not mask.any()
        assert all(b.y0 >= 4 and b.x0 >= 10 and b.y1 <= 36 and b.x1 <= 50 for b in result.boxes)


def test_the_whole_image_as_a_region_changes_nothing(pipeline: Pipeline) -> None:
    whole, region = (next(iter(pipeline.run(volume(1), ["drusen"], region=r))) for r in (None, (0, 0, 40, 64)))
    np.testing.assert_array_equal(whole.masks["drusen"], region.masks["drusen"])


def test_a_region_outside_the_image_is_refused(pipeline: Pipeline) -> None:
    with pytest.raises(InputError, match=r"region .* must lie inside the image of 40 x 64"):
        pipeline.run(volume(), ["drusen"], region=(0, 0, 41, 64))
