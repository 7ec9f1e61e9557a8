"""What a result says of itself, in few words."""

from __future__ import annotations

from typing import Any

HASH = "0" * 64

RECORD: dict[str, Any] = {
    "program": "napari-claps 0.12.0", "input": {"name": "a.png", "sha256": HASH, "shape": [40, 30], "laterality": None},
    "spacing": {"mm": [0.01, 0.01], "axes": "yx", "source": "file"}, "modality": {"id": "cfp"},
    "bundle": {"name": "claps-tiny", "version": "0.12.0", "sha256": HASH}, "device": "cuda:0", "batch_size": 1,
    "slices": [0], "linked": False, "versions": {"torch": "2.9"}, "machine": {"threads": 2}, "method_settings": {},
    "masks_sha256": {"drusen": HASH}, "warnings": [],
    "request": {"targets": ["drusen"], "slices": None, "region": [0, 0, 8, 8], "modality": "cfp", "method": "claps",
                "score_threshold": None, "link_slices": True, "uncertainty": False, "mirrored": True, "coverage": None,
                "seed": 0, "check_prompts": False, "input_sha256": HASH, "bundle_sha256": HASH},
}  # fmt: skip
