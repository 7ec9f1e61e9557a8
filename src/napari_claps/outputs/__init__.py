"""The five files of a result folder, as the command line contract fixes them."""

from napari_claps.outputs.boxes import coco_detections
from napari_claps.outputs.files import FILES, ResultFiles
from napari_claps.outputs.masks import MaskWriter
from napari_claps.outputs.provenance import library_versions, provenance, request, sha256_of

__all__ = ["FILES", "MaskWriter", "ResultFiles", "coco_detections", "library_versions", "provenance", "request",
           "sha256_of"]
