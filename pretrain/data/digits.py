"""The handwritten digits that scikit-learn bundles."""

import torch

from pretrain.data.dataset import Dataset, Labelled, gather
from pretrain.data.dataset_settings import DigitsData
from pretrain.data.image_folder import load_unlabelled
from pretrain.data.leakage_check import Named
from pretrain.data.splits import stratified_order


def read_digits(source: DigitsData) -> Dataset:
    """Return the digits, split as `source` says; no download is needed."""
    from sklearn.datasets import load_digits as bundled

    arrays = bundled()
    images = torch.from_numpy(arrays.images).div(16).mul(255).round().to(torch.uint8)[:, None]
    labels = torch.from_numpy(arrays.target).long()
    order = stratified_order(labels, 0, "digits")
    everything = Labelled(images, labels)
    train, test = everything.subset(order[500:]), everything.subset(order[:500])
    pools = load_unlabelled(source.unlabelled, 8, 1, source.cache) if source.unlabelled else None
    names = [f"digit {k}" for k in order.tolist()]
    judged = Named(test.images, names[:500])
    return gather(source, source.class_names(), train, names[500:], lambda: test, lambda: judged, pools)
