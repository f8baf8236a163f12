"""Greedy layer-wise pretraining of ConvNets, and a fair comparison with training from scratch."""

import signal
import sys

# A command is loading. Until it answers Ctrl-C in a line, Ctrl-C ends it without a traceback.
if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import lazy_loader

__version__ = "0.1.0"

# __init__.pyi lists the names. Each is imported at its first use, so that a command reports mistakes without delay.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
