"""Configurations: TOML files, of which one can build on another."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from napari_claps.errors import InputError


def load_config(path: Path, *, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a TOML configuration; the values can be any that the stage knows.

    ``base = "other.toml"`` takes the lines of a file beside it, except those that are given; tables are merged.
    `above` are the files that build on this one.

    Raises
    ------
    InputError
        If a file is missing or no TOML.
    """
    try:
        config = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a training configuration ({error}).") from error
    if "base" not in config:
        return config
    base = path.parent / str(config.pop("base"))
    if base in (path, *above):
        raise InputError(f"{path}: base = \"{base.name}\" names the file itself, or one that builds on it.")
    below = load_config(base, above=(path, *above))
    return merged(below, config)


def merged(below: Mapping[str, Any], lines: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with other `lines` on top; tables are merged."""
    return {**below, **{k: {**below[k], **v} if isinstance(v, dict) and isinstance(below.get(k), dict) else v
                        for k, v in lines.items()}}
