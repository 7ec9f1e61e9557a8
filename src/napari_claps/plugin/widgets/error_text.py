"""How an error reaches the user: as a notification, and in words for the status line."""

from __future__ import annotations

from napari.utils.notifications import notification_manager, show_error

from napari_claps.errors import ClapsError


def report(error: Exception) -> str:
    """Notify the user and return the words; an error that is not written for users comes with its traceback."""
    if isinstance(error, ClapsError):
        show_error(str(error))
    else:
        notification_manager.receive_error(type(error), error, error.__traceback__)
    return words_of(error)


def words_of(error: Exception) -> str:
    """The message of an error that is written for users, else with its type, as it may have no message."""
    return str(error) if isinstance(error, ClapsError) else f"{type(error).__name__}: {error}"
