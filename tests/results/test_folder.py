"""The files of a result folder, read again with independent code."""

from __future__ import annotations

import hashlib
import json
import tempfile
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from napari_claps.errors import OutputError
from napari_claps.files.atomic import atomic_path
from napari_claps.io.fingerprint import sha256_of
from napari_claps.measurement import measure
from napari_claps.models.bundles.manifest import Pair
from napari_claps.results import FILES, MaskWriter, ResultFiles, coco_detections, expected_files, provenance
from napari_claps.results import planes as planes_module
from napari_claps.results.coco import read_detections
from napari_claps.results.findings import Findings
from napari_claps.results.provenance import MaskDigests
from napari_claps.settings import Settings
from napari_claps.study.request import Request
from napari_claps.types import (
    Box,
    BoxSource,
    Modality,
    ModalityGuess,
    Prompt,
    RetinalImage,
    SliceResult,
    SpacingSource,
)  # fmt: skip
from tests.vendor_fixtures import write_heyex_xml

SLOW_MACHINE = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
LABELS = ("vessel", "optic_disc", "dark µ spots")
GUESS = ModalityGuess(Modality.OCT, 0.9, "detected", {"oct": 0.9, "cfp": 0.1})


def an_image(shape=(3, 20, 30), spacing=(0.12, 0.0039, 0.0117), **more):
    source = SpacingSource.FILE if spacing else SpacingSource.NONE
    return RetinalImage(np.zeros(shape, np.uint8), spacing=spacing, spacing_source=source, **more)


def write_masks(path, image, masks):
    writer = MaskWriter(image, LABELS)
    for index in range(image.n_slices):
        writer.add(index, {label: masks[c, index] for c, label in enumerate(LABELS)})
    writer.write(path)


def ome_pixels(path):
    with tifffile.TiffFile(path) as file:
        return tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]["Pixels"]


def test_volume_of_masks_comes_back(tmp_path):
    rng = np.random.default_rng(0)
    masks = rng.integers(0, 65536, (3, 3, 20, 30)).astype(np.uint16)
    write_masks(tmp_path / "masks.ome.tif", an_image(), masks)
    with tifffile.TiffFile(tmp_path / "masks.ome.tif") as file:
        assert file.series[0].axes == "CZYX"
        assert file.series[0].dtype == np.uint16
        assert file.pages[0].compression == tifffile.COMPRESSION.ADOBE_DEFLATE
        np.testing.assert_array_equal(file.asarray(), masks)
    pixels = ome_pixels(tmp_path / "masks.ome.tif")
    assert [c["Name"] for c in pixels["Channel"]] == list(LABELS)
    for axis, microns in zip("XYZ", (11.7, 3.9, 120.0), strict=True):
        assert float(pixels[f"PhysicalSize{axis}"]) == pytest.approx(microns)
        assert pixels[f"PhysicalSize{axis}Unit"] == "µm"


def test_plane_without_spacing_has_no_physical_size(tmp_path):
    masks = np.arange(3 * 1 * 20 * 30).reshape(3, 1, 20, 30).astype(np.uint16)
    write_masks(tmp_path / "masks.ome.tif", an_image((20, 30), None), masks)
    with tifffile.TiffFile(tmp_path / "masks.ome.tif") as file:
        assert file.series[0].axes == "CYX"
        np.testing.assert_array_equal(file.asarray(), masks[:, 0])
    assert not [key for key in ome_pixels(tmp_path / "masks.ome.tif") if key.startswith("Physical")]


def test_slices_that_never_came_are_zero_and_stay_in_place(tmp_path):
    writer = MaskWriter(an_image(), ["vessel"])
    writer.add(1, {"vessel": np.full((20, 30), 5)})
    writer.write(tmp_path / "masks.ome.tif")
    back = tifffile.imread(tmp_path / "masks.ome.tif")
    assert back.shape == (3, 20, 30)
    assert (back[1] == 5).all()
    assert not back[[0, 2]].any()


