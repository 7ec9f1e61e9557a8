"""The command line on a tiny real bundle: the contract, and every kind of bad input."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

from napari_claps import __version__, cli
from napari_claps.models import bundle
from napari_claps.models.manifest import read_manifest
from napari_claps.outputs import FILES
from napari_claps.pipeline import Pipeline
from napari_claps.types import Modality, ModalityGuess

RNG = np.random.default_rng(5)
PHOTO = RNG.integers(0, 255, (72, 96, 3)).astype(np.uint8)
VOLUME = RNG.integers(0, 255, (3, 64, 80)).astype(np.uint8)


@pytest.fixture
def claps(capsys):
    """Run a command; return exit code, stdout and stderr."""

    def run(*arguments):
        code = cli.main([str(a) for a in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def load_once():
    """Load a bundle once for all tests of this file: building its networks takes longer than their answers."""
    return functools.cache(bundle.load_bundle)


@pytest.fixture
def segment(claps, tiny_bundle, tmp_path, load_once, monkeypatch):
    """Run ``claps segment`` with the tiny bundle into ``tmp_path/out``."""
    monkeypatch.setattr(bundle, "load_bundle", load_once)

    def run(*arguments):
        return claps("segment", "--bundle", tiny_bundle, "-o", tmp_path / "out", "--device", "cpu", *arguments)

    return run


@pytest.fixture
def photo(tmp_path):
    Image.fromarray(PHOTO).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def volume(tmp_path):
    tifffile.imwrite(tmp_path / "scan.ome.tif", VOLUME, ome=True, metadata={
        "axes": "ZYX", "PhysicalSizeX": 11.5, "PhysicalSizeY": 3.9, "PhysicalSizeZ": 120.0,
    })  # fmt: skip
    return tmp_path / "scan.ome.tif"


def assert_one_error(err, *texts):
    """One line ``error: ...`` with all texts in it, and no traceback."""
    assert "Traceback" not in err
    errors = [line for line in err.splitlines() if "error: " in line]
    assert len(errors) == 1, err
    for text in texts:
        assert text in errors[0], err


def no_output(tmp_path):
    return not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def complete(folder):
    return set(FILES) <= {p.name for p in folder.iterdir()} <= {*FILES, "doubts.csv"}


# What it does


def test_help_and_version(claps):
    code, out, _ = claps("--help")
    assert code == 0
    for command in cli.COMMANDS:
        assert command in out
    assert claps("--version")[:2] == (0, f"napari-claps {__version__}\n")


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_help(claps, command):
    code, out, _ = claps(command, "--help")
    assert code == 0
    assert "usage: claps " + command in out


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
    same = ["slice", "structure", "measure", "value", "unit", "status"]
    pd.testing.assert_frame_equal(first[same], again[same], check_exact=False, rtol=1e-4)
    assert set(again["image"]) == {"scan"}


# Inputs that fail: exit code 1, the others are complete


def broken(tmp_path, kind):
    path = tmp_path / "bad.png"
    if kind == "truncated":
        Image.fromarray(PHOTO).save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "no image":
        path.write_text("this is no picture")
    elif kind == "empty file":
        path.write_bytes(b"")
    elif kind == "1x1":
        Image.fromarray(PHOTO[:1, :1]).save(path)
    elif kind == "transparent":
        Image.fromarray(np.dstack([PHOTO, PHOTO[..., 0]])).save(path)
    elif kind == "nan":
        path = tmp_path / "bad.tif"
        pixels = PHOTO[..., 0].astype(np.float32)
        pixels[3, 4] = np.nan
        tifffile.imwrite(path, pixels)
    elif kind == "truncated tiff":
        path = tmp_path / "bad.tif"
        tifffile.imwrite(path, VOLUME)
        path.write_bytes(path.read_bytes()[:5000])
    elif kind == "empty folder":
        path = tmp_path / "bad"
        path.mkdir()
    elif kind == "unknown format":
        path = tmp_path / "bad.docx"
        path.write_bytes(b"PK\x03\x04 something")
    return path  # "missing": never made


@pytest.mark.parametrize(("kind", "says"), [
    ("missing", "there is no such file"), ("truncated", "damaged or truncated"), ("no image", "bad.png"),
    ("empty file", "is empty (0 bytes)"), ("1x1", "at least 8 x 8 pixels"), ("transparent", "transparent"),
    ("nan", "NaN"), ("truncated tiff", "truncated"), ("empty folder", "folder is empty"),
    ("unknown format", "no known image file"),
])  # fmt: skip
def test_bad_input_fails_alone(segment, tmp_path, photo, kind, says):
    bad = broken(tmp_path, kind)
    code, out, err = segment(bad, photo, "--modality", "cfp", "--target", "vessel")
    assert code == 1
    assert_one_error(err, bad.name, says)
    assert "1 done, 1 failed" in out
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["photo"]
    assert complete(tmp_path / "out" / "photo")


@pytest.mark.parametrize("kind", ["missing", "truncated", "1x1", "nan", "empty folder"])
def test_bad_input_alone_writes_nothing(segment, tmp_path, kind):
    code, _, err = segment(broken(tmp_path, kind), "--modality", "cfp")
    assert code == 1
    assert_one_error(err)
    assert not (tmp_path / "out").exists()


def test_target_missing_in_the_modality_of_one_file_fails_that_file(segment, tmp_path, photo, monkeypatch):
    Image.fromarray(PHOTO[:, ::-1]).save(tmp_path / "scan.png")
    guess = {"photo.png": Modality.CFP, "scan.png": Modality.OCT}
    monkeypatch.setattr(Pipeline, "detect_modality", lambda self, image: ModalityGuess(
        guess[os.path.basename(image.source)], 0.9, "detected", {}))  # fmt: skip
    code, _, err = segment(photo, tmp_path / "scan.png", "--target", "vessel")
    assert code == 1
    assert_one_error(err, "scan.png", "vessel does not exist in an OCT B-scan")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["photo"]


def test_folder_of_the_user_is_left_alone(segment, photo, tmp_path):
    (tmp_path / "out" / "photo").mkdir(parents=True)
    (tmp_path / "out" / "photo" / "mine.txt").write_text("x")
    code, _, err = segment(photo, "--modality", "cfp", "--target", "vessel", "--overwrite")
    assert code == 1
    assert_one_error(err, "no result of napari-claps")
    assert [p.name for p in (tmp_path / "out" / "photo").iterdir()] == ["mine.txt"]


def test_unexpected_error_is_one_line_and_debug_shows_more(segment, photo, volume, tmp_path, monkeypatch):
    def run(self, *args, **kwargs):
        raise ZeroDivisionError("a defect")
        yield

    monkeypatch.setattr(Pipeline, "run", run)
    arguments = (photo, "--modality", "cfp", "--target", "vessel")
    code, _, err = segment(*arguments)
    assert code == 1
    assert_one_error(err, "photo.png", "unexpected ZeroDivisionError: a defect", "--debug")
    assert no_output(tmp_path)
    code, _, err = segment(*arguments, "--debug")
    assert code == 1
    assert "Traceback" in err


@pytest.mark.parametrize("by", ["ctrl-c", "kill"])
def test_interruption_leaves_no_half_result(segment, volume, tmp_path, monkeypatch, by):
    real = Pipeline.run

    def run(self, *args, **kwargs):
        for result in real(self, *args, **kwargs):
            yield result
            if by == "ctrl-c":
                raise KeyboardInterrupt
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Pipeline, "run", run)
    handler = signal.getsignal(signal.SIGTERM)
    code, _, err = segment(volume, "--modality", "oct", "--target", "drusen")
    assert code == 130
    assert "interrupted" in err
    assert "Traceback" not in err
    assert no_output(tmp_path)
    assert signal.getsignal(signal.SIGTERM) is handler


# Wrong usage: exit code 2, before any work


@pytest.mark.parametrize(("arguments", "says"), [
    (["--target", "vessles"], ["Unknown target 'vessles'", "Did you mean vessel", "Known are:", "optic_disc"]),
    (["--target", "vessles", "--modality", "cfp"], ["Unknown target 'vessles'", "Did you mean vessel", "optic_disc"]),
    (["--target", "xyzzy"], ["Unknown target 'xyzzy'", "Known are:", "drusen"]),
    (["--target", "123"], ["'123'", "no letters"]),
    (["--target", "drusen", "--target", ""], ["''"]),
    (["--target", "vessel", "--modality", "oct"], ["vessel does not exist in an OCT B-scan", "drusen"]),
    (["--modality", "faf"], ["faf", "knows no target", "cfp, oct"]),
    (["--modality", "xray"], ["Unknown modality 'xray'", "cfp", "oct"]),
    (["--method", "magic"], ["Unknown method 'magic'", "claps"]),
    (["--score-threshold", "1.5"], ["score_threshold = 1.5", "between 0 and 1"]),
    (["--slices", "a:b"], ["--slices a:b", "START:STOP"]),
    (["--settings", "nowhere.toml"], ["nowhere.toml", "cannot read"]),
    (["--bundle", "no-such-bundle"], ["no-such-bundle"]),
    (["--device", "abacus"], ["abacus"]),
    (["--no-such-option"], ["--no-such-option"]),
    (["--score-threshold", "high"], ["--score-threshold", "high"]),
])  # fmt: skip
def test_wrong_usage(segment, photo, tmp_path, arguments, says):
    code, _, err = segment(photo, *arguments)
    assert code == 2, err
    assert_one_error(err, *says)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [[], ["segment"], ["segment", "a.png"], ["frobnicate"]])
def test_missing_arguments(claps, arguments):
    code, _, err = claps(*arguments)
    assert code == 2
    assert_one_error(err)


@pytest.mark.parametrize(("content", "says"), [
    ("targts = ['vessel']", "unknown setting 'targts'"), ("modality = 5", "modality = 5"), ("= 3", "not valid TOML"),
    ('targets = "vessel"', "must be a list"),
])  # fmt: skip
def test_bad_settings_file(segment, photo, tmp_path, content, says):
    (tmp_path / "s.toml").write_text(content)
    code, _, err = segment(photo, "--settings", tmp_path / "s.toml")
    assert code == 2
    assert_one_error(err, "s.toml", says)


UNTRAINED = "geographic_atrophy"


@pytest.mark.parametrize("modality", ["auto", "cfp"])
def test_pair_that_the_bundle_does_not_know(segment, photo, tmp_path, modality):
    """The tiny bundle supports cfp, but nobody trained it for all that exists there."""
    code, _, err = segment(photo, "--modality", modality, "--target", UNTRAINED)
    assert code == 2
    assert_one_error(err, UNTRAINED)
    assert not (tmp_path / "out").exists()


def test_damaged_bundle(claps, photo, tiny_bundle, tmp_path):
    copy = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, copy)
    weights = next(copy.glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    code, _, err = claps("segment", photo, "-o", tmp_path / "out", "--bundle", copy, "--device", "cpu")
    assert code == 2
    assert_one_error(err, weights.name)
    assert not (tmp_path / "out").exists()


def test_unwritable_output(claps, photo, tiny_bundle, tmp_path):
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file", tmp_path / "file" / "deeper"):
        code, _, err = claps("segment", photo, "-o", out, "--bundle", tiny_bundle)
        assert code == 2
        assert_one_error(err, str(out), "is a file")
    assert (tmp_path / "file").read_text() == "x"


def test_output_without_permission(claps, photo, tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # chmod would not stop root
    code, _, err = claps("segment", photo, "-o", tmp_path / "out", "--bundle", tiny_bundle)
    assert code == 2
    assert_one_error(err, "out", "does not allow it")
    assert not (tmp_path / "out").exists()


def test_cuda_where_there_is_none(claps, photo, tiny_bundle, tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, _, err = claps("segment", photo, "-o", tmp_path / "out", "--bundle", tiny_bundle, "--device", "cuda")
    assert code == 2
    assert_one_error(err, "cuda")
    assert not (tmp_path / "out").exists()


# The other commands


def test_sample(claps, tmp_path):
    code, out, _ = claps("sample", "--list")
    assert code == 0
    assert "synthetic_oct" in out
    code, out, _ = claps("sample", "microaneurysm_crop", "-o", tmp_path / "s")
    assert code == 0
    assert Image.open(out.strip()).size == (102, 102)
    code, _, err = claps("sample", "nothing", "-o", tmp_path / "t")
    assert code == 2
    assert_one_error(err, "'nothing'", "fundus_photograph")
    assert not (tmp_path / "t").exists()


def test_models_lists_pairs(claps, tiny_bundle):
    code, out, _ = claps("models", tiny_bundle)
    assert code == 0
    assert "cfp" in out
    assert "drusen" in out
    code, _, err = claps("models", "no-such-bundle")
    assert code == 2
    assert_one_error(err, "no-such-bundle")


def test_measure_of_what_is_no_mask(claps, photo):
    code, _, err = claps("measure", photo)
    assert code == 2
    assert_one_error(err, "photo.png")


def test_info_without_a_display(claps, monkeypatch):
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux can lack a display")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    _, out, _ = claps("info")
    assert "numpy" in out
    assert "cpu" in out
    assert "no display" in out


def test_gui_with_a_missing_file_opens_no_window(claps, tmp_path):
    code, _, err = claps("gui", tmp_path / "none.tif")
    assert code == 2
    assert_one_error(err, "none.tif", "no such file")


def test_help_needs_no_torch():
    script = ("import sys\nfrom napari_claps import cli\ncode = cli.main(['segment', '--help'])\n"
              "sys.exit(code or any(m in sys.modules for m in ('torch', 'napari', 'qtpy')))")  # fmt: skip
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, timeout=120)
