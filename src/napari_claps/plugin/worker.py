"""Work off the main thread that is reported on it.

Errors travel as values, wrapped in a `Failure`: superqt's worker takes a
``RuntimeError``, raised or returned, for a deleted object and never emits
``finished``, and torch raises it for nearly everything.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from inspect import isgeneratorfunction
from typing import Any

from qtpy.QtCore import QObject

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Failure:
    """What went wrong in the work."""

    error: Exception


class Work(QObject):
    """Work under way: made by `start_work`, stopped by `cancel`.

    It lives as a child of the widget that asked for it, on the main thread: when the
    widget is deleted, nothing is reported any more and the work stops.
    """

    def __init__(
        self,
        parent: QObject | None,
        on_result: Callable[[Any], None],
        on_end: Callable[[Any], None] | None,
    ) -> None:
        super().__init__(parent)
        self.cancelled = False
        self._on_result = on_result
        self._on_end = on_end
        self._outcome: Any = None
        self._quit: Callable[[], None] = lambda: None

    def cancel(self) -> None:
        """Ask the work to stop after the step it is in."""
        self.cancelled = True
        self._quit()

    def silence(self) -> None:
        """Cancel, and report nothing more."""
        self._on_result, self._on_end = _ignore, None
        self.cancel()

    def run_threaded(self, function: Callable[..., Any], args: Sequence[Any], progress: dict[str, Any] | None) -> None:
        """Do the work in a thread of napari's."""
        from napari.qt.threading import GeneratorWorker, create_worker

        worker = create_worker(function, *args, _start_thread=False, _progress=progress)
        with suppress(TypeError, RuntimeError):  # raised where nothing is connected
            worker.warned.disconnect()  # napari would show every deprecation of torch as a notification
        worker.warned.connect(_log_warning)
        if isinstance(worker, GeneratorWorker):
            worker.yielded.connect(self._receive)
            worker.returned.connect(self._keep)
            worker.finished.connect(self._finish)
        else:
            worker.returned.connect(self._receive)
            worker.finished.connect(self.deleteLater)
        self._quit = worker.quit
        self.destroyed.connect(worker.quit)
        worker.start()

    def run_here(self, function: Callable[..., Any], args: Sequence[Any]) -> None:
        """Do the work now, in the caller's thread."""
        work = function(*args)
        if not isinstance(work, Generator):
            self._receive(work)
            self.deleteLater()
            return
        while not self.cancelled:
            try:
                value = next(work)
            except StopIteration as stop:
                self._keep(stop.value)
                break
            self._receive(value)
        work.close()
        self._finish()

    def _receive(self, value: Any) -> None:
        self._on_result(value)

    def _keep(self, outcome: Any) -> None:
        self._outcome = outcome

    def _finish(self) -> None:
        if self._on_end is not None:
            self._on_end(self._outcome)
        self.deleteLater()


def start_work(
    function: Callable[..., Any],
    *args: Any,
    on_result: Callable[[Any], None],
    on_end: Callable[[Any], None] | None = None,
    progress: dict[str, Any] | None = None,
    parent: QObject | None = None,
    threads: bool = True,
) -> Work:
    """Run a function, or a generator function, in a thread and report on the main thread.

    Parameters
    ----------
    function, *args
        What to call; it may raise.
    on_result : callable
        Gets each value that a generator yields, or the value that a function returns, or its `Failure`.
    on_end : callable, optional
        Called once, last, with the `Failure` of a generator, or None if it came to its end or was cancelled.
    progress : dict, optional
        ``total`` and ``desc`` of the bar in napari's activity dock.
    parent : QObject, optional
        Owner of the job.
    threads : bool
        False does the work before this function returns.
    """
    job = Work(parent, on_result, on_end)
    function = (_failing_generator if isgeneratorfunction(function) else _failing)(function)
    if threads:
        job.run_threaded(function, args, progress)
    else:
        job.run_here(function, args)
    return job


def _failing(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with its error as a value."""
    def guarded(*args: Any) -> Any:
        try:
            return function(*args)
        except Exception as error:
            return Failure(error)

    return guarded


def _failing_generator(function: Callable[..., Generator[Any, None, None]]) -> Callable[..., Any]:
    """The generator function, with its error as the value that it returns."""
    def guarded(*args: Any) -> Generator[Any, None, Failure | None]:
        try:
            yield from function(*args)
        except Exception as error:
            return Failure(error)
        return None

    return guarded


def _ignore(value: Any) -> None:
    """The answer came too late."""


def _log_warning(warning: tuple[Any, ...]) -> None:
    log.info("%s", warning[0])
