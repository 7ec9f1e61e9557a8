"""``claps segment`` when something is wrong: with one input, with the usage, with bundle, device or folder."""

from __future__ import annotations

import os
import shutil
import signal

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_claps.inference.pipeline import Pipeline
from napari_claps.types import Modality, ModalityGuess
from tests.command_line import PHOTO, VOLUME, assert_one_error, complete, no_output

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


