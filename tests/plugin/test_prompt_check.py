"""The button that checks whether the masks depend on the text."""

from __future__ import annotations

import threading

import pytest

pytest.importorskip("napari")
pytest.importorskip("pytestqt")

from napari_claps.errors import BundleError
from napari_claps.plugin import engine as engine_module
from napari_claps.plugin.widgets.prompt_check import GOOD
from napari_claps.results.prompt_check import prompt_check_picture
from napari_claps.trust.prompt_check import PromptCheck, TextKind, Trial
from napari_claps.types import Modality
from tests.gui_checks import errors

pytestmark = pytest.mark.gui
pytest_plugins = ["tests.gui_fixtures"]


def check_with(dice):
    """A check in which nonsense gives a mask that agrees this far with the true one."""
    trials = (Trial("drusen", TextKind.TRUE, "drusen", "drusen in an OCT B-scan", 35, 1.0),
              Trial("drusen", TextKind.NONSENSE, "xqz vrrk plomf", "xqz vrrk plomf in an OCT B-scan", 30, dice))
    return PromptCheck("image", 5, Modality.OCT, trials)


@pytest.fixture
def asked(monkeypatch):
    """What the check was asked; its answer is the first element of `answers`."""
    calls, answers = [], [check_with(0.9)]

    def check(pipeline, image, targets, **options):
        calls.append({"targets": list(targets), "thread": threading.current_thread().name, **options})
        if isinstance(answers[0], Exception):
            raise answers[0]
        return answers[0]

    monkeypatch.setattr(engine_module, "check_prompts", check)
    return calls, answers


def press(widget, qtbot):
    button = widget.form.advanced.check_button
    button.click()
    assert not button.isEnabled()
    qtbot.waitUntil(button.isEnabled, timeout=60000)


def test_the_slice_in_view_is_checked_and_the_warning_shown(make_widget, qtbot, asked):
    calls, _ = asked
    viewer, widget = make_widget()
    viewer.dims.set_current_step(0, 5)
    press(widget, qtbot)
    (call,) = calls
    assert call["targets"] == ["drusen"] and call["slice_index"] == 5 and call["region"] is None
    assert call["modality"].modality is Modality.OCT and call["thread"] != threading.current_thread().name
    dialog = widget.check_dialog
    assert dialog.isVisible() and "hardly depends on the text" in dialog.verdict.text()
    height, width, _ = prompt_check_picture(check_with(0.9)).shape
    assert (dialog.picture.pixmap().width(), dialog.picture.pixmap().height()) == (width, height)
    assert "hardly depends" in widget.form.status.text()
    assert len(viewer.layers) == 1, "no layer is made"
    dialog.close()


def test_nothing_to_warn_of(make_widget, qtbot, asked):
    _, answers = asked
    answers[0] = check_with(0.1)
    _, widget = make_widget()
    press(widget, qtbot)
    assert widget.check_dialog.verdict.text() == GOOD
    widget.check_dialog.close()


def test_a_check_that_fails(make_widget, qtbot, asked):
    calls, answers = asked
    answers[0] = BundleError("Bundle fake knows no drusen. Choose another one.")
    viewer, widget = make_widget()
    press(widget, qtbot)
    assert errors() == [str(answers[0])] and widget.form.status.text().startswith("Failed.")
    viewer.dims.ndisplay = 3
    widget.check_prompts()
    assert "2D" in errors()[-1] and len(calls) == 1
    viewer.layers.clear()
    widget.check_prompts()
    assert "no image layer" in errors()[-1] and len(calls) == 1
