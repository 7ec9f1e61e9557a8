"""The ensemble of MedCLIP-SAMv2: several checkpoints, mirrored views and wordings, and where they disagree.

Every member is a whole run of the method with one wording, on one mirroring,
by one bundle. The original averages checkpoints of a cyclic learning rate and
throws the uncertainty away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from skimage.transform import resize
from torch import Tensor

from napari_claps.errors import InputError
from napari_claps.inference.mirroring import mirrorings
from napari_claps.inference.scales import scaled_shape
from napari_claps.inference.single_scale import segment_at_scale
from napari_claps.inference.tile_prediction import is_boxed
from napari_claps.inference.tiles import plan_tiles
from napari_claps.methods.base import Query
from napari_claps.methods.medclip.late_layer import LateLayer
from napari_claps.methods.medclip.prompter import MAP_STRIDE, MedClipSamPrompter, upsampled
from napari_claps.methods.medclip.regions import relative_saliency
from napari_claps.methods.texts import wordings
from napari_claps.models.bundles.bundle import Bundle
from napari_claps.models.bundles.manifest import Pair
from napari_claps.trust.entropy import ensemble_entropy
from napari_claps.types import Modality, Prompt
from napari_claps.words.vocabulary import TEMPLATES


@dataclass(frozen=True, eq=False)
class EnsembleMaps:
    """What the members say together; all maps are (y, x) float32 at the size of the image.

    Parameters
    ----------
    saliency, saliency_entropy : ndarray or None
        Mean of the maps scaled to 0..1, and its entropy in bits; None where the image is looked at in tiles.
    probability, entropy : ndarray
        Mean mask probability, and its entropy in bits: the uncertainty.
    members : int
    """

    saliency: np.ndarray | None
    saliency_entropy: np.ndarray | None
    probability: np.ndarray
    entropy: np.ndarray
    members: int


class _Member(MedClipSamPrompter):
    """Asks with a single wording, and keeps the saliency of each view."""

    def __init__(self, bundle: Bundle, seed: int, wording: int) -> None:
        super().__init__(bundle, seed=seed)
        self._wording = wording
        self.maps: list[Tensor] = []

    def texts(self, prompt: Prompt, modality: Modality) -> tuple[str, ...]:
        return (wordings(prompt, modality)[self._wording],)

    def saliency(self, layer: LateLayer, prompt: Prompt, modality: Modality) -> Tensor:
        found = super().saliency(layer, prompt, modality)
        self.maps.append(found)
        return found


def run_ensemble(bundles: Sequence[Bundle], plane: np.ndarray, side: int, prompt: Prompt, pair: Pair, *,
                 n_wordings: int = len(TEMPLATES), mirrored: bool = True, seed: int = 0) -> EnsembleMaps:
    """Find one target in one slice in many ways.

    Parameters
    ----------
    bundles : sequence of Bundle
        The checkpoints.
    plane : ndarray
        (y, x, 3) float32 in [0, 1].
    side : int
        Long side of the working scale in pixels.
    prompt, pair
        What to find; free text has one wording.
    n_wordings : int
        Wordings of the target that are asked, at most.
    mirrored : bool
        Whether the image is also looked at in the mirrorings of its modality.
    seed : int
        Of the noise.

    Raises
    ------
    InputError
        If there is no bundle, or the target is one that gets no boxes.
    """
    if not bundles:
        raise InputError("The ensemble has no bundle. Name at least one.")
    if not is_boxed(prompt, bundles[0]):
        raise InputError(f"{prompt.label} is found by its text alone, so medclip-sam has no ensemble for it. "
                         "Choose a compact target.")
    shape = plane.shape[:2]
    size = scaled_shape(shape, side)
    tiles = plan_tiles(size)
    probabilities, maps = [], []
    for bundle in bundles:
        for axes in mirrorings(pair.modality) if mirrored else ((),):
            image = np.ascontiguousarray(np.flip(plane, axes))
            for wording in range(min(n_wordings, len(wordings(prompt, pair.modality)))):
                member = _Member(bundle, seed, wording)
                result = segment_at_scale(bundle, member, [image], side, [Query(prompt, pair)], mirrored=False)[0]
                probabilities.append(np.flip(result.probability[0], axes))
                if len(tiles) == 1:
                    view_size = (tiles[0].height, tiles[0].width)
                    maps.append(np.flip(_at_image(member.maps[0], view_size, size, shape), axes))
    saliency = np.stack(maps) if maps else None
    stacked = np.stack(probabilities)
    return EnsembleMaps(
        None if saliency is None else saliency.mean(0), None if saliency is None else ensemble_entropy(saliency),
        stacked.mean(0), ensemble_entropy(stacked), len(stacked))


def _at_image(saliency: Tensor, view_size: tuple[int, int], size: tuple[int, int], shape: tuple[int, int]
              ) -> np.ndarray:
    """A layer's map as (y, x) in 0..1 over the image; a view is the scaled image with its border repeated."""
    whole = upsampled(saliency, view_size).cpu().numpy()
    relative = relative_saliency(whole)
    if relative is None:
        return np.zeros(shape, np.float32)
    inside = relative[:-(-size[0] // MAP_STRIDE), :-(-size[1] // MAP_STRIDE)]
    return resize(inside, shape, order=1, preserve_range=True).astype(np.float32)