def test_planes_go_to_disk_when_they_are_many(tmp_path, monkeypatch):
    """Memory does not grow with the volume."""
    made = []

    def spool(max_size):
        made.append(tempfile.SpooledTemporaryFile(max_size=max_size))  # noqa: SIM115 - as in the code
        return made[0]

    monkeypatch.setattr(planes_module, "IN_MEMORY", 1000)
    monkeypatch.setattr(planes_module, "tempfile", SimpleNamespace(SpooledTemporaryFile=spool))
    masks = np.random.default_rng(1).integers(0, 9, (3, 3, 20, 30)).astype(np.uint16)
    write_masks(tmp_path / "masks.ome.tif", an_image(), masks)
    assert made[0]._rolled
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "masks.ome.tif"), masks)


def test_uncertainty_of_an_object_is_written_where_it_was_measured(tmp_path):
    boxes = [Box(1, 2, 5, 9, label=LABELS[0], score=0.5, uncertainty=u) for u in (0.25, None)]
    document = coco_detections(an_image(), LABELS, boxes, range(3))
    assert document["annotations"][0]["uncertainty"] == 0.25 and "uncertainty" not in document["annotations"][1]
    (tmp_path / "boxes.json").write_text(json.dumps(document))
    assert [b.uncertainty for b in read_detections(tmp_path / "boxes.json").boxes] == [0.25, None]


@SLOW_MACHINE
@given(y0=st.floats(0, 10), x0=st.floats(0, 10), height=st.floats(0.5, 9), width=st.floats(0.5, 19))
def test_coco_box_is_x_y_width_height(y0, x0, height, width):
    box = Box(y0, x0, y0 + height, x0 + width, "vessel", 0.75, 2, 4, BoxSource.MASK)
    coco = coco_detections(an_image(source="/a/b/eye.tif"), LABELS, [box], range(3))
    [found] = coco["annotations"]
    assert found["bbox"] == pytest.approx([x0, y0, width, height], abs=0.006)
    assert found["score"] == 0.75
    assert (found["slice_index"], found["instance"], found["source"]) == (2, 4, "mask")
    images = {image["id"]: image for image in coco["images"]}
    assert images[found["image_id"]] == {"id": 3, "file_name": "eye.tif", "width": 30, "height": 20, "slice_index": 2}
    assert {c["id"]: c["name"] for c in coco["categories"]}[found["category_id"]] == "vessel"


def test_sha256_sees_content_and_names(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "1.png").write_bytes(b"x")
    first = sha256_of(folder)
    assert sha256_of(folder / "1.png") == "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    (folder / "1.png").rename(folder / "2.png")
    assert sha256_of(folder) != first


def test_the_hash_of_an_export_is_that_of_its_pictures_too(tmp_path) -> None:
    export, _ = write_heyex_xml(tmp_path / "export")
    first = sha256_of(export)
    picture = export.parent / "B2.tif"
    content = picture.read_bytes()
    picture.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert sha256_of(export) != first
    picture.write_bytes(content)
    (export.parent / "beside.txt").write_text("no part of it")
    assert sha256_of(export) == first


class FakeManifest:
    name, version, notice, sha256 = "tiny", "1.0", "Research use only.", "b" * 64

    def pair(self, modality, target):
        return Pair(modality, target, threshold=0.4, presence=0.2) if target == "drusen" else None


def facts_of(image, settings=None):
    settings = settings or Settings()
    prompts = (Prompt("drusen", "drusen in an OCT B-scan", "drusen"), Prompt("dark spots", "dark spots in ..."))
    asked = Request(("IRF",), settings, "0:2").facts("a" * 64, FakeManifest())
    return provenance(image, asked, manifest=FakeManifest(), settings=settings, device="cpu", modality=GUESS,
                      prompts=prompts, slices=[0, 1], seconds={"read": 0.1234567})


