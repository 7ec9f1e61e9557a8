"""Readers that run in a child process: third-party parsers of undocumented formats.

A damaged file can make such a parser loop or fill the memory, and some bring
libraries (OpenCV with its own Qt) that must not be loaded into napari. The
child has a time and a memory limit; what comes back is arrays and JSON, no
pickle. Started by ``python -m napari_claps.io.isolated``, not by
multiprocessing, which would run the user's own script again.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from napari_claps.errors import ClapsError, InputError
from napari_claps.types import Modality, RetinalImage, SpacingSource

logger = logging.getLogger(__name__)

SECONDS = 120.0
"""Time limit; a large volume takes a few seconds."""

GIBIBYTES = 8
"""Limit of the address space, where the system knows one (not on Windows)."""

_FIELDS = ("rgb", "modality", "spacing", "plane_spacing", "spacing_source", "laterality", "source", "device")


def read_isolated(reader: str, path: Path, *, seconds: float = SECONDS) -> RetinalImage:
    """Run a reader in a child process.

    Parameters
    ----------
    reader : str
        ``"module:function"`` that takes a Path and returns a RetinalImage.
    path : Path
    seconds : float
        Time limit.

    Returns
    -------
    RetinalImage

    Raises
    ------
    InputError
        If the reader refuses the file, crashes, or exceeds a limit.
    """
    with tempfile.TemporaryDirectory(prefix="napari-claps-") as folder:
        answer = Path(folder) / "answer.npz"
        # The child finds the package as we did, whatever changed sys.path.
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", __name__, reader, str(path.absolute()), str(answer)]
        try:
            child = subprocess.run(
                command, env=environment, timeout=seconds, capture_output=True, stdin=subprocess.DEVNULL, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise InputError(
                f"{path}: was not read within {seconds:g} seconds, so it was given up. The file is probably damaged."
            ) from error
        except OSError as error:
            raise InputError(f"{path}: the reading process cannot be started ({error.strerror or error}).") from error
        if not answer.exists():
            raise InputError(
                f"{path}: its parser crashed or ran out of memory (exit code {child.returncode}). "
                "The file is damaged or of a variant that is not understood."
            )
        with np.load(answer, allow_pickle=False) as arrays:
            told = json.loads(str(arrays["told"]))
            if "error" in told:
                # The child knows the absolute path; the user gave another.
                raise InputError(told["error"].replace(str(path.absolute()), str(path)))
            if (series := told["metadata"].get("series", "1 of 1")) != "1 of 1":
                logger.warning("%s: holds several OCT scans; %s is read.", path, series)
            return _unpack(told, arrays, str(path))


def pack(image: RetinalImage) -> dict[str, np.ndarray]:
    """Turn an image into named arrays, one of them JSON."""
    arrays = {"data": np.asarray(image.data)}
    told: dict[str, Any] = {name: getattr(image, name) for name in _FIELDS}
    told["metadata"] = dict(image.metadata)
    told["layers"] = list(image.layers)
    for index, line in enumerate(image.layers.values()):
        arrays[f"layer_{index}"] = line
    if image.scan_lines is not None:
        arrays["scan_lines"] = image.scan_lines
    if image.localizer is not None:
        told["localizer"] = {name: getattr(image.localizer, name) for name in _FIELDS}
        arrays["localizer"] = np.asarray(image.localizer.data)
    arrays["told"] = np.array(json.dumps(told))
    return arrays


def _unpack(told: dict[str, Any], arrays: Any, source: str) -> RetinalImage:
    localizer = None
    if "localizer" in told:
        localizer = RetinalImage(arrays["localizer"], **_fields(told["localizer"], f"{source} (localizer)"))
    return RetinalImage(
        arrays["data"], **_fields(told, source), localizer=localizer,
        metadata={name: tuple(value) if isinstance(value, list) else value for name, value in told["metadata"].items()},
        scan_lines=arrays.get("scan_lines"),
        layers={name: arrays[f"layer_{index}"] for index, name in enumerate(told["layers"])},
    )  # fmt: skip


def _fields(told: dict[str, Any], source: str) -> dict[str, Any]:
    return {name: told[name] for name in _FIELDS} | {
        "modality": told["modality"] and Modality(told["modality"]),
        "spacing": told["spacing"] and tuple(told["spacing"]),
        "plane_spacing": told["plane_spacing"] and tuple(told["plane_spacing"]),
        "spacing_source": SpacingSource(told["spacing_source"]),
        "source": source,
    }


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    limit = GIBIBYTES * 2**30
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard == resource.RLIM_INFINITY or hard > limit:
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def main(reader: str, path: str, answer: str) -> None:
    """Read in this process and write the answer; the child's side."""
    _limit_memory()
    module, function = reader.split(":")
    try:
        arrays = pack(getattr(importlib.import_module(module), function)(Path(path)))
    except ClapsError as error:
        arrays = {"told": np.array(json.dumps({"error": str(error)}))}
    except Exception as error:  # no detail: it could repeat the name of a patient from the file
        kind = type(error).__name__
        text = f"{path}: the file is damaged, truncated or of a variant that is not understood ({kind})."
        arrays = {"told": np.array(json.dumps({"error": text}))}
    temporary = Path(answer).with_suffix(".part.npz")
    np.savez(temporary, allow_pickle=False, **arrays)
    os.replace(temporary, answer)


if __name__ == "__main__":
    main(*sys.argv[1:])
