"""The command line: one parser, one exit code, and no traceback unless it is asked for."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import logging
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import NoReturn

from napari_claps import __version__
from napari_claps.cli.messages import report, report_error
from napari_claps.errors import ClapsError

COMMANDS = ("segment", "demo", "measure", "evaluate", "export", "models", "sample", "info", "gui")
"""Each is a module of this room with ``add_parser(subparsers)``, which sets ``run``: arguments -> exit code."""

EPILOG = """\
exit code: 0 all done; 1 some inputs failed, the others are complete; 2 wrong usage, nothing was done.
Research use only, not for clinical decisions.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program name; those of the process by default.

    Returns
    -------
    int
        0 all done, 1 some inputs failed, 2 wrong usage, 130 interrupted.
    """
    try:
        arguments = build_parser().parse_args(argv)
    except SystemExit as end:  # --help, --version, or a usage error that argparse has printed
        return int(end.code or 0)
    try:
        with _quiet_libraries(debug=arguments.debug, quiet=getattr(arguments, "quiet", False)), _terminable():
            return int(arguments.run(arguments))
    except KeyboardInterrupt:
        report("interrupted; what was complete stays, and the same command goes on from there")
        return 130
    except ClapsError as error:
        report_error(error, debug=arguments.debug)
        return 2
    except BrokenPipeError:  # the reader of our output has seen enough
        sys.stderr.close()
        return 0
    except PermissionError as error:  # pathlib raises it for a look at what lies in a closed folder
        report_error(error, text=f"{error.filename}: must not be looked at or written here ({error.strerror}). Change "
                                 "its permissions, or choose another place.", debug=arguments.debug)
        return 2
    except Exception as error:
        hint = "" if arguments.debug else " Run again with --debug to see where."
        report_error(error, text=f"unexpected {type(error).__name__}: {error}.{hint}", debug=arguments.debug)
        return 1


def build_parser() -> argparse.ArgumentParser:
    """Return the parser with all commands."""
    parser = argparse.ArgumentParser(
        prog="claps", epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Find and segment what is worth measuring in a retinal image.",
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"napari-claps {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for name in COMMANDS:
        importlib.import_module(f"napari_claps.cli.{name}").add_parser(subparsers)
    for command in subparsers.choices.values():
        command.add_argument("--debug", action="store_true", help="show where an error comes from")
    return parser


class _ToTerminal(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        report(f"{record.levelname.lower()}: {record.getMessage()}")


@contextlib.contextmanager
def _quiet_libraries(*, debug: bool, quiet: bool) -> Iterator[None]:
    """Show our own warnings (when quiet, our errors alone) and nobody else's, unless debugging."""
    lowest = logging.DEBUG if debug else logging.ERROR if quiet else logging.WARNING
    logger, handler = logging.getLogger("napari_claps"), _ToTerminal(lowest)
    level = logger.level
    logger.addHandler(handler)
    if debug:
        logger.setLevel(logging.DEBUG)
    with warnings.catch_warnings():
        if not debug:
            warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let a polite kill (as a cluster sends it) clean up like Ctrl-C."""

    def stop(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
