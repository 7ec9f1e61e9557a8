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
