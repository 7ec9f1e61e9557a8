"""A combo box for the modality: what was detected, and the user's own choice."""

from __future__ import annotations

from typing import Any

from magicgui.types import Separator
from psygnal import Signal

from napari_claps.plugin.widgets.choice import Choice
from napari_claps.types import Modality, ModalityGuess
from napari_claps.words.vocabulary import MODALITIES

_TIP = "The first entry is what the program sees or the file says. Choose another one if it is wrong."


class ModalityCombo(Choice):
    """First entry: automatic, with the modality found and its probability; then all modalities.

    Signals
    -------
    modality_changed : Modality or None
        The modality in force is another one now.
    """

    modality_changed = Signal(object)

    def __init__(self, **options: Any) -> None:
        self._guess: ModalityGuess | None = None
        self._in_force: Modality | None = None
        names = [(terms.name, str(modality)) for modality, terms in MODALITIES.items()]
        super().__init__(choices=[("", Separator), *names], tips=lambda chosen: MODALITIES[Modality(chosen)].signature,
                         nullable=True, nothing="automatic", tooltip=_TIP, **options)
        self.changed.connect(self._announce)

    def modality(self) -> Modality | None:
        """The modality in force, or None while it is not known."""
        guess = self.guess()
        return None if guess is None else guess.modality

    def guess(self) -> ModalityGuess | None:
        """The modality in force with how it was decided, or None while it is not known."""
        if self.value is not None:
            return ModalityGuess(Modality(self.value), None, "user")
        return self._guess

    def disagreement(self) -> str:
        """What to tell the user whose choice is not what the image looks like; empty if it is, or if nobody knows."""
        chosen, seen = self.modality(), self._guess
        if chosen is None or seen is None or chosen is seen.modality:
            return ""
        names = MODALITIES[chosen].name, MODALITIES[seen.modality].name
        if seen.probability is None:
            return f"You chose {names[0]}, but the file says {names[1]}."
        own = seen.probabilities.get(str(chosen))
        against = f", {names[0]} {own:.0%}" if own is not None else ""
        return f"You chose {names[0]}, but the image looks like {names[1]} ({seen.probability:.0%}{against})."

    def set_automatic(self) -> None:
        """Choose the first entry."""
        self.value = None

    def set_modality(self, modality: Modality) -> None:
        """Choose `modality`, as a user does."""
        self.value = str(modality)

    def currentText(self) -> str:
        """The text that is shown, as a Qt combo box calls it."""
        return self.current_choice

    def show_guess(self, guess: ModalityGuess | None, *, why_not: str = "") -> None:
        """Show what was found, or with None why nothing was (``detecting…``)."""
        self._guess = guess
        if guess is None:
            self.null_string = f"automatic: {why_not}" if why_not else "automatic"
        else:
            name = MODALITIES[guess.modality].name
            sure = "from the file" if guess.probability is None else f"{guess.probability:.0%}"
            self.null_string = f"{name} ({sure})"
        self.reset_choices()
        others = [] if guess is None else sorted(guess.probabilities.items(), key=lambda item: -item[1])[:3]
        listing = "".join(f"\n{MODALITIES[Modality(m)].name}: {p:.0%}" for m, p in others)
        self.tooltip = _TIP + ("\n" + listing if listing else "")
        self._announce()

    def _announce(self) -> None:
        modality = self.modality()
        if modality is not self._in_force:
            self._in_force = modality
            self.modality_changed.emit(modality)
