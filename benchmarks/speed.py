"""Time per slice of the whole pipeline, of its image encoder alone, and of SAM ViT-B's encoder for scale.

``python benchmarks/speed.py`` prints all of them in one run, with the same dtype, device and number of threads.
SAM has random weights: the time does not depend on them, and its real ones cannot be shipped.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from napari_claps.inference.pipeline import Pipeline
from napari_claps.settings import Settings
from napari_claps.synthetic import synthetic_bscan
from napari_claps.types import Modality, ModalityGuess, RetinalImage, SliceResult

TARGETS = ("drusen", "intraretinal_fluid", "shrm")
SIDE = 512
"""Height and width of the B-scan."""
SAM_SIDE = 1024
"""SAM's own input size."""
LIMIT = 1 / 5
"""The whole pipeline shall cost less than this share of SAM ViT-B's encoder."""


def bscan() -> RetinalImage:
    """One synthetic B-scan of an eye that has all three targets."""
    data, _ = synthetic_bscan(np.random.default_rng(7), shape=(SIDE, SIDE), findings=TARGETS)
    return RetinalImage(data, source="synthetic B-scan")


def segment(pipeline: Pipeline, image: RetinalImage) -> SliceResult:
    """Detect the modality, which costs what it costs, and segment as OCT whatever came out."""
    pipeline.detect_modality(image)
    return next(pipeline.run(image, TARGETS, modality=ModalityGuess(Modality.OCT, None, "user")))


def median_seconds(work: Callable[[], object], *, repeats: int, device: str) -> float:
    """Median time of `work` after one call to warm up."""
    times = []
    for _ in range(repeats + 1):
        _wait(device)
        start = time.perf_counter()
        work()
        _wait(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def sam_encoder(device: str) -> Callable[[], object]:
    """One pass of the image encoder of SAM ViT-B at 1024 x 1024."""
    from segment_anything import sam_model_registry

    encoder = sam_model_registry["vit_b"](checkpoint=None).image_encoder.eval().to(device)
    image = torch.rand(1, 3, SAM_SIDE, SAM_SIDE, device=device)
    return lambda: encoder(image)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default=Settings().bundle)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="(default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="median of so many (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pipeline = Pipeline.from_settings(Settings(bundle=options.bundle, device=options.device))
    device = str(pipeline.bundle.device)
    clip = pipeline.bundle.clip
    dtype = next(clip.parameters()).dtype
    if dtype is not torch.float32:
        parser.error(f"the bundle computes in {dtype}, SAM in float32: no fair comparison")
    image = bscan()
    view = torch.rand(1, 3, SIDE, SIDE, device=device)
    with torch.inference_mode():
        sam = median_seconds(sam_encoder(device), repeats=max(1, options.repeats // 2), device=device)
        encoder = median_seconds(lambda: clip.encode_image(view), repeats=options.repeats, device=device)
    whole = median_seconds(lambda: segment(pipeline, image), repeats=options.repeats, device=device)
    found = {t: int(np.count_nonzero(m)) for t, m in segment(pipeline, image).masks.items()}
    print(f"{pipeline.bundle.manifest.name}, {device}, {options.threads} threads, {dtype}, torch {torch.__version__}")
    print(f"B-scan {SIDE} x {SIDE}, pixels found: {', '.join(f'{t} {n}' for t, n in found.items())}\n")
    print(f"{'':52}{'seconds':>9}{'of SAM':>9}")
    for name, seconds in (
        (f"whole pipeline, {len(TARGETS)} targets, modality detected", whole),
        ("its image encoder alone", encoder),
        (f"SAM ViT-B image encoder at {SAM_SIDE} x {SAM_SIDE}", sam),
    ):
        print(f"{name:52}{seconds:9.3f}{seconds / sam:9.3f}")
    good = whole < LIMIT * sam
    print(f"\nThe pipeline costs 1/{sam / whole:.1f} of SAM ViT-B's encoder: {'' if good else 'NOT '}less than 1/5.")
    return 0 if good else 1


def _wait(device: str) -> None:
    """Let a GPU finish what it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    elif device.startswith("mps"):
        torch.mps.synchronize()


if __name__ == "__main__":
    sys.exit(main())
