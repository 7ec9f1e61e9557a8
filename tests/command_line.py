"""What the tests of the command line share: small images, and how an error must look."""

from __future__ import annotations

import numpy as np

from napari_claps.results import FILES

RNG = np.random.default_rng(5)
PHOTO = RNG.integers(0, 255, (72, 96, 3)).astype(np.uint8)
VOLUME = RNG.integers(0, 255, (3, 64, 80)).astype(np.uint8)

SOMETIMES = {"doubts.csv", "anatomy.csv"}
"""Files that only some results have."""


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
    return set(FILES) <= {p.name for p in folder.iterdir()} <= {*FILES, *SOMETIMES}
