"""Whatever stands in a file that is read back, there is one sentence with file and field, and nothing unexpected."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from napari_claps.errors import BundleError, ClapsError, InputError
from napari_claps.files.schema import Number, Part, Whole, checked, parse_toml, read_json
from napari_claps.models.bundles.manifest import read_manifest
from napari_claps.results.coco import read_detections
from napari_claps.results.record import Record, read_record
from napari_claps.settings import Settings
from napari_claps.study.replay import read_replay
from tests.provenance_examples import RECORD

ODD = (None, True, 3, -1, 10**400, 2.5, float("nan"), "x", "3", "", [], [[]], [1, "a"], {}, {"a": 1}, "\0")

COCO = {
    "info": {"description": "x"}, "categories": [{"id": 1, "name": "drusen"}],
    "images": [{"id": 1, "slice_index": 0, "height": 40, "width": 30}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3.5, 4], "score": 0.5, "instance": 1,
                     "source": "detector", "uncertainty": 0.25}],
}  # fmt: skip


class Inner(Part):
    size: Number


class Outer(Part):
    name: str
    count: Whole = 1
    inner: tuple[Inner, ...] = ()


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a document, the document itself left out."""
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield (*path, key)
        yield from places(value[key], (*path, key))


def changed(document: dict[str, Any], place: tuple[Any, ...], value: object) -> dict[str, Any]:
    document = copy.deepcopy(document)
    at: Any = document
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = value
    return document


@pytest.mark.parametrize(("value", "sentence"), [
    ({}, "a.json: 'name' is missing."), ({"name": 3}, "a.json: name = 3 has the wrong type"),
    ({"name": "x", "count": "3"}, "a.json: count = '3' has"), ({"name": "x", "count": True}, "count = True has"),
    ({"name": "x", "inner": [{"size": 1}, {"size": "1"}]}, "inner[1].size = '1' has"), ([], "a.json: [] has"),
    ({"name": 10**5000}, "name = a int has"), ({"name": ["y" * 100]}, "yyy... has"),
])  # fmt: skip
def test_the_first_fault_is_named(value: object, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        checked(Outer, value, where="a.json")
    assert sentence in str(caught.value) and str(caught.value).startswith("a.json: ")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


def test_right_values_pass_and_unknown_ones_are_passed_over() -> None:
    found = checked(Outer, {"name": "x", "inner": [{"size": 2}], "new": 1})
    assert found == Outer(name="x", inner=(Inner(size=2.0),))
    with pytest.raises(BundleError):
        checked(Outer, {}, error=BundleError)


@pytest.mark.parametrize("content", ["", "{", "[" * 100_000, "9" * 5000, '{"a": ' + "9" * 5000 + "}", "\udcff"])
def test_text_that_is_no_json(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=r"a\.json: cannot be read as boxes, it is not valid JSON"):
        read_json(tmp_path / "a.json", what="boxes")
    with pytest.raises(InputError, match=r"b\.json: cannot be read: there is no such file"):
        read_json(tmp_path / "b.json")


@pytest.mark.parametrize("content", ["a = " + "[" * 5000, "a = " + "9" * 5000, "a" + ".a" * 5000 + " = 1", "a ="])
def test_text_that_is_no_toml(tmp_path: Path, content: str) -> None:
    with pytest.raises(ValueError):
        parse_toml(content)
        raise ValueError("deep keys are TOML")
    (tmp_path / "bundle.toml").write_text(content)
    for read in (Settings.from_toml, read_manifest):
        with pytest.raises(ClapsError, match=r"bundle\.toml"):
            read(tmp_path / "bundle.toml" if read == Settings.from_toml else tmp_path)


def every_change(tmp_path: Path, document: dict[str, Any], read: Callable[[Path], object]) -> int:
    """Read the document with every odd value at every place; return how often it was refused."""
    path, refused = tmp_path / "a.json", 0
    for place in places(document):
        for value in ODD:
            path.write_text(json.dumps(changed(document, place, value)))
            try:
                read(path)
            except InputError as error:
                assert str(error).startswith(str(path)), place
                refused += 1
    return refused


def test_no_value_in_a_record_is_unexpected(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(RECORD))
    assert read_record(tmp_path / "a.json") == RECORD
    replay = read_replay(tmp_path / "a.json")
    assert (replay.request.targets, replay.request.region, replay.request.settings.device) == (
        ("drusen",), (0, 0, 8, 8), "cuda")
    assert every_change(tmp_path, RECORD, lambda path: checked(Record, read_record(path))) == 0  # left out, not refused
    assert every_change(tmp_path, RECORD, read_replay) > 300


def test_no_value_in_boxes_is_unexpected(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(COCO))
    assert read_detections(tmp_path / "a.json").boxes[0].x1 == 4.5
    assert every_change(tmp_path, COCO, read_detections) > 150


def test_no_setting_is_unexpected() -> None:
    for name in Settings.__dataclass_fields__:
        for value in ODD:
            try:
                Settings().updated({name: value}, where="s.toml")
            except InputError as error:
                assert str(error).startswith("s.toml: ")


@pytest.mark.parametrize(("old", "new", "message"), [
    ('version = "', 'version = 3 # "', "version = 3 has the wrong type"), ("[files]", "[file]", "'files' is missing"),
    ("threshold = 0.", "threshold = '0' # 0.", "threshold = '0' has the wrong type"),
    ('target = "', 'target = 5 # "', "target = 5 has the wrong type"),
])  # fmt: skip
def test_a_bundle_says_what_is_wrong_with_it(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = (read_manifest("claps-tiny").folder / "bundle.toml").read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "bundle.toml").write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(BundleError, match=message):
        read_manifest(tmp_path)
