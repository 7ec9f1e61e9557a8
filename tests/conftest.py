"""Fixtures shared by all tests: a tiny bundle with random weights, made by the real classes."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A slow or busy machine is no failure. The examples are the same in every run, so that a change is judged by what it
# changed; `--hypothesis-profile search` draws new ones.
settings.register_profile("claps", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("search", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("claps")

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test needs a network
os.environ["CLAPS_MODELS"] = str(Path(__file__).parent / "no_models")  # nor the bundles of who runs them


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked `data` need the real images; side by side, the tests of a file stay together.

    All that open a window stay in one process: two on one screen would take the focus from each other.
    """
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            item.add_marker(pytest.mark.xdist_group("gui" if "gui" in item.keywords else item.path.name))
    if os.environ.get("CLAPS_DATA"):
        return
    skip = pytest.mark.skip(reason="CLAPS_DATA is not set: the real images are not here")
    for item in items:
        if "data" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def networks() -> None:
    """The networks can be imported, also where a window was drawn before."""
    from napari_claps.plugin.triton import hide_triton_from_torch

    hide_triton_from_torch()


@pytest.fixture(scope="session")
def tiny_bundle(networks: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a bundle with random weights that supports some targets in cfp and oct."""
    from tests.tiny_bundle import write_tiny_bundle

    return write_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture(scope="session")
def official_sources(networks: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small checkpoints in the official formats, and a BERT folder, by part."""
    from tests.official_checkpoints import write_official

    return write_official(tmp_path_factory.mktemp("official"))


@pytest.fixture(scope="session")
def official_bundle(official_sources: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a bundle with three encoders, imported from them; views are small and every box counts."""
    from napari_claps.models.bundles.import_bundle import import_bundle

    folder = import_bundle(list(official_sources.values()), "official", folder=tmp_path_factory.mktemp("models")).folder
    text = (folder / "bundle.toml").read_text()
    for old, new in (("short_side = 800", "short_side = 64"), ("text_threshold = 0.25", "text_threshold = 0.0"),
                     ("box_threshold = 0.3", "box_threshold = 0.0")):
        assert old in text
        text = text.replace(old, new)
    (folder / "bundle.toml").write_text(text)
    return folder


@pytest.fixture
def claps(capsys):
    """Run a command; return exit code, stdout and stderr."""
    from napari_claps import cli

    def run(*arguments):
        code = cli.main([str(a) for a in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def load_once():
    """Load a bundle once for all tests: building its networks takes longer than their answers."""
    from napari_claps.models.bundles import bundle

    return functools.cache(bundle.load_bundle)


@pytest.fixture
def small_views(monkeypatch):
    """Look at images in their own scale: the small ones of the tests are not made large for the networks."""
    from napari_claps.inference import pipeline

    monkeypatch.setattr(pipeline, "FIELD_SIDE", 96)
    monkeypatch.setattr(pipeline, "working_side", lambda modality, kind, shape: max(shape))


@pytest.fixture
def segment(claps, tiny_bundle, tmp_path, load_once, monkeypatch, small_views):
    """Run ``claps segment`` with the tiny bundle into ``tmp_path/out``."""
    from napari_claps.models.bundles import bundle

    monkeypatch.setattr(bundle, "load_bundle", load_once)

    def run(*arguments):
        return claps("segment", "--bundle", tiny_bundle, "-o", tmp_path / "out", "--device", "cpu", *arguments)

    return run


@pytest.fixture
def photo(tmp_path):
    """A colour PNG."""
    from PIL import Image

    from tests.command_line import PHOTO

    Image.fromarray(PHOTO).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def volume(tmp_path):
    """An OME-TIFF volume of three slices with spacing."""
    import tifffile

    from tests.command_line import VOLUME

    tifffile.imwrite(tmp_path / "scan.ome.tif", VOLUME, ome=True, metadata={
        "axes": "ZYX", "PhysicalSizeX": 11.5, "PhysicalSizeY": 3.9, "PhysicalSizeZ": 120.0,
    })  # fmt: skip
    return tmp_path / "scan.ome.tif"
