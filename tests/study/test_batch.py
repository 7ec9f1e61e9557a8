"""Files to folders: names, resuming, failures. The pipeline here is a threshold; the real one is in test_cli.py."""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from napari_claps.cli import progress as cli_progress
from napari_claps.cli.progress import Terminal
from napari_claps.errors import BundleError, InputError, OutputError, PromptError
from napari_claps.inference.slices import chosen_slices, parse_slices
from napari_claps.models.bundles.manifest import Pair
from napari_claps.results import FILES
from napari_claps.settings import Settings
from napari_claps.study.batch import Outcome, Status, segment_file, segment_files
from napari_claps.study.jobs import Job, folder_names, is_complete, plan
from napari_claps.study.request import Request
from napari_claps.types import Modality, ModalityGuess, RetinalImage, SliceResult
from napari_claps.words.vocabulary import make_prompt

SLOW_MACHINE = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])


class ThresholdManifest:
    name, version, notice, sha256 = "threshold", "1", "Not for patients.", "c" * 64
    modalities = (Modality.OCT,)

    def targets(self, modality):
        return ["drusen", "retina"] if modality == Modality.OCT else []

    def pair(self, modality, target):
        return Pair(modality, target) if target in self.targets(modality) else None


class ThresholdPipeline:
    """Everything above 100 is a druse."""

    def __init__(self, modality=Modality.OCT, fail_at=None):
        self.bundle = SimpleNamespace(manifest=ThresholdManifest(), device="cpu")
        self.modality, self.fail_at = modality, fail_at
        self.closed = False

    def with_settings(self, **values):
        return self

    def method_settings(self, modality):
        return {}

    def detect_modality(self, image):
        return ModalityGuess(self.modality, 0.9, "detected", {"oct": 0.9})

    def prompts(self, targets, modality):
        return tuple(make_prompt(t, modality) for t in targets)

    def run(self, image, targets, *, modality, slices, region=None):
        prompts = self.prompts(targets, modality.modality)
        try:
            for index in slices:
                if index == self.fail_at:
                    raise RuntimeError("the network broke")
                masks = {p.label: np.zeros(image.plane_shape, np.uint16) for p in prompts}
                masks["drusen"][image.plane(index) > 100] = 1
                yield SliceResult(index, modality, prompts, masks, (), dict.fromkeys(masks, 0.5), {"encoder": 0.25})
        finally:
            self.closed = True


def write_volume(path, n=4):
    volume = np.zeros((n, 24, 32), np.uint8)
    volume[:, 5:9, 5:9] = 200
    tifffile.imwrite(path, volume, metadata={"axes": "ZYX"}, ome=True)
    return path


@pytest.fixture
def job(tmp_path):
    return Job(write_volume(tmp_path / "eye.ome.tif"), tmp_path / "out" / "eye")


def test_stems_name_the_folders_until_they_collide(tmp_path):
    def names(*paths):
        return list(folder_names([tmp_path / p for p in paths]).values())

    assert names("a/eye.png", "a/fundus.ome.tif", "a/scan.v2.tif", "a/README") == ["eye", "fundus", "scan.v2", "README"]
    assert names("eye.png", "eye.ome.tif", "other.png") == ["eye.png", "eye.ome.tif", "other"]
    assert names("a/eye.png", "b/eye.png") == ["a_eye.png", "b_eye.png"]
    assert names("p/a/eye.png", "q/a/eye.png", "q/b/eye.tif") == ["p_a_eye.png", "q_a_eye.png", "eye.tif"]
    assert names("a/Eye.png", "a/eye.tif") == ["Eye.png", "eye.tif"], "Eye and eye are one folder on many systems"


SOME_NAMES = [a + b + c for a in ("a/", "A/", "a/b_", "a/b/") for b in ("eye", "EYE") for c in ("", ".png", ".ome.tif")]


@SLOW_MACHINE
@given(st.sets(st.sampled_from(SOME_NAMES), min_size=1))
def test_no_two_inputs_share_a_folder(paths):
    names = list(folder_names([Path("/data", p) for p in sorted(paths)]).values())
    assert len({name.casefold() for name in names}) == len(paths)
    assert not any("/" in name or name in ("", ".", "..") for name in names)


