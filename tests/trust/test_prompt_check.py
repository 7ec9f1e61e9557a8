"""Does the mask depend on the text: a model that ignores it is caught, one that reads it is not."""

from __future__ import annotations

import csv
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from napari_claps.inference.pipeline import Pipeline
from napari_claps.io import read
from napari_claps.results.prompt_check import prompt_check_picture, write_prompt_check
from napari_claps.settings import Settings
from napari_claps.synthetic import demo_volume
from napari_claps.trust.prompt_check import (
    NONSENSE,
    RELATED,
    PromptCheck,
    TextKind,
    Trial,
    check_prompts,
)
from napari_claps.types import Modality, ModalityGuess, RetinalImage, SliceResult
from napari_claps.words.vocabulary import TARGETS, make_prompt

OCT = ModalityGuess(Modality.OCT, None, "user")
IMAGE = RetinalImage(np.zeros((3, 40, 60), np.uint8), source="eye.vol")


class TextPipeline:
    """Finds a square at a place that `where` chooses from the text; None finds nothing."""

    def __init__(self, where, targets=("drusen", "shrm", "retina")):
        self.where = where
        self.bundle = SimpleNamespace(manifest=SimpleNamespace(targets=lambda modality: list(targets)))
        self.settings = Settings()
        self.changed, self.asked = {}, []

    def with_settings(self, **values):
        self.changed = values
        return self

    def prompts(self, targets, modality):
        return tuple(make_prompt(t, modality) for t in targets)

    def run(self, image, targets, *, modality, slices, region):
        self.asked.append((targets, slices, region))
        masks = {}
        for prompt in targets:
            masks[prompt.label] = np.zeros(image.plane_shape, np.uint16)
            if (place := self.where(prompt.text)) is not None:
                masks[prompt.label][5:15, place:place + 10] = 1
        yield SliceResult(slices[0], modality, tuple(targets), masks, (), {}, {})


def obedient(text):
    """A place for each true text, nothing for anything else."""
    return {"drusen in an OCT B-scan": 5, "subretinal hyperreflective material in an OCT B-scan": 25}.get(text)


def test_a_model_that_reads_the_text_passes():
    pipeline = TextPipeline(obedient)
    check = check_prompts(pipeline, IMAGE, ["drusen", "SHRM"], slice_index=2, modality=OCT, region=(0, 0, 40, 50))
    assert check.warnings == ()
    values, columns = check.matrix
    assert columns == ("drusen", "shrm", *NONSENSE, "in colour fundus photograph")
    assert check.targets == ("drusen", "shrm")
    np.testing.assert_array_equal(values, [[1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0]])
    assert check.nonsense_dice == {"drusen": 0, "shrm": 0}
    assert pipeline.changed == {"uncertainty": False, "mirrored": False, "coverage": None}
    for prompts, slices, region in pipeline.asked:
        assert (slices, region) == ([2], (0, 0, 40, 50))
        assert len({p.target for p in prompts}) == 1, "thresholds and scale are those of the target whatever the text"


def test_a_model_that_ignores_the_text_is_caught():
    check = check_prompts(TextPipeline(lambda text: 5), IMAGE, ["drusen", "shrm"], modality=OCT)
    assert check.nonsense_dice == {"drusen": 1, "shrm": 1}
    about_text, about_modality = [w for w in check.warnings if w.startswith("drusen:")]
    assert "hardly depends on the text" in about_text
    assert "shrm, 'a purple bicycle" in about_text and "Dice up to 1.00" in about_text
    assert "hardly depends on the modality" in about_modality and "a colour fundus photograph" in about_modality


def test_only_the_signature_is_ignored():
    check = check_prompts(TextPipeline(lambda text: 5 if text.startswith("drusen in") else None), IMAGE, ["drusen"],
                          modality=OCT)
    [warning] = check.warnings
    assert "hardly depends on the modality" in warning


def test_one_target_is_compared_with_all_that_the_bundle_knows():
    check = check_prompts(TextPipeline(obedient), IMAGE, ["drusen"], modality=OCT)
    assert [t.name for t in check.trials if t.kind is TextKind.TARGET] == ["shrm", "retina"]


def test_free_text_is_checked_too():
    check = check_prompts(TextPipeline(obedient), IMAGE, ["pale round spots"], modality=OCT)
    assert check.trials[0].text == "pale round spots in an OCT B-scan"
    assert check.trials[-1].text == "pale round spots in a colour fundus photograph"


