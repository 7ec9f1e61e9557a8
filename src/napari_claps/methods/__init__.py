"""How regions are found in a view: one table of the methods. What comes before and after them is the same for all."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from napari_claps.errors import BundleError, InputError

if TYPE_CHECKING:
    from napari_claps.methods.base import Prompter
    from napari_claps.models.bundles.bundle import Bundle


@dataclass(frozen=True)
class Method:
    """A way to find regions.

    Parameters
    ----------
    name : str
        As in the settings and on the command line.
    finds : str
        How it finds them, in a few words.
    needs : tuple of str
        Parts of a bundle that it cannot do without: "clip" (with its text tower), "detector", "segmenter". A mask head
        that takes words stands in for the detector.
    prompter : str
        ``"module:class"``, imported on first use: (bundle, seed=) -> `napari_claps.methods.base.Prompter`.
    calibrated : bool
        Whether the bundle's presence, coverage and mirroring were measured with it.
    """

    name: str
    finds: str
    needs: tuple[str, ...]
    prompter: str
    calibrated: bool = False


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("claps", "a detector finds boxes from the text, SAM the masks from text and boxes",
               ("segmenter", "detector"), "napari_claps.methods.claps:ClapsPrompter", calibrated=True),
        Method("medclip-sam", "a saliency map of image and text gives the boxes (MedCLIP-SAMv2); slower",
               ("segmenter", "clip"), "napari_claps.methods.medclip.prompter:MedClipSamPrompter"),
        Method("salip", "SAM proposes everything, CLIP chooses by the text (SaLIP); slower",
               ("segmenter", "clip"), "napari_claps.methods.salip.prompter:SalipPrompter"),
    )
}
"""Name -> method, the default first."""

CALIBRATED_METHOD = next(name for name, method in METHODS.items() if method.calibrated)
"""The method with which presence and coverage of our own bundles were measured."""


def find_method(name: str) -> Method:
    """Return the method of this name.

    Raises
    ------
    InputError
        If there is none.
    """
    if name not in METHODS:
        raise InputError(f"Unknown method {name!r}. Known are: {', '.join(METHODS)}.")
    return METHODS[name]


def make_prompter(name: str, bundle: Bundle, *, seed: int = 0) -> Prompter:
    """Return the prompter of a method.

    Parameters
    ----------
    name : str
        One of `METHODS`.
    bundle : Bundle
        Whose networks it uses.
    seed : int
        Of a method that draws random numbers.

    Raises
    ------
    InputError
        If there is no such method.
    BundleError
        If the bundle lacks a network that the method needs.
    """
    method = find_method(name)
    works = abilities(bundle)
    if reason := works[name]:
        others = [f"--method {other}" for other in METHODS if not works[other]]
        raise BundleError(f"Bundle {bundle.manifest.name} cannot be used for --method {name}: {reason}. What works: "
                          f"{', '.join(n for n, missing in works.items() if not missing) or 'nothing'}. "
                          f"{'use ' + ' or '.join(others) if others else 'Import the missing part'}; "
                          "see claps models import.")
    module, maker = method.prompter.split(":")
    return getattr(importlib.import_module(module), maker)(bundle, seed=seed)


def abilities(bundle: Bundle) -> dict[str, str]:
    """What works with the parts that a bundle has, and what does not, with the reason (empty if it works)."""
    lacks = bundle.lacks()
    return {"naming the modality": lacks["clip"],
            **{name: ", ".join(dict.fromkeys(filter(None, map(lacks.get, m.needs)))) for name, m in METHODS.items()}}
