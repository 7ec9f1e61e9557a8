"""Finding the modality of the chosen image without blocking the window."""

from __future__ import annotations

from qtpy.QtCore import QObject, QTimer, Signal

from napari_claps.plugin.engine import Engine
from napari_claps.plugin.layers import LayerSource
from napari_claps.plugin.worker import Failure, Work, start_work
from napari_claps.settings import Settings
from napari_claps.types import ModalityGuess

DELAY = 200
"""Milliseconds that a choice must rest before work starts."""


class ModalityDetection(QObject):
    """One question at a time; asking anew drops the answer to the question before.

    Signals
    -------
    answered : ModalityGuess or Failure
    """

    answered = Signal(object)

    def __init__(self, engine: Engine, parent: QObject, *, threads: bool) -> None:
        super().__init__(parent)
        self._engine = engine
        self._threads = threads
        self._job: Work | None = None
        self._question: tuple[LayerSource, Settings] | None = None
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(DELAY)
        self._timer.timeout.connect(self._start)

    def ask(self, source: LayerSource, settings: Settings) -> None:
        """Find the modality of `source`: known from its file, or by the model that `settings` names."""
        self.forget()
        if source.modality is not None:
            self.answered.emit(ModalityGuess(source.modality, None, "file"))
            return
        self._question = source, settings
        if self._threads:
            self._timer.start()
        else:
            self._start()

    def forget(self) -> None:
        """Drop the question; its answer is not told."""
        self._timer.stop()
        self._question = None
        if self._job is not None:
            self._job.silence()
            self._job = None

    def _start(self) -> None:
        if self._question is None:
            return
        self._job = start_work(self._engine.detect, *self._question, on_result=self._answer, parent=self,
                              threads=self._threads)

    def _answer(self, answer: ModalityGuess | Failure) -> None:
        self._job = self._question = None
        self.answered.emit(answer)
