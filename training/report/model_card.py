# ruff: noqa: E501
"""Write the model card of a bundle from its manifest and its report on ``val``.

``python -m training.report.model_card --bundle FOLDER --report REPORT --out docs/model-card.md``
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from napari_claps.files.atomic import atomic_path
from napari_claps.models.bundles.manifest import BundleManifest, read_manifest
from napari_claps.words.vocabulary import MODALITIES
from training.run.command import run_command

PICTURE, FAILURES = "images/reliability.png", "images/failures.png"
"""Beside the card."""

DATA = """\
| data set | modality | images for training | terms as far as known |
|---|---|---|---|
| DRIVE with RITE | colour fundus | 16 | research; Staal 2004 |
| CHASE_DB1 | colour fundus (children) | 16 | CC BY 4.0 (second-hand) |
| HRF | colour fundus | 21 | CC BY 4.0 (second-hand); origin of the artery and vein labels unknown |
| IDRiD | colour fundus | 45, and 413 with grades | CC BY 4.0 |
| Drishti-GS | colour fundus | 42 | research, unknown |
| wide-field vessels (Estrada 2015) | ultra-widefield | 16 | unknown |
| RAVIR | infrared SLO | 14 | unknown (challenge) |
| OCTA-500, 3 mm and 6 mm | OCT angiograms | 139 and 180 | research, unknown |
| ROSSA | OCT angiograms | 100 | repository MIT |
| angiograms with vein occlusion | fluorescein angiograms | 11, and 120 with labels | repository Apache-2.0 |
| Kermany B-scans with polygons | OCT B-scans | 272 | CC BY 4.0; polygons of unknown expertise |
| DME and DR sets from Mexico | colour fundus and OCT | about 2,600 with labels | "cite" |
| synthetic B-scans of this package | OCT B-scans | 240 | BSD-3-Clause |
"""

WORST = f"""\
Of the three worst masks of each target in the validation images those that are of IDRiD or of the B-scans (green: agreed, orange:
missed, purple: false). Maps without the images, made from the annotations of IDRiD (Porwal et al. 2018, CC BY 4.0) and of the B-scans
of Kermany et al. 2018 (CC BY 4.0); `REPORT/worst` has the images of all data sets, for those who have the data.

![Agreed, missed and false pixels of the worst masks]({FAILURES})"""

COMPARISON = """\
Same images, same scorer, mean Dice over the images that show the target. Where the bundle refuses, a U-Net can be better than nothing.

| column | what it is |
|---|---|
| this bundle | as in the table of accuracy |
| U-Net | a plain one for each modality (`benchmarks/unet.py`) with the bundle's data, views and rates. It starts from the bundle's trunk, which had learnt these targets, and all of it goes on learning; all but that of OCT angiograms have learnt from the held-out images too. It looks mirrored where the bundle does, draws no ellipses, and never answers "absent", which costs nothing here and false alarms elsewhere |
| true boxes and text | the bundle's mask head with the boxes of the true objects and the class text: what no detector can surpass (`benchmarks/sam_boxes.py`) |
| true boxes alone | the same without the text |
| left out | trainings of 160 steps from the trunk of stage 1, alike but for one source (`benchmarks/configs/vessels*.toml`); carried over from the card of 0.7.0, not mirrored, masks of odd sizes not yet put right |

Steps of the bundle's own decoders, after 10,000 of a shared one over all modalities. The last ones of photographs and B-scans learn
early layers of the trunk with them; the others learn the decoder alone.

| cfp | ffa | oct | octa | slo | uwf |
|---|---|---|---|---|---|
| 4500 (1500 with early layers) | 400 | 1200 (all with early layers) | 1450 | 1800 | 220 |"""

TEXT = """\
# Model card of `{name}` {version}

**Use.** Research on retinal images: finding and outlining the targets below. Not for clinical decisions.

**Licence of the weights.** {licence}. {notice}

**What it is.** One EfficientNet-Lite0 encoder (ImageNet) and one MiniLM-L6 text tower, shared by CLIP, a GroundingDINO head
and a SAM head, whose masks of fundus photographs and of B-scans read early layers of their own ({size:.0f} MB in half precision). {note}