def test_plan_expands_folders_drops_doubles_and_collects_errors(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "empty").mkdir()
    for name in ("b.png", "a.png"):
        Image.new("L", (16, 16)).save(tmp_path / "images" / name)
    (tmp_path / "images" / "notes.txt").write_text("no image")
    jobs, errors = plan([tmp_path / "images", tmp_path / "images" / "b.png", tmp_path / "empty", tmp_path / "none.png"],
                        tmp_path / "out")
    assert [job.folder.relative_to(tmp_path).as_posix() for job in jobs] == ["out/a", "out/b"]
    assert ["empty" in str(errors[0]), "none.png" in str(errors[1]), len(errors)] == [True, True, 2]


def test_segment_file_writes_the_folder(job):
    steps = []
    outcome = segment_file(job, ThresholdPipeline(), Request(), lambda done, total: steps.append((done, total)))
    assert outcome.status is Status.DONE
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert sorted(p.name for p in job.folder.iterdir()) == sorted([*FILES, "doubts.csv", "anatomy.csv"])
    masks = tifffile.imread(job.folder / "masks.ome.tif")
    assert masks.shape == (2, 4, 24, 32), "without targets all of the bundle's"
    assert np.count_nonzero(masks[0]) == 4 * 16
    facts = json.loads((job.folder / "provenance.json").read_text())
    assert facts["seconds"]["encoder"] == 1.0
    assert facts["request"]["targets"] == "all"


def test_slices_restrict_the_run(job):
    segment_file(job, ThresholdPipeline(), Request(slices="1:4:2"))
    masks = tifffile.imread(job.folder / "masks.ome.tif")
    assert masks[0].any(axis=(1, 2)).tolist() == [False, True, False, True]
    assert json.loads((job.folder / "provenance.json").read_text())["slices"] == [1, 3]
    coco = json.loads((job.folder / "boxes.json").read_text())
    assert [image["slice_index"] for image in coco["images"]] == [1, 3]


def test_same_request_is_complete_and_another_is_refused(job):
    manifest = ThresholdManifest()
    assert not is_complete(job, Request(), manifest)
    segment_file(job, ThresholdPipeline(), Request())
    assert is_complete(job, Request(), manifest)
    assert is_complete(job, Request(settings=Settings(device="cuda")), manifest)
    assert not is_complete(job, Request(), manifest, overwrite=True)
    with pytest.raises(OutputError, match=r"different: score_threshold, targets.*--overwrite"):
        is_complete(job, Request(("drusen",), Settings(score_threshold=0.3)), manifest)
    (job.folder / "overlay.png").unlink()
    with pytest.raises(OutputError, match=r"overlay\.png is missing"):
        is_complete(job, Request(), manifest)


def test_changed_input_and_changed_bundle_are_noticed(job):
    segment_file(job, ThresholdPipeline(), Request())
    other = ThresholdManifest()
    other.sha256 = "d" * 64
    with pytest.raises(OutputError, match="different: bundle"):
        is_complete(job, Request(), other)
    write_volume(job.source, n=5)
    with pytest.raises(OutputError, match="different: input"):
        is_complete(job, Request(), ThresholdManifest())


@pytest.mark.parametrize("content", [None, "{}", "[1]", "no json", '{"program": 5, "request": {}}'])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_the_users_is_never_replaced(job, content, overwrite):
    job.folder.mkdir(parents=True)
    (job.folder / "thesis.txt").write_text("years of work")
    if content is not None:
        (job.folder / "provenance.json").write_text(content)
    with pytest.raises(OutputError, match="is no result of napari-claps"):
        is_complete(job, Request(), ThresholdManifest(), overwrite=overwrite)


def test_overwrite_replaces_the_whole_folder(job):
    segment_file(job, ThresholdPipeline(), Request())
    (job.folder / "old.txt").write_text("x")
    segment_file(job, ThresholdPipeline(), Request(("drusen",)))
    assert sorted(p.name for p in job.folder.iterdir()) == sorted([*FILES, "doubts.csv"])
    assert tifffile.imread(job.folder / "masks.ome.tif").shape == (4, 24, 32)


