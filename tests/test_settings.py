"""Settings files and their errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from napari_claps.errors import InputError
from napari_claps.settings import Settings


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "settings.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_settings_and_targets_are_read(tmp_path: Path) -> None:
    path = write(tmp_path, 'modality = "oct"\nscore_threshold = 0.4\ntargets = ["IRF"]')
    settings, targets = Settings.from_toml(path)
    assert settings == Settings(modality="oct", score_threshold=0.4) and targets == ["IRF"]


@pytest.mark.parametrize(("text", "message"), [
    ("modalty = 'oct'", "unknown setting 'modalty'.*modality"),
    ("batch_size = 'many'", "batch_size = 'many' has the wrong"),
    ("score_threshold = 2.0", "score_threshold = 2.0 must lie between 0 and 1"), ("a = [", "not valid TOML"),
    ("targets = 3", "targets = 3 must be a list"), ("batch_size = 0", "at least 1"),
    ("score_threshold = true", "wrong type"),
])
def test_wrong_settings_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Settings.from_toml(write(tmp_path, text))


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.toml: cannot read"):
        Settings.from_toml(tmp_path / "nothing.toml")


@pytest.mark.parametrize(("values", "message"), [
    ({"coverage": 1.0}, "coverage = 1.0 must be at least 0.5 and below 1"), ({"coverage": 0.3}, "coverage = 0.3"),
    ({"method": "magic"}, "Unknown method 'magic'.*claps, medclip-sam, salip"), ({"uncertainty": 1}, "wrong type"),
])  # fmt: skip
def test_wrong_method_and_coverage(values: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Settings().updated(values)


def test_coverage_and_uncertainty() -> None:
    settings = Settings().updated({"coverage": 0.5, "uncertainty": True, "method": "salip"})
    assert (settings.coverage, settings.uncertainty, settings.method) == (0.5, True, "salip")
