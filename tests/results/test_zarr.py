"""Masks as OME-Zarr, read again from the bare files: JSON and zlib, without zarr."""

from __future__ import annotations

import json
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest

from napari_claps.errors import InputError, OutputError
from napari_claps.results.export import export
from napari_claps.results.export import zarr as export_zarr
from napari_claps.results.saved_result import SavedResult
from napari_claps.words.appearance import label_colour
from tests.saved_results import NAMES, SPACING, f_masks, write_result
from tests.vendor_fixtures import volume

zarr = pytest.importorskip("zarr", reason="the extra 'export' is not installed")


def read_array(folder: Path) -> np.ndarray:
    """Read a Zarr 2 array with ``/`` between the chunk numbers; a chunk that is not there is all fill value."""
    facts = json.loads((folder / ".zarray").read_text())
    assert facts["zarr_format"] == 2 and facts["compressor"]["id"] == "zlib" and facts["order"] == "C"
    assert facts["dimension_separator"] == "/" and not facts["filters"]
    shape, chunks = facts["shape"], facts["chunks"]
    data = np.full(shape, facts["fill_value"], facts["dtype"])
    for number in np.ndindex(*(-(-n // c) for n, c in zip(shape, chunks, strict=True))):
        file = folder.joinpath(*map(str, number))
        if file.exists():
            chunk = np.frombuffer(zlib.decompress(file.read_bytes()), facts["dtype"]).reshape(chunks)
            place = tuple(slice(i * c, min((i + 1) * c, n)) for i, c, n in zip(number, chunks, shape, strict=True))
            data[place] = chunk[tuple(slice(p.stop - p.start) for p in place)]
    return data


def attributes(folder: Path) -> dict:
    assert json.loads((folder / ".zgroup").read_text()) == {"zarr_format": 2}
    return json.loads((folder / ".zattrs").read_text())


@pytest.mark.parametrize("chunk", [1024, 16])
def test_labels_with_colours_and_properties(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(export_zarr, "CHUNK", chunk)
    masks = write_result(tmp_path / "a")
    path = tmp_path / "Ordner ü" / "eye.ome.zarr"
    assert export(tmp_path / "a", path) == [path] and list(path.parent.iterdir()) == [path]
    folders = ["retina", "drusen", "intraretinal_fluid", "dark_spots"]
    assert attributes(path / "labels") == {"labels": folders}
    for name, folder in zip(NAMES, folders, strict=True):
        np.testing.assert_array_equal(read_array(path / "labels" / folder / "0"), masks[name])
        known = attributes(path / "labels" / folder)
        [scales] = known["multiscales"]
        assert scales["axes"] == [{"name": axis, "type": "space", "unit": "millimeter"} for axis in "zyx"]
        [level] = scales["datasets"]
        assert level["path"] == "0"
        assert level["coordinateTransformations"] == [{"type": "scale", "scale": list(SPACING)}]
        present = [int(i) for i in np.unique(masks[name]) if i]
        label = known["image-label"]
        assert "source" not in label and label["version"] == scales["version"] == "0.4"
        assert ("colors" in label) == bool(present)
        for colour, facts, instance in zip(label.get("colors", []), label.get("properties", []), present, strict=True):
            assert colour == {"label-value": instance, "rgba": [*label_colour(name), 255]}
            assert facts["label-value"] == instance and facts["target"] == name
            assert facts["pixels"] == int((masks[name] == instance).sum())
            assert facts["slices"] == int((masks[name] == instance).any(axis=(1, 2)).sum())


def test_image_beside_the_labels(tmp_path):
    data = volume(4, 40, 33).astype(np.uint16) * 100
    np.save(tmp_path / "eye.npy", data)
    write_result(tmp_path / "a", source=tmp_path / "eye.npy")
    export(tmp_path / "a", tmp_path / "eye.zarr", source=tmp_path / "eye.npy")
    np.testing.assert_array_equal(read_array(tmp_path / "eye.zarr" / "0"), data)
    [scales] = attributes(tmp_path / "eye.zarr")["multiscales"]
    assert scales["datasets"][0]["coordinateTransformations"][0]["scale"] == list(SPACING)
    label = attributes(tmp_path / "eye.zarr" / "labels" / "drusen")["image-label"]
    assert label["source"] == {"image": "../../"}


def test_colour_photograph_without_spacing(tmp_path):
    from PIL import Image

    colour = np.stack([volume(3, 40, 33)[i] for i in range(3)], axis=-1)
    Image.fromarray(colour).save(tmp_path / "eye.png")
    mask = f_masks()["drusen"][1]
    write_result(tmp_path / "a", masks={"optic_disc": mask}, spacing=None, source=tmp_path / "eye.png")
    export(tmp_path / "a", tmp_path / "eye.zarr", source=tmp_path / "eye.png")
    np.testing.assert_array_equal(read_array(tmp_path / "eye.zarr" / "0"), colour.transpose(2, 0, 1))
    np.testing.assert_array_equal(read_array(tmp_path / "eye.zarr" / "labels" / "optic_disc" / "0"), mask)
    known = attributes(tmp_path / "eye.zarr")
    assert [axis["name"] for axis in known["multiscales"][0]["axes"]] == ["c", "y", "x"]
    assert [channel["color"] for channel in known["omero"]["channels"]] == ["FF0000", "00FF00", "0000FF"]
    [scales] = attributes(tmp_path / "eye.zarr" / "labels" / "optic_disc")["multiscales"]
    assert scales["axes"] == [{"name": "y", "type": "space"}, {"name": "x", "type": "space"}]
    assert scales["datasets"][0]["coordinateTransformations"][0]["scale"] == [1.0, 1.0]


def test_memory_does_not_grow_with_the_number_of_slices(tmp_path):
    plane = np.zeros((256, 256), np.uint16)
    plane[10:50, 20:90] = 3

    def peak(n: int) -> int:
        result = SavedResult(tmp_path, ("drusen",), (n, 256, 256), None, lambda name: iter([plane] * n))
        tracemalloc.start()
        export(result, tmp_path / f"{n}.zarr")
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(2)  # what is made once
    assert peak(48) < peak(6) + 4 * plane.nbytes  # 42 slices more would be ten times that


def test_bad_sources_and_failures_leave_nothing(tmp_path, monkeypatch):
    np.save(tmp_path / "eye.npy", volume(4, 33, 40))
    write_result(tmp_path / "a", source=tmp_path / "eye.npy")
    with pytest.raises(InputError, match=r"eye\.npy: has 40 x 33 x 4 pixels .*, the masks have 33 x 40 x 4"):
        export(tmp_path / "a", tmp_path / "out" / "a.zarr", source=tmp_path / "eye.npy")

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export_zarr, "_image_label", full)
    with pytest.raises(OutputError, match=r"a\.zarr: cannot be written \(No space left"):
        export(tmp_path / "a", tmp_path / "out" / "a.zarr")
    assert list((tmp_path / "out").iterdir()) == []