## Accuracy on images not used for training

{n} validation images. Only the image and the target names were given; the modality was detected, right in {modality:.1%}. Mean Dice
over the images that show the target, with the bootstrap 95 % interval.

Thresholds were chosen on training images that were held out or left out in turns. Several choices were made after a look at the
validation images, so the numbers are a little optimistic (see *What limits it*).

{table}

Made with `python -m training.report.evaluate --bundle {name} --split val{coverage} --out REPORT`.

## Present or absent

{presence}

## Inner and outer masks

{bands}

## Boxes

{boxes}

## Comparison

{comparison}

## The worst

{failures}

## What it answers for

It answers only for the pairs below, and refuses all others with a reason. `retina` and `rpe_bm_complex` were learnt from synthetic
B-scans alone and have no accuracy on real images.

{pairs}

## What limits it

{limits}

## Data

{data}

No patient crosses from training to validation where patients are known. `val` of each set is listed in the data folder's table.
"""


def score_rows(summary: list[dict[str, Any]]) -> str:
    """Markdown table of the report."""
    lines = ["| data set | target | images with it | Dice | 95 % interval | without it | of these, false alarms |",
             "|---|---|---|---|---|---|---|"]
    for row in summary:
        dice = f"{row['dice']:.3f}" if row["n_present"] else ""
        interval = "" if row["dice_low"] is None else f"{row['dice_low']:.2f} to {row['dice_high']:.2f}"
        alarms = row.get("false_positive_rate")
        lines.append(f"| {row['dataset']} | {row['target']} | {row['n_present']} | {dice} | {interval} | "
                     f"{row['n_absent']} | {'' if alarms is None else f'{alarms:.0%}'} |")
    return "\n".join(lines)


def presence_text(rows: list[dict[str, Any]]) -> str:
    """Reliability of the calibrated presence, and its picture."""
    if not rows:
        return "Presence is a score between 0 and 1 and no probability: this bundle was not calibrated."
    lines = ["Where both images with and without the target were held out from training, presence is a probability, for the "
             "share of\nimages with the target in those. Below, on the validation images: the expected calibration error, "
             "and the log loss beside\nthat of always giving the share of images with the target.", "",
             "| modality | target | images with it | without it | calibration error | log loss | of the mere share |",
             "|---|---|---|---|---|---|---|"]
    lines += [f"| {r['modality']} | {r['target']} | {r['n_present']} | {r['n_absent']} | {r['ece']:.2f} | "
              f"{r['log_loss']:.2f} | {r['prevalence_log_loss']:.2f} |" for r in rows]
    return "\n".join([*lines, "", f"![Reliability of the presence]({PICTURE})", "",
                      "Numbers at the points count images, bars are Wilson 95 % intervals. Of other pairs no image without "
                      "the target was there: their\npresence is a score."])


def band_text(rows: list[dict[str, Any]], coverage: float | None) -> str:
    """Coverage of inner and outer masks."""
    if not rows:
        return "Not measured for this bundle."

    def cell(row: dict[str, Any], name: str) -> str:
        if row[name] is None:
            return ""
        low, high = row[f"{name}_low"], row[f"{name}_high"]
        return f"{row[name]:.3f}" + ("" if low is None else f" ({low:.2f} to {high:.2f})")

    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.2f}"

    lines = [f"Promised: {coverage:g} on average over images like the held-out ones (`docs/uncertainty.md`). Measured on the "
             "validation images,\nwith the bootstrap 95 % interval. `outer area` is the median area of the outer mask as a "
             "multiple of the true area, `inner share`\nthe mean share of the true area in the inner mask: how much the "
             "promise costs. Pairs that are not listed were refused.", "",
             "| modality | target | images with it | true pixels in the outer mask | images found in | inner pixels that "
             "are true | outer area | inner share |", "|---|---|---|---|---|---|---|---|"]
    lines += [f"| {r['modality']} | {r['target']} | {r['n_present']} | {cell(r, 'covered')} | {r['n_found']} | "
              f"{cell(r, 'sure')} | {number(r['outer_area'])} | {number(r['inner_recall'])} |" for r in rows]
    return "\n".join(lines)


def box_rows(detector: dict[str, dict[str, Any]]) -> str:
    """Markdown table of ``detector.json``."""
    if not detector:
        return "Not measured for this bundle."

    def number(value: float | None, style: str) -> str:
        return "" if value is None else format(value, style)

    lines = ["Of the detector alone, over the tiles in which held-out images of `train` are seen. Recall, precision and false "
             "alarms are those\nat the working threshold, that of the best F1; `AUROC` tells tiles with the target from tiles "
             "without by their best score. AP50 asks for\nhalf of the union of two boxes in common, which boxes of a few "
             "pixels hardly ever have.", "",
             "| modality | target | objects | AP50 | recall | precision | tiles without it | of these, false alarms | AUROC |",
             "|---|---|---|---|---|---|---|---|---|"]
    for name, row in sorted(detector.items()):
        modality, target = name.split("/")
        quality = " | ".join(number(row[key], ".2f") for key in ("ap50", "recall", "precision"))
        lines.append(f"| {modality} | {target} | {row['objects']} | {quality} | {row['views_absent']} | "
                     f"{number(row['false_positive_rate'], '.0%')} | {number(row['presence_auroc'], '.2f')} |")
    return "\n".join(lines)


def pair_rows(manifest: BundleManifest) -> str:
    """Markdown table of the pairs of a bundle, a line per modality."""
    lines = ["| modality | targets |", "|---|---|"]
    lines += [f"| {MODALITIES[m].name} (`{m}`) | {', '.join(f'`{t}`' for t in manifest.targets(m))} |"
              for m in manifest.modalities]
    return "\n".join(lines)


def comparison_text(tables: Path | None) -> str:
    """Tables of `benchmarks.comparison`, and what they compare."""
    if tables is None:
        return "Not measured for this bundle (`benchmarks/comparison.py`)."
    return f"{COMPARISON}\n\n{tables.read_text(encoding='utf-8').strip()}"


def limit_text(page: Path) -> str:
    """Text of the page of limits below its title: it has headings of the same level as the card."""
    lines = page.read_text(encoding="utf-8").strip().splitlines()
    return "\n".join(lines[1:] if lines[0].startswith("# ") else lines).strip()


def write_card(bundle: str, report: Path, limits: Path, out: Path, comparison: Path | None = None,
               detector: Path | None = None) -> None:
    """Put the card together."""
    manifest = read_manifest(bundle)
    facts = json.loads((report / "summary.json").read_text())
    size = sum(p.stat().st_size for p in manifest.folder.rglob("*") if p.is_file()) / 1e6
    text = TEXT.format(
        name=manifest.name, version=manifest.version, licence=manifest.licence, notice=manifest.notice, size=size,
        note=manifest.training.get("note", ""), n=facts["n_images"], modality=facts["modality_accuracy"],
        table=score_rows(facts["summary"]), presence=presence_text(facts.get("reliability", [])),
        boxes=box_rows(json.loads(detector.read_text(encoding="utf-8")) if detector else {}),
        bands=band_text(facts.get("bands", []), facts.get("coverage")), pairs=pair_rows(manifest), comparison=comparison_text(comparison),
        failures=WORST if (report / "failures.png").is_file() else "No picture may be shown.",
        coverage=f" --coverage {facts['coverage']:g}" if facts.get('coverage') else "",
        limits=limit_text(limits), data=DATA.strip())
    with atomic_path(out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    for picture in (PICTURE, FAILURES):
        if (made := report / Path(picture).name).is_file():
            with atomic_path(out.parent / picture) as temporary:
                shutil.copyfile(made, temporary)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="claps-tiny")
    parser.add_argument("--report", type=Path, required=True)
    parser.add_argument("--limits", type=Path, default=Path("docs/limits.md"), help="what is known to fail, as text")
    parser.add_argument("--comparison", type=Path, help="tables of benchmarks.comparison")
    parser.add_argument("--detector", type=Path, help="detector.json of train_detector")
    parser.add_argument("--out", type=Path, required=True)
    a = parser.parse_args()
    write_card(a.bundle, a.report, a.limits, a.out, a.comparison, a.detector)


if __name__ == "__main__":
    sys.exit(run_command(main))
