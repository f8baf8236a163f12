"""Images: where they come from, which of them carry labels, and what is done to a batch of them."""

from pretrain.data.dataset import Dataset, Labelled
from pretrain.data.sources import load_cifar10, load_digits, load_folder, load_unlabelled

__all__ = ["Dataset", "Labelled", "load_cifar10", "load_digits", "load_folder", "load_unlabelled"]