def test_provenance_says_what_was_done():
    facts = facts_of(an_image(source="/clinic/mr_smith/eye.vol", laterality="R"))
    assert facts["input"]["name"] == "eye.vol"
    assert "mr_smith" not in json.dumps(facts)
    assert facts["spacing"] == {"mm": [0.12, 0.0039, 0.0117], "axes": "zyx", "source": "file"}
    plane = facts_of(an_image(spacing=None, plane_spacing=(0.0039, 0.0117)))["spacing"]
    assert plane == {"mm": None, "axes": "zyx", "source": "file", "plane_mm": [0.0039, 0.0117]}
    assert facts["modality"] == {"id": "oct", "decided_by": "detected", "probability": 0.9,
                                 "probabilities": {"oct": 0.9, "cfp": 0.1}}
    assert facts["prompts"][0]["text"] == "drusen in an OCT B-scan"
    assert facts["thresholds"]["drusen"]["threshold"] == 0.4
    assert facts["thresholds"]["drusen"]["presence"] == 0.2
    assert facts["thresholds"]["dark spots"] is None
    assert facts["bundle"]["sha256"] == "b" * 64
    assert facts["slices"] == [0, 1]
    assert facts["seconds"] == {"read": 0.1235}
    assert facts["versions"]["numpy"] == np.__version__
    assert facts["request"]["targets"] == ["IRF"]
    assert facts_of(an_image(), Settings(score_threshold=0.7))["score_threshold"] == 0.7


def test_request_ignores_what_changes_only_the_time():
    def asked(**values):
        return Request(settings=Settings(**values)).facts("a", FakeManifest())

    assert asked(device="cpu", batch_size=1) == asked(device="cuda", batch_size=8)
    assert asked(score_threshold=0.5) != asked()
    assert asked(modality="oct") != asked()
    assert asked(uncertainty=True) != asked()
    assert asked(coverage=0.9) != asked()
    assert asked(link_slices=False) != asked()
    assert asked(mirrored=False) != asked()


def results_of(image):
    prompts = tuple(Prompt(label, label, None) for label in LABELS)
    for index in range(image.n_slices):
        masks = {label: np.zeros(image.plane_shape, np.uint16) for label in LABELS}
        masks["vessel"][3:8, 4:9] = 1
        boxes = (Box(3, 4, 8, 9, "vessel", 0.9, index, 1),)
        yield SliceResult(index, GUESS, prompts, masks, boxes, {label: 0.5 for label in LABELS}, {})


def findings_of(image, results, facts, *, checked=True):
    return Findings(measure(results, image, model="tiny", version="1"), (), checked, None, None, None, facts)


def write_result(image, folder):
    """Write a result as a study does, and return the table."""
    prompts = tuple(Prompt(label, label, None) for label in LABELS)
    files = ResultFiles(image, prompts, GUESS, range(image.n_slices), model="tiny", version="1")
    for result in results_of(image):
        files.add(result)
    findings = findings_of(image, results_of(image), facts_of(image))
    files.write(folder, findings)
    return findings.measurements


def test_all_files_agree(tmp_path):
    image = an_image(source="eye.vol")
    table = write_result(image, tmp_path / "eye")
    assert sorted(p.name for p in (tmp_path / "eye").iterdir()) == sorted([*FILES, "anatomy.csv"])
    written = pd.read_csv(tmp_path / "eye" / "measurements.csv")
    assert len(written) == len(table)
    areas = written[(written["measure"] == "area") & (written["unit"] == "px") & (written["structure"] == "vessel")]
    masks = tifffile.imread(tmp_path / "eye" / "masks.ome.tif")
    assert areas["value"].tolist() == [25, 25, 25] == np.count_nonzero(masks[0], axis=(1, 2)).tolist()
    coco = json.loads((tmp_path / "eye" / "boxes.json").read_text())
    assert [b["slice_index"] for b in coco["annotations"]] == [0, 1, 2]
    absent = written[written["structure"] == "optic_disc"]
    assert set(absent["status"]) == {"absent"}
    Image.open(tmp_path / "eye" / "overlay.png").verify()


