"""What all exports share: formats, sources, the result that is read, and the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest

from napari_claps.cli import export as cli_export
from napari_claps.errors import InputError, OutputError
from napari_claps.results import MaskWriter
from napari_claps.results.coco import read_detections
from napari_claps.results.export import EXPORTS, export, find_format
from napari_claps.results.open_result import open_result
from napari_claps.results.saved_result import file_names
from napari_claps.session import (
    BoxLayer,
    ImageLayer,
    ImageReference,
    MaskLayer,
    Session,
    read_session,
    write_session,
)
from napari_claps.types import RetinalImage
from tests.saved_results import BOXES, NAMES, SPACING, f_masks, write_result


def test_a_result_folder_is_read(tmp_path):
    masks = write_result(tmp_path / "out" / "Auge ü 1")
    result = open_result(tmp_path / "out" / "Auge ü 1")
    assert (result.names, result.shape, result.spacing, result.boxes) == (NAMES, (4, 40, 33), SPACING, BOXES)
    for name in NAMES:
        np.testing.assert_array_equal(result.mask(name), masks[name])


def test_a_volume_of_one_slice_stays_a_volume(tmp_path):
    write_result(tmp_path / "a", masks={"drusen": f_masks()["drusen"][1:2]})
    result = open_result(tmp_path / "a")
    assert result.shape == (1, 40, 33) and result.spacing == SPACING and result.mask("drusen").shape == (1, 40, 33)


def test_a_masks_file_alone(tmp_path):
    write_result(tmp_path / "a")
    (tmp_path / "a" / "masks.ome.tif").rename(tmp_path / "corrected.ome.tif")
    result = open_result(tmp_path / "corrected.ome.tif")
    assert result.names == NAMES and result.spacing == pytest.approx(SPACING)
    assert result.boxes == () and not result.provenance and result.table is None


def test_a_volume_without_a_distance_of_slices_keeps_the_size_of_its_pixels(tmp_path):
    masks = f_masks()
    image = RetinalImage(np.zeros((4, 40, 33), np.uint8), plane_spacing=(0.0039, 0.0113))
    writer = MaskWriter(image, list(masks))
    for index in range(4):
        writer.add(index, {name: mask[index] for name, mask in masks.items()})
    writer.write(tmp_path / "masks.ome.tif")
    result = open_result(tmp_path / "masks.ome.tif")
    assert result.spacing is None and result.plane_spacing == pytest.approx((0.0039, 0.0113))


def test_masks_of_another_size_have_the_spacing_of_their_own_file(tmp_path):
    write_result(tmp_path / "a", masks={"drusen": f_masks()["drusen"][:, ::2, ::2]}, spacing=(0.12, 0.0078, 0.0226))
    path = tmp_path / "a" / "provenance.json"
    facts = json.loads(path.read_text())
    facts |= {"input": facts["input"] | {"shape": [4, 40, 33]}, "spacing": facts["spacing"] | {"mm": list(SPACING)}}
    path.write_text(json.dumps(facts))
    result = open_result(tmp_path / "a")
    assert result.spacing == pytest.approx((0.12, 0.0078, 0.0226)) and result.spacing_source == "file"


@pytest.mark.parametrize("part", ["spacing", "input", "slices", "bundle"])
def test_edited_provenance_does_not_matter(tmp_path, part):
    write_result(tmp_path / "a")
    path = tmp_path / "a" / "provenance.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {part: "7"}))
    result = open_result(tmp_path / "a")
    assert result.spacing == pytest.approx(SPACING) and result.laterality is None and result.slices is None


def test_a_session_goes_round(tmp_path):
    masks = write_result(tmp_path / "a")
    export(tmp_path / "a", tmp_path / "a.claps.zip")
    session = read_session(tmp_path / "a.claps.zip")
    assert session.settings.score_threshold == 0.5 and session.settings.seed == 3 and session.targets == NAMES
    assert [type(layer) for layer in session.layers] == [MaskLayer] * 4 + [BoxLayer]
    assert session.layers[4].boxes == BOXES and session.layers[0].placement.units == ("mm",) * 3
    result = open_result(tmp_path / "a.claps.zip")
    assert (result.names, result.spacing, result.boxes) == (NAMES, SPACING, BOXES)
    for name in NAMES:
        np.testing.assert_array_equal(result.mask(name), masks[name])


def test_two_runs_of_one_target_in_a_session(tmp_path):
    mask = f_masks()["drusen"]
    layers = (MaskLayer("drusen", "drusen", mask), MaskLayer("drusen (run 2)", "drusen", mask.astype(np.int64) * 2))
    write_session(tmp_path / "a.claps.zip", Session(layers))
    result = open_result(tmp_path / "a.claps.zip")
    assert result.names == ("drusen", "drusen (run 2)") and result.spacing is None
    with pytest.raises(InputError, match="numbers from 0 to 131070; masks hold whole numbers from 0 to 65535"):
        result.mask("drusen (run 2)")
    other = MaskLayer("b", "b", mask[0])
    write_session(tmp_path / "b.claps.zip", Session((layers[0], other)))
    with pytest.raises(InputError, match=r"differ in size \(drusen \(4, 40, 33\), b \(40, 33\)\)"):
        open_result(tmp_path / "b.claps.zip")
    write_session(tmp_path / "c.claps.zip", Session(()))
    with pytest.raises(InputError, match="holds no masks"):
        open_result(tmp_path / "c.claps.zip")


def test_session_with_the_image(tmp_path):
    write_result(tmp_path / "a", source=None)
    image = np.arange(4 * 40 * 33, dtype=np.uint16).reshape(4, 40, 33)
    np.save(tmp_path / "eye.npy", image)
    write_result(tmp_path / "b", source=tmp_path / "eye.npy")
    export(tmp_path / "b", tmp_path / "ref.claps.zip", source=tmp_path / "eye.npy")
    layer = read_session(tmp_path / "ref.claps.zip").layers[0]
    assert isinstance(layer, ImageLayer) and isinstance(layer.image, ImageReference)
    assert layer.image.locate() == tmp_path / "eye.npy"
    export(tmp_path / "b", tmp_path / "copy.claps.zip", source=tmp_path / "eye.npy", copy_image=True)
    copied = read_session(tmp_path / "copy.claps.zip").layers[0].image
    assert isinstance(copied, RetinalImage)
    np.testing.assert_array_equal(copied.data, image)
    with pytest.raises(InputError, match=r"is not the image that .* was made from .*Give the original"):
        export(tmp_path / "a", tmp_path / "c.claps.zip", source=tmp_path / "eye.npy")
    with pytest.raises(InputError, match="--copy-image needs the image"):
        export(tmp_path / "b", tmp_path / "c.claps.zip", copy_image=True)
    with pytest.raises(InputError, match="there is no such image"):
        export(tmp_path / "b", tmp_path / "c.claps.zip", source=tmp_path / "none.npy")


def test_formats_by_name_and_ending(tmp_path):
    for name, kind in EXPORTS.items():
        assert callable(kind.load())
        for suffix in kind.suffixes:
            assert find_format(None, tmp_path / f"A.b{suffix.upper()}") is kind
            assert find_format(name, tmp_path / f"a{suffix}") is kind
    with pytest.raises(InputError, match=r"its ending says no format. Known are: \.nii\.gz"):
        find_format(None, tmp_path / "a.png")
    with pytest.raises(InputError, match=r"Unknown format 'nrrd'\. Known are: nifti"):
        find_format("nrrd", tmp_path / "a.nrrd")
    with pytest.raises(InputError, match=r"must end in \.dcm"):
        find_format("dicom-seg", tmp_path / "a.nii")


def test_no_export_overwrites_unasked(tmp_path):
    write_result(tmp_path / "a")
    (tmp_path / "a.claps.zip").write_bytes(b"mine")
    with pytest.raises(OutputError, match="is there already"):
        export(tmp_path / "a", tmp_path / "a.claps.zip")
    assert (tmp_path / "a.claps.zip").read_bytes() == b"mine"
    export(tmp_path / "a", tmp_path / "a.claps.zip", overwrite=True)
    assert len(read_session(tmp_path / "a.claps.zip").layers) == 5


def test_bad_results(tmp_path):
    with pytest.raises(InputError, match="there is no such file or folder"):
        open_result(tmp_path / "none")
    with pytest.raises(InputError, match=r"holds no masks\.ome\.tif. Give a folder NAME"):
        open_result(tmp_path)
    write_result(tmp_path / "a")
    (tmp_path / "a" / "provenance.json").write_text("[", encoding="utf-8")
    with pytest.raises(InputError, match=r"provenance\.json: cannot be read"):
        open_result(tmp_path / "a")
    (tmp_path / "a" / "provenance.json").write_text("[]", encoding="utf-8")
    with pytest.raises(InputError, match=r"is no provenance"):
        open_result(tmp_path / "a")
    (tmp_path / "a" / "provenance.json").unlink()
    (tmp_path / "a" / "boxes.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match=r"boxes\.json: cannot be read as boxes: .*is missing"):
        open_result(tmp_path / "a")
    with pytest.raises(InputError, match="there is no such file"):
        read_detections(tmp_path / "none.json")
    start = '{"categories": [{"id": 1, "name": "drusen"}], "images": [{"id": 1}], "annotations": '
    for content in ("[" * 100_000, '{"categories": [], "images": [{"id": 1, "slice_index": 1e999}]}',
                    start + '[{"image_id": 1, "category_id": 1, "bbox": [NaN, 0, 1, 1]}]}'):
        (tmp_path / "odd.json").write_text(content)
        with pytest.raises(InputError, match=r"odd\.json: cannot be read as boxes"):
            read_detections(tmp_path / "odd.json")


def test_truncated_masks_leave_nothing(tmp_path):
    write_result(tmp_path / "a")
    path = tmp_path / "a" / "masks.ome.tif"
    path.write_bytes(path.read_bytes()[:-40])
    for suffix in (".claps.zip", ".nii.gz", ".ome.zarr"):
        with pytest.raises(InputError, match=r"masks\.ome\.tif"):
            export(tmp_path / "a", tmp_path / "out" / f"a{suffix}")
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []


def test_damaged_description_of_the_masks(tmp_path):
    write_result(tmp_path / "a")
    path = tmp_path / "a" / "masks.ome.tif"
    path.write_bytes(path.read_bytes().replace(b'Name="drusen"', b'Name="\x07rusen"'))
    with pytest.raises(InputError, match=r"masks\.ome\.tif: its OME description.* cannot be read"):
        open_result(tmp_path / "a")


def test_file_names():
    names = file_names(("a/b", "a b", "A_b", "..", "drusen", "../etc"))
    assert list(names.values()) == ["a_b", "a_b_2", "A_b_3", "mask", "drusen", "etc"]


def run(*arguments: object) -> int:
    import argparse

    parser = argparse.ArgumentParser()
    cli_export.add_parser(parser.add_subparsers())
    parsed = parser.parse_args(["export", *map(str, arguments)])
    return parsed.run(parsed)


def test_command_line(tmp_path, capsys):
    write_result(tmp_path / "a")
    assert run(tmp_path / "a", "-o", tmp_path / "é.claps.zip") == 0
    assert capsys.readouterr().out == f"Written: {tmp_path / 'é.claps.zip'}\n"
    with pytest.raises(InputError, match="--keep-patient means nothing for the format session"):
        run(tmp_path / "a", "-o", tmp_path / "b.claps.zip", "--keep-patient")
    with pytest.raises(SystemExit):
        run("--help")
    shown = capsys.readouterr().out
    assert all(name in shown for name in EXPORTS)
