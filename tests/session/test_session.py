"""Sessions: what is written is what is read, or nothing is written."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import zipfile

import numpy as np
import pandas as pd
import pytest

from napari_claps import session as session_module
from napari_claps.errors import ClapsError, InputError, OutputError
from napari_claps.session import (
    BoxLayer,
    ImageReference,
    MaskLayer,
    Placement,
    Session,
    ShapeLayer,
    is_session,
    read_session,
    write_session,
)
from napari_claps.session import archive as session_archive
from napari_claps.types import Box
from tests.session_examples import a_session, a_volume, difference, same, saved


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
    assert len(read_session(moved / path.name).layers) == 7


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
        (BoxLayer("b", (), (8, 8), colours=((0.0,) * 4,)), "0 boxes and 1 colours"),
        (ShapeLayer("s", np.zeros((3, 2)), np.array([2, 2])), "do not share out its 3 vertices"),
        (ShapeLayer("s", np.zeros((3, 2)), np.array([4, -1])), "do not share out"),
        (ShapeLayer("s", np.full((3, 2), np.nan)), "not finite"),
        (ShapeLayer("s", np.zeros((3, 2)), features=pd.DataFrame({"x": [1]})), "3 shapes and 1 rows"),
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
