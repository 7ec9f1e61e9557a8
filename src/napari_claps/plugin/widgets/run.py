"""One run at a time: from Run to the last slice, or to Cancel, and to the numbers of the volume."""

from __future__ import annotations

import time
from collections.abc import Iterator
from enum import Enum, auto
from typing import Any

from napari.components import ViewerModel
from napari.utils.notifications import show_info
from qtpy.compat import isalive
from qtpy.QtCore import QObject, QTimer, Signal

from napari_claps.inference.slices import parse_slices
from napari_claps.plugin.engine import Engine
from napari_claps.plugin.layers import LayerSource
from napari_claps.plugin.widgets.result_layers import ResultLayers
from napari_claps.plugin.worker import Failure, Work, start_work
from napari_claps.results.findings import Findings
from napari_claps.study.request import Request
from napari_claps.study.study import Study, StudySlice
from napari_claps.types import ModalityGuess, SliceResult

REDRAW = 200
"""Least milliseconds between two redraws of the results: painting must not slow the run."""

TURN = 0.01
"""Seconds for which planes are renumbered before the window gets its turn."""


class State(Enum):
    """What the Run button does."""

    IDLE = auto()
    RUNNING = auto()
    CANCELLING = auto()
    FINISHING = auto()


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
        self._job: Work | None = None
        self._results: ResultLayers | None = None
        self._total = 0
        self._times: list[float] = []
        self._study: Study | None = None
        self.warnings: tuple[str, ...] = ()
        """What the user was warned of in the last run."""
        self._outcome: Failure | None = None
        self._broken: Failure | None = None
        self._cancelled = False
        self._planes: Iterator[None] = iter(())
        self._redraw = QTimer(self)
        self._redraw.setSingleShot(True)
        self._redraw.setInterval(REDRAW)
        self._redraw.timeout.connect(self._flush)
        self._turns = QTimer(self)  # at every turn of the window
        self._turns.timeout.connect(self._renumber)
        viewer.layers.events.removed.connect(self._on_layer_removed)

    def start(self, results: ResultLayers, source: LayerSource, request: Request,
              modality: ModalityGuess | None = None) -> None:
        """Segment what is requested into `results`."""
        self._results = results
        self._study = None
        self.warnings = ()
        self._cancelled = False
        self._broken = None
        self._total = source.shape[0] if len(source.shape) == 3 else 1
        if request.slices is not None:
            self._total = len(range(self._total)[parse_slices(request.slices)])
        self._times = [time.monotonic()]
        self._set_state(State.RUNNING)
        self.progressed.emit("Preparing…")
        self._job = start_work(
            self._engine.run, source, request, modality, self._begin,
            on_result=self._receive, on_end=self._conclude, parent=self, threads=self._threads,
            progress={"total": self._total, "desc": f"Segmenting {source.name}"},
        )

    def cancel(self) -> None:
        """Stop after the slice in work; what is finished stays."""
        if self.state is State.RUNNING:
            self._cancelled = True
            self._set_state(State.CANCELLING)
            if self._job is not None:
                self._job.cancel()

    def summary(self) -> str:
        """How many slices were done, and how long it took."""
        what = f"{len(self._times) - 1} of {self._total} slices in " if self._total > 1 else ""
        return what + _duration(self._times[-1] - self._times[0])

    def _begin(self, study: Study) -> None:
        """Take the study; called in the thread of the work, so nothing of the window may be touched."""
        self._study = study
        self.warnings = tuple(study.warnings)

    def _receive(self, found: StudySlice) -> None:
        results = self._results
        if results is None or self._broken is not None or not results.is_wanted():
            return  # the layers went while this slice was under way
        try:
            results.add(found.result, found.violations)
        except Exception as error:  # no room for the layers, or somebody gave one another size
            self._broken = Failure(error)
            self.cancel()
            return
        self._times.append(time.monotonic())
        self.progressed.emit(self._progress(found.result))
        if not self._redraw.isActive():
            self._redraw.start()

    def _flush(self) -> None:
        if self._results is not None and self._results.is_wanted():
            start = time.monotonic()
            self._results.flush()
            # With thousands of boxes it takes its time; most of the window's time is still the user's.
            self._redraw.setInterval(max(REDRAW, round(4000 * (time.monotonic() - start))))

    def _progress(self, result: SliceResult) -> str:
        done = len(self._times) - 1
        text = f"Slice {result.index}: {done} of {self._total} done"
        if 2 <= done < self._total:
            # The first slice also paid for loading the model, so it does not count.
            per_slice = (self._times[-1] - self._times[1]) / (done - 1)
            text += f", about {_duration(per_slice * (self._total - done))} left"
        return text

    def _conclude(self, outcome: Failure | None) -> None:
        """All slices are there that will come: what belongs to the whole is found, off this thread."""
        self._outcome = self._broken or outcome
        self._redraw.stop()
        try:
            self._flush()
        except Exception as error:  # somebody gave a layer another size meanwhile
            self._broken = Failure(error)
            self._outcome = self._outcome or self._broken
        study, results = self._study, self._results
        if len(self._times) < 2 or study is None or results is None or self._broken or not results.is_wanted():
            if study is not None:
                study.close()
            self._finish()
            return
        self._set_state(State.FINISHING)
        self._job = start_work(self._engine.finish, study, on_result=self._on_findings, parent=self,
                               threads=self._threads)

    def _on_findings(self, findings: Findings | Failure) -> None:
        if isinstance(findings, Failure):
            self._outcome = self._outcome or findings
            self._finish()
            return
        # The layers may have been painted on, and only this thread touches them: so the numbers are put into
        # them here, a few planes at a time.
        assert self._results is not None, "they stay until the run ends"
        self.warnings = findings.warnings
        self._planes = self._results.complete(findings)
        if self._threads:
            self._turns.start()
        else:
            self._renumber(seconds=float("inf"))

    def _renumber(self, seconds: float = TURN) -> None:
        assert self._results is not None, "they stay until the run ends"
        end = time.monotonic() + seconds
        try:
            while self._results.is_wanted() and next(self._planes, self) is not self:
                if time.monotonic() >= end:
                    return  # until the next tick
        except Exception as error:  # somebody gave a layer another size meanwhile
            self._outcome = self._outcome or Failure(error)
        self._turns.stop()
        self._finish()

    def _finish(self) -> None:
        results = self._results
        self._results = self._job = self._study = None
        self._planes = iter(())
        self._set_state(State.IDLE)
        self.ended.emit(results, self._outcome, self._cancelled)

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