def test_nothing_found_says_nothing():
    check = check_prompts(TextPipeline(lambda text: None), IMAGE, ["drusen", "shrm"], modality=OCT)
    assert check.warnings == ()
    assert np.isnan(check.matrix[0]).all()
    assert np.isnan(check.nonsense_dice["drusen"])


def test_related_targets_may_agree():
    assert set().union(*RELATED) <= set(TARGETS)
    alike = Trial("artery", TextKind.TARGET, "vessel", "...", 9, 0.9)
    assert not alike.is_suspect
    assert Trial("artery", TextKind.TARGET, "optic_disc", "...", 9, 0.9).is_suspect
    assert not Trial("artery", TextKind.TARGET, "optic_disc", "...", 9, 0.4).is_suspect
    assert not Trial("artery", TextKind.TRUE, "artery", "...", 9, 1.0).is_suspect


def test_files(tmp_path):
    check = check_prompts(TextPipeline(lambda text: 5), IMAGE, ["drusen", "shrm"], slice_index=1, modality=OCT)
    write_prompt_check(check, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["prompt-check.csv", "prompt-check.png"]
    with (tmp_path / "prompt-check.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * (2 + len(NONSENSE) + 1)
    assert rows[0] == {"slice": "1", "target": "drusen", "kind": "true", "name": "drusen", "pixels": "100",
                       "text": "drusen in an OCT B-scan", "dice": "1.0000", "agrees_too_much": "false"}
    assert rows[-1]["kind"] == "wrong modality" and rows[-1]["agrees_too_much"] == "true"
    picture = np.asarray(Image.open(tmp_path / "prompt-check.png"))
    np.testing.assert_array_equal(picture, prompt_check_picture(check))
    assert picture.dtype == np.uint8 and picture.shape[2] == 3


def test_picture_frames_what_agrees_too_much():
    def red(check):
        return np.count_nonzero((prompt_check_picture(check) == (255, 82, 70)).all(-1))

    trials = [Trial("drusen", TextKind.TRUE, "drusen", "", 9, 1.0),
              Trial("drusen", TextKind.NONSENSE, "abc", "", 9, 0.1)]
    assert red(PromptCheck("eye.vol", 0, Modality.OCT, tuple(trials))) == 0
    trials[1] = Trial("drusen", TextKind.NONSENSE, "abc", "", 9, 0.9)
    assert red(PromptCheck("eye.vol", 0, Modality.OCT, tuple(trials))) > 100


@pytest.fixture(scope="module")
def shipped() -> Pipeline:
    return Pipeline.from_settings(Settings(modality="oct", device="cpu"))


def test_shipped_bundle_on_a_synthetic_scan(shipped):
    check = check_prompts(shipped, demo_volume().image, ["drusen"], slice_index=21)
    [truth] = [t for t in check.trials if t.kind is TextKind.TRUE]
    assert truth.pixels and truth.dice == 1
    assert check.nonsense_dice["drusen"] < 0.2
    assert {t.name for t in check.trials if t.kind is TextKind.TARGET} == (
        set(shipped.bundle.manifest.targets(Modality.OCT)) - {"drusen"})


@pytest.mark.data
@pytest.mark.parametrize(("dataset", "targets", "images"), [
    ("kermany", ["drusen"], 4), ("kermany", ["intraretinal_fluid"], 4), ("kermany", ["shrm"], 4),
    ("idrid", ["haemorrhage", "hard_exudate"], 2),
])
def test_nonsense_finds_no_lesions_in_unseen_images(shipped, dataset, targets, images):
    """Mean Dice between the mask for the true text and for nonsense, over images that show the lesions."""
    from training.data.records import segmentation_records

    found = {target: [] for target in targets}
    for record in segmentation_records("val", datasets=(dataset,)):
        if not record.masks.keys() >= set(targets) or min(map(len, found.values())) == images:
            continue
        pipeline = shipped.with_settings(modality=str(record.modality))
        refused = set(targets) - set(pipeline.bundle.manifest.targets(record.modality))
        if refused:
            pytest.skip(f"the shipped bundle refuses {', '.join(refused)}")
        for target, dice in check_prompts(pipeline, read(record.image), targets).nonsense_dice.items():
            if not np.isnan(dice):  # where the lesion was missed there is no mask to compare
                found[target].append(dice)
    for target, values in found.items():
        assert values, f"the bundle found {target} in no image"
        assert np.mean(values) < 0.2, (target, values)
