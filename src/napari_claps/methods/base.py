"""What every method gives: a `Prompter`, which finds boxes and points in views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from napari_claps.types import Prompt

if TYPE_CHECKING:
    from napari_claps.models.bundles.manifest import Pair
    from napari_claps.models.networks.clip import EncodedViews


@dataclass(frozen=True)
class Query:
    """What is looked for: a prompt, and the thresholds by which it is answered.

    Parameters
    ----------
    prompt : Prompt
    pair : Pair
        Of the modality and the target; defaults for free text.
    """

    prompt: Prompt
    pair: Pair


@dataclass(frozen=True)
class ViewPoint:
    """A point x, y in pixels of a view, inside the object that is meant or outside of it."""

    x: float
    y: float
    inside: bool


@dataclass(frozen=True)
class ViewBox:
    """Where a prompt was found in a view.

    Parameters
    ----------
    corners : tuple of float
        x0, y0, x1, y1 in pixels of the view.
    prompt : int
        Number of the prompt.
    score : float
        In [0, 1].
    points : tuple of ViewPoint
        Prompt the mask head as well.
    points_alone : bool
        Whether the mask head gets the points without the corners.
    """

    corners: tuple[float, float, float, float]
    prompt: int
    score: float
    points: tuple[ViewPoint, ...] = ()
    points_alone: bool = False


class Prompter(Protocol):
    """Finds boxes for prompts in encoded views.

    Attributes
    ----------
    text_weight : float or None
        How much the mask of the text alone counts beside the masks of the boxes, for all pairs, which then go to SAM
        without words; None = as measured per pair, and boxes with words.
    """

    text_weight: float | None

    def find(self, features: EncodedViews, queries: Sequence[Query],
             view_size: tuple[int, int]) -> list[list[ViewBox]]:
        """Return the boxes of each view of the batch, best first.

        Parameters
        ----------
        features : EncodedViews
            Of B views of one image or volume; the encoder has run and does not run again.
        queries : sequence of Query
            What to find, all of one modality: compact targets only, a tree or a band has no use for a box.
        view_size : tuple of int
            Height and width of the views in pixels.

        Returns
        -------
        list of list of ViewBox
            B lists; an empty one says that nothing was found.
        """
