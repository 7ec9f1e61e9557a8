"""A whole OCT volume: time against that of the bare networks, and peak memory for few and many slices.

``python benchmarks/volume.py`` segments 61 x 496 x 768 voxels for four targets, from pixels to the folder of results.
After each slice the calls of the networks are repeated alone with the same inputs, so that both times come from one
run under the same conditions. Then 32 and 512 slices are segmented in processes of their own, whose peak memory is
compared; their input takes no memory, because all its slices are one. ``--file`` takes a real volume instead of a
synthetic one.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from napari_claps.settings import Settings
from napari_claps.types import Modality, RetinalImage, SpacingSource

TARGETS = ("drusen", "intraretinal_fluid", "shrm", "retina")
SHAPE = (61, 496, 768)
SPACING = (0.12, 0.00387, 0.0115)
FEW, MANY = 32, 512
MOST_SECONDS = 90.0
MOST_OF_NETWORKS = 1.25
MOST_GROWTH = 1.15


def synthetic_volume(n_slices: int, *, distinct: int = 1) -> RetinalImage:
    """A volume of `distinct` synthetic B-scans, repeated; with one it takes the memory of one slice."""
    from napari_claps.synthetic import synthetic_bscan

    rng = np.random.default_rng(7)
    planes = np.stack([synthetic_bscan(rng, shape=SHAPE[1:], findings=TARGETS[:3])[0] for _ in range(distinct)])
    data = np.broadcast_to(planes, (n_slices, *SHAPE[1:])) if distinct == 1 else planes[np.arange(n_slices) % distinct]
    return RetinalImage(data, modality=Modality.OCT, spacing=SPACING, spacing_source=SpacingSource.USER,
                        source="synthetic volume")


@dataclass
class BareNetworks:
    """Notes the calls of the networks of a bundle, and repeats them alone."""

    bundle: Any
    seconds: dict[str, float] = field(default_factory=dict)
    _calls: list[tuple[str, Callable, tuple, dict]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name, owner, method in (("encoder", self.bundle.clip, "encode_image"),
                                    ("detector", self.bundle.detector, "forward"),
                                    ("pixel decoder", self.bundle.segmenter, "decode_pixels"),
                                    ("mask decoder", self.bundle.segmenter, "predict_masks")):
            setattr(owner, method, self._noted(name, getattr(owner, method)))
            self.seconds[name] = 0.0

    def repeat(self) -> None:
        """Repeat the calls since the last time, and add their times."""
        import torch

        calls, self._calls = self._calls, []
        with torch.inference_mode():
            for name, work, args, options in calls:
                getattr(args[0], "memo", {}).clear()  # what the first call left there would be no work
                self._wait()
                start = time.perf_counter()
                work(*args, **options)
                self._wait()
                self.seconds[name] += time.perf_counter() - start

    def _noted(self, name: str, work: Callable) -> Callable:
        def call(*args: Any, **options: Any) -> Any:
            self._calls.append((name, work, args, options))
            return work(*args, **options)

        return call

    def _wait(self) -> None:
        if str(self.bundle.device).startswith("cuda"):
            import torch

            torch.cuda.synchronize()


def segment(image: RetinalImage, pipeline: Any, after_slice: Callable[[], None] = lambda: None) -> dict[str, float]:
    """Segment, link and write a volume as ``claps segment`` does; return the seconds of each part."""
    from napari_claps.files.atomic import atomic_path
    from napari_claps.results import ResultFiles
    from napari_claps.volumes.numbering import link_slices

    clock = time.perf_counter
    begin = clock()
    seconds = {"pipeline": 0.0, "linking": 0.0, "numbers and files": 0.0}
    manifest = pipeline.bundle.manifest
    guess = pipeline.detect_modality(image)
    targets = [t for t in TARGETS if manifest.pair(guess.modality, t)]
    aside = 0.0

    def timed():
        nonlocal aside
        start = clock()
        with closing(pipeline.run(image, targets, modality=guess)) as results:
            for result in results:
                done = clock()
                seconds["pipeline"] += done - start
                after_slice()
                aside += clock() - done
                yield result
                start = clock()

    slices = list(range(image.n_slices))
    files = ResultFiles(image, pipeline.prompts(targets, guess.modality), guess, slices, model=manifest.name,
                        version=manifest.version)
    with link_slices(timed(), image.spacing) as linked, tempfile.TemporaryDirectory() as folder:
        start = clock()
        for result in linked:
            files.add(result)
        with atomic_path(Path(folder) / "result") as partial:
            files.write(partial, {})
        seconds["numbers and files"] = clock() - start
    seconds["linking"] = clock() - begin - aside - seconds["pipeline"] - seconds["numbers and files"]
    return seconds


def time_of_volume(options: argparse.Namespace) -> bool:
    """Print the time of a volume and of its networks; return whether both limits hold."""
    import torch

    from napari_claps.inference.pipeline import Pipeline
    from napari_claps.io import read

    torch.set_num_threads(options.threads or torch.get_num_threads())
    pipeline = Pipeline.from_settings(Settings(bundle=options.bundle, device=options.device, modality="oct"))
    image = read(options.file) if options.file else synthetic_volume(options.slices, distinct=3)
    warm = RetinalImage(image.data[:1], modality=Modality.OCT)
    segment(warm, pipeline)
    bare = BareNetworks(pipeline.bundle)
    seconds = segment(image, pipeline, bare.repeat)
    whole, networks = sum(seconds.values()), sum(bare.seconds.values())
    print(f"{pipeline.bundle.manifest.name}, {pipeline.bundle.device}, {torch.get_num_threads()} threads, "
          f"torch {torch.__version__}")
    print(f"{Path(image.source).name}: {' x '.join(map(str, image.data.shape))}\n")
    for title, parts, total in (("whole", seconds, whole), ("bare networks", bare.seconds, networks)):
        print(f"{title:24}{total:9.1f} s {total / image.n_slices:9.3f} s per slice")
        for name, value in parts.items():
            print(f"  {name:22}{value:9.1f} s")
    per_volume = whole * SHAPE[0] / image.n_slices
    print(f"\n{SHAPE[0]} slices: {per_volume:.0f} s (limit {MOST_SECONDS:.0f} s), {whole / networks:.2f} times the "
          f"bare networks (limit {MOST_OF_NETWORKS})")
    return per_volume < MOST_SECONDS and whole < MOST_OF_NETWORKS * networks


def memory_of_volume(options: argparse.Namespace) -> bool:
    """Print the peak memory for few and many slices; return whether it hardly grows."""
    peaks = {}
    # Settings that let glibc keep what was freed (as for training) would be measured instead of the program.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    for n_slices in (FEW, MANY):
        command = [sys.executable, __file__, "--child", str(n_slices), "--bundle", options.bundle,
                   "--device", options.device, "--threads", str(options.threads)]
        peaks[n_slices] = float(subprocess.run(command, check=True, capture_output=True, text=True,
                                               env=environment).stdout.split()[-1])
        print(f"{n_slices:4} x {SHAPE[1]} x {SHAPE[2]}: peak memory {peaks[n_slices]:7.0f} MiB")
    growth = peaks[MANY] / peaks[FEW]
    print(f"{growth:.3f} times as much (limit {MOST_GROWTH})")
    return growth < MOST_GROWTH


def peak_of_child(options: argparse.Namespace) -> None:
    """Segment `options.child` slices and print the peak memory of this process in MiB."""
    import resource

    import torch

    from napari_claps.inference.pipeline import Pipeline

    torch.set_num_threads(options.threads or torch.get_num_threads())
    pipeline = Pipeline.from_settings(Settings(bundle=options.bundle, device=options.device, modality="oct"))
    segment(synthetic_volume(options.child), pipeline)
    unit = 2**20 if sys.platform == "darwin" else 2**10
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default=Settings().bundle)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0, help="(default: as many as torch takes)")
    parser.add_argument("--file", type=Path, help="a real volume")
    parser.add_argument("--slices", type=int, default=SHAPE[0], help="of the synthetic volume (default: %(default)s)")
    parser.add_argument("--only", choices=("time", "memory"))
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        peak_of_child(options)
        return 0
    good = options.only == "memory" or time_of_volume(options)
    if options.only != "time":
        good = memory_of_volume(options) and good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
