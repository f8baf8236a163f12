"""Measure what a pool of unlabelled images costs: memory, time to the first step, and time of an image in training.

Images are generated into a folder, unless they are there. A process of its own loads them and trains the first stage of
a stack, at first without a cache of decoded images and then with it. Its peak of memory is the one that the kernel
counts. Compare two sizes to see what grows with the pool:

    python benchmarks/pool_size.py --folder /tmp/small --images 50000
    python benchmarks/pool_size.py --folder /tmp/large --images 1000000
    python benchmarks/pool_size.py --folder /tmp/wide --images 100000 --side 96
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from PIL import Image

FILES_PER_FOLDER = 1000


def generate(folder: Path, images: int, side: int) -> None:
    """Write random scenes as JPEG files: smooth shapes, with edges and noise."""
    parts = range(0, images, FILES_PER_FOLDER)
    Parallel(-1)(delayed(_generate_some)(folder, first, min(images - first, FILES_PER_FOLDER), side) for first in parts)


def _generate_some(folder: Path, first: int, count: int, side: int) -> None:
    inside = folder / f"{first // FILES_PER_FOLDER:04}"
    if inside.exists():
        return
    scratch = inside.with_suffix(".part")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    random = np.random.default_rng([first, side])
    for k in range(count):
        coarse = random.integers(0, 256, (2, 6, 6, 3), dtype=np.uint8)
        sky, ground = (Image.fromarray(each).resize((side, side), Image.Resampling.BICUBIC) for each in coarse)
        slope, height = random.normal(size=2)
        y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
        scene = np.where((y > slope * x + 0.5 * height)[..., None], np.asarray(ground), np.asarray(sky))
        scene = scene + random.normal(0, 6, (side, side, 3))
        Image.fromarray(scene.clip(0, 255).astype(np.uint8)).save(scratch / f"{k:03}.jpg", quality=85)
    scratch.rename(inside)


def train(folder: Path, cache: Path, side: int, steps: int) -> dict[str, Any]:
    """Load the images and train a stage; return the figures of this process."""
    started = time.perf_counter()
    import torch

    imported = time.perf_counter() - started
    import pretrain

    # The commands do so, too.
    pretrain.keep_freed_memory()

    class Clock(pretrain.Callback):
        """Notes the ends of the first step and of the last."""

        first = last = 0.0

        def after_step(self, trainer: Any, metrics: Any) -> None:
            self.last = time.perf_counter()
            self.first = self.first or self.last

    images = pretrain.load_folder(unlabelled=[folder], image_size=side, cache=cache).unlabelled
    loaded = time.perf_counter() - started
    torch.manual_seed(0)
    stack = pretrain.Stack([pretrain.ConvAutoencoder(pretrain.Layer(3, 64))], images)
    clock, training = Clock(), pretrain.Training(steps=steps, batch_size=64)
    pretrain.fit_stages(stack, images, training, callbacks=[clock])
    return {
        "images": len(images),
        "seconds to import torch": round(imported, 1),
        "seconds to load": round(loaded - imported, 1),
        "seconds to the first step, without torch": round(clock.first - started - imported, 1),
        "images a second": round((steps - 1) * training.batch_size / (clock.last - clock.first), 1),
        "peak MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 2**10,
    }


def main() -> None:
    """Generate the images, and print the figures of two processes, without and with a cache."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="folder for the images and for their cache")
    parser.add_argument("--images", type=int, default=50_000, help="number of images")
    parser.add_argument("--side", type=int, default=32, help="their side in pixels")
    parser.add_argument("--steps", type=int, default=100, help="updates that are timed")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    images, cache = options.folder / "images", options.folder / "cache"
    if options.child:
        print(json.dumps(train(images, cache, options.side, options.steps)))
        return
    generate(images, options.images, options.side)
    shutil.rmtree(cache, ignore_errors=True)
    for kind in ("first run", "from the cache"):
        done = subprocess.run([sys.executable, *sys.argv, "--child"], stdout=subprocess.PIPE, text=True, check=True)
        print(f"{kind}, {os.cpu_count()} processors: {done.stdout.strip().splitlines()[-1]}", flush=True)


if __name__ == "__main__":
    main()
