"""The detector on a tiny random BERT and random features."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_convert
from transformers import BertConfig, BertModel, BertTokenizerFast

from napari_claps.errors import BundleError
from napari_claps.models.networks.detector import DetectorConfig, RetinalDetector
from napari_claps.models.networks.detector_import import GroundingDINO
from napari_claps.models.networks.detector_transformer import PRIOR, anchors, cell_centres

CHANNELS = (8, 12, 16)
CONFIG = DetectorConfig(channels=CHANNELS, queries=20, decoder_layers=2, feedforward=64)
WORDS = ("drusen", "in", "an", "oct", "scan", "optic", "disc", "fluid", "bright", "dark", "cyst")
TEXTS = ("drusen in an oct scan", "optic disc in an oct scan", "fluid in an oct scan")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> BertTokenizerFast:
    path = tmp_path_factory.mktemp("text") / "vocab.txt"
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *WORDS]), encoding="utf-8")
    return BertTokenizerFast(vocab_file=str(path))


@pytest.fixture(scope="module")
def bert(tokenizer: BertTokenizerFast) -> BertModel:
    torch.manual_seed(1)
    config = BertConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
                        intermediate_size=32)
    return BertModel(config, add_pooling_layer=False)


@pytest.fixture
def detector(bert: BertModel, tokenizer: BertTokenizerFast) -> RetinalDetector:
    torch.manual_seed(2)
    return RetinalDetector(CONFIG, bert, tokenizer).eval()


def features(height: int, width: int, batch: int = 1, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, c, height // s, width // s, generator=generator)
            for c, s in zip(CHANNELS, (8, 16, 32), strict=True)]


def test_is_the_real_class_and_builds_offline_and_silently(bert, tokenizer, capsys):
    detector = RetinalDetector(CONFIG, bert, tokenizer)
    assert isinstance(detector, GroundingDINO)
    assert capsys.readouterr().out == ""
    assert detector.bert.embeddings is bert.embeddings


def test_text_encoder_functions_of_the_library_are_put_back(bert, tokenizer):
    from groundingdino.util import get_tokenlizer

    before = get_tokenlizer.get_tokenlizer, get_tokenlizer.get_pretrained_language_model
    RetinalDetector(CONFIG, bert, tokenizer)
    with pytest.raises(ZeroDivisionError):
        RetinalDetector(CONFIG, bert, _Unusable(tokenizer))
    assert (get_tokenlizer.get_tokenlizer, get_tokenlizer.get_pretrained_language_model) == before


class _Unusable:
    def __init__(self, tokenizer: BertTokenizerFast) -> None:
        self.unk_token_id = tokenizer.unk_token_id

    def convert_tokens_to_ids(self, tokens: object) -> int:
        return 1 // 0


def test_forward_warns_of_nothing(detector):
    text = detector.encode_text(TEXTS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"groundingdino\.")
        detector(features(64, 64), text)


def test_import_leaves_the_environment_of_qt_alone_and_needs_no_drawing_library():
    code = ("import os, sys, napari_claps.models.networks.detector as d; "
            "print([os.environ.get(n) for n in ('QT_QPA_PLATFORM_PLUGIN_PATH', 'QT_QPA_FONTDIR')], "
            "'cv2' in sys.modules, 'groundingdino.util.visualizer' in sys.modules)")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("QT_")} | {"QT_QPA_FONTDIR": "mine"}
    result = subprocess.run([sys.executable, "-W", "error::UserWarning:torch", "-c", code], env=environment,
                            capture_output=True, text=True)
    assert result.stdout.strip() == "[None, 'mine'] False False", result.stderr
    assert "timm.models" not in result.stderr


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (96, 256), (256, 96)])
def test_shapes_for_views_of_any_form(detector, size):
    text = detector.encode_text(TEXTS)
    output = detector(features(*size, batch=2), text)
    cells = sum((size[0] // s) * (size[1] // s) for s in (8, 16, 32))
    queries = min(CONFIG.queries, cells)  # the smallest view has 21 cells
    assert output.logits.shape == (2, queries, 3)
    assert output.boxes.shape == (2, queries, 4)
    assert output.cell_logits.shape == (2, cells, 3)
    assert len(output.aux) == CONFIG.decoder_layers - 1
    assert (output.boxes > 0).all() and (output.boxes < 1).all()


def test_a_view_with_fewer_cells_than_queries(bert, tokenizer):
    detector = RetinalDetector(DetectorConfig(channels=CHANNELS, queries=100, feedforward=64), bert, tokenizer).eval()
    assert detector(features(32, 64), detector.encode_text(TEXTS)).logits.shape[1] == 32 + 8 + 2


def test_scores_start_at_the_prior(detector):
    scores = detector(features(64, 64, batch=4), detector.encode_text(TEXTS)).cell_logits.sigmoid()
    assert 0.1 * PRIOR < scores.median() < 10 * PRIOR


def test_views_of_a_batch_do_not_see_each_other(detector):
    text = detector.encode_text(TEXTS)
    maps = features(64, 96, batch=3)
    together = detector(maps, text)
    alone = detector([f[1:2] for f in maps], text)
    torch.testing.assert_close(together.logits[1:2], alone.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(together.boxes[1:2], alone.boxes, atol=1e-4, rtol=1e-4)


def test_texts_do_not_see_each_other_in_the_text_encoder(detector):
    both, alone = detector.encode_text(TEXTS), detector.encode_text(TEXTS[1:2])
    torch.testing.assert_close(both.tokens[both.members[1]], alone.tokens[alone.members[0]], atol=1e-5, rtol=1e-5)


def test_a_hidden_text_is_as_if_it_were_not_there(detector):
    maps = features(64, 96)
    mask = torch.tensor([[True, False, True]])
    hidden = detector(maps, detector.encode_text(TEXTS), mask)
    without = detector(maps, detector.encode_text([TEXTS[0], TEXTS[2]]))
    torch.testing.assert_close(hidden.logits[..., [0, 2]], without.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(hidden.boxes, without.boxes, atol=1e-4, rtol=1e-4)


def test_many_texts_and_unknown_words_and_marks(detector):
    texts = [f"zzz no. {i}? [SEP] bright cyst" for i in range(60)]
    text = detector.encode_text(texts)
    assert text.members.shape[0] == 60 and len(text.tokens) > 256
    assert text.members.any(1).all() and (text.members.sum(0) <= 1).all()
    assert detector(features(32, 32), text).logits.shape[-1] == 60


def test_texts_without_words_are_refused(detector):
    for texts in ([], ["drusen", " . "]):
        with pytest.raises(ValueError, match="without words"):
            detector.encode_text(texts)


def test_a_tokenizer_without_full_stop_is_refused(bert, tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]), encoding="utf-8")
    with pytest.raises(BundleError, match="full stop"):
        RetinalDetector(CONFIG, bert, BertTokenizerFast(vocab_file=str(path)))


def test_wrong_channels_are_refused(detector):
    with pytest.raises(ValueError, match=r"\[8, 12, 16\]"):
        detector(features(64, 64)[::-1], detector.encode_text(TEXTS))


def test_detections_lie_in_the_view_and_are_sorted(detector):
    text = detector.encode_text(TEXTS)
    found = detector.detect(features(96, 256, batch=2), text, view_size=(96, 256), threshold=0.0, overlap=0.5)
    for one in found:
        assert one.boxes.shape == (len(one.scores), 4)
        assert (one.boxes[:, 2:] >= one.boxes[:, :2]).all()
        assert one.boxes.min() >= 0 and one.boxes[:, 2].max() <= 256 and one.boxes[:, 3].max() <= 96
        assert (one.scores.diff() <= 0).all()
        for index in range(len(TEXTS)):
            best = one.scores[one.text == index].max()
            torch.testing.assert_close(best, one.presence[index])


def test_threshold_per_text(detector):
    text = detector.encode_text(TEXTS)
    found = detector.detect(features(64, 64), text, view_size=(64, 64), threshold=[0.0, 1.0, 0.0])[0]
    assert set(found.text.tolist()) == {0, 2}
    none = detector.detect(features(64, 64), text, view_size=(64, 64), threshold=1.0)[0]
    assert none.boxes.shape == (0, 4) and none.presence.shape == (3,)


def test_weights_round_trip_without_the_text_encoder(detector, bert, tokenizer, tmp_path):
    from safetensors.torch import load_file, save_file

    state = detector.head_state_dict()
    assert not any(name.startswith("bert.") for name in state)
    save_file(state, tmp_path / "detector.safetensors")  # refuses shared tensors
    torch.manual_seed(9)
    other = RetinalDetector(CONFIG, bert, tokenizer).eval()
    other.load_head_state_dict(load_file(tmp_path / "detector.safetensors"))
    text = detector.encode_text(TEXTS)
    torch.testing.assert_close(other(features(64, 64), text).logits, detector(features(64, 64), text).logits)


def test_weights_of_another_architecture_are_refused(detector, bert, tokenizer):
    state = detector.head_state_dict()
    deeper = RetinalDetector(DetectorConfig(channels=CHANNELS, queries=20, decoder_layers=3, feedforward=64), bert,
                             tokenizer)
    with pytest.raises(BundleError, match="another detector"):
        deeper.load_head_state_dict(state)
    wider = RetinalDetector(DetectorConfig(channels=CHANNELS, queries=20, feedforward=128), bert, tokenizer)
    with pytest.raises(BundleError, match="another detector"):
        wider.load_head_state_dict(state)


def test_every_head_weight_learns_and_the_text_encoder_does_not(detector):
    detector.train()
    assert not detector.bert.training
    text = detector.encode_text(TEXTS)
    output = detector(features(64, 64), text, None, torch.arange(4)[None])
    parts = [output.logits, output.boxes, output.cell_logits, output.cell_boxes]
    parts += [t for layer in output.aux for t in (layer.logits, layer.boxes)]
    sum(part.square().sum() for part in parts).backward()
    assert [n for n, p in detector.named_parameters() if p.grad is None and not n.startswith("bert.")] == []
    assert all(p.grad is None for p in detector.bert.parameters())


def test_config_takes_what_toml_gives():
    assert DetectorConfig(channels=[8, 12, 16]).channels == (8, 12, 16)
    with pytest.raises(ValueError, match="at least 2"):
        DetectorConfig(channels=(8,))
    with pytest.raises(ValueError, match="encoder layer"):
        DetectorConfig(encoder_layers=0)


def test_parts_can_be_left_out(bert, tokenizer):
    config = DetectorConfig(channels=CHANNELS, queries=5, decoder_layers=1, feedforward=64, fusion=False,
                            text_enhancer=False)
    detector = RetinalDetector(config, bert, tokenizer).eval()
    output = detector(features(64, 64), detector.encode_text(TEXTS))
    assert output.logits.shape == (1, 5, 3) and output.aux == ()


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9))
def test_anchors_are_square_in_pixels(height, width):
    shapes = [(4 * height, 4 * width), (2 * height, 2 * width), (height, width)]
    boxes = anchors(shapes, torch.zeros(1))
    centres = cell_centres(shapes, torch.zeros(1))
    assert boxes.shape == (21 * height * width, 4) and (centres > 0).all() and (centres < 1).all()
    pixels = boxes[: 16 * height * width, 2:] * torch.tensor([32.0 * width, 32.0 * height])
    torch.testing.assert_close(pixels, torch.full_like(pixels, 16.0))
    # Row-major: the second cell lies to the right of the first.
    if width > 1:
        assert centres[1, 0] > centres[0, 0] and centres[1, 1] == centres[0, 1]


@given(st.lists(st.floats(0.01, 0.99), min_size=4, max_size=4))
def test_box_forms_round_trip(values):
    box = torch.tensor(values)
    back = box_convert(box_convert(box, "cxcywh", "xyxy"), "xyxy", "cxcywh")
    torch.testing.assert_close(back, box, atol=1e-5, rtol=1e-4)
