"""Checkpoints of a training run, and going on from the last one."""

import time

from pretrain.runs.interruption import asked_to_stop
from pretrain.runs.run_folder import RunFolder
from pretrain.training.trainer import Callback, Trainer


class Checkpointing(Callback):
    """Save the state of the trainer now and then, and resume from what an interrupted run saved.

    On resumption, the rows of metrics.jsonl that were logged after the checkpoint are dropped: the run logs them again.

    Parameters
    ----------
    folder : RunFolder
        Holds the checkpoints and metrics.jsonl.
    every : float
        Seconds from one checkpoint to the next, at least.
    """

    def __init__(self, folder: RunFolder, every: float = 30.0):
        self.folder, self.every = folder, every
        self.saved_at = time.monotonic()

    def on_start(self, trainer: Trainer) -> None:
        """Load the checkpoint, where there is one of this phase."""
        if checkpoint := self.folder.load("checkpoint", trainer.name):
            trainer.load_state_dict(checkpoint)
        self.folder.rewind()
        self.saved_at = time.monotonic()

    def before_step(self, trainer: Trainer) -> None:
        """Save a checkpoint, once enough time has passed since the last one or a signal asks the process to end."""
        # Before a step, everything about the previous one has been evaluated and logged.
        if asked_to_stop() or time.monotonic() - self.saved_at > self.every:
            self.folder.save("checkpoint", trainer.state_dict())
            self.saved_at = time.monotonic()
