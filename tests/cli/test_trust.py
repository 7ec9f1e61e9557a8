"""Checks on the command line: prompts, modality, uncertainty, region, and runs that are repeated."""

from __future__ import annotations

import hashlib
import json
import shutil

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_claps.inference.pipeline import Pipeline
from napari_claps.types import Modality, ModalityGuess
from tests.command_line import PHOTO, assert_one_error


def facts_of(folder):
    return json.loads((folder / "provenance.json").read_text(encoding="utf-8"))


def masks_of(folder):
    return tifffile.imread(folder / "masks.ome.tif")


# Prompts and modality


def test_check_prompts_writes_its_files_and_warns(segment, volume, tmp_path):
    code, _, err = segment(volume, "--modality", "oct", "--target", "drusen", "--target", "retina", "--check-prompts")
    assert code == 0, err
    folder = tmp_path / "out" / "scan"
    assert {"prompt-check.png", "prompt-check.csv"} <= {p.name for p in folder.iterdir()}
    Image.open(folder / "prompt-check.png").verify()
    warnings = [line for line in err.splitlines() if "warning: " in line]
    said = facts_of(folder)["warnings"]
    # Random weights know no words: whatever they find, they find for any text.
    assert any("hardly depends on" in text for text in said)
    assert len(warnings) == len(said)
    assert all(str(volume) in line for line in warnings)


def test_asking_for_the_check_later_is_another_request(segment, photo):
    arguments = (photo, "--modality", "cfp", "--target", "vessel")
    assert segment(*arguments)[0] == 0
    code, _, err = segment(*arguments, "--check-prompts")
    assert code == 1
    assert_one_error(err, "different: check_prompts", "--overwrite")


def test_modality_mismatch_is_said_before_the_run(segment, photo, tmp_path, monkeypatch, caplog):
    decide, segment_slices = Pipeline.detect_modality, Pipeline.run
    said_before = []

    def detect(self, image):
        guess = ModalityGuess(Modality.OCT, 0.93, "detected")
        return decide(self, image) if self.settings.modality != "auto" else guess

    def run(self, *args, **kwargs):
        def slices():
            said_before.append("was chosen" in caplog.text)
            yield from segment_slices(self, *args, **kwargs)

        return slices()

    monkeypatch.setattr(Pipeline, "detect_modality", detect)
    monkeypatch.setattr(Pipeline, "run", run)
    arguments = (photo, "--modality", "cfp", "--target", "vessel")
    code, _, err = segment(*arguments)
    assert code == 0
    assert "warning: " in err and "the modality cfp (colour fundus photograph) was chosen" in err
    assert said_before == [True]
    [said] = facts_of(tmp_path / "out" / "photo")["warnings"]
    assert "looks like an OCT B-scan (oct, probability 0.93)" in said
    assert segment(*arguments, "--overwrite", "--quiet") == (0, "", "")


def test_target_of_another_modality_is_refused_with_what_could_be_meant(segment, photo):
    code, _, err = segment(photo, "--modality", "oct", "--target", "optic cup in an OCT B-scan")
    assert code == 2
    assert_one_error(err, "optic_cup does not exist in an OCT B-scan", "colour fundus photograph", "drusen")
    code, _, err = segment(photo, "--target", "optic cup in an OCT B-scan")
    assert code == 2
    assert_one_error(err, "optic_cup does not exist in an OCT B-scan")


@pytest.mark.parametrize(("text", "says"), [
    ("", "is empty"), ("?!", "no letters"), ("黄斑 裂孔", "cannot read"), ("dots " * 100, "characters"),
])  # fmt: skip
@pytest.mark.parametrize("modality", ["auto", "cfp"])
def test_texts_that_are_no_prompts(segment, photo, tmp_path, text, says, modality):
    code, _, err = segment(photo, "--modality", modality, "--target", text)
    assert code == 2
    assert_one_error(err, says)
    assert not (tmp_path / "out").exists()


# Part of an image, uncertainty


def test_region(segment, photo, tmp_path):
    code, _, err = segment(photo, "--modality", "cfp", "--target", "vessel", "--region", "8,16,48,80")
    assert code == 0, err
    folder = tmp_path / "out" / "photo"
    masks = masks_of(folder)
    assert masks.shape == PHOTO.shape[:2]
    outside = np.ones(PHOTO.shape[:2], bool)
    outside[8:48, 16:80] = False
    assert masks[8:48, 16:80].any()
    assert not masks[outside].any()
    assert facts_of(folder)["region"] == [8, 16, 48, 80]


@pytest.mark.parametrize(("region", "code", "says"), [
    ("1,2,3", 2, "write Y0,X0,Y1,X1"), ("a,b,c,d", 2, "write Y0,X0,Y1,X1"), ("9,9,3,3", 2, "write Y0,X0,Y1,X1"),
    ("0,0,999,999", 1, "must lie inside the image"),
])  # fmt: skip
def test_wrong_region(segment, photo, region, code, says):
    done, _, err = segment(photo, "--modality", "cfp", "--target", "vessel", "--region", region)
    assert done == code
    assert_one_error(err, says)


@pytest.mark.parametrize("coverage", ["0.4", "1", "1.5"])
def test_wrong_coverage(segment, photo, coverage):
    code, _, err = segment(photo, "--coverage", coverage)
    assert code == 2
    assert_one_error(err, f"coverage = {float(coverage)}", "at least 0.5 and below 1")


