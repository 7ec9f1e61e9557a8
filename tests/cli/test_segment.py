"""``claps segment`` on a tiny real bundle: what it writes, and what a second run does."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

from napari_claps.models.bundles.manifest import read_manifest
from tests.command_line import PHOTO, assert_one_error, complete


def test_photograph_and_volume(segment, photo, volume, tmp_path):
    assert segment(photo, "--modality", "cfp", "--target", "vessel", "--target", "ONH")[0] == 0
    code, out, err = segment(volume, "--modality", "oct", "--target", "drusen")
    assert code == 0, err
    assert "1 done" in out
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["photo", "scan"]
    assert complete(tmp_path / "out" / "photo")
    assert complete(tmp_path / "out" / "scan")
    with tifffile.TiffFile(tmp_path / "out" / "photo" / "masks.ome.tif") as file:
        assert (file.series[0].axes, file.series[0].shape) == ("CYX", (2, 72, 96))
    table = pd.read_csv(tmp_path / "out" / "photo" / "measurements.csv")
    assert list(dict.fromkeys(table["structure"])) == ["vessel", "optic_disc"]
    assert "mm2" not in set(table["unit"]), "a PNG has no scale"
    table = pd.read_csv(tmp_path / "out" / "scan" / "measurements.csv")
    assert {"mm2", "mm3", "nL"} <= set(table["unit"])
    assert set(table["scale_source"]) == {"file"}
    facts = json.loads((tmp_path / "out" / "scan" / "provenance.json").read_text())
    assert facts["modality"]["decided_by"] == "user"
    assert facts["spacing"]["mm"] == pytest.approx([0.12, 0.0039, 0.0115])
    assert facts["prompts"][0]["text"] == "drusen in an OCT B-scan"


@pytest.mark.parametrize("name", ["a.jpg", "a.tif", "a.ome.tif", "a.bmp"])
def test_usual_formats(segment, tmp_path, name):
    path = tmp_path / name
    if ".tif" in name:
        tifffile.imwrite(path, PHOTO, photometric="rgb", ome=".ome" in name)
    else:
        Image.fromarray(PHOTO).save(path)
    code, _, err = segment(path, "--modality", "cfp", "--target", "vessel")
    assert code == 0, err
    assert complete(tmp_path / "out" / "a")


def test_sixteen_bit_grey_works(segment, tmp_path):
    Image.fromarray(PHOTO[..., 0].astype(np.uint16) * 200).save(tmp_path / "grey.png")
    code, _, err = segment(tmp_path / "grey.png", "--modality", "oct", "--target", "drusen")
    assert code == 0, err
    assert json.loads((tmp_path / "out" / "grey" / "provenance.json").read_text())["input"]["dtype"] == "uint16"


def test_opaque_fourth_channel_works(segment, tmp_path):
    Image.fromarray(PHOTO).convert("RGBA").save(tmp_path / "rgba.png")
    code, _, err = segment(tmp_path / "rgba.png", "--modality", "cfp", "--target", "vessel")
    assert code == 0, err


def test_folder_with_a_progress_bar(segment, photo, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    photo.rename(folder / "b.png")
    Image.fromarray(PHOTO[::-1]).save(folder / "a.jpg")
    code, out, err = segment(folder, "--modality", "cfp", "--target", "vessel")
    assert code == 0
    assert "2 done" in out
    assert "files" in err
    assert "%" in err
    assert "\x1b" not in err, "a log has no use for movements of the cursor"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a", "b"]


def test_quiet_prints_nothing(segment, photo):
    assert segment(photo, "--modality", "cfp", "--target", "vessel", "--quiet") == (0, "", "")


def test_without_targets_all_of_the_bundle(segment, photo, tiny_bundle, tmp_path):
    assert segment(photo, "--modality", "cfp")[0] == 0
    prompts = json.loads((tmp_path / "out" / "photo" / "provenance.json").read_text())["prompts"]
    assert [p["target"] for p in prompts] == read_manifest(str(tiny_bundle)).targets("cfp")


def test_modality_is_detected_and_reported(segment, photo, tmp_path):
    code, out, err = segment(photo)
    assert code == 0, err
    modality = json.loads((tmp_path / "out" / "photo" / "provenance.json").read_text())["modality"]
    assert modality["decided_by"] == "detected"
    assert modality["probability"] == max(modality["probabilities"].values())
    assert f"(detected {modality['probability']:.2f})" in out


def test_free_text(segment, photo, tmp_path):
    code, _, err = segment(photo, "--modality", "cfp", "--target", "pale round spots")
    assert code == 0, err
    table = pd.read_csv(tmp_path / "out" / "photo" / "measurements.csv")
    assert set(table["structure"]) == {"pale round spots"}


def test_settings_file_and_options_that_win(segment, photo, tmp_path):
    (tmp_path / "s.toml").write_text('modality = "oct"\nscore_threshold = 0.9\ntargets = ["drusen"]\n')
    code, _, err = segment(photo, "--settings", tmp_path / "s.toml", "--score-threshold", "0.25")
    assert code == 0, err
    facts = json.loads((tmp_path / "out" / "photo" / "provenance.json").read_text())
    assert facts["modality"]["id"] == "oct"
    assert facts["score_threshold"] == 0.25
    assert list(facts["thresholds"]) == ["drusen"]


def test_slices(segment, volume, tmp_path):
    assert segment(volume, "--modality", "oct", "--target", "drusen", "--slices", "1:")[0] == 0
    assert json.loads((tmp_path / "out" / "scan" / "provenance.json").read_text())["slices"] == [1, 2]


def test_second_run_skips_and_overwrite_does_not(segment, photo, tmp_path):
    arguments = (photo, "--modality", "cfp", "--target", "vessel")
    segment(*arguments)
    made = (tmp_path / "out" / "photo" / "masks.ome.tif").stat().st_mtime_ns
    code, out, _ = segment(*arguments)
    assert code == 0
    assert "already complete" in out
    assert "1 skipped" in out
    assert (tmp_path / "out" / "photo" / "masks.ome.tif").stat().st_mtime_ns == made
    code, _, err = segment(photo, "--modality", "cfp", "--target", "optic_disc")
    assert code == 1
    assert_one_error(err, "photo", "different: targets", "--overwrite")
    code, out, _ = segment(photo, "--modality", "cfp", "--target", "optic_disc", "--overwrite")
    assert code == 0
    assert "1 done" in out
    table = pd.read_csv(tmp_path / "out" / "photo" / "measurements.csv")
    assert set(table["structure"]) == {"optic_disc"}


def test_masks_measured_again_give_the_same_numbers(claps, segment, volume, tmp_path):
    segment(volume, "--modality", "oct")
    code, out, _ = claps("measure", tmp_path / "out" / "scan", "-o", tmp_path / "again.csv")
    assert code == 0
    assert "again.csv" in out
    again = pd.read_csv(tmp_path / "again.csv")
    first = pd.read_csv(tmp_path / "out" / "scan" / "measurements.csv")
    first = first[~first["measure"].isin(["presence", "max_score"])].reset_index(drop=True)
    same = ["image", "slice", "structure", "measure", "value", "unit", "status"]
    pd.testing.assert_frame_equal(first[same], again[same], check_exact=False, rtol=1e-4)
    assert set(again["image"]) == {"scan.ome.tif"}