def sure_results(image, settings):
    """A result of all slices but the last, as the pipeline gives it with uncertainty and coverage."""
    files = ResultFiles(image, (Prompt("drusen", "drusen", "drusen"),), GUESS, range(image.n_slices - 1),
                        settings=settings, model="tiny", version="1")
    for index in range(image.n_slices - 1):
        mask = np.zeros(image.plane_shape, np.uint16)
        mask[5:10, 5:10] = 1
        inner, outer = mask > 0, np.zeros(image.plane_shape, bool)
        inner[5] = False
        outer[4:11, 4:11] = True
        entropy = np.full(image.plane_shape, 0.123456 + index, np.float32)
        files.add(SliceResult(index, GUESS, (Prompt("drusen", "drusen", "drusen"),), {"drusen": mask}, (),
                              {"drusen": 0.5}, {}, {"drusen": entropy}, {"drusen": inner}, {"drusen": outer}))
    return files


def test_uncertainty_inner_and_outer_masks(tmp_path):
    settings = Settings(uncertainty=True, coverage=0.9)
    image = an_image()
    sure_results(image, settings).write(tmp_path / "eye", findings_of(image, (), {}, checked=False))
    names = {p.name for p in (tmp_path / "eye").iterdir()}
    assert names == set(expected_files(settings)) == {*FILES, "uncertainty.ome.tif", "inner.ome.tif", "outer.ome.tif"}
    entropy = tifffile.imread(tmp_path / "eye" / "uncertainty.ome.tif")
    assert entropy.dtype == np.float32
    np.testing.assert_allclose(entropy[0], 0.123456, atol=0.0003)
    np.testing.assert_allclose(entropy[1], 1.123456, atol=0.0006)
    assert np.isnan(entropy[2]).all(), "not looked at is not sure"
    inner, outer = (tifffile.imread(tmp_path / "eye" / f"{name}.ome.tif") for name in ("inner", "outer"))
    assert inner.dtype == outer.dtype == np.uint8
    assert [inner.sum(), outer.sum()] == [2 * 20, 2 * 49]
    assert [c["Name"] for c in [tifffile.xml2dict(tifffile.TiffFile(tmp_path / "eye" / "inner.ome.tif").ome_metadata)
                                ["OME"]["Image"]["Pixels"]["Channel"]]] == ["drusen"]


def test_without_them_there_are_no_such_files():
    assert expected_files(Settings()) == FILES
    assert set(expected_files(Settings(), check_prompts=True)) - set(FILES) == {"prompt-check.png", "prompt-check.csv"}


def test_fingerprint_of_masks_is_that_of_their_planes():
    rng = np.random.default_rng(0)
    masks = {label: rng.integers(0, 9, (3, 20, 30)).astype(np.uint16) for label in LABELS}
    digests = MaskDigests(LABELS)
    for index in range(3):
        digests.add({label: volume[index].T.copy().T for label, volume in masks.items()})  # in any order of memory
    assert digests.sha256 == {label: hashlib.sha256(volume.astype("<u2").tobytes()).hexdigest()
                              for label, volume in masks.items()}


def test_a_failure_leaves_neither_a_half_folder_nor_a_damaged_old_one(tmp_path):
    image = an_image()
    target = tmp_path / "eye"
    with atomic_path(target) as partial:
        write_result(image, partial)
    before = {p.name: p.read_bytes() for p in target.iterdir()}
    with pytest.raises(OutputError, match="eye"), atomic_path(target) as partial:
        write_result(image, partial)
        raise OSError(28, "No space left on device")
    assert {p.name: p.read_bytes() for p in target.iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["eye"]
