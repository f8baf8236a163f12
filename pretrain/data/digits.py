"""The handwritten digits that scikit-learn bundles."""

import torch

from pretrain.data.dataset import Dataset, Labelled, gather
from pretrain.data.dataset_settings import DigitsData
from pretrain.data.lazy_images import as_lazy
from pretrain.data.leakage_check import Named
from pretrain.data.splits import stratified_order
from pretrain.data.unlabelled_pools import load_pools


def read_digits(source: DigitsData) -> Dataset:
    """Return the digits, split as `source` says; no download is needed."""
    from sklearn.datasets import load_digits as bundled

    arrays = bundled()
    images = torch.from_numpy(arrays.images).div(16).mul(255).round().to(torch.uint8)[:, None]
    labels = torch.from_numpy(arrays.target).long()
    order = stratified_order(labels, 0, "digits")
    everything = Named(as_lazy(images), [f"digit {k}" for k in range(len(images))])
    train, test = everything.subset(order[500:]), everything.subset(order[:500])
    pools, skipped = load_pools(source)

    def open_test() -> Labelled:
        return Labelled(test.images, labels[order[:500]])

    return gather(source, source.class_names(), train, labels[order[500:]], open_test, lambda: test, pools, skipped)
