"""Handwritten digits that scikit-learn bundles."""

from collections.abc import Sequence

import torch

from pretrain.data.dataset import Dataset, Labelled, gather
from pretrain.data.image_folder import CACHE, Folder, load_unlabelled
from pretrain.data.leakage_check import Named
from pretrain.data.splits import stratified_order


def load_digits(
    validation: int | float = 297,
    unlabelled: Sequence[Folder] = (),
    cache: Folder | None = CACHE,
    shared: str = "leave_out",
) -> Dataset:
    """Load the handwritten digits that scikit-learn bundles: 1,797 images of 1x8x8, 500 of them for testing.

    Parameters
    ----------
    validation : int or float
        Training images set aside for validation: a number, or a share below 1.
    unlabelled, cache, shared
        Those of `load_folder`.

    References
    ----------
    Alpaydin and Kaynak (1998), Optical recognition of handwritten digits, UCI machine learning repository.
    """
    from sklearn.datasets import load_digits as bundled

    arrays = bundled()
    images = torch.from_numpy(arrays.images).div(16).mul(255).round().to(torch.uint8)[:, None]
    labels = torch.from_numpy(arrays.target).long()
    order = stratified_order(labels, 0, "digits")
    everything = Labelled(images, labels)
    train, test = everything.subset(order[500:]), everything.subset(order[:500])
    pools = load_unlabelled(unlabelled, 8, 1, cache) if unlabelled else None
    names = [f"digit {k}" for k in order.tolist()]
    judged = Named(test.images, names[:500])
    classes = [str(k) for k in range(10)]
    return gather(classes, train, names[500:], lambda: test, lambda: judged, validation, pools, shared)
