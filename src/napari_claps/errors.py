"""The errors that reach a user, each with a way out in its message."""

from __future__ import annotations


class ClapsError(Exception):
    """Base of all errors whose message is written for the user.

    The command line prints the message without a traceback; the widget shows
    it as a notification. A message names the file or the value and says what
    to do about it.
    """


class InputError(ClapsError, ValueError):
    """An image, folder or settings file cannot be used as it is."""


class PromptError(ClapsError, ValueError):
    """A target or text is unknown, or does not exist in the modality."""


class BundleError(ClapsError, RuntimeError):
    """A model bundle is missing, damaged, or not made for the request."""


class DeviceError(ClapsError, RuntimeError):
    """The requested compute device is not there."""


class OutputError(ClapsError, OSError):
    """A result cannot be written."""
