"""Training loops of RBMs: the toolkit's, learnergy's and scikit-learn's.

The convolutional RBM has 64 filters of 5x5 on 32x32x3, Gaussian visible and Bernoulli hidden units, and CD-1;
learnergy's GaussianConvRBM has the same sizes, but draws no samples. The dense RBM has 3072 visible and 1024 hidden
units and persistent chains, as scikit-learn's BernoulliRBM, which gets float32.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import pretrain
from pretrain import fit_stage
from pretrain.network.preprocessing import Standardize
from pretrain.training.stage_inputs import Inputs

BATCH = 100
IMAGES = 20_000

Run = Callable[[int], object]  # trains for so many steps


def our_convolutional(_: Path) -> Run:
    """Return the toolkit's training of a convolutional RBM."""
    return _ours(torch.randn(IMAGES, 3, 32, 32), filters=64, side=5, pool=2)


def our_dense(_: Path) -> Run:
    """Return the toolkit's training of a dense RBM, whose filters have one position."""
    options = {"visible": "bernoulli", "sampler": "pcd", "chains": BATCH}
    return _ours(torch.rand(IMAGES, 3, 32, 32), filters=1024, side=32, pool=1, **options)


def learnergy(_: Path) -> Run:
    """Return learnergy's training of a convolutional RBM."""
    from learnergy.models.gaussian import GaussianConvRBM

    rbm = GaussianConvRBM((32, 32), (5, 5), 64, 3, steps=1, learning_rate=1e-4, momentum=0.9)
    images = torch.randn(IMAGES, 3, 32, 32)

    def run(steps: int) -> None:
        some = images[: steps * BATCH]
        rbm.fit(torch.utils.data.TensorDataset(some, torch.zeros(len(some))), BATCH, epochs=1)

    return run


def scikit_learn(_: Path) -> Run:
    """Return scikit-learn's training of a dense RBM."""
    from sklearn.neural_network import BernoulliRBM

    rbm = BernoulliRBM(1024, learning_rate=1e-3, batch_size=BATCH, n_iter=1, random_state=0)
    images = torch.rand(IMAGES, 3072).numpy()
    return lambda steps: rbm.fit(images[: steps * BATCH])


def _ours(images: torch.Tensor, *, filters: int, side: int, pool: int, **options: object) -> Run:
    # The commands do so, too.
    pretrain.keep_freed_memory()
    fabric = pretrain.Device(accelerator="cpu").launch()
    layer = pretrain.Layer(3, filters, kernel_size=side, padding=0, activation="sigmoid", pool_kernel_size=pool)
    stage = pretrain.ConvRBM(layer, **options)  # type: ignore[arg-type]
    inputs = Inputs(images, nn.Sequential(Standardize.identity(3)), fabric, 0)

    def run(steps: int) -> None:
        settings = pretrain.Training(steps=steps, batch_size=BATCH, optimizer="sgd", learning_rate=1e-4, nesterov=False)
        fit_stage(stage, inputs, settings, seed=0, name="stage 1", fabric=fabric)

    return run
