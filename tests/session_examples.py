"""A session with one of everything, and how two sessions are compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from hypothesis import strategies as st

from napari_claps.session import (
    BoxLayer,
    ImageLayer,
    ImageReference,
    MaskLayer,
    Placement,
    Session,
    ShapeLayer,
    write_session,
)
from napari_claps.settings import Settings
from napari_claps.types import Box, BoxSource, Modality, RetinalImage, SpacingSource

PLACE = Placement(
    scale=(0.12, 0.0039, 0.0113), translate=(0, -1.5, 2), rotate=np.eye(3)[::-1], shear=(0.1, 0, 0),
    affine=np.diag([1, 2, 3, 1]), units=("mm", "mm", "mm"), axis_labels=("z", "y", "x"),
)  # fmt: skip


def difference(a: object, b: object, where: str = "") -> str | None:
    """First place where two trees of dataclasses, arrays, tables and mappings differ, types included."""
    if type(a) is not type(b) and not (isinstance(a, Mapping) and isinstance(b, Mapping)):
        return f"{where}: {type(a)} {type(b)}"
    if dataclasses.is_dataclass(a):
        a, b = ({f.name: getattr(o, f.name) for f in dataclasses.fields(o)} for o in (a, b))
    if isinstance(a, np.ndarray):
        alike = a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    elif isinstance(a, pd.DataFrame):
        alike = a.equals(b) and list(a.dtypes) == list(b.dtypes)
    elif isinstance(a, Mapping):
        if list(a) != list(b):
            return f"{where}: {list(a)} {list(b)}"
        return next((d for key in a if (d := difference(a[key], b[key], f"{where}.{key}"))), None)
    elif isinstance(a, tuple | list):
        if len(a) != len(b):
            return f"{where}: {len(a)} {len(b)}"
        return next((d for i in range(len(a)) if (d := difference(a[i], b[i], f"{where}[{i}]"))), None)
    else:
        alike = a == b or (a != a and b != b)
    return None if alike else f"{where}: {a!r} {b!r}"


def same(a: object, b: object) -> bool:
    """Whether there is no difference."""
    return difference(a, b) is None


def a_session(image: ImageReference | RetinalImage) -> Session:
    rng = np.random.default_rng(3)
    masks = np.zeros((3, 20, 30), np.uint16)
    masks[1, 2:9, 4:5] = 1
    masks[2, 4:5, 2:20] = 65535
    boxes = (
        Box(1.25, 2.5, 9.1, 1 / 3 + 20, "drusen", 0.1 + 0.2, 1, 1, uncertainty=0.1 + 0.1),
        Box(0.0, 0.0, 20.0, 30.0, "dark µ spots", 1.0, 2, 0, BoxSource.USER),
    )
    table = pd.DataFrame({
        "label": pd.Series(["drusen", "dark µ spots"], dtype=object), "score": [0.1 + 0.2, np.nan],
        "slice": [1, 2], "sure": [True, False], "note": ["", "naïve, \"quoted\""],
        "grade": pd.Categorical(["b", None], categories=["a", "b"], ordered=True),
        "n": np.array([1, 2], np.uint8), "few": pd.array([1, None], dtype="float32"),
        "mixed": pd.Series([None, "x"], dtype=object),
    })  # fmt: skip
    provenance = {"prompts": [{"label": "drusen", "text": "drusen in an OCT B-scan"}], "seconds": {"encode": 0.25}}
    return Session(
        layers=(
            ImageLayer("volume", image, PLACE, {"contrast_limits": [0.0, 9.5], "colormap": "gray"}, {"a": {"b": [1]}}),
            MaskLayer("drusen", "drusen", masks, {None: (1.0, 0.5, 0.0, 1.0), 0: (0.0, 0.0, 0.0, 0.0), 7: (0.1,) * 4},
                      pd.DataFrame({"index": [1, 65535], "pixels": [7, 18]}), PLACE, {"opacity": 0.6, "contour": 1}),
            MaskLayer("plane", "retina", rng.integers(0, 9, (20, 30)).astype(np.int32)),
            BoxLayer("boxes", boxes, (3, 20, 30), ((1.0, 0.0, 0.0, 1.0), (0.0, 1.0, 0.0, 0.5)), table, PLACE,
                     {"text": {"string": "{label} {score:.2f}", "size": 8}}, {"napari_claps": {"run": 2}}),
            BoxLayer("nothing found", (), (20, 30)),
            ShapeLayer("lines", rng.normal(size=(5, 3)).astype(np.float32), np.array([2, 3]),
                       pd.DataFrame({"line": ["ILM", "BM"]}), PLACE, {"shape_type": ["path", "polygon"]}),
            ShapeLayer("clicks", rng.normal(size=(2, 2)), None, pd.DataFrame({"positive": [True, False]})),
        ),
        settings=Settings(modality="oct", score_threshold=0.35, seed=5), targets=("drusen", "dark µ spots"),
        provenance=provenance,
    )  # fmt: skip


def a_volume() -> RetinalImage:
    rng = np.random.default_rng(1)
    lines = np.full((3, 30), np.nan, np.float32)
    lines[1] = np.linspace(3, 9, 30)
    slo = RetinalImage(rng.integers(0, 255, (16, 24, 3), dtype=np.uint8), rgb=True, spacing=(0.01, 0.02),
                       spacing_source=SpacingSource.VENDOR_DEFAULT, source="slo")
    return RetinalImage(
        np.asfortranarray(rng.normal(size=(3, 20, 30)).astype(np.float32)), modality=Modality.OCT,
        spacing=(0.12, 0.0039, 0.0113), spacing_source=SpacingSource.FILE, laterality="R", source="eye é.vol",
        metadata={"scan": "raster"}, plane_spacing=(0.0039, 0.0113), localizer=slo,
        scan_lines=rng.normal(size=(3, 2, 2)), layers={"ILM": lines}, device="Acme Eye 1",
    )  # fmt: skip


def saved(tmp_path: Path, image: ImageReference | RetinalImage | None = None) -> Path:
    path = tmp_path / "s.claps.zip"
    write_session(path, a_session(image or a_volume()))
    return path


finite = st.floats(allow_nan=False, allow_infinity=False)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=6)
"""Anything that JSON holds."""
