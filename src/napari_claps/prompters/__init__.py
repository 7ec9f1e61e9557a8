"""How regions are found in a view. Each method is a `Prompter`; everything before and after is shared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from napari_claps.errors import InputError
from napari_claps.types import Prompt

if TYPE_CHECKING:
    from napari_claps.models.bundle import Bundle
    from napari_claps.models.clip import ImageFeatures


@dataclass(frozen=True)
class ViewBox:
    """A box found in a view: x0, y0, x1, y1 in pixels of the view, the number of the prompt, and a score."""

    corners: tuple[float, float, float, float]
    prompt: int
    score: float


class Prompter(Protocol):
    """Finds boxes for prompts in encoded views."""

    def find(self, features: ImageFeatures, prompts: Sequence[Prompt], thresholds: Sequence[float],
             view_size: tuple[int, int]) -> list[list[ViewBox]]:
        """Return the boxes of each view of the batch, best first."""


def make_prompter(method: str, bundle: Bundle) -> Prompter:
    """Return the prompter of a method.

    Raises
    ------
    InputError
        If there is no such method.
    """
    if method == "claps":
        from napari_claps.prompters.claps import ClapsPrompter

        return ClapsPrompter(bundle)
    raise InputError(f"Unknown method {method!r}. Known is: claps.")