def test_uncertainty_of_a_volume(segment, volume, tmp_path):
    code, _, err = segment(volume, "--modality", "oct", "--target", "drusen", "--target", "retina", "--uncertainty",
                           "--slices", "1:")
    assert code == 0, err
    folder = tmp_path / "out" / "scan"
    with tifffile.TiffFile(folder / "uncertainty.ome.tif") as file:
        assert (file.series[0].axes, file.series[0].shape, file.series[0].dtype) == ("CZYX", (2, 3, 64, 80), np.float32)
        channels = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]["Pixels"]["Channel"]
        entropy = file.asarray()
    assert [c["Name"] for c in channels] == ["drusen", "retina"]
    assert np.isnan(entropy[:, 0]).all(), "nobody looked at slice 0"
    assert np.isfinite(entropy[:, 1:]).all()
    assert entropy[:, 1:].min() >= 0 and 0 < entropy[:, 1:].max() <= 1
    assert facts_of(folder)["uncertainty"]["unit"] == "bit"


# Again


@pytest.fixture
def first(segment, volume, tmp_path):
    """A result in ``first``, of two slices of a region with a threshold of its own."""
    code, _, err = segment(volume, "--modality", "oct", "--target", "drusen", "--target", "retina", "--slices", ":2",
                           "--region", "0,8,64,72", "--score-threshold", "0.1", "--no-linking", "--no-mirroring")
    assert code == 0, err
    shutil.move(tmp_path / "out", tmp_path / "first")
    return tmp_path / "first" / "scan"


@pytest.fixture
def replay(claps, first, tiny_bundle, tmp_path, load_once, monkeypatch):
    from napari_claps.models.bundles import bundle

    monkeypatch.setattr(bundle, "load_bundle", load_once)

    def run(*arguments, facts=first / "provenance.json"):
        return claps("segment", "--replay", facts, "-o", tmp_path / "again", "--bundle", tiny_bundle, *arguments)

    return run


def test_replay_gives_the_same_masks_bit_for_bit(replay, first, volume, tmp_path):
    code, out, err = replay(volume)
    assert code == 0, err
    assert "warning" not in err
    assert "masks are the same as then, bit for bit" in out
    again = tmp_path / "again" / "scan"
    digests = [hashlib.sha256(masks_of(folder).tobytes()).hexdigest() for folder in (first, again)]
    assert digests[0] == digests[1]
    then, now = facts_of(first), facts_of(again)
    assert now["request"] == then["request"]
    assert now["masks_sha256"] == then["masks_sha256"]
    assert (first / "measurements.csv").read_text() == (again / "measurements.csv").read_text()


def test_the_fingerprint_is_that_of_the_planes(first):
    facts, masks = facts_of(first), masks_of(first)
    for channel, label in enumerate(("drusen", "retina")):
        planes = masks[channel, facts["slices"]].astype("<u2")
        assert facts["masks_sha256"][label] == hashlib.sha256(planes.tobytes()).hexdigest()


def test_replay_says_what_differs(replay, first, volume, tmp_path):
    facts = facts_of(first)
    facts["versions"]["torch"] = "0.4.1"
    facts["bundle"]["sha256"] = "0" * 64
    facts["device"] = "cuda:1"
    facts["machine"]["cpu"] = "Z80"
    facts["masks_sha256"]["retina"] = "f" * 64
    (tmp_path / "old.json").write_text(json.dumps(facts))
    code, _, err = replay(volume, "--device", "cpu", facts=tmp_path / "old.json")
    assert code == 0, "a difference is no refusal"
    for text in ("torch was 0.4.1", "the bundle was tiny 0.0.1 (sha256 000000000000...)", "expect other masks",
                 "the device was cuda:1, is cpu", "cpu was Z80", "other masks than then for retina"):
        assert text in err, err


def test_replay_compares_no_old_results(replay, segment, first, volume, tmp_path):
    segment(volume, "--modality", "oct", "--target", "drusen")
    shutil.move(tmp_path / "out", tmp_path / "again")
    code, out, err = replay(volume)
    assert code == 1 and out.strip() == "1 failed"
    assert_one_error(err, "holds another result")
    assert "masks" not in err and "warning" not in err


def test_replay_of_another_image(replay, tmp_path, volume):
    pixels = tifffile.imread(volume)
    tifffile.imwrite(tmp_path / "other.ome.tif", pixels[:, ::-1], ome=True, metadata={"axes": "ZYX"})
    code, out, err = replay(tmp_path / "other.ome.tif")
    assert code == 0, err
    assert "other.ome.tif is not the image of then (scan.ome.tif" in err
    assert "bit for bit" not in out


def test_replay_without_its_bundle(claps, first, volume, tmp_path):
    code, _, err = claps("segment", "--replay", first / "provenance.json", volume, "-o", tmp_path / "again")
    assert code == 2
    assert_one_error(err, "provenance.json", "was made with the bundle tiny 0.0.1", "Give its folder with --bundle")
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize(("arguments", "option"), [
    (["--target", "vessel"], "--target"), (["--slices", "0"], "--slices"), (["--no-linking"], "--no-linking"),
    (["--no-mirroring"], "--no-mirroring"), (["--score-threshold", "0"], "--score-threshold"),
    (["--modality", "oct"], "--modality"),
])  # fmt: skip
def test_replay_takes_everything_from_the_file(replay, volume, arguments, option):
    code, _, err = replay(volume, *arguments)
    assert code == 2
    assert_one_error(err, f"{option} cannot be given as well")


@pytest.mark.parametrize(("content", "says"), [
    (None, "cannot be read"), ("{", "not valid JSON"), ("[]", "is no provenance.json"),
    ('{"program": "other 1"}', "is no provenance.json"), ('{"program": "napari-claps 1"}', "is no provenance.json"),
])  # fmt: skip
def test_replay_of_what_is_no_provenance(claps, volume, tmp_path, content, says):
    path = tmp_path / "p.json"
    if content is not None:
        path.write_text(content)
    code, _, err = claps("segment", "--replay", path, volume, "-o", tmp_path / "again")
    assert code == 2
    assert_one_error(err, "p.json", says)
