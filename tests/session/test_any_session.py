"""Any layers that a viewer may have come back from a session."""

from __future__ import annotations

import numpy as np
import pandas as pd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from napari_claps.session import (
    BoxLayer,
    MaskLayer,
    Placement,
    Session,
    ShapeLayer,
    read_session,
    write_session,
)
from napari_claps.types import Box, BoxSource
from tests.session_examples import difference, finite, plain

numbers = st.floats(-1e6, 1e6)
rgba = st.tuples(*[st.floats(0, 1)] * 4)
plain_mapping = st.dictionaries(st.text(max_size=5), plain, max_size=3)


@st.composite
def placements(draw, ndim):
    sizes = st.floats(1e-6, 1e6)
    vector = st.tuples(*[numbers] * ndim)
    square = st.tuples(*[vector] * ndim)
    wide = st.tuples(*[st.tuples(*[numbers] * (ndim + 1))] * (ndim + 1))
    names = st.tuples(*[st.text(max_size=6)] * ndim)
    fields = {"scale": st.tuples(*[sizes] * ndim), "translate": vector, "rotate": square, "affine": wide,
              "shear": st.tuples(*[numbers] * (ndim * (ndim - 1) // 2)), "units": names, "axis_labels": names}
    return Placement(**{name: draw(st.none() | values) for name, values in fields.items()})


@st.composite
def tables(draw, rows):
    kinds = {"float64": st.floats(), "int64": st.integers(-2**63, 2**63 - 1), "bool": st.booleans(),
             "object": st.none() | st.text(max_size=5) | st.booleans(), "uint8": st.integers(0, 255),
             "str": st.text(max_size=5), "category": st.sampled_from("abc")}
    columns = draw(st.dictionaries(st.text(max_size=5), st.sampled_from(sorted(kinds)), max_size=3))
    return pd.DataFrame({name: pd.Series(draw(st.lists(kinds[kind], min_size=rows, max_size=rows)), dtype=kind)
                         for name, kind in columns.items()})


@st.composite
def mask_layers(draw):
    ndim = draw(st.sampled_from([2, 3]))
    dtype = draw(st.sampled_from([np.uint8, np.uint16, np.int32, np.int64, np.dtype(">u2")]))
    values = draw(st.integers(0, 2**32 - 1))
    data = np.random.default_rng(values).integers(0, 99, draw(st.tuples(*[st.integers(1, 6)] * ndim))).astype(dtype)
    data = data if draw(st.booleans()) else np.asfortranarray(data)
    colours = draw(st.none() | st.dictionaries(st.none() | st.integers(0, 2**16), rgba, min_size=1, max_size=3))
    return MaskLayer(draw(st.text()), draw(st.text()), data, colours, draw(tables(draw(st.integers(1, 3)))),
                     draw(placements(ndim)), draw(plain_mapping), draw(plain_mapping))


@st.composite
def box_layers(draw):
    ndim = draw(st.sampled_from([2, 3]))
    a_box = st.builds(Box, finite, finite, finite, finite, st.text(max_size=9), st.floats(), st.integers(0, 999),
                      st.integers(0, 65535), st.sampled_from(BoxSource))
    boxes = tuple(draw(st.lists(a_box, min_size=1, max_size=3)))
    colours = draw(st.none() | st.tuples(*[rgba] * len(boxes)))
    return BoxLayer(draw(st.text()), boxes, draw(st.tuples(*[st.integers(1, 9999)] * ndim)), colours,
                    draw(tables(len(boxes))), draw(placements(ndim)), draw(plain_mapping), draw(plain_mapping))


@st.composite
def shape_layers(draw):
    ndim, dtype = draw(st.sampled_from([2, 3])), draw(st.sampled_from([np.float32, np.float64]))
    lengths = draw(st.none() | st.lists(st.integers(1, 4), max_size=3))
    n = draw(st.integers(0, 4)) if lengths is None else sum(lengths)
    vertices = np.random.default_rng(draw(st.integers(0, 99))).normal(size=(n, ndim)).astype(dtype)
    rows = n if lengths is None else len(lengths)
    return ShapeLayer(draw(st.text()), vertices, None if lengths is None else np.array(lengths, np.int64),
                      draw(tables(rows)), draw(placements(ndim)), draw(plain_mapping), draw(plain_mapping))


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture,
                                                                 HealthCheck.too_slow])
@given(st.lists(mask_layers() | box_layers() | shape_layers(), max_size=3), plain_mapping,
       st.lists(st.text(), max_size=2))
def test_any_layers_come_back(tmp_path, layers, provenance, targets):
    session = Session(tuple(layers), None, tuple(targets), provenance)
    write_session(tmp_path / "any.claps.zip", session)
    assert difference(read_session(tmp_path / "any.claps.zip"), session) is None
