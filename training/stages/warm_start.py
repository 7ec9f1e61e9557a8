"""What a mask head starts from, and which part of it is learnt."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from napari_claps.errors import InputError
from napari_claps.models.networks.segmenter import RetinalSam, SegmenterConfig
from napari_claps.types import Modality
from training.run.checkpoint import load_checkpoint

LEARNT_ALONE = {"wordless": ("prompt_encoder.no_text",), "presence": ("mask_decoder.presence_head",),
                **{f"{m} pixels": (f"image_encoder.own_pixel_decoders.{m}.",) for m in Modality},
                **{f"{m} trunk": (f"image_encoder.own_trunks.{m}.", f"image_encoder.own_pixel_decoders.{m}.")
                   for m in Modality}}
"""Values of ``only`` in a configuration, and how the names of what is then learnt begin."""


def with_own_parts(config: SegmenterConfig, checkpoint: Path) -> SegmenterConfig:
    """The configuration with what single modalities have of their own in an earlier mask head, too.

    What is learnt alone is put beside all that was learnt before: a decoder or trunk that the configuration does not
    name is not lost.
    """
    earlier = load_checkpoint(checkpoint).get("arch", {}).get("segmenter", {})
    return replace(config, **{part: tuple(dict.fromkeys([*earlier.get(part, ()), *getattr(config, part)]))
                              for part in ("own_pixels", "own_trunks")})


def warm_start(sam: RetinalSam, checkpoint: Path, *, keep_statistics: bool = False) -> None:
    """Take the weights of an earlier mask head as far as they fit.

    The statistics of the texts stay new, unless `keep_statistics`: every mask depends on them, and where only a part
    is learnt the masks of all other parts shall stay as they are.

    Raises
    ------
    InputError
        If the checkpoint holds no mask head, or hardly any of its weights fit.
    """
    old, own = load_checkpoint(checkpoint).get("segmenter"), sam.head_state_dict()
    if old is None:
        raise InputError(f"{checkpoint}: holds no mask head to start from. Give the final.pt of train_segmenter.")
    # What is to be one modality's own starts from what it shared with the others.
    shared, apart = "image_encoder.pixel_decoder.", "image_encoder.own_pixel_decoders."
    for name in own:
        start = shared + name.removeprefix(apart).partition(".")[2]
        if name.startswith(apart) and start in old:
            old.setdefault(name, old[start])
    fitting = {k: v for k, v in old.items() if k in own and own[k].shape == v.shape
               and (keep_statistics or not k.endswith((".text_mean", ".text_std")))}
    if len(fitting) < len(own) / 2:
        raise InputError(f"{checkpoint}: only {len(fitting)} of {len(own)} tensors fit this mask head. Use the "
                         "[segmenter] lines of its configuration, or start without --warm.")
    sam.load_head_state_dict({**own, **fitting})


def learn_only(sam: RetinalSam, part: str) -> None:
    """Leave only a part of the mask head to be learnt, on which no other mask of a text depends.

    Raises
    ------
    InputError
        If there is no such part.
    """
    if part not in LEARNT_ALONE:
        raise InputError(f"only = {part!r} is unknown. Known are: {', '.join(LEARNT_ALONE)}.")
    names = [n for n, _ in sam.named_parameters()]
    parts = LEARNT_ALONE[part]
    learnt = [n for n in names if n.startswith(parts)]
    if not all(any(n.startswith(p) for n in learnt) for p in parts):
        raise InputError(f"only = {part!r}: this mask head has no such part. Name the modality in own_pixels of "
                         "[segmenter], for its trunk in own_trunks too.")
    for name, parameter in sam.named_parameters():
        parameter.requires_grad_(name in learnt)


def start_pixels(sam: RetinalSam, part: str, source: str) -> None:
    """Start the pixel decoder that is to be learnt, `part` as in `learn_only`, from that of the modality `source`.

    Where both have early blocks of the trunk of their own, they go with it.

    Raises
    ------
    InputError
        If one of them is not there.
    """
    decoders, trunks = sam.image_encoder.own_pixel_decoders, sam.image_encoder.own_trunks
    modality = part.partition(" ")[0]
    if not {modality, source} <= {*decoders}:
        raise InputError(f"only = {part!r}, pixels_from = {source!r}: both need a modality with a pixel decoder of its "
                         f"own. There are: {', '.join(decoders) or 'none'}.")
    decoders[modality].load_state_dict(decoders[source].state_dict())
    if {modality, source} <= {*trunks}:
        trunks[modality].load_state_dict(trunks[source].state_dict())
