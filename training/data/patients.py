"""Who an image is of, as far as its file name says, so that one patient's images stay on one side of a split."""

from __future__ import annotations

_FIRST_PART = ("dme_dr_mx", "mexico_dme_oct")
"""Named PATIENT_EYE_KIND_NUMBER; the two data sets number their patients alike."""


def patient_of(dataset: str, stem: str) -> str:
    """Return a name that all images of a patient share; without one in the file name, each image has its own.

    Parameters
    ----------
    dataset : str
    stem : str
        File name without its ending.
    """
    if dataset in _FIRST_PART:
        return f"dme_mx/{stem.split('_')[0]}"
    if dataset == "kermany" and stem.count("-") == 2:  # DISEASE-PATIENT-NUMBER
        return f"kermany/{stem.split('-')[1]}"
    return f"{dataset}/{stem}"
