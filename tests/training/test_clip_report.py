"""What the report on a CLIP model counts, on answers that are known, and on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from napari_claps.types import Modality
from tests.training_data import write_clip, write_data
from training.data.captions import Labels, parse_labels
from training.data.labelled import LabelledImage
from training.data.patients import patient_of
from training.report import clip_report
from training.report.clip_report import linear_probe, recall_at


def test_patients_are_told_by_the_file_name() -> None:
    assert patient_of("dme_dr_mx", "0001_OD_f_1") == patient_of("mexico_dme_oct", "0001_OI_o_4")
    assert patient_of("kermany", "CNV-103044-19") == patient_of("kermany", "DME-103044-2") != patient_of("hrf", "01_dr")
    assert patient_of("idrid", "IDRiD_19") != patient_of("idrid", "IDRiD_20")


def test_recall_and_chance() -> None:
    similarity = torch.tensor([[0.9, 0.5, 0.1, 0.0], [0.1, 0.2, 0.3, 0.4], [0.3, 0.2, 0.1, 0.0]])
    relation = torch.tensor([[-1, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0]])
    first = recall_at(similarity, relation, 1)
    assert first == {"queries": 2, "recall": 0.5, "chance": pytest.approx((1 / 3 + 1 / 4) / 2)}
    assert recall_at(similarity, relation, 5) == {"queries": 2, "recall": 1.0, "chance": 1.0}
    assert recall_at(similarity, torch.zeros(3, 4), 1) == {"queries": 0}


def labelled(sick: bool, patient: str, held_out: bool) -> LabelledImage:
    labels = parse_labels("cfp", "dr=NPDR" if sick else "dr=0")
    return LabelledImage(Path("x"), "made", "", labels, patient, held_out)


def test_the_probe_never_learns_from_a_patient_that_it_is_tested_on() -> None:
    rng = np.random.default_rng(0)
    images = [labelled(bool(i % 2), f"p{i}", held_out=i < 8) for i in range(60)]
    inputs = torch.from_numpy(rng.normal(size=(60, 5))).float()
    inputs[:, 2] += torch.tensor([3.0 * (i % 2) for i in range(60)])
    result = linear_probe(inputs, images, "dr", Modality.CFP, 0)
    assert result["auroc"] > 0.9 and result["n_fit"] == 52 and result["n_test"] == 8 and result["n_test_sick"] == 4
    assert result["low"] <= result["auroc"] <= result["high"]
    fellow_eyes = [*images, *(labelled(not i % 2, f"p{i}", held_out=False) for i in range(8))]
    again = linear_probe(torch.cat([inputs, torch.full((8, 5), 1e3)]), fellow_eyes, "dr", Modality.CFP, 0)
    assert again == result
    assert linear_probe(inputs, images, "dme", Modality.CFP, 0) is None, "no label, no answer"
    assert linear_probe(inputs, images, "dr", Modality.OCT, 0) is None


def test_modalities_are_counted_alike() -> None:
    class Clip:
        def encode_text(self, texts: list[str]) -> torch.Tensor:
            return torch.eye(2)[[0 if "OCT B-scan" in t else 1 for t in texts]]

    images = [LabelledImage(Path("x"), "made", "", Labels(m, frozenset(), frozenset()), "p", True)
              for m in (Modality.OCT, Modality.OCT, Modality.OCT, Modality.CFP)]
    shown = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    facts = clip_report.zero_shot_modality(Clip(), shown, images)
    assert facts["n"] == 4 and facts["accuracy"] >= 0.5 and facts["mean_over_modalities"] <= 1


def test_command(tmp_path, monkeypatch, capsys) -> None:
    root = write_data(tmp_path / "data", count=14)
    rows = ["dataset,modality,image,labels"]
    for i in range(24):
        path = root / "pretraining" / "idrid_grading" / f"x{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (40, 50, 3)).astype(np.uint8)).save(path)
        rows.append(f"idrid_grading,cfp,{path.relative_to(root)},dr_grade={i % 2 * 3} dme_risk=0")
    (root / "pretraining.csv").write_text("\n".join(rows) + "\n")
    monkeypatch.setenv("CLAPS_DATA", str(root))
    arguments = ["--checkpoint", write_clip(tmp_path / "clip"), "--side", 64, "--out", tmp_path / "clip.json"]
    assert clip_report.main([str(a) for a in arguments]) == 0
    facts = json.loads((tmp_path / "clip.json").read_text())
    assert facts["side"] == 64 and 0 <= facts["modality"]["accuracy"] <= 1 and facts["modality"]["n"] >= 1
    assert facts["linear_probe"]["oct/dr"] is None and facts["retrieval"]["image_to_text@5"]["queries"] >= 1
    assert clip_report.main(["--checkpoint", str(tmp_path / "no.pt"), "--out", str(tmp_path / "x.json")]) == 1
    assert "no.pt: cannot be read as a checkpoint" in capsys.readouterr().err
