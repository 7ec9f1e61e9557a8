"""The form of the Segment widget: its fields, and what is chosen in them."""

from __future__ import annotations

from magicgui.widgets import LineEdit
from napari.components import ViewerModel
from napari.layers import Image, Layer, Shapes
from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QKeySequence, QShortcut
from qtpy.QtWidgets import QLabel, QPushButton, QVBoxLayout, QWidget

from napari_claps.errors import ClapsError, InputError
from napari_claps.plugin.layers import KEY, LayerSource
from napari_claps.plugin.widgets.advanced import AdvancedOptions
from napari_claps.plugin.widgets.bundle_combo import BundleCombo
from napari_claps.plugin.widgets.fields import NO_LABEL, QtField, make_form
from napari_claps.plugin.widgets.layer_combo import LayerCombo
from napari_claps.plugin.widgets.modality_combo import ModalityCombo
from napari_claps.plugin.widgets.region import region_of
from napari_claps.plugin.widgets.run import State
from napari_claps.plugin.widgets.slice_choice import SliceChoice
from napari_claps.plugin.widgets.target_list import TargetList
from napari_claps.settings import Settings
from napari_claps.types import Modality, ModalityGuess
from napari_claps.words.vocabulary import make_prompt

_WORDS_TIP = ("Anything else to look for: a synonym, an abbreviation or free text,\n"
              "for example: CWS; bright dots near the fovea")


