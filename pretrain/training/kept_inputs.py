"""Inputs of a stage in a file, for which there is too little memory."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from pretrain.data.row_files import RowFile

# NumPy has no bfloat16.
SAME_SIZE = {torch.float32: torch.int32, torch.bfloat16: torch.int16}
MEASURED = 64  # inputs that are computed, written and read to compare the costs


class InputFile:
    """Inputs of a stage, (N, C, H, W), in a file without a name, which is gone with this object or with the process.

    Parameters
    ----------
    folder : Path, optional
        Where the file is made; by default where the system has its temporary files.
    shape : sequence of int
        The shape (N, C, H, W).
    dtype : torch.dtype
        Type of the inputs.

    Raises
    ------
    OSError
        When there is no room.
    """

    def __init__(self, folder: Path | None, shape: Sequence[int], dtype: torch.dtype):
        count, channels, height, width = shape
        self.dtype = dtype
        kind = str(SAME_SIZE[dtype]).removeprefix("torch.")
        self.rows = RowFile.temporary(folder, (height, width, channels), kind, count)

    def __setitem__(self, positions: slice, x: Tensor) -> None:
        """Write inputs, (n, C, H, W), in place of those from the start of a slice on."""
        rows = x.detach().cpu().permute(0, 2, 3, 1).contiguous()
        self.rows.write(int(positions.start), rows.view(SAME_SIZE[self.dtype]).numpy())

    def __getitem__(self, positions: Tensor) -> Tensor:
        """Return the inputs at positions, (n,): (n, C, H, W), channels last, on the CPU."""
        return torch.from_numpy(self.rows.read(positions.numpy())).view(self.dtype).permute(0, 3, 1, 2)

    def will_need(self, positions: Tensor) -> None:
        """Ask the system to read the inputs at positions, (n,), ahead."""
        self.rows.will_need(positions.numpy())


def keeping_is_cheaper(compute: Callable[[Tensor], Tensor], file: InputFile, draws: int) -> bool:
    """Return whether `draws` inputs cost less if all are computed and written once and then read.

    A few inputs are computed, written and read for it. Either way, a stage gets the same inputs.
    """
    some = torch.arange(min(MEASURED, len(file.rows)))
    x = compute(some)  # The first call of a process takes longer.
    computing = _seconds(lambda: compute(some))
    writing = _seconds(lambda: file.__setitem__(slice(0, len(some)), x))
    reading = _seconds(lambda: file[some.flip(0)])
    return (computing + writing) * len(file.rows) + reading * draws < computing * draws


def _seconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started
