"""One run at a time: from Run to the last slice, or to Cancel."""

from __future__ import annotations

import time
from collections.abc import Sequence
from enum import Enum, auto
from typing import Any

from napari.components import ViewerModel
from napari.utils.notifications import show_info
from qtpy.compat import isalive
from qtpy.QtCore import QObject, QTimer, Signal

from napari_claps._layers import LayerSource
from napari_claps._widgets._result_layers import ResultLayers
from napari_claps._worker import Engine, Failure, Job, start_job
from napari_claps.settings import Settings
from napari_claps.types import ModalityGuess, SliceResult

REDRAW = 200
"""Least milliseconds between two redraws of the results: painting must not slow the run."""


class State(Enum):
    """What the Run button does."""

    IDLE = auto()
    RUNNING = auto()
    CANCELLING = auto()


class Run(QObject):
    """Moves the results of the engine into layers, and says how far it is.

    Signals
    -------
    state_changed : State
    progressed : str
        Text for the user.
    ended : (ResultLayers, Failure or None, bool)
        The layers, what went wrong, and whether the run was cancelled.
    """

    state_changed = Signal(object)
    progressed = Signal(str)
    ended = Signal(object, object, bool)

    def __init__(self, viewer: ViewerModel, engine: Engine, parent: QObject, *, threads: bool) -> None:
        super().__init__(parent)
        self.state = State.IDLE
        self._viewer = viewer
        self._engine = engine
        self._threads = threads
        self._job: Job | None = None
        self._results: ResultLayers | None = None
        self._total = 0
        self._times: list[float] = []
        self._redraw = QTimer(self, singleShot=True, interval=REDRAW)
        self._redraw.timeout.connect(self._flush)
        viewer.layers.events.removed.connect(self._on_layer_removed)

    def start(self, results: ResultLayers, source: LayerSource, targets: Sequence[str], settings: Settings,
              modality: ModalityGuess | None, slices: Sequence[int] | None) -> None:
        """Segment `source` into `results`."""
        self._results = results
        self._total = results.n_slices if slices is None else len(slices)
        self._times = [time.monotonic()]
        self._set_state(State.RUNNING)
        self.progressed.emit("Preparing…")
        self._job = start_job(
            self._engine.run, source, targets, settings, modality, slices,
            on_result=self._receive, on_end=self._finish, parent=self, threads=self._threads,
            progress={"total": self._total, "desc": f"Segmenting {source.name}"},
        )

    def cancel(self) -> None:
        """Stop after the slice in work; what is finished stays."""
        if self.state is State.RUNNING:
            self._set_state(State.CANCELLING)
            if self._job is not None:
                self._job.cancel()

    def summary(self) -> str:
        """How many slices were done, and how long it took."""
        what = f"{len(self._times) - 1} of {self._total} slices in " if self._total > 1 else ""
        return what + _duration(self._times[-1] - self._times[0])

    def _receive(self, result: SliceResult) -> None:
        results = self._results
        if results is None or not results.is_wanted():
            return  # the layers went while this slice was under way
        results.add(result)
        self._times.append(time.monotonic())
        self.progressed.emit(self._progress(result))
        if not self._redraw.isActive():
            self._redraw.start()

    def _flush(self) -> None:
        if self._results is not None and self._results.is_wanted():
            self._results.flush()

    def _progress(self, result: SliceResult) -> str:
        done = len(self._times) - 1
        text = f"Slice {result.index}: {done} of {self._total} done"
        if 2 <= done < self._total:
            # The first slice also paid for loading the model, so it does not count.
            per_slice = (self._times[-1] - self._times[1]) / (done - 1)
            text += f", about {_duration(per_slice * (self._total - done))} left"
        return text

    def _finish(self, outcome: Failure | None) -> None:
        self._redraw.stop()
        self._flush()
        results, cancelled = self._results, self.state is State.CANCELLING
        self._results = self._job = None
        self._set_state(State.IDLE)
        self.ended.emit(results, outcome, cancelled)

    def _set_state(self, state: State) -> None:
        self.state = state
        self.state_changed.emit(state)

    def _on_layer_removed(self, event: Any = None) -> None:
        results = self._results if isalive(self) else None
        if results is not None and self.state is State.RUNNING and not results.is_wanted():
            self.cancel()
            gone = "its results were" if results.image in self._viewer.layers else f"{results.image.name!r} was"
            show_info(f"The run stops, because {gone} removed.")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
