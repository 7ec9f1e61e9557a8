"""The files of a result folder, as the command line contract fixes them."""

from napari_claps.io.fingerprint import sha256_of
from napari_claps.results.coco import coco_detections
from napari_claps.results.folder import FILES, ResultFiles, expected_files
from napari_claps.results.mask_writer import MaskWriter
from napari_claps.results.provenance import library_versions, machine, provenance

__all__ = ["FILES", "MaskWriter", "ResultFiles", "coco_detections", "expected_files", "library_versions", "machine",
           "provenance", "sha256_of"]
