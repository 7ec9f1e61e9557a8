"""Sessions: what is written is what is read, and a bad file is refused without harm."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import struct
import tracemalloc
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from napari_claps.errors import ClapsError, InputError, OutputError
from napari_claps.io import session as session_module
from napari_claps.io import session_archive
from napari_claps.io.session import (
    BoxLayer,
    ImageLayer,
    ImageReference,
    MaskLayer,
    Placement,
    Session,
    is_session,
    read_session,
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
        Box(1.25, 2.5, 9.1, 1 / 3 + 20, "drusen", 0.1 + 0.2, 1, 1),
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
        metadata={"scan": "raster", "plane_spacing": (0.0039, 0.0113)}, localizer=slo,
        scan_lines=rng.normal(size=(3, 2, 2)), layers={"ILM": lines}, device="Acme Eye 1",
    )  # fmt: skip


def saved(tmp_path: Path, image: ImageReference | RetinalImage | None = None) -> Path:
    path = tmp_path / "s.claps.zip"
    write_session(path, a_session(image or a_volume()))
    return path


def test_everything_comes_back_with_a_copy(tmp_path):
    path = tmp_path / "ein Ordner" / "Sitzung ü.claps.zip"
    session = a_session(a_volume())
    write_session(path, session)
    again = read_session(path)
    assert difference(again, session) is None
    assert same(again.layers[0].image.localizer, a_volume().localizer)
    assert is_session(path) and [p.name for p in path.parent.iterdir()] == [path.name]


def test_the_comparison_sees_a_difference():
    session = a_session(a_volume())
    other = dataclasses.replace(session, layers=(*session.layers[:3], dataclasses.replace(
        session.layers[3], features=session.layers[3].features.astype({"slice": float})), session.layers[4]))
    assert same(session, a_session(a_volume())) and not same(session, other)


def test_same_content_gives_the_same_bytes(tmp_path):
    first = saved(tmp_path).read_bytes()
    assert saved(tmp_path).read_bytes() == first


def test_other_programs_can_read_it(tmp_path):
    with zipfile.ZipFile(saved(tmp_path)) as file:
        assert file.testzip() is None
        document = json.loads(file.read("session.json"))
        masks = document["layers"][1]
        with file.open(f"arrays/{masks['data']}.npy") as member:
            data = np.load(member, allow_pickle=False)
    np.testing.assert_array_equal(data, a_session(a_volume()).layers[1].data)
    assert document["layers"][3]["boxes"][0] | {"y0": 1.25, "score": 0.1 + 0.2, "source": "detector"} == \
        document["layers"][3]["boxes"][0]


def test_reference_moves_with_the_session_and_notices_a_change(tmp_path):
    home = tmp_path / "été 1"
    home.mkdir()
    (home / "image.tif").write_bytes(b"pixels")
    reference = ImageReference.of(home / "image.tif")
    path = saved(home, reference)
    assert same(read_session(path).layers[0].image, reference)
    with zipfile.ZipFile(path) as file:
        assert str(tmp_path) not in file.read("session.json").decode()  # nothing of the machine

    moved = home.rename(tmp_path / "elsewhere")
    found = read_session(moved / path.name).layers[0].image
    assert found.locate() == moved / "image.tif"
    (moved / "image.tif").write_bytes(b"others")
    with pytest.raises(InputError, match=r"image\.tif: is not the image.*SHA-256.*masks and boxes open without"):
        found.locate()
    (moved / "image.tif").unlink()
    with pytest.raises(InputError, match=r"image\.tif: the image of this session is not there any more"):
        found.locate()
    assert len(read_session(moved / path.name).layers) == 5


def test_reference_outside_the_folder(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.tif").write_bytes(b"pixels")
    reference = ImageReference.of(tmp_path / "images" / "a.tif")
    path = saved(tmp_path / "sessions", reference)
    assert read_session(path).layers[0].image == reference
    only = path.rename(tmp_path / path.name)  # the session alone moves: the absolute path still holds
    assert read_session(only).layers[0].image.locate() == tmp_path / "images" / "a.tif"


def test_reference_to_a_folder_and_to_nothing(tmp_path):
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "1.png").write_bytes(b"1")
    reference = ImageReference.of(tmp_path / "scans")
    assert reference.locate() == tmp_path / "scans"
    (tmp_path / "scans" / "2.png").write_bytes(b"2")
    with pytest.raises(InputError, match="is not the image"):
        reference.locate()
    with pytest.raises(InputError, match=r"missing\.tif: there is no such image"):
        ImageReference.of(tmp_path / "missing.tif")


finite = st.floats(allow_nan=False, allow_infinity=False)
numbers = st.floats(-1e6, 1e6)
rgba = st.tuples(*[st.floats(0, 1)] * 4)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=6)
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


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture,
                                                                 HealthCheck.too_slow])
@given(st.lists(mask_layers() | box_layers(), max_size=3), plain_mapping, st.lists(st.text(), max_size=2))
def test_any_layers_come_back(tmp_path, layers, provenance, targets):
    session = Session(tuple(layers), None, tuple(targets), provenance)
    write_session(tmp_path / "any.claps.zip", session)
    assert difference(read_session(tmp_path / "any.claps.zip"), session) is None


# Bad input


def rewritten(path: Path, change, *, method: int = zipfile.ZIP_DEFLATED) -> Path:
    """Pass the members of a session through `change`, a function of {name: bytes}."""
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in change(members).items():
            file.writestr(name, content)
    return path


def with_document(path: Path, change) -> Path:
    def apply(members):
        document = json.loads(members["session.json"])
        change(document)
        return members | {"session.json": json.dumps(document).encode()}

    return rewritten(path, apply)


def refused(path: Path, pattern: str) -> None:
    with pytest.raises(InputError, match=pattern) as caught:
        read_session(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("name", ["../evil.npy", "/etc/cron.d/x", "..\\evil", "arrays/../../x.npy", "C:\\x",
                                  "arrays/00.npy", "arrays/1.npy.exe", "session.json/", "arrays/x.npy"])
def test_foreign_members_are_refused(tmp_path, name):
    refused(rewritten(saved(tmp_path), lambda members: members | {name: b"x"}), "holds a member named .*no session has")


def test_zip_bomb_is_refused_before_memory_is_taken(tmp_path):
    path = tmp_path / "bomb.claps.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("session.json", b"{}")
        for number in range(20):
            with file.open(f"arrays/{number}.npy", "w") as member:
                for _ in range(4):
                    member.write(bytes(2**20))
    tracemalloc.start()
    with pytest.raises(InputError, match=r"bomb\.claps\.zip: would inflate to 0\.08 GiB; the limit is 0\.06 GiB"):
        read_session(path, max_bytes=2**26)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_json_bomb_is_refused(tmp_path):
    blanks = b" " * (16 * 2**20 + 1)
    refused(rewritten(saved(tmp_path), lambda m: m | {"session.json": blanks}), "session.json declares")
    refused(rewritten(saved(tmp_path), lambda m: m | {"session.json": b"[" * 100_000}), "cannot be read as a session")
    refused(rewritten(saved(tmp_path), lambda m: m | {"session.json": b"[]"}), "no JSON object")


def test_one_array_cannot_be_used_a_thousand_times(tmp_path):
    def change(document):
        document["layers"] += [document["layers"][1]] * 1000

    refused(with_document(saved(tmp_path), change), "arrays/.*missing")


@pytest.mark.parametrize("size", [10**6, 2**31, 10])
def test_false_declared_size(tmp_path, size):
    """The size in the directory is a lie: larger than what deflate can hold, or smaller than what is there."""
    path = saved(tmp_path)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as file:
        info = file.getinfo("arrays/5.npy")
    entry = content.rindex(b"arrays/5.npy") - 46
    assert content[entry : entry + 4] == b"PK\1\2"
    assert struct.unpack_from("<I", content, entry + 24)[0] == info.file_size
    struct.pack_into("<I", content, entry + 24, size)
    path.write_bytes(content)
    refused(path, "cannot be in|declares the shape|cannot be read")


def test_array_header_that_claims_too_much(tmp_path):
    def npy(header: str, body: bytes = b"") -> bytes:
        return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header.encode() + body

    for header, reason in {
        "{'descr': '<u2', 'fortran_order': False, 'shape': (1000000, 1000000)}": "declares the shape",
        "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}": "holds object, not numbers",
        "{'descr': '<u2', 'fortran_order': False, 'shape': (-1, -2)}": "has the shape",
        "__import__('os').system('true')": "cannot be read",
    }.items():
        refused(rewritten(saved(tmp_path), lambda m, h=header: {k: npy(h) if k.endswith("0.npy") else v
                                                                 for k, v in m.items()}), reason)


def test_too_many_members_and_a_huge_directory(tmp_path):
    path = tmp_path / "many.claps.zip"
    with zipfile.ZipFile(path, "w") as file:
        for number in range(1001):
            file.writestr(f"arrays/{number}.npy", b"")
    refused(path, "has 1001 members; a session has at most 1000")
    with zipfile.ZipFile(path, "w") as file:
        for number in range(20_000):
            file.writestr(f"arrays/{number}.npy", b"")
    refused(path, "a directory of [0-9]+ bytes")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_duplicates_other_methods_and_encryption(tmp_path):
    path = saved(tmp_path)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("session.json", b"{}")
    refused(path, "twice a member named 'session.json'")
    refused(rewritten(saved(tmp_path), dict, method=zipfile.ZIP_LZMA), "compressed in a way that no session is")
    path = saved(tmp_path)
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(content)
    refused(path, "is encrypted")


def test_damage_anywhere_is_an_input_error_or_harmless(tmp_path):
    path = saved(tmp_path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for cut in rng.integers(0, len(whole), 40):
        path.write_bytes(whole[:cut])
        refused(path, "cannot be read as a session|no such")
    expected = read_session(saved(tmp_path))
    for bit in rng.integers(0, len(whole) * 8, 300):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            found = read_session(path)
        except InputError as error:
            assert str(path) in str(error)
        else:
            assert same(found, expected)  # the checksums cover every byte that counts


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_value_in_the_document_is_an_input_error_or_harmless(tmp_path, data):
    """Somebody edits the JSON: any value anywhere may be of any type."""

    def change(document):
        place = document
        while True:
            keys = list(place) if isinstance(place, dict) else range(len(place))
            key = data.draw(st.sampled_from(keys))
            if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.integers(0, 3)) == 0:
                break
            place = place[key]
        place[key] = data.draw(plain | st.sampled_from([-1, 10**400, "../x", [[]], {"a": 1}]))

    path = with_document(saved(tmp_path), change)
    try:
        read_session(path)
    except InputError as error:
        assert str(path) in str(error)


def test_other_files_and_newer_versions(tmp_path):
    refused(tmp_path / "missing.claps.zip", "there is no such file")
    (tmp_path / "empty.claps.zip").write_bytes(b"")
    refused(tmp_path / "empty.claps.zip", "cannot be read as a session")
    refused(rewritten(saved(tmp_path), lambda m: {"arrays/0.npy": m["arrays/0.npy"]}), "has no session.json")
    refused(with_document(saved(tmp_path), lambda d: d.update(version=2)), "version 2; .* Update napari-claps")
    refused(with_document(saved(tmp_path), lambda d: d.update(format="x")), "not that of a session")
    refused(with_document(saved(tmp_path), lambda d: d.pop("layers")), "'layers' is missing")
    refused(with_document(saved(tmp_path), lambda d: d["settings"].update(device=4)), "device = 4 has the wrong type")
    (tmp_path / "other.zip").write_bytes(saved(tmp_path).read_bytes())
    assert not is_session(tmp_path / "other.zip") and not is_session(tmp_path / "missing.claps.zip")
    assert not is_session(tmp_path)


# Writing


def test_what_has_no_place_is_refused_and_nothing_is_left(tmp_path):
    path = tmp_path / "s.claps.zip"
    masks = np.zeros((8, 8), np.uint16)
    for layer, reason in (
        (MaskLayer("a", "a", masks.astype(float)), "float64"),
        (MaskLayer("a", "a", masks, metadata={"viewer": object()}), "metadata of 'a' holds a object"),
        (MaskLayer("a", "a", masks, features=pd.DataFrame({"when": pd.to_datetime(["2020-01-01"])})), "'when' of 'a'"),
        (MaskLayer("a", "a", masks, features=pd.DataFrame({"x": [[1]]})), "'x' of 'a' holds a list"),
        (MaskLayer("a", "a", masks, colours={1: (2.0, 0, 0, 1)}), "colour"),
        (BoxLayer("b", (Box(0, 0, 1, 1, "a", 1.0),), (8, 8), features=pd.DataFrame({"x": [1, 2]})), "1 boxes and 2"),
    ):
        with pytest.raises(OutputError, match=f"s.claps.zip: the session cannot be written .*{reason}"):
            write_session(path, Session((layer,)))
    assert list(tmp_path.iterdir()) == []


def test_limits_of_reader_hold_for_the_writer(tmp_path, monkeypatch):
    monkeypatch.setattr(session_archive, "MAX_DOCUMENT", 100)
    with pytest.raises(OutputError, match="Save it in parts"):
        saved(tmp_path)
    monkeypatch.setattr(session_module, "MAX_BYTES", 100)
    with pytest.raises(OutputError, match="the limit is"):
        saved(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("changes, reason", [
    ({"scale": (0, 1)}, "zero"), ({"scale": (1, float("nan"))}, "not usable"), ({"scale": "ab"}, "no number"),
    ({"rotate": ((1, 0),)}, "not usable"), ({"scale": (1, 1), "units": ("mm",) * 3}, "differ in length"),
])  # fmt: skip
def test_impossible_placement(changes, reason):
    with pytest.raises(InputError, match=reason):
        Placement(**changes)


def test_a_full_disc_leaves_the_old_session(tmp_path, monkeypatch):
    path = saved(tmp_path)
    before = path.read_bytes()

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np.lib.format, "write_array", full)
    with pytest.raises(OutputError, match=r"s\.claps\.zip: cannot be written \(No space left"):
        write_session(path, a_session(a_volume()))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root and Windows write into read-only folders")
def test_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="Permission denied"):
            saved(tmp_path)
    finally:
        tmp_path.chmod(0o700)


def test_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot be written") as caught:
        saved(tmp_path / "file")
    assert isinstance(caught.value, ClapsError) and [p.name for p in tmp_path.iterdir()] == ["file"]
