"""Everything that SAM takes for an object in a view: `SamAutomaticMaskGenerator` on maps that exist already."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from segment_anything import SamAutomaticMaskGenerator, SamPredictor
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor
from torchvision.ops import nms

from napari_claps.models.networks.mask_prompts import PIXEL_STRIDE, MaskPrompts
from napari_claps.models.networks.official_sam import OfficialSam
from napari_claps.models.networks.segmenter import PixelMaps, RetinalSam

POINTS_PER_BATCH = 64
SAME_BOX = 0.7
"""Overlap (IoU) of boxes from which two proposals are one, as in `SamAutomaticMaskGenerator`."""

PARTS_PER_MASK = 256
"""Parts of one mask that are kept, at most."""


@dataclass(frozen=True, eq=False)
class AutomaticMask:
    """One proposal.

    Parameters
    ----------
    mask : ndarray
        (y1 - y0, x1 - x0) bool, inside its box.
    box : tuple of int
        x0, y0, x1, y1 in pixels of the mask head (half those of the view), end exclusive.
    area : float
        Share of the view that it covers, in (0, 1].
    predicted_iou, stability : float
        SAM's own estimates of its quality, in [0, 1].
    """

    mask: np.ndarray
    box: tuple[int, int, int, int]
    area: float
    predicted_iou: float
    stability: float

    @property
    def quality(self) -> float:
        """By which proposals are ranked: predicted IoU times stability."""
        return self.predicted_iou * self.stability


class MapsPredictor(SamPredictor):
    """SAM's predictor on the maps of one view, with no second pass of the encoder.

    It works at the resolution of the mask head, so that no mask is enlarged
    only to be shrunk again.

    Parameters
    ----------
    sam : RetinalSam
    maps : PixelMaps
        Of a batch of views.
    view : int
        Which of them.
    level : float
        Logit at which masks are cut.
    """

    def __init__(self, sam: RetinalSam, maps: PixelMaps, view: int, level: float = 0.0) -> None:
        super().__init__(sam)
        self._maps = PixelMaps(maps.embedding[view:view + 1], maps.pixels[view:view + 1])
        self._level = level
        self.original_size = self.input_size = tuple(maps.pixels.shape[-2:])
        self.transform = ResizeLongestSide(max(self.input_size))  # changes no coordinate

    def set_image(self, image: np.ndarray, image_format: str = "RGB") -> None:
        """Do nothing: the maps are those of this image."""

    def predict_torch(self, point_coords: Tensor, point_labels: Tensor, boxes: Tensor | None = None,
                      mask_input: Tensor | None = None, multimask_output: bool = True,
                      return_logits: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Masks (P, 1, H / 2, W / 2) and predicted IoU (P, 1) of P points, without text; one mask for each."""
        predicted = self.model.predict_masks(self._maps, MaskPrompts(
            view=torch.zeros(len(point_coords), dtype=torch.int64, device=self.device),
            points=point_coords.float() * PIXEL_STRIDE, point_labels=point_labels.float()))
        logits = predicted.logits[:, None] - self._level
        masks = logits if return_logits else logits > self.model.mask_threshold
        return masks, predicted.iou[:, None].clamp(0, 1), logits


def propose_masks(sam: RetinalSam | OfficialSam, maps: PixelMaps, view: int, *, points_per_side: int,
                  predicted_iou: float, stability: float, level: float = 0.0, min_area: float = 0.0,
                  max_area: float = 1.0, limit: int = 64) -> list[AutomaticMask]:
    """Prompt SAM with a grid of points and keep what it is sure of.

    A head that was trained on classes answers a point with all objects that
    look alike: every connected part is a proposal of its own.

    Parameters
    ----------
    sam : RetinalSam
    maps : PixelMaps
        Of a batch of views.
    view : int
        Which of them.
    points_per_side : int
        Points along the long side of the view; the short side gets as many as keep them square.
    predicted_iou, stability : float
        Lowest values, above 0, as for `SamAutomaticMaskGenerator`.
    level : float
        Logit at which masks are cut; below 0 for a head that is too cautious.
    min_area, max_area : float
        Smallest and largest proposal, as shares of the view.
    limit : int
        At most so many, those of the highest quality, and of equals the largest.

    Returns
    -------
    list of AutomaticMask
        Best first; empty when nothing was found, as where the maps are not finite.
    """
    height, width = maps.pixels.shape[-2:]
    generator = SamAutomaticMaskGenerator(
        sam, points_per_side=None, point_grids=[point_grid(height, width, points_per_side)],
        points_per_batch=POINTS_PER_BATCH, pred_iou_thresh=predicted_iou, stability_score_thresh=stability,
        box_nms_thresh=SAME_BOX)
    generator.predictor = MapsPredictor(sam, maps, view, level)
    # Only the shape of this image is read.
    found = generator.generate(np.broadcast_to(np.uint8(0), (height, width, 3)))
    parts = [part for item in found
             for part in connected_parts(item["segmentation"], item["predicted_iou"], item["stability_score"],
                                         min_area=min_area, max_area=max_area)]
    parts.sort(key=lambda p: (-p.quality, -p.area, p.box))
    if not parts:
        return []
    order = torch.arange(len(parts), 0, -1, dtype=torch.float32)  # sorted already
    kept = nms(torch.tensor([p.box for p in parts], dtype=torch.float32), order, SAME_BOX)
    return [parts[i] for i in kept[:limit].tolist()]


def connected_parts(mask: np.ndarray, predicted_iou: float, stability: float, *, min_area: float = 0.0,
                    max_area: float = 1.0) -> list[AutomaticMask]:
    """Return the connected parts (8 neighbours) of a mask (y, x) bool; the estimates of the whole hold for each.

    Only those between the areas, as shares of the whole array, and of these the `PARTS_PER_MASK` largest: a mask that
    is noise has thousands.
    """
    labels, _ = ndimage.label(mask, structure=np.ones((3, 3), bool))
    sizes = np.bincount(labels.ravel())[1:]
    fitting = np.flatnonzero((sizes >= min_area * mask.size) & (sizes <= max_area * mask.size))
    largest = np.sort(fitting[np.argsort(-sizes[fitting], kind="stable")[:PARTS_PER_MASK]])
    windows = ndimage.find_objects(labels) if len(largest) else []
    parts = []
    for part in largest.tolist():
        rows, columns = windows[part]
        parts.append(AutomaticMask(labels[rows, columns] == part + 1,
                                   (columns.start, rows.start, columns.stop, rows.stop),
                                   float(sizes[part]) / mask.size, predicted_iou, stability))
    return parts


def point_grid(height: int, width: int, points: int) -> np.ndarray:
    """Points (N, 2) as x, y in [0, 1], `points` along the long side, in the middle of square cells."""
    rows, columns = (max(1, round(points * n / max(height, width))) for n in (height, width))
    ys, xs = np.meshgrid((np.arange(rows) + 0.5) / rows, (np.arange(columns) + 0.5) / columns, indexing="ij")
    return np.stack([xs.ravel(), ys.ravel()], axis=1)
