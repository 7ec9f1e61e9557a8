"""The Segment widget: pick an image and what to look for, and run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from napari.layers import Image
from napari.viewer import Viewer
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_claps.errors import ClapsError, InputError
from napari_claps.plugin.engine import Engine
from napari_claps.plugin.layers import LayerSource
from napari_claps.plugin.widgets.detection import ModalityDetection
from napari_claps.plugin.widgets.error_text import report, words_of
from napari_claps.plugin.widgets.form import SegmentForm
from napari_claps.plugin.widgets.prompt_check import GOOD, PromptCheckDialog
from napari_claps.plugin.widgets.result_layers import ResultLayers
from napari_claps.plugin.widgets.run import Run, State
from napari_claps.plugin.worker import Failure, start_work
from napari_claps.results.findings import Findings
from napari_claps.study.request import Request, slices_text
from napari_claps.trust.prompt_check import PromptCheck
from napari_claps.types import ModalityGuess

UNSURE = 0.6
"""Below this probability of the modality the user is asked to check it."""


class SegmentWidget(QWidget):
    """Find and segment targets in an image layer.

    Parameters
    ----------
    napari_viewer : Viewer
    threads : bool
        False does all work in the calling thread, for tests and debugging.
    """

    def __init__(self, napari_viewer: Viewer, *, threads: bool = True) -> None:
        super().__init__()
        self._viewer = napari_viewer
        self._earlier: list[ResultLayers] = []
        self._threads = threads
        self._engine = engine = Engine()
        self.form = SegmentForm(napari_viewer)
        self.detection = ModalityDetection(engine, self, threads=threads)
        self.runner = Run(napari_viewer, engine, self, threads=threads)
        layout = QVBoxLayout(self)
        layout.addWidget(self.form)

        self.form.image_changed.connect(self._on_image)
        self.form.run_pressed.connect(self.run)
        self.form.cancel_pressed.connect(self.runner.cancel)
        self.detection.answered.connect(self._on_modality)
        self.runner.state_changed.connect(self.form.show_state)
        self.runner.progressed.connect(self.form.say)
        self.runner.ended.connect(self._on_end)
        self.form.doubts_button.clicked.connect(self.show_doubts)
        self.form.advanced.check_button.clicked.connect(self.check_prompts)
        self._on_image()

    def run(self) -> None:
        """Start a run with what is chosen; a second one at the same time is not started."""
        if self.runner.state is not State.IDLE:
            return
        try:
            layer = self._chosen_layer()
            source, request, modality = self._request(layer)
        except ClapsError as error:
            self._fail(error)
            return
        self.form.offer_places(0)
        number = 1 + max((results.number for results in self._runs_of(layer)), default=0)
        results = ResultLayers(self._viewer, layer, source, number=number,
                               known={"run": number, "source": source.name, "shape": list(source.shape)})
        self.runner.start(results, source, request, modality)

    @property
    def findings(self) -> Findings | None:
        """Measurements, doubts, violations and provenance of the last run; None before one has ended."""
        return self._earlier[-1].findings if self._earlier else None

    def check_prompts(self) -> None:
        """Look at the slice in view again with other words, and show whether its masks depend on the text."""
        button = self.form.advanced.check_button
        if not button.isEnabled():
            return
        try:
            layer = self._chosen_layer()
            source, request, modality = self._request(layer)
            index = self._slice_in_view(layer) if layer.ndim == 3 else 0
        except ClapsError as error:
            self._fail(error)
            return
        button.setEnabled(False)
        self.form.hint("Checking the prompts…")
        start_work(self._engine.check_prompts, source, request, index, modality, on_result=self._on_check, parent=self,
                  threads=self._threads)

    def _on_check(self, check: PromptCheck | Failure) -> None:
        self.form.advanced.check_button.setEnabled(True)
        if isinstance(check, Failure):
            self._fail(check.error)
            return
        self.form.hint("\n".join(check.warnings) or GOOD)
        self.check_dialog = PromptCheckDialog(check, self)
        self.check_dialog.show()

    def show_doubts(self) -> None:
        """Open the list of places to look at beside this widget."""
        dock, _ = self._viewer.window.add_plugin_dock_widget("napari-claps", "Doubtful places")
        dock.show()

    def _chosen_layer(self) -> Image:
        layer = self.form.layer()
        if layer is None:
            raise InputError("There is no image layer. Open an image first.")
        return layer

    def _request(self, layer: Image) -> tuple[LayerSource, Request, ModalityGuess | None]:
        """What is chosen in the form, read once.

        Raises
        ------
        InputError
            If it cannot be run.
        """
        form = self.form
        source, settings, wanted, slices = LayerSource.of(layer), form.settings(), form.wanted(), None
        if layer.ndim == 3:
            view = self._slice_in_view(layer) if form.slice_choice.needs_current() else 0
            slices = form.slice_choice.indices(view)
        if not wanted:
            raise InputError("Nothing to look for. Tick a target, or write words.")
        modality = form.modality_combo.guess()
        if modality is not None and modality.decided_by == "user":
            settings = replace(settings, modality=str(modality.modality))
        return source, Request(tuple(wanted), settings, slices_text(slices), form.region()), modality

    def _on_image(self) -> None:
        """Another image or bundle was chosen: which modality is it?"""
        layer = self.form.layer()
        self.detection.forget()
        self.form.show_guess(None, why_not="detecting…" if layer is not None else "")
        if layer is None:
            return
        try:
            self.detection.ask(LayerSource.of(layer), self.form.settings())
        except ClapsError as error:
            self._on_modality(Failure(error))

    def _on_modality(self, guess: ModalityGuess | Failure) -> None:
        if isinstance(guess, ModalityGuess):
            self.form.show_guess(guess)
            if guess.probability is not None and guess.probability < UNSURE:
                self.form.hint("The modality is uncertain: please check it.")
        else:
            self.form.show_guess(None, why_not="not detected")
            self.form.hint(f"The modality was not detected. {words_of(guess.error)}")

    def _on_end(self, results: ResultLayers, outcome: Failure | None, cancelled: bool) -> None:
        layers = results.layers()
        if layers and self.form.advanced.replace.isChecked() and outcome is None and not cancelled:
            for earlier in self._runs_of(results.image):
                for layer in earlier.layers():
                    self._viewer.layers.remove(layer)
        if layers:
            self._earlier.append(results)
            self.form.offer_places(results.n_doubts + len(results.violations))
        if outcome is not None:
            self._fail(outcome.error)
            return
        lines = [f"{'Cancelled' if cancelled else 'Done'}: {self.runner.summary()}"]
        for label, n_slices in results.found.items():
            where = "found" if results.n_slices == 1 else f"in {_count(n_slices, 'slice')}"
            if label in results.objects:
                where = f"{_count(results.objects[label], 'object')} {where}"
            lines.append(f"{label}: {where if n_slices else 'absent'}")
        lines += self.runner.warnings
        lines += [_anatomy(results.violations, results.n_slices)] if results.violations else []
        self.form.say("\n".join(lines))

    def _fail(self, error: Exception) -> None:
        self.form.say(f"Failed. {report(error)}")

    def _slice_in_view(self, layer: Image) -> int:
        z_axis = self._viewer.dims.ndim - layer.ndim
        if z_axis in self._viewer.dims.displayed:
            raise InputError("The viewer shows the volume in 3D or from another side, so that no single slice is in "
                             "view. Show y and x in 2D (Ctrl+Y), or choose all slices or a range.")
        depth = layer.world_to_data(self._viewer.dims.point)[0]
        return int(np.clip(round(float(depth)), 0, LayerSource.of(layer).data.shape[0] - 1))

    def _runs_of(self, image: Image) -> list[ResultLayers]:
        """Earlier runs over `image` of which something is left."""
        self._earlier = [results for results in self._earlier if results.layers()]
        return [results for results in self._earlier if results.image is image]


def _anatomy(violations: list[dict[str, Any]], n_slices: int) -> str:
    first, more = violations[0], len(violations) - 1
    where = f" in slice {first['slice_index']}" if n_slices > 1 else ""
    return (f"anatomy: {first['label']}{where}: {first['reason']}"
            f"{f', and {more} more' if more else ''} (listed, nothing was changed)")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
