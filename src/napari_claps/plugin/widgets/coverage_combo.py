"""A combo box for the coverage of inner and outer masks, as far as the bundle was calibrated for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QComboBox, QWidget

from napari_claps.methods import CALIBRATED_METHOD
from napari_claps.trust.conformal import band_level, why_no_band
from napari_claps.words.vocabulary import TARGETS

if TYPE_CHECKING:
    from napari_claps.models.bundles.manifest import Pair

_TIP = ("Also gives, for each target, an inner mask (pixels that are sure) and an outer mask\n"
        "(pixels that cannot be excluded). On average over images like those of the calibration,\n"
        "the outer mask holds this share of the true pixels, and this share of the inner mask is true.")


class CoverageCombo(QComboBox):
    """Choose a coverage of those for which at least one target was calibrated; off by default.

    It is disabled, and off, where there is no choice; its tool tip says why.

    Signals
    -------
    coverage_changed
        Another coverage is in force, or others can be chosen.
    """

    coverage_changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._pairs: Sequence[Pair] = ()
        self._mirrored = False
        self._method, self._own_threshold, self._once = CALIBRATED_METHOD, False, False
        self._wanted: float | None = None
        self.currentIndexChanged.connect(self.coverage_changed)
        self.activated.connect(self._remember)
        self._offer()

    def coverage(self) -> float | None:
        """The coverage in force, or None for no inner and outer masks."""
        return self.currentData()

    def choose(self, coverage: float | None) -> None:
        """Choose a coverage, as a user does; one that is not offered is kept until it is."""
        self._wanted = coverage
        self._offer()

    def set_pairs(self, pairs: Sequence[Pair], *, mirrored: bool = False) -> None:
        """Offer what the bundle was calibrated for.

        `pairs` are those of the modality in force, `mirrored` whether the bundle asks to look at its images mirrored.
        """
        self._pairs, self._mirrored = pairs, mirrored
        self._offer()

    def set_way(self, method: str, score_threshold: float | None, *, mirrored: bool = True) -> None:
        """How objects are found and kept: the calibration holds for one way only."""
        way = method, score_threshold is not None, not mirrored
        if way != (self._method, self._own_threshold, self._once):
            self._method, self._own_threshold, self._once = way
            self._offer()

    def missing(self, targets: Sequence[str]) -> str:
        """What to tell a user who wants these targets and the coverage in force; empty if all have it."""
        coverage = self.coverage()
        if coverage is None:
            return ""
        pairs = {pair.target: pair for pair in self._pairs}
        trained = [t for t in targets if t in pairs or t not in TARGETS]  # of others the run says so
        without = [f"{target} ({why_no_band(pairs.get(target), coverage)})" for target in trained
                   if target not in pairs or band_level(pairs[target], coverage) is None]
        if not without:
            return ""
        return (f"No inner and outer masks of coverage {coverage:g} for: {'; '.join(without)}. Untick these targets, "
                "choose another coverage, or switch it off.")

    def _offer(self) -> None:
        why_not = self._why_not()
        levels = [] if why_not else self._levels()
        before = self.coverage()
        self.blockSignals(True)
        self.clear()
        self.addItem("off", None)
        for level in levels:
            self.addItem(f"{level:g}", level)
            self.setItemData(self.count() - 1, self._targets_at(level), Qt.ItemDataRole.ToolTipRole)
        self.setCurrentIndex(1 + levels.index(self._wanted) if self._wanted in levels else 0)
        self.blockSignals(False)
        self.setEnabled(bool(levels))
        self.setToolTip(f"{_TIP}\n\n{why_not}" if why_not else _TIP)
        if self.coverage() != before:
            self.coverage_changed.emit()

    def _levels(self) -> list[float]:
        return sorted({float(key) for pair in self._pairs for key in pair.outer if key in pair.inner})

    def _why_not(self) -> str:
        if not self._pairs:
            return "Not available: the bundle finds nothing in this modality, or the modality is not known yet."
        if not self._levels():
            reasons = {pair.target: why_no_band(pair, 0.8) for pair in self._pairs}
            return "Not available in this modality: " + "; ".join(f"{t}: {why}" for t, why in reasons.items()) + "."
        if self._method != CALIBRATED_METHOD:
            return f"Not available: it was calibrated for the method {CALIBRATED_METHOD} alone."
        if self._own_threshold:
            return "Not available: it was calibrated with the model's own thresholds. Set 'Score from' to 'as trained'."
        if self._mirrored and self._once:
            return "Not available: it was calibrated for mirrored images too. Tick 'Look at mirrored images too'."
        return ""

    def _targets_at(self, level: float) -> str:
        with_it = [pair.target for pair in self._pairs if band_level(pair, level) is not None]
        return f"for {', '.join(with_it)}"

    def _remember(self) -> None:
        self._wanted = self.coverage()
