"""The part of the Segment form that most runs leave as it is."""

from __future__ import annotations

from typing import Any

from magicgui.widgets import CheckBox, PushButton
from qtpy.QtWidgets import QWidget

from napari_claps.methods import METHODS
from napari_claps.plugin.widgets.choice import Choice
from napari_claps.plugin.widgets.coverage_combo import CoverageCombo
from napari_claps.plugin.widgets.fields import OptionalFloat, fields_of, make_form
from napari_claps.plugin.widgets.section import Section
from napari_claps.settings import Settings

_DEVICES = {
    "auto": "the fastest device of this computer",
    "cpu": "the processor: works everywhere",
    "cuda": "an NVIDIA GPU",
    "mps": "an Apple GPU",
}

_OPTIONS: dict[str, dict[str, Any]] = {
    "method": dict(
        label="Method", widget_type=Choice, choices=list(METHODS), tips=lambda name: METHODS[name].finds,
        tooltip="How regions are found; what comes before and after is the same.",
    ),
    "device": dict(
        label="Device", widget_type=Choice, choices=list(_DEVICES), tips=_DEVICES.__getitem__,
        tooltip="Where to compute; auto takes the fastest device of this computer",
    ),
    "score_threshold": dict(
        label="Score from", widget_type=OptionalFloat, min=0.0, max=1.0, step=0.05, nothing="as trained",
        tooltip="Lowest score of an object that is kept;\n'as trained' is the model's own per target.",
    ),
    "coverage": dict(label="Coverage", widget_type=CoverageCombo),
    "link_slices": dict(
        label="Link objects across B-scans",
        tooltip="In an OCT volume an object that goes through several B-scans has one number, small and\n"
                "unsure objects that only one B-scan shows are removed, and doubtful places are listed.",
    ),
    "mirrored": dict(
        label="Look at mirrored images too",
        tooltip="Where the model asks for it (en-face images), the mask is the mean of four looks.\n"
                "Without, a run is about four times as fast and masks are a little worse.",
    ),
    "uncertainty": dict(
        label="Uncertainty map",
        tooltip="Repeats each slice with flips, shifted boxes and other wordings, and shows how\n"
                "far the answers differ, in bits per pixel. Takes several times as long.",
    ),
}  # fmt: skip
"""The settings that can be chosen here; their types and defaults are those of `Settings`."""


class AdvancedOptions(Section):
    """Method, device, lowest score, coverage, linking, mirroring, uncertainty, earlier results, prompt check.

    ``fields`` has them by the names of `Settings`. ``coverage`` is one of them;
    ``device``, ``link``, ``replace`` and ``check_button`` are the Qt widgets of others.
    """

    def __init__(self, parent: QWidget | None = None) -> None:
        replace = CheckBox(name="replace", label="Replace earlier results of this image",
                           tooltip="Otherwise a new run makes new layers and leaves the others alone.")
        check = PushButton(name="check_prompts", text="Check prompts…",
                           tooltip="Looks at the slice in view again with words of other targets, with nonsense,\n"
                                   "and with the wrong modality: a mask that stays does not depend on the text.")
        self.fields = make_form(*fields_of(Settings, _OPTIONS), replace, check)
        super().__init__("Advanced", self.fields.native, parent)
        self.coverage: CoverageCombo = self.fields["coverage"]
        self.device, self.link = self.fields["device"].native, self.fields["link_slices"].native
        self.replace, self.check_button = replace.native, check.native
        for name in ("method", "score_threshold", "mirrored"):
            self.fields[name].changed.connect(self._tell_coverage)

    def settings(self, bundle: str) -> Settings:
        """What is chosen here, with this bundle."""
        return Settings(bundle=bundle, **{name: self.fields[name].value for name in _OPTIONS})

    def _tell_coverage(self) -> None:
        chosen = self.settings("")
        self.coverage.set_way(chosen.method, chosen.score_threshold, mirrored=chosen.mirrored)
