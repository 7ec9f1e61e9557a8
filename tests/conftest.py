"""Fixtures shared by all tests: a tiny bundle with random weights, made by the real classes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A slow or busy machine is no failure.
settings.register_profile("claps", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("claps")

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test needs a network


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `data` need the real images."""
    if os.environ.get("CLAPS_DATA"):
        return
    skip = pytest.mark.skip(reason="CLAPS_DATA is not set: the real images are not here")
    for item in items:
        if "data" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a bundle with random weights that supports some targets in cfp and oct."""
    from tests.tiny_bundle import write_tiny_bundle

    return write_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")