class SegmentForm(QWidget):
    """Image, modality, targets, slices, region, model and the Run button.

    ``fields`` and ``advanced.fields`` have what can be chosen, by name.

    Signals
    -------
    image_changed
        Another image or another bundle is chosen, so that its modality must be found.
    run_pressed, cancel_pressed
    """

    image_changed = Signal()
    run_pressed = Signal()
    cancel_pressed = Signal()

    def __init__(self, viewer: ViewerModel, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._state = State.IDLE
        self._problem = ""
        self.layer_combo = LayerCombo(viewer, Image, _can_be_segmented, name="image", label="Image")
        self.modality_combo = ModalityCombo(name="modality", label="Modality")
        self.target_list = TargetList()
        targets = QtField(self.target_list, self.target_list.targets, self.target_list.set_targets,
                          self.target_list.targets_changed, name="targets", label="Look for")
        words = LineEdit(name="words", label=NO_LABEL, tooltip=_WORDS_TIP)
        self.free_text = words.native
        self.slice_choice = SliceChoice(name="slices", label="Slices")
        self.region_combo = LayerCombo(
            viewer, Shapes, _can_hold_region, nothing="whole image", name="region", label="Region",
            tooltip="A Shapes layer with a rectangle: only what is in it is looked at.")  # fmt: skip
        self.bundle_combo = BundleCombo(Settings().bundle, name="bundle", label="Model")
        self.fields = make_form(self.layer_combo, self.modality_combo, targets, words, self.slice_choice,
                                self.region_combo, self.bundle_combo, follow=viewer)
        self.advanced = AdvancedOptions()
        self.warning = QLabel()
        self.run_button = QPushButton("Run")
        self.doubts_button = QPushButton()
        self.status = QLabel()
        self._fill()
        self._lay_out()
        self._connect()
        self._show_image()

    def layer(self) -> Image | None:
        """The chosen image layer."""
        return self.layer_combo.layer()

    def wanted(self) -> list[str]:
        """What to look for: ticked targets, then words."""
        return list(dict.fromkeys([*self.target_list.targets(), *self._words()]))

    def settings(self) -> Settings:
        """What is chosen besides image and targets.

        Raises
        ------
        InputError
            If there is no bundle to choose.
        """
        manifest = self.bundle_combo.manifest()
        if manifest is None:
            raise InputError("No model bundle is installed. Choose the folder of one under 'Model'.")
        return self.advanced.settings(str(manifest.folder))

    def region(self) -> tuple[int, int, int, int] | None:
        """The chosen region as (y0, x0, y1, x1) in pixels, or None for the whole image.

        Raises
        ------
        InputError
            If the chosen layer has no rectangle on the image.
        """
        shapes = self.region_combo.layer()
        return None if shapes is None else region_of(shapes, self.layer())

    def say(self, text: str) -> None:
        """Show `text` under the button."""
        self.status.setText(text)

    def hint(self, text: str) -> None:
        """Show `text` unless a run has more to say."""
        if self._state is State.IDLE:
            self.status.setText(text)

    def show_guess(self, guess: ModalityGuess | None, *, why_not: str = "") -> None:
        """Show the modality that was found, or with None why none was."""
        self.modality_combo.show_guess(guess, why_not=why_not)
        self._check_modality()

    def offer_places(self, number: int) -> None:
        """Show a button that lists the places of the last run to look at, if there are any."""
        self.doubts_button.setText(f"{number} doubtful place{'s' * (number != 1)}…")
        self.doubts_button.setVisible(number > 0)

    def show_state(self, state: State) -> None:
        """Make the button what `state` needs."""
        self._state = state
        text, tip = {
            State.IDLE: ("Run", "Start (Ctrl+Return)"),
            State.RUNNING: ("Cancel", "Stop after this slice; finished slices stay (Escape)"),
            State.CANCELLING: ("Cancelling…", "Stops after this slice"),
            State.FINISHING: ("Finishing…", "Numbers of the whole: objects across B-scans, measurements, provenance"),
        }[state]
        self.run_button.setText(text)
        self.run_button.setToolTip(tip)
        ready = self.layer() is not None and bool(self.wanted())
        self.run_button.setEnabled(state is State.RUNNING or (state is State.IDLE and ready))

    def _fill(self) -> None:
        self.free_text.setPlaceholderText("or your own words; separated by ;")
        self.warning.setWordWrap(True)
        self.warning.setStyleSheet("color: #e69f00;")  # an orange that is seen in the dark and in the light theme
        self.warning.hide()
        self.doubts_button.setToolTip("List the places of this result that somebody should look at")
        self.doubts_button.hide()
        self.status.setWordWrap(True)
        self.status.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)

    def _lay_out(self) -> None:
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for widget in (self.fields.native, self.advanced, self.warning, self.run_button, self.status,
                       self.doubts_button):
            layout.addWidget(widget)
        layout.addStretch(1)
        self.setMinimumWidth(280)

    def _connect(self) -> None:
        for keys, action in (("Ctrl+Return", self._ask_run), ("Ctrl+Enter", self._ask_run),
                             ("Escape", self.cancel_pressed.emit)):
            shortcut = QShortcut(QKeySequence(keys), self)
            shortcut.setContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
            shortcut.activated.connect(action)
        self.run_button.clicked.connect(self._press)
        self.layer_combo.changed.connect(self._show_image)
        self.modality_combo.modality_changed.connect(self._offer_targets)
        self.modality_combo.changed.connect(self._check_modality)
        self.bundle_combo.bundle_changed.connect(self._on_bundle)
        for name in ("targets", "words"):
            self.fields[name].changed.connect(self._check_wishes)
        self.advanced.coverage.changed.connect(self._check_wishes)

    def _press(self) -> None:
        (self.run_pressed if self._state is State.IDLE else self.cancel_pressed).emit()

    def _ask_run(self) -> None:
        if self._state is State.IDLE and self.run_button.isEnabled():
            self.run_pressed.emit()

    def _refresh_button(self) -> None:
        self.show_state(self._state)

    def _show_image(self) -> None:
        layer = self.layer()
        is_volume = layer is not None and layer.ndim == 3
        self.slice_choice.visible = is_volume
        if layer is not None and is_volume:
            self.slice_choice.set_count(LayerSource.of(layer).data.shape[0])
        self.modality_combo.set_automatic()
        self._problem = "" if layer is not None else "Open an image, or one of File > Open Sample."
        self.hint(self._problem)
        self._refresh_button()
        self.image_changed.emit()

    def _on_bundle(self) -> None:
        self._offer_targets(self.modality_combo.modality())
        self.image_changed.emit()

    def _check_modality(self) -> None:
        """Warn, before the run, of a choice that is not what the image looks like."""
        problem = self.modality_combo.disagreement()
        self.warning.setText(problem and f"{problem} Results may be meaningless.")
        self.warning.setVisible(bool(problem))

    def _offer_targets(self, modality: Modality | None) -> None:
        manifest = self.bundle_combo.manifest()
        pairs = [pair for pair in manifest.pairs if pair.modality == modality] if manifest is not None else []
        self.advanced.coverage.set_pairs(pairs, mirrored=manifest is not None and modality in manifest.mirrored)
        self.target_list.set_pairs(pairs)
        if manifest is not None and modality is not None and not pairs:
            known = ", ".join(str(m) for m in manifest.modalities)
            self._complain(f"{manifest.name} was not trained for this modality. It knows: {known}.")
        else:
            self._check_wishes()

    def _words(self) -> list[str]:
        return [words for part in self.free_text.text().split(";") if (words := " ".join(part.split()))]

    def _check_wishes(self) -> None:
        """Say while the user chooses and types what a run would say."""
        modality, labels, problem = self.modality_combo.modality(), self.target_list.targets(), ""
        if modality is not None:
            for words in self._words():
                try:
                    labels.append(make_prompt(words, modality).label)
                except ClapsError as error:
                    problem = str(error)
        self._complain(problem or self.advanced.coverage.missing(labels))
        self._refresh_button()

    def _complain(self, problem: str) -> None:
        """Show a problem of what is chosen, or that it is gone; what a run said stays until there is one."""
        if problem != self._problem:
            self._problem = problem
            self.hint(problem)


def _can_be_segmented(layer: Layer) -> bool:
    """Whether the image is not one that tells of a result."""
    return (layer.metadata.get(KEY) or {}).get("content") != "uncertainty"


def _can_hold_region(layer: Layer) -> bool:
    """Whether the shapes are those that somebody drew, or boxes; lines of the device are none."""
    return (layer.metadata.get(KEY) or {}).get("content", "boxes") == "boxes"
