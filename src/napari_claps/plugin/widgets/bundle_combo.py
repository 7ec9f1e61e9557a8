"""A combo box of the model bundles: those installed, and folders of the user's."""

from __future__ import annotations

from napari.utils.notifications import show_error
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFileDialog, QWidget

from napari_claps.errors import BundleError
from napari_claps.models.bundles.manifest import BundleManifest, available_bundles, read_manifest
from napari_claps.plugin.widgets.narrow_combo import NarrowCombo

_OTHER = "another folder…"


class BundleCombo(NarrowCombo):
    """Choose a bundle; only its manifest is read here, the weights are loaded by a run.

    Signals
    -------
    bundle_changed : BundleManifest
    """

    bundle_changed = Signal(object)

    def __init__(self, default: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._manifests: list[BundleManifest] = []
        self._current = -1
        self.addItem(_OTHER)
        for manifest in available_bundles():
            self._add(manifest)
        names = [manifest.name for manifest in self._manifests]
        if names:
            self._current = names.index(default) if default in names else 0
        self.setCurrentIndex(self._current)
        self._describe()
        self.activated.connect(self._choose)

    def manifest(self) -> BundleManifest | None:
        """The chosen bundle, or None if none is installed."""
        return self._manifests[self._current] if self._current >= 0 else None

    def open_folder(self, folder: str) -> None:
        """Choose the bundle in `folder`; tells the user if it is none."""
        try:
            manifest = read_manifest(folder)
        except BundleError as error:
            show_error(str(error))
            self.setCurrentIndex(self._current)
            return
        folders = [known.folder for known in self._manifests]
        if manifest.folder in folders:
            self._choose(folders.index(manifest.folder))
            return
        self._add(manifest)
        self._choose(len(self._manifests) - 1)

    def _add(self, manifest: BundleManifest) -> None:
        self.insertItem(len(self._manifests), manifest.name)
        self._manifests.append(manifest)

    def _choose(self, index: int) -> None:
        if index == len(self._manifests):
            folder = QFileDialog.getExistingDirectory(self, "Folder of a model bundle (with bundle.toml)")
            if folder:
                self.open_folder(folder)
            else:
                self.setCurrentIndex(self._current)
            return
        self.setCurrentIndex(index)
        if index != self._current:
            self._current = index
            self._describe()
            self.bundle_changed.emit(self.manifest())

    def _describe(self) -> None:
        manifest = self.manifest()
        if manifest is None:
            self.setToolTip("No bundle is installed: choose the folder of one.")
        else:
            self.setToolTip(f"{manifest.name} {manifest.version}\n{manifest.folder}\n{manifest.notice}")
