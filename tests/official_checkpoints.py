"""Checkpoints in the official formats with random values: made by the official classes, as small as these allow."""

from __future__ import annotations

import json
from argparse import Namespace
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from napari_claps.models.networks.detector_import import GroundingDINO, Joiner, PositionEmbeddingSineHW, SwinTransformer
from napari_claps.models.networks.detector_text import ready_text_encoder
from tests.tiny_bundle import write_text_folder

CLIP_CONFIG = {
    "model_cfg": {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
        "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    },
    "preprocess_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3]},
}


def write_sam(path: Path, *, image_size: int = 64, dim: int = 32) -> Path:
    """A SAM with two blocks, one of them global; same names as the published ones."""
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    torch.manual_seed(1)
    grid = image_size // 16
    sam = Sam(
        ImageEncoderViT(img_size=image_size, patch_size=16, embed_dim=16, depth=2, num_heads=2, mlp_ratio=4,
                        out_chans=dim, norm_layer=partial(nn.LayerNorm, eps=1e-6), use_rel_pos=True, window_size=3,
                        global_attn_indexes=(1,)),
        PromptEncoder(embed_dim=dim, image_embedding_size=(grid, grid), input_image_size=(image_size, image_size),
                      mask_in_chans=16),
        MaskDecoder(num_multimask_outputs=3, transformer_dim=dim, iou_head_depth=3, iou_head_hidden_dim=dim,
                    transformer=TwoWayTransformer(depth=2, embedding_dim=dim, mlp_dim=32, num_heads=8)))
    for name, tensor in sam.named_parameters():
        if "pos" in name:  # zero at birth
            nn.init.normal_(tensor, std=0.5)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(sam.state_dict(), path)
    return path


def official_dino(text_folder: Path, *, queries: int = 12) -> GroundingDINO:
    """GroundingDINO with a Swin of four single blocks and one layer of everything."""
    from groundingdino.models.GroundingDINO.transformer import build_transformer
    from transformers import AutoTokenizer, BertConfig, BertModel

    torch.manual_seed(2)
    swin = SwinTransformer(pretrain_img_size=32, embed_dim=8, depths=[1, 1, 2, 1], num_heads=[1, 2, 2, 4],
                           window_size=4, out_indices=(1, 2, 3))
    backbone = Joiner(swin, PositionEmbeddingSineHW(128, temperatureH=20, temperatureW=20, normalize=True))
    backbone.num_channels = swin.num_features[1:]
    transformer = build_transformer(Namespace(
        hidden_dim=256, dropout=0.0, nheads=8, num_queries=queries, dim_feedforward=32, enc_layers=1, dec_layers=2,
        pre_norm=False, query_dim=4, transformer_activation="relu", num_patterns=0, num_feature_levels=4,
        enc_n_points=4, dec_n_points=4, two_stage_type="standard", embed_init_tgt=True, use_text_enhancer=True,
        use_fusion_layer=True, use_checkpoint=True, use_transformer_ckpt=True, use_text_cross_attention=True,
        text_dropout=0.0, fusion_dropout=0.0, fusion_droppath=0.1))
    tokenizer = AutoTokenizer.from_pretrained(text_folder, local_files_only=True)
    bert = BertModel(BertConfig.from_pretrained(text_folder, local_files_only=True))
    with ready_text_encoder(tokenizer, bert):
        model = GroundingDINO(backbone, transformer, num_queries=queries, aux_loss=True, iter_update=True, query_dim=4,
                              num_feature_levels=4, nheads=8, two_stage_type="standard",
                              two_stage_bbox_embed_share=False, two_stage_class_embed_share=False).eval()
    with torch.no_grad():  # random ones would give scores of 0 and 1 only, and boxes of one size
        model.transformer.decoder.norm.weight.mul_(0.02)
        model.bbox_embed[0].layers[-1].weight.normal_(std=5)
    return model


def write_dino(path: Path, text_folder: Path) -> Path:
    """As published: under ``model``, with the prefix of a parallel training."""
    state = {f"module.{k}": v for k, v in official_dino(text_folder).state_dict().items()}
    torch.save({"model": state}, path)
    return path


def write_clip_folder(folder: Path, config: dict | None = None) -> Path:
    """An open_clip model in its local-dir format."""
    import open_clip

    torch.manual_seed(3)
    config = config or CLIP_CONFIG
    cfg = {k: v for k, v in config["model_cfg"].items() if k != "custom_text"}
    kind = open_clip.CustomTextCLIP if "hf_model_name" in cfg["text_cfg"] else open_clip.CLIP
    folder.mkdir(parents=True, exist_ok=True)
    save_file(kind(**cfg).state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


def write_official(folder: Path) -> dict[str, Path]:
    """All three and the BERT folder, by part."""
    text = folder / "bert"
    write_text_folder(text)
    return {"segmenter": write_sam(folder / "sam.pth"), "detector": write_dino(folder / "dino.pth", text),
            "text": text, "clip": write_clip_folder(folder / "clip")}
