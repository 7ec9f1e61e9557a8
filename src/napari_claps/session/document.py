"""What a session holds, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from napari_claps.session.layers import Layer
from napari_claps.settings import Settings


@dataclass(frozen=True, eq=False)
class Session:
    """What a session file holds; `layers` in the order of the viewer, the lowest first.

    `targets` are the prompts as typed; `provenance` is that of ``provenance.json``, in plain JSON types.
    """

    layers: tuple[Layer, ...]
    settings: Settings | None = None
    targets: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
