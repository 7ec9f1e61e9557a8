"""The files of a result folder, as the command line contract fixes them."""

from napari_claps.outputs.boxes import coco_detections
from napari_claps.outputs.files import FILES, ResultFiles, expected_files
from napari_claps.outputs.masks import MaskWriter
from napari_claps.outputs.provenance import library_versions, machine, provenance, request, sha256_of

__all__ = ["FILES", "MaskWriter", "ResultFiles", "coco_detections", "expected_files", "library_versions", "machine",
           "provenance", "request", "sha256_of"]
