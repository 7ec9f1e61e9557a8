"""``claps export``: results in the formats of other programs."""

from __future__ import annotations

import argparse
from pathlib import Path

DESCRIPTION = """\
Write a result in the format of another program. RESULT is a folder OUT/NAME of claps segment, a masks file
(OME-TIFF, one channel per target), or a session (.claps.zip) saved in napari. Formats:
"""

EPILOG = """\
examples:
  claps export out/eye -o eye.nii.gz
  claps export out/eye --source eye.dcm -o eye_seg.dcm
  claps export corrected.claps.zip --to ome-zarr -o eye.ome.zarr
Names and numbers of patients stay in the source, unless --keep-patient asks for them.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Add the ``export`` command."""
    from napari_claps.results.export import EXPORTS

    formats = "".join(f"  {kind.name:<10} {kind.suffixes[0]:<10} {kind.content}\n" for kind in EXPORTS.values())
    parser = subparsers.add_parser(
        "export", help="write results as NIfTI, DICOM Segmentation, OME-Zarr, spreadsheet or session",
        description=DESCRIPTION + formats, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("result", metavar="RESULT", type=Path, help="what to write")
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, required=True,
                        help="file to write; of several targets, NIfTI adds the target to the name")  # fmt: skip
    parser.add_argument("--to", metavar="|".join(EXPORTS), help="format (default: by the ending of FILE)")
    parser.add_argument("--source", metavar="IMAGE", type=Path,
                        help="the image that was segmented: needed for dicom-seg, gives NIfTI its geometry, and goes "
                             "into OME-Zarr and sessions")  # fmt: skip
    parser.add_argument("--copy-image", action="store_true", help="session: put the pixels in, not the path")
    parser.add_argument("--keep-patient", action="store_true",
                        help="dicom-seg: copy the patient's data from the source, which archives need")  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it is there")
    parser.set_defaults(run=run)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Write, and say what was written.

    Returns
    -------
    int
        0.

    Raises
    ------
    ClapsError
        If nothing was written.
    """
    from napari_claps.results.export import export

    paths = export(
        arguments.result, arguments.output, to=arguments.to, source=arguments.source, overwrite=arguments.overwrite,
        keep_patient=arguments.keep_patient, copy_image=arguments.copy_image,
    )  # fmt: skip
    for path in paths:
        print(f"Written: {path}")
    return 0
