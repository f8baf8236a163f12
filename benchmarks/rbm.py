"""Measure the training speed of RBMs, beside those of learnergy and scikit-learn.

The convolutional RBM has 64 filters of 5x5 on 32x32x3, Gaussian visible and Bernoulli hidden units, and CD-1;
learnergy's GaussianConvRBM has the same sizes. The dense RBM has 3072 visible and 1024 hidden units and persistent
chains, as scikit-learn's BernoulliRBM, which gets float32. Batches have 100 images. Each training loop runs in its own
process, by turns, and the ratios are those of the medians.

    pip install learnergy
    python benchmarks/rbm.py
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch

BATCH_SIZE = 100
BATCHES_PER_RUN = 200


def ours(images: torch.Tensor, *, filters: int, side: int, pool: int, **options: object) -> Callable[[], object]:
    """Return a training run of our RBM."""
    from torch import nn

    import pretrain
    from pretrain.network.preprocessing import Standardize
    from pretrain.runs.device import keep_freed_memory
    from pretrain.training.greedy_pretraining import fit_stage
    from pretrain.training.stage_inputs import Inputs

    # The commands do so, too.
    keep_freed_memory()
    fabric = pretrain.Device(accelerator="cpu").launch()
    layer = pretrain.Layer(3, filters, kernel_size=side, padding=0, activation="sigmoid", pool_kernel_size=pool)
    stage = pretrain.ConvRBM(layer, **options)  # type: ignore[arg-type]
    inputs = Inputs(images, nn.Sequential(Standardize.identity(3)), fabric, 0)
    settings = pretrain.Training(
        steps=len(images) // BATCH_SIZE, batch_size=BATCH_SIZE, optimizer="sgd", learning_rate=1e-4, nesterov=False
    )
    return lambda: fit_stage(stage, inputs, settings, seed=0, name="stage 1", fabric=fabric)


def ours_convolutional() -> Callable[[], object]:
    """Return a training run of a convolutional RBM with Gaussian visible units."""
    return ours(torch.randn(BATCH_SIZE * BATCHES_PER_RUN, 3, 32, 32), filters=64, side=5, pool=2)


def ours_dense() -> Callable[[], object]:
    """Return a training run of a dense RBM, whose filters have one position."""
    options = {"visible": "bernoulli", "sampler": "pcd", "chains": BATCH_SIZE}
    return ours(torch.rand(BATCH_SIZE * BATCHES_PER_RUN, 3, 32, 32), filters=1024, side=32, pool=1, **options)


def learnergy() -> Callable[[], object]:
    """Return a training run of learnergy's RBM."""
    from learnergy.models.gaussian import GaussianConvRBM

    rbm = GaussianConvRBM((32, 32), (5, 5), 64, 3, steps=1, learning_rate=1e-4, momentum=0.9)
    images = torch.randn(BATCH_SIZE * BATCHES_PER_RUN, 3, 32, 32)
    data = torch.utils.data.TensorDataset(images, torch.zeros(len(images)))
    return lambda: rbm.fit(data, BATCH_SIZE, epochs=1)


def scikit_learn() -> Callable[[], object]:
    """Return a training run of scikit-learn's RBM."""
    from sklearn.neural_network import BernoulliRBM

    rbm = BernoulliRBM(1024, learning_rate=1e-3, batch_size=BATCH_SIZE, n_iter=1, random_state=0)
    images = torch.rand(BATCH_SIZE * BATCHES_PER_RUN, 3072).numpy()
    return lambda: rbm.fit(images)


CONTENDERS = {f.__name__: f for f in (ours_convolutional, learnergy, ours_dense, scikit_learn)}


def measure(name: str) -> float:
    """Return the images per second of a contender's second run, after one to warm up."""
    run = CONTENDERS[name]()
    run()
    started = time.perf_counter()
    run()
    return BATCH_SIZE * BATCHES_PER_RUN / (time.perf_counter() - started)


def main() -> None:
    """Measure one contender, or all of them by turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", choices=CONTENDERS, help="measure this one, in this process")
    arguments = parser.parse_args()
    if arguments.one:
        print(measure(arguments.one))
        return
    rates: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for _ in range(arguments.rounds):
        for name in CONTENDERS:
            command = [sys.executable, __file__, "--one", name]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            if result.returncode:
                sys.exit(f"{name} failed: {result.stderr.strip().splitlines()[-1]}")
            rates[name].append(float(result.stdout.split()[-1]))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for name, values in rates.items():
        print(f"{name:20}{medians[name]:10,.0f} images/s   ({min(values):,.0f} to {max(values):,.0f})")
    for mine, other in (("ours_convolutional", "learnergy"), ("ours_dense", "scikit_learn")):
        print(f"{mine} / {other}: {medians[mine] / medians[other]:.2f}")


if __name__ == "__main__":
    main()
