"""The part of the Segment form that most runs leave as it is."""

from __future__ import annotations

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QCheckBox, QComboBox, QDoubleSpinBox, QFormLayout, QPushButton, QWidget
from superqt import QCollapsible

from napari_claps.methods import METHODS
from napari_claps.plugin.widgets.coverage_combo import CoverageCombo
from napari_claps.settings import Settings

_DEVICES = {
    "auto": "the fastest device of this computer",
    "cpu": "the processor: works everywhere",
    "cuda": "an NVIDIA GPU",
    "mps": "an Apple GPU",
}


class AdvancedOptions(QCollapsible):
    """Method, device, lowest score, linking, mirroring, uncertainty, coverage, earlier results, prompt check."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__("Advanced", parent)
        default = Settings()
        self.method = _combo({name: method.finds for name, method in METHODS.items()}, default.method)
        self.method.setToolTip("How regions are found; what comes before and after is the same.")
        self.device = _combo(_DEVICES, default.device)
        self.device.setToolTip("Where to compute; auto takes the fastest device of this computer")
        self.score = QDoubleSpinBox()
        self.score.setRange(-0.05, 1.0)
        self.score.setSingleStep(0.05)
        self.score.setSpecialValueText("as trained")  # shown at the minimum, which stands for None
        self.score.setValue(self.score.minimum())
        self.score.setToolTip("Lowest score of an object that is kept;\n'as trained' is the model's own per target.")
        self.link = QCheckBox("Link objects across B-scans")
        self.link.setChecked(default.link_slices)
        self.link.setToolTip("In an OCT volume an object that goes through several B-scans has one number, small and\n"
                             "unsure objects that only one B-scan shows are removed, and doubtful places are listed.")
        self.mirrored = QCheckBox("Look at mirrored images too")
        self.mirrored.setChecked(default.mirrored)
        self.mirrored.setToolTip("Where the model asks for it (en-face images), the mask is the mean of four looks.\n"
                                 "Without, a run is about four times as fast and masks are a little worse.")
        self.uncertainty = QCheckBox("Uncertainty map")
        self.uncertainty.setChecked(default.uncertainty)
        self.uncertainty.setToolTip("Repeats each slice with flips, shifted boxes and other wordings, and shows how\n"
                                    "far the answers differ, in bits per pixel. Takes several times as long.")
        self.coverage = CoverageCombo()
        self.replace = QCheckBox("Replace earlier results of this image")
        self.replace.setToolTip("Otherwise a new run makes new layers and leaves the others alone.")
        self.check_button = QPushButton("Check prompts…")
        self.check_button.setToolTip("Looks at the slice in view again with words of other targets, with nonsense,\n"
                                     "and with the wrong modality: a mask that stays does not depend on the text.")
        self._lay_out()
        self.method.currentTextChanged.connect(self._tell_coverage)
        self.score.valueChanged.connect(self._tell_coverage)
        self.mirrored.toggled.connect(self._tell_coverage)

    def settings(self, bundle: str) -> Settings:
        """What is chosen here, with this bundle."""
        return Settings(method=self.method.currentText(), bundle=bundle, device=self.device.currentText(),
                        score_threshold=self._threshold(), link_slices=self.link.isChecked(),
                        mirrored=self.mirrored.isChecked(), uncertainty=self.uncertainty.isChecked(),
                        coverage=self.coverage.coverage())

    def _threshold(self) -> float | None:
        return None if self.score.value() < 0 else round(self.score.value(), 4)

    def _tell_coverage(self) -> None:
        self.coverage.set_way(self.method.currentText(), self._threshold(), mirrored=self.mirrored.isChecked())

    def _lay_out(self) -> None:
        content = QWidget()
        fields = QFormLayout(content)
        fields.setContentsMargins(0, 0, 0, 0)
        fields.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        fields.addRow("Method", self.method)
        fields.addRow("Device", self.device)
        fields.addRow("Score from", self.score)
        fields.addRow("Coverage", self.coverage)
        for widget in (self.link, self.mirrored, self.uncertainty, self.replace, self.check_button):
            fields.addRow(widget)
        self.setDuration(0)
        self.setContent(content)
        self.collapse(animate=False)  # new content is shown until then
        self.layout().setContentsMargins(0, 0, 0, 0)


def _combo(entries: dict[str, str], chosen: str) -> QComboBox:
    """A combo box of names with their explanations."""
    combo = QComboBox()
    for name, tip in entries.items():
        combo.addItem(name)
        combo.setItemData(combo.count() - 1, tip, Qt.ItemDataRole.ToolTipRole)
    combo.setCurrentText(chosen)
    return combo
