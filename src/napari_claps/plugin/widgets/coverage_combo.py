"""A combo box for the coverage of inner and outer masks, as far as the bundle was calibrated for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from napari_claps.methods import CALIBRATED_METHOD
from napari_claps.plugin.widgets.choice import Choice, Entries
from napari_claps.trust.conformal import band_level, why_no_band
from napari_claps.words.vocabulary import TARGETS

if TYPE_CHECKING:
    from napari_claps.models.bundles.manifest import Pair

_TIP = ("Also gives, for each target, an inner mask (pixels that are sure) and an outer mask\n"
        "(pixels that cannot be excluded). On average over images like those of the calibration,\n"
        "the outer mask holds this share of the true pixels, and this share of the inner mask is true.")


class CoverageCombo(Choice):
    """Choose a coverage of those for which at least one target was calibrated; off by default.

    It is disabled, and off, where there is no choice; its tool tip says why.
    `changed` tells that another coverage is in force.
    """

    def __init__(self, value: float | None = None, **options: Any) -> None:
        self._pairs: Sequence[Pair] = ()
        self._mirrored = False
        self._method, self._own_threshold, self._once = CALIBRATED_METHOD, False, False
        self._wanted = value
        super().__init__(choices=type(self)._levels, tips=self._targets_at,
                         **{"nullable": True, "nothing": "off", "tooltip": _TIP, **options})
        self.native.activated.connect(self._remember)

    def coverage(self) -> float | None:
        """The coverage in force, or None for no inner and outer masks."""
        return self.value

    def choose(self, coverage: float | None) -> None:
        """Choose a coverage, as a user does; one that is not offered is kept until it is."""
        self._wanted = coverage
        self.value = self.settle(None)

    def set_pairs(self, pairs: Sequence[Pair], *, mirrored: bool = False) -> None:
        """Offer what the bundle was calibrated for.

        `pairs` are those of the modality in force, `mirrored` whether the bundle asks to look at its images mirrored.
        """
        self._pairs, self._mirrored = pairs, mirrored
        self.reset_choices()

    def set_way(self, method: str, score_threshold: float | None, *, mirrored: bool = True) -> None:
        """How objects are found and kept: the calibration holds for one way only."""
        self._method, self._own_threshold, self._once = method, score_threshold is not None, not mirrored
        self.reset_choices()

    def reset_choices(self, *_: Any) -> None:
        """Offer the coverages that there are now, with the targets that have each."""
        super().reset_choices()
        why_not = self._why_not()
        self.enabled = not why_not
        self.tooltip = f"{_TIP}\n\n{why_not}" if why_not else _TIP
        self._add_tips()  # the targets may be others where the levels are the same

    def settle(self, before: Any) -> Any:
        """What the user chose last, wherever it is offered."""
        return self._wanted if self._wanted in self.choices else None

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

    def _levels(self) -> Entries:
        return [] if self._why_not() else [(f"{level:g}", level) for level in self._calibrated()]

    def _calibrated(self) -> list[float]:
        return sorted({float(key) for pair in self._pairs for key in pair.outer if key in pair.inner})

    def _why_not(self) -> str:
        if not self._pairs:
            return "Not available: the bundle finds nothing in this modality, or the modality is not known yet."
        if not self._calibrated():
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
