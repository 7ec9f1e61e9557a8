"""A choice of the model bundles: those installed, and folders of the user's."""

from __future__ import annotations

from typing import Any

from magicgui.widgets import Container, PushButton
from napari.utils.notifications import show_error
from psygnal import Signal
from qtpy.QtWidgets import QFileDialog, QSizePolicy

from napari_claps.errors import BundleError
from napari_claps.models.bundles.manifest import BundleManifest, available_bundles, read_manifest
from napari_claps.plugin.widgets.choice import Choice, Entries


class BundleCombo(Container):
    """Choose a bundle, or with the button the folder of one; only its manifest is read here, the weights by a run.

    Signals
    -------
    bundle_changed : BundleManifest
    """

    bundle_changed = Signal(object)

    def __init__(self, default: str, **options: Any) -> None:
        self._manifests: list[BundleManifest] = list(available_bundles())
        first = next((m for m in self._manifests if m.name == default), None)
        self._choice = Choice(name="bundle", choices=self._offer, tooltip="…")
        if first is not None:
            self._choice.value = first
        button = PushButton(name="other_folder", text="…", tooltip="Choose the folder of another bundle")
        button.native.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        super().__init__(layout="horizontal", labels=False, widgets=[self._choice, button], **options)
        self.margins = (0, 0, 0, 0)
        self._describe()
        self._choice.changed.connect(self._on_choice)
        button.changed.connect(self._ask_folder)

    def manifest(self) -> BundleManifest | None:
        """The chosen bundle, or None if none is installed."""
        return self._choice.value

    def open_folder(self, folder: str) -> None:
        """Choose the bundle in `folder`; tells the user if it is none."""
        try:
            manifest = read_manifest(folder)
        except BundleError as error:
            show_error(str(error))
            return
        known = next((m for m in self._manifests if m.folder == manifest.folder), None)
        if known is None:
            self._manifests.append(known := manifest)
            self._choice.reset_choices()
        self._choice.value = known

    def _offer(self, _: Any) -> Entries:
        return [(manifest.name, manifest) for manifest in self._manifests]

    def _ask_folder(self) -> None:
        folder = QFileDialog.getExistingDirectory(self.native, "Folder of a model bundle (with bundle.toml)")
        if folder:
            self.open_folder(folder)

    def _on_choice(self) -> None:
        self._describe()
        self.bundle_changed.emit(self.manifest())

    def _describe(self) -> None:
        manifest = self.manifest()
        self._choice.tooltip = ("No bundle is installed: choose the folder of one." if manifest is None else
                                f"{manifest.name} {manifest.version}\n{manifest.folder}\n{manifest.notice}")
