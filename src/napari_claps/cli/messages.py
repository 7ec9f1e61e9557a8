"""Messages on stderr, one line each, that do not break a progress bar."""

from __future__ import annotations

import sys
import traceback

from tqdm import tqdm


def report(text: str) -> None:
    """Write a line to stderr, without breaking a progress bar."""
    tqdm.write(text, file=sys.stderr)


def report_error(error: BaseException, *, text: str = "", debug: bool = False) -> None:
    """Write one line ``error: ...`` to stderr, and the traceback when debugging."""
    if debug:
        report("".join(traceback.format_exception(error)))
    report(f"error: {' '.join((text or str(error)).split())}")
