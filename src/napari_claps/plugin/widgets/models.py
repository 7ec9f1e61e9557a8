"""The list of models: bundles that can be used, and published checkpoints that can be had."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from napari.viewer import Viewer
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QAbstractItemView,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QPushButton,
    QTreeWidget,
    QTreeWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_claps.errors import BundleError
from napari_claps.models.bundles.manifest import BundleManifest, bundle_folders, models_folder, read_manifest
from napari_claps.models.bundles.registry import CHECKPOINTS, Checkpoint
from napari_claps.plugin.widgets.error_text import words_of
from napari_claps.plugin.worker import Failure, start_work
from napari_claps.words.vocabulary import MODALITIES

_DETAILS = Qt.ItemDataRole.UserRole
_FOLDER = Qt.ItemDataRole.UserRole + 1


class ModelsWidget(QWidget):
    """What ``claps models list`` lists. Nothing here uses the network.

    Parameters
    ----------
    napari_viewer : Viewer
    threads : bool
        False does all work in the calling thread, for tests and debugging.
    """

    def __init__(self, napari_viewer: Viewer, *, threads: bool = True) -> None:
        super().__init__()
        self._threads = threads
        self.tree = QTreeWidget()
        self.details = QLabel()
        self.verify_button, self.refresh_button = QPushButton("Verify"), QPushButton("Refresh")
        self._lay_out()
        self.tree.currentItemChanged.connect(lambda item, _: self._show(item))
        self.refresh_button.clicked.connect(self.refresh)
        self.verify_button.clicked.connect(self.verify)
        self.refresh()

    def refresh(self) -> None:
        """Read the list again."""
        self.tree.clear()
        bundles = QTreeWidgetItem(self.tree, ["Bundles"])
        for folder in bundle_folders():
            try:
                _add_bundle(bundles, read_manifest(folder))
            except BundleError as error:
                _add(bundles, folder.name, "damaged", str(error))
        place = models_folder()
        published = QTreeWidgetItem(self.tree, ["Published checkpoints"])
        for checkpoint in CHECKPOINTS.values():
            _add_checkpoint(published, checkpoint, place)
        self.tree.expandAll()
        self._show(None)
        if bundles.childCount():
            self.tree.setCurrentItem(bundles.child(0))

    def verify(self) -> None:
        """Compare the files of the chosen bundle with their checksums."""
        item = self.tree.currentItem()
        if item is None or not self.verify_button.isEnabled():
            return
        self.verify_button.setEnabled(False)
        start_work(_verify, Path(item.data(0, _FOLDER)), parent=self, threads=self._threads,
                   on_result=self._on_verified)

    def _on_verified(self, outcome: str | Failure) -> None:
        self._show(self.tree.currentItem())
        text = words_of(outcome.error) if isinstance(outcome, Failure) else outcome
        self.details.setText(f"{text}\n\n{self.details.text()}")

    def _lay_out(self) -> None:
        tree = self.tree
        tree.setHeaderLabels(["Name", "State"])
        tree.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        header = cast(QHeaderView, tree.header())  # a tree has one, whatever the stubs say
        header.setStretchLastSection(False)
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        header.setSectionResizeMode(1, QHeaderView.ResizeMode.ResizeToContents)
        self.details.setWordWrap(True)
        self.details.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.verify_button.setToolTip("Compare the files of the bundle with their checksums")
        self.refresh_button.setToolTip("Read the list again, for example after claps models get or import")
        buttons = QHBoxLayout()
        buttons.addWidget(self.verify_button)
        buttons.addWidget(self.refresh_button)
        layout = QVBoxLayout(self)
        layout.addWidget(tree, 1)
        layout.addWidget(self.details)
        layout.addLayout(buttons)

    def _show(self, item: QTreeWidgetItem | None) -> None:
        self.details.setText((item and item.data(0, _DETAILS)) or "")
        self.verify_button.setEnabled(bool(item and item.data(0, _FOLDER)))


def _add(parent: QTreeWidgetItem, name: str, state: str, details: str) -> QTreeWidgetItem:
    item = QTreeWidgetItem(parent, [name, state])
    item.setData(0, _DETAILS, details)
    item.setToolTip(0, details)
    return item


def _add_bundle(parent: QTreeWidgetItem, manifest: BundleManifest) -> None:
    kinds = ", ".join(f"{part} {values.get('kind', 'claps')}" for part, values in manifest.architecture.items())
    lines = [f"{manifest.name} {manifest.version}", str(manifest.folder), manifest.notice,
             f"Licence: {manifest.licence}", f"Networks: {kinds}; {manifest.dtype}"]
    if manifest.common is not None:
        lines.append(f"Finds any target in {', '.join(manifest.modalities)}; its accuracy was not measured.")
    details = "\n".join(lines)
    item = _add(parent, manifest.name, manifest.version, details)
    item.setData(0, _FOLDER, str(manifest.folder))
    for modality in manifest.modalities if manifest.common is None else ():
        place = MODALITIES[modality].name
        group = _add(item, place, "Dice", details)
        for pair in manifest.pairs:
            if pair.modality == modality:
                measured = "not measured" if pair.dice is None else f"{pair.dice:.2f}"
                images = f" on {pair.n_images} images of validation" if pair.dice is not None else ""
                _add(group, pair.target, measured, f"{pair.target} in {place}: Dice {measured}{images}.")


def _add_checkpoint(parent: QTreeWidgetItem, checkpoint: Checkpoint, place: Path) -> None:
    megabytes = checkpoint.size and checkpoint.size / 1e6
    size = f"{megabytes:,.{0 if megabytes >= 1 else 1}f} MB" if megabytes else "size unknown"
    here = checkpoint.is_here(place)
    step = f"Make a bundle of it: claps models import {checkpoint.name} … --name NAME" if here else (
        f"Download it: claps models get {checkpoint.name}")
    _add(parent, checkpoint.name, "here" if here else size,
         f"{checkpoint.title}: {checkpoint.part}, {size}, licence {checkpoint.licence}\n{checkpoint.page}\n{step}")


def _verify(folder: Path) -> str:
    manifest = read_manifest(folder)
    manifest.verify()
    return f"{manifest.name}: good (sha256 of {len(manifest.files)} files)"
