"""``claps evaluate`` on files: layouts of the truth, volumes, boxes, misfits."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

from napari_claps import cli
from napari_claps.cli import evaluate as cli_evaluate
from napari_claps.errors import ClapsError, InputError
from napari_claps.evaluate import average_precision
from napari_claps.evaluate.files import find_truth, read_labels
from napari_claps.evaluate.outputs import compare
from napari_claps.measurement import measure
from napari_claps.results import ResultFiles
from napari_claps.results.findings import Findings
from napari_claps.types import Box, Modality, ModalityGuess, Prompt, RetinalImage, SliceResult, SpacingSource

SHAPE = (32, 40)


def disc(shape=SHAPE, *, shift: int = 0) -> np.ndarray:
    mask = np.zeros(shape, np.uint16)
    mask[..., 8:24, 8 + shift : 24 + shift] = 1
    return mask


def write_masks(path: Path, masks: dict[str, np.ndarray], *, spacing: tuple[float, ...] | None = None) -> None:
    """Write an OME-TIFF of masks with an independent call of tifffile; spacing in mm."""
    stack = np.stack(list(masks.values()))
    metadata = {"axes": "CYX" if stack.ndim == 3 else "CZYX", "Channel": {"Name": list(masks)}}
    for axis, size in zip("XYZ", reversed(spacing or ()), strict=False):
        metadata |= {f"PhysicalSize{axis}": size * 1000, f"PhysicalSize{axis}Unit": "µm"}
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, stack.astype(np.uint16), metadata=metadata, ome=True, photometric="minisblack")


def write_boxes(path: Path, boxes: list[tuple], *, slices: tuple[int, ...] = (0,), name: str = "drusen") -> None:
    """Boxes are (slice, x, y, width, height, score)."""
    path.write_text(
        json.dumps(
            {
                "images": [{"id": 10 + i, "slice_index": i} for i in slices],
                "categories": [{"id": 5, "name": name}],
                "annotations": [
                    {"image_id": 10 + b[0], "category_id": 5, "bbox": b[1:5], "score": b[5]} for b in boxes
                ],
            }
        )
    )


def write_picture(path: Path, mask: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((mask > 0).astype(np.uint8) * 255).save(path)


def evaluate(*arguments: object) -> int:
    parser = argparse.ArgumentParser(prog="claps")
    cli_evaluate.add_parser(parser.add_subparsers())
    parsed = parser.parse_args(["evaluate", *map(str, arguments)])
    return parsed.run(parsed)


def test_report_has_a_row_per_image_and_target(tmp_path, capsys):
    for name, shift in (("a", 0), ("b", 8)):
        write_masks(tmp_path / "out" / name / "masks.ome.tif", {"optic_disc": disc(shift=shift), "vessel": disc()})
        write_masks(tmp_path / "truth" / f"{name}.ome.tif", {"vessel": 0 * disc(), "optic disk": disc()})
    assert evaluate(tmp_path / "out", tmp_path / "truth", "-o", tmp_path / "report.csv") == 0
    table = pd.read_csv(tmp_path / "report.csv").set_index(["image", "target"])
    assert table.dice["a", "optic_disc"] == 1
    assert table.dice["b", "optic_disc"] == 0.5
    assert np.isnan(table.dice["a", "vessel"]) and table.found["a", "vessel"] and not table.present["a", "vessel"]
    summary = pd.read_csv(tmp_path / "report_summary.csv").set_index("target")
    assert summary.dice["optic_disc"] == 0.75
    assert summary.false_positive_rate["vessel"] == 1
    text = capsys.readouterr().out
    assert "0.750" in text and "2 images compared" in text and "nan" not in text.lower()


def test_physical_sizes_give_millimetres(tmp_path):
    write_masks(tmp_path / "out/a/masks.ome.tif", {"optic_disc": disc(shift=4)}, spacing=(0.02, 0.01))
    write_masks(tmp_path / "truth/a.ome.tif", {"optic_disc": disc()})
    (score,) = compare(tmp_path / "out/a", tmp_path / "truth", name="a")
    assert (score.masks.length_unit, score.masks.size_unit) == ("mm", "mm2")
    assert score.masks.hd95 == pytest.approx(4 * 0.01)
    assert score.masks.truth_size == pytest.approx(256 * 0.0002)


def test_pictures_as_truth_with_field_of_view(tmp_path):
    write_masks(tmp_path / "out/img[1]/masks.ome.tif", {"vessel": disc(shift=8), "artery": disc(), "vein": disc()})
    write_picture(tmp_path / "data/masks/vessel/img[1].png", disc())
    write_picture(tmp_path / "data/masks/vein/img[1].png", 0 * disc())
    field = np.ones(SHAPE)
    field[:, 24:] = 0
    write_picture(tmp_path / "data/masks/fov/img[1].png", field)
    write_picture(tmp_path / "data/masks/artery/other.png", disc())
    for truth in (tmp_path / "data", tmp_path / "data" / "masks"):
        scores = {s.target: s for s in compare(tmp_path / "out/img[1]", truth, name="img[1]")}
        # artery has no picture for this image: unknown, not absent.
        assert set(scores) == {"vessel", "vein"}
        assert scores["vessel"].masks.precision == 1 and scores["vessel"].masks.recall == 0.5
        assert scores["vessel"].masks.cldice > 0
        assert scores["vein"].masks.found and not scores["vein"].masks.present


def test_volume_is_one_case_over_the_slices_that_were_looked_at(tmp_path):
    truth = np.zeros((5, *SHAPE), np.uint16)
    truth[1:4] = disc()
    predicted = np.zeros_like(truth)
    predicted[2:4] = disc()
    write_masks(tmp_path / "out/v/masks.ome.tif", {"drusen": predicted}, spacing=(0.1, 0.004, 0.01))
    write_masks(tmp_path / "truth/v/masks.ome.tif", {"drusen": truth}, spacing=(0.1, 0.004, 0.01))
    (whole,) = compare(tmp_path / "out/v", tmp_path / "truth", name="v")
    assert whole.masks.recall == pytest.approx(2 / 3) and whole.masks.size_unit == "mm3"
    write_boxes(tmp_path / "out/v/boxes.json", [(2, 8, 8, 16, 16, 0.9), (3, 0, 0, 4, 4, 0.8)], slices=(2, 3, 4))
    (part,) = compare(tmp_path / "out/v", tmp_path / "truth", name="v")
    assert part.masks.dice == 1
    assert [len(b.truth) for b in part.boxes] == [1, 1, 0]
    assert [b.predicted.tolist() for b in part.boxes] == [[[8, 8, 24, 24]], [[0, 0, 4, 4]], []]
    assert [b.scores.tolist() for b in part.boxes] == [[0.9], [0.8], []]


def test_touching_instances_of_the_truth_are_separate_boxes(tmp_path):
    truth = disc()
    truth[:, 16:] *= 2
    write_masks(tmp_path / "out/a/masks.ome.tif", {"drusen": disc()})
    write_boxes(tmp_path / "out/a/boxes.json", [(0, 8, 8, 8, 16, 0.9), (0, 16, 8, 8, 16, 0.4)])
    write_masks(tmp_path / "truth/a.ome.tif", {"drusen": truth})
    (score,) = compare(tmp_path / "out/a", tmp_path / "truth", name="a")
    assert len(score.boxes[0].truth) == 2 and average_precision(score.boxes) == pytest.approx(1)


def test_presence_comes_from_the_measurements(tmp_path):
    write_masks(tmp_path / "out/a/masks.ome.tif", {"drusen": disc()})
    write_masks(tmp_path / "truth/a.ome.tif", {"drusen": disc()})
    pd.DataFrame(
        {
            "structure": "drusen",
            "measure": ["area", "presence", "presence"],
            "slice": [None, 0, None],
            "value": [3, 0.1, 0.7],
        }
    ).to_csv(tmp_path / "out/a/measurements.csv")
    (score,) = compare(tmp_path / "out/a", tmp_path / "truth", name="a")
    assert score.presence == 0.7


def test_one_result_with_one_file(tmp_path, capsys):
    write_masks(tmp_path / "out/masks.ome.tif", {"drusen": disc()})
    write_masks(tmp_path / "other.ome.tif", {"Drusen": disc()})
    assert evaluate(tmp_path / "out", tmp_path / "other.ome.tif") == 0
    assert "1 image compared" in capsys.readouterr().out


@pytest.mark.parametrize("axes", ["CZYX", "ZCYX"])
def test_channels_are_found_in_any_order_of_axes(tmp_path, axes):
    stack = np.arange(2 * 3 * 8 * 9, dtype=np.uint16).reshape(2, 3, 8, 9)
    data = stack if axes == "CZYX" else stack.swapaxes(0, 1)
    tifffile.imwrite(
        tmp_path / "m.ome.tif",
        data,
        metadata={"axes": axes, "Channel": {"Name": ["drusen", "shrm"]}},
        photometric="minisblack",
    )
    labels = read_labels(tmp_path / "m.ome.tif")
    assert labels.shape == (3, 8, 9) and labels.spacing is None
    np.testing.assert_array_equal(labels.mask("shrm"), stack[1])


def test_one_image_that_fails_does_not_hide_the_others(tmp_path, capsys):
    for name in ("a", "b", "c"):
        write_masks(tmp_path / "out" / name / "masks.ome.tif", {"drusen": disc()})
    write_masks(tmp_path / "truth/a.ome.tif", {"drusen": disc()})
    write_masks(tmp_path / "truth/b.ome.tif", {"drusen": disc((64, 80))})
    assert evaluate(tmp_path / "out", tmp_path / "truth") == 1
    out, err = capsys.readouterr()
    assert "1 image compared" in out
    assert "b.ome.tif is 80 x 64" in err and "40 x 32" in err
    assert "c: no true masks" in err


def bad_truth(folder: Path, kind: str) -> str:
    """Write a truth that cannot be used; returns what the message must say."""
    path = folder / "a.ome.tif"
    if kind == "other targets":
        write_masks(path, {"shrm": disc()})
        return r"no target in common. Predicted: drusen. Truth .*: shrm"
    if kind == "other spacing":
        write_masks(path, {"drusen": disc()}, spacing=(0.5, 0.5))
        return "Correct the one that is wrong"
    if kind == "no names":
        tifffile.imwrite(path, disc()[None], metadata={"axes": "CYX"}, photometric="minisblack")
        return "every channel needs a name of its own"
    if kind == "the same name twice":
        write_masks(path, {"IRF": disc(), "intraretinal fluid": disc()})
        return "every channel needs a name of its own"
    if kind == "time":
        tifffile.imwrite(path, np.stack([disc()] * 3), metadata={"axes": "TYX"}, photometric="minisblack")
        return "no colour, no time"
    if kind == "plain TIFF":
        tifffile.imwrite(folder / "a.tif", disc())
        return "no OME-TIFF"
    if kind == "text":
        path.write_text("not a picture")
        return "cannot be read as OME-TIFF"
    if kind == "truncated":
        write_masks(path, {"drusen": np.random.default_rng(0).integers(0, 9, SHAPE)})
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        return "a.ome.tif"
    (folder / "masks/drusen").mkdir(parents=True)
    (folder / "masks/drusen/a.png").write_text("not a picture")
    return "damaged or no picture"


@pytest.mark.parametrize(
    "kind",
    [
        "other targets",
        "other spacing",
        "no names",
        "the same name twice",
        "time",
        "plain TIFF",
        "text",
        "truncated",
        "png",
    ],
)
def test_unusable_truth_is_explained(tmp_path, capsys, kind):
    write_masks(tmp_path / "out/a/masks.ome.tif", {"drusen": disc()}, spacing=(0.1, 0.1))
    (tmp_path / "truth").mkdir()
    text = bad_truth(tmp_path / "truth", kind)
    with pytest.raises(InputError, match=text):
        list(compare(tmp_path / "out/a", tmp_path / "truth", name="a"))
    assert evaluate(tmp_path / "out", tmp_path / "truth", "-o", tmp_path / "report.csv") == 1
    assert re.search(text, capsys.readouterr().err)
    assert not (tmp_path / "report.csv").exists()


def test_missing_folders_are_explained(tmp_path):
    with pytest.raises(InputError, match="there is no such folder"):
        evaluate(tmp_path / "nowhere", tmp_path)
    with pytest.raises(InputError, match="holds no results"):
        evaluate(tmp_path, tmp_path)
    write_masks(tmp_path / "out/a/masks.ome.tif", {"drusen": disc()})
    with pytest.raises(InputError, match="no such file or folder of true masks"):
        evaluate(tmp_path / "out", tmp_path / "nowhere")
    write_masks(tmp_path / "out/b/masks.ome.tif", {"drusen": disc()})
    with pytest.raises(InputError, match="the truth of one image"):
        evaluate(tmp_path / "out", tmp_path / "out/a/masks.ome.tif")


@pytest.mark.parametrize("content", ["{", '{"images": []}', '{"images": [], "categories": [], "annotations": []}'])
def test_damaged_boxes_are_explained(tmp_path, content):
    write_masks(tmp_path / "out/a/masks.ome.tif", {"drusen": disc()})
    write_masks(tmp_path / "truth/a.ome.tif", {"drusen": disc()})
    (tmp_path / "out/a/boxes.json").write_text(content)
    with pytest.raises(InputError, match=r"boxes\.json"):
        list(compare(tmp_path / "out/a", tmp_path / "truth", name="a"))


def test_unwritable_report_leaves_no_half_file(tmp_path):
    write_masks(tmp_path / "out/a/masks.ome.tif", {"drusen": disc()})
    (tmp_path / "file").write_text("")
    with pytest.raises(ClapsError, match="cannot be written"):
        evaluate(tmp_path / "out", tmp_path / "out", "-o", tmp_path / "file" / "report.csv")


def test_pictures_of_different_size_are_explained(tmp_path):
    write_picture(tmp_path / "masks/drusen/a.png", disc())
    write_picture(tmp_path / "masks/shrm/a.png", disc((64, 80)))
    truth = find_truth(tmp_path, "a")
    assert truth is not None and truth.mask("drusen").any()
    with pytest.raises(InputError, match=r"shrm.a.png: is 80 x 64 pixels, other masks of this image 40 x 32"):
        truth.mask("shrm")


def test_the_truth_of_a_sample_is_preferred_to_the_sample_itself(tmp_path):
    tifffile.imwrite(tmp_path / "s.ome.tif", np.zeros((4, *SHAPE), np.uint8), metadata={"axes": "ZYX"})
    write_masks(tmp_path / "s_truth.ome.tif", {"drusen": np.stack([disc()] * 4)})
    truth = find_truth(tmp_path, "s")
    assert truth is not None and truth.names == ("drusen",)


def test_a_folder_of_the_real_writer_is_understood(tmp_path):
    spacing = (0.1, 0.004, 0.01)
    image = RetinalImage(
        np.zeros((4, *SHAPE), np.uint8), spacing=spacing, spacing_source=SpacingSource.FILE, source="scan.vol"
    )
    prompts = (Prompt("drusen", "drusen in an OCT B-scan", "drusen"), Prompt("shrm", "shrm in an OCT B-scan", "shrm"))
    guess = ModalityGuess(Modality.OCT, 0.9, "detected")
    files = ResultFiles(image, prompts, guess, [1, 2], model="tiny", version="1")
    results = []
    for i in (1, 2):
        masks = {"drusen": disc(), "shrm": 0 * disc()}
        boxes = (Box(8, 8, 24, 24, "drusen", 0.9, slice_index=i, instance=1),)
        results.append(SliceResult(i, guess, prompts, masks, boxes, {"drusen": 0.8, "shrm": 0.1 * i}, {}))
        files.add(results[-1])
    (tmp_path / "out").mkdir()
    files.write(tmp_path / "out/scan", Findings(measure(results, image), (), False, None, None, None, {}))
    truth = np.stack([disc()] * 4)
    write_masks(tmp_path / "truth/scan.ome.tif", {"drusen": truth, "shrm": 0 * truth}, spacing=spacing)
    drusen, shrm = compare(tmp_path / "out/scan", tmp_path / "truth", name="scan")
    # Slices 0 and 3 were not looked at: they are zeros in the file, but no error.
    assert drusen.masks.dice == 1 and drusen.masks.truth_size == pytest.approx(2 * 256 * 4e-6)
    assert [len(b.truth) for b in drusen.boxes] == [1, 1] and average_precision(drusen.boxes) == pytest.approx(1)
    assert (drusen.presence, shrm.presence) == (0.8, 0.2)
    assert not shrm.masks.present and not shrm.masks.found


def test_segment_then_evaluate(tiny_bundle, tmp_path, capsys):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3)).astype(np.uint8)).save(tmp_path / "eye.png")
    arguments = ["segment", tmp_path / "eye.png", "-o", tmp_path / "out", "--bundle", tiny_bundle, "--device", "cpu"]
    assert cli.main([str(a) for a in (*arguments, "--modality", "cfp", "--target", "optic_disc")]) == 0
    # Compared with itself, as when nobody corrected anything.
    assert cli.main(["evaluate", str(tmp_path / "out"), str(tmp_path / "out")]) == 0
    assert "1 image compared" in capsys.readouterr().out
    write_picture(tmp_path / "truth/masks/optic_disc/eye.png", np.ones((10, 10)))
    assert cli.main(["evaluate", str(tmp_path / "out"), str(tmp_path / "truth")]) == 1
    assert "64 x 48" in capsys.readouterr().err
    assert cli.main(["evaluate", str(tmp_path / "out"), str(tmp_path / "nowhere")]) == 2
