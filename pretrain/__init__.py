"""Greedy layer-wise pretraining of ConvNets, and a fair comparison with training from scratch."""

import lazy_loader

__version__ = "0.1.0"

# The names are those of __init__.pyi. Each is imported when it is first used, so that a command can say no at once.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