@pytest.mark.parametrize("stop", [RuntimeError, KeyboardInterrupt])
def test_stopping_in_mid_volume_leaves_nothing(job, stop):
    def interrupt(done, total):
        if done == 2:
            raise stop

    pipeline = ThresholdPipeline()
    with pytest.raises(stop):
        segment_file(job, pipeline, Request(), interrupt)
    assert pipeline.closed, "the generator was closed, so that the device is free"
    assert list(job.folder.parent.iterdir()) == []


def test_one_bad_file_does_not_stop_the_others(tmp_path):
    write_volume(tmp_path / "a.ome.tif", n=2)
    (tmp_path / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    write_volume(tmp_path / "c.ome.tif", n=4)
    jobs, _ = plan([tmp_path], tmp_path / "out")
    outcomes = list(segment_files(jobs, ThresholdPipeline(fail_at=3), Request()))
    assert [o.status for o in outcomes] == [Status.DONE, Status.FAILED, Status.FAILED]
    assert isinstance(outcomes[1].error, InputError)
    assert "b.png" in outcomes[1].reason
    assert "c.ome.tif: unexpected RuntimeError: the network broke. Run again with --debug" in outcomes[2].reason
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a"]


def test_input_that_went_away_fails_alone(job):
    pipeline = ThresholdPipeline()
    segment_file(job, pipeline, Request())
    job.source.unlink()
    with pytest.raises(InputError, match=r"eye\.ome\.tif: there is no such image"):
        is_complete(job, Request(), pipeline.bundle.manifest)


def test_outcomes_are_not_kept(monkeypatch, tmp_path):
    outcomes = []

    def failing(jobs, *_):
        for job in jobs:
            assert sum(outcome() is not None for outcome in outcomes) <= 1, "only the last one may be alive"
            outcome = Outcome(job.source, Status.FAILED, reason="x", error=RuntimeError("x"))
            outcomes.append(weakref.ref(outcome))
            yield outcome
            del outcome

    monkeypatch.setattr(cli_progress, "segment_files", failing)
    monkeypatch.setattr(cli_progress.Pipeline, "from_settings", lambda settings: None)
    jobs = [Job(tmp_path / f"{number}.png", tmp_path) for number in range(5)]
    assert sum(outcome.error is not None for outcome in Terminal(quiet=True).segment(jobs, Request())) == 5


def test_target_that_does_not_exist_in_the_detected_modality_names_the_file(job):
    with pytest.raises(PromptError, match=r"eye\.ome\.tif: vessel does not exist in"):
        segment_file(job, ThresholdPipeline(), Request(("vessel",)))


def test_modality_without_any_target_says_what_to_do(job):
    with pytest.raises(BundleError, match=r"eye\.ome\.tif: .*no target in the modality faf.*--modality"):
        segment_file(job, ThresholdPipeline(Modality.FAF), Request())


@pytest.mark.parametrize(("text", "chosen"), [
    (None, [0, 1, 2, 3, 4]), ("1:3", [1, 2]), ("::2", [0, 2, 4]), ("3", [3]), ("-1", [4]), ("-2:", [3, 4]),
    (":100", [0, 1, 2, 3, 4]),
])  # fmt: skip
def test_slices_are_chosen_as_in_python(text, chosen):
    assert chosen_slices(RetinalImage(np.zeros((5, 8, 8), np.uint8)), text) == chosen


def test_slices_of_a_plane_image_are_its_only_one():
    assert chosen_slices(RetinalImage(np.zeros((8, 8), np.uint8)), "3:4") == [0]


def test_no_slice_chosen_is_an_error():
    with pytest.raises(InputError, match=r"scan: --slices 7:9 chooses none of its 5 slices \(0 to 4\)"):
        chosen_slices(RetinalImage(np.zeros((5, 8, 8), np.uint8), source="scan"), "7:9")


@pytest.mark.parametrize("text", ["", "a:b", "1:2:3:4", "1:5:0", "5:1:-1", "1.5", "1,3"])
def test_malformed_slices_are_refused(text):
    with pytest.raises(InputError, match="START:STOP"):
        parse_slices(text)
