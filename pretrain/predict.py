"""Classify a folder of images: ``python -m pretrain.predict run=runs/ft images=DIR``.

The work is done in `pretrain.network.convnet`.
"""

import csv
import io
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pretrain.command_line.command import command
from pretrain.errors import UserError
from pretrain.runs.device import Device
from pretrain.runs.setting_types import FileName
from pretrain.runs.typed_settings import Settings, setting


@dataclass(frozen=True)
class PredictSettings(Settings):
    """Settings of the command.

    Attributes
    ----------
    run : str
        Folder of a finished run of pretrain.finetune.
    images : str
        Folder of images at any depth.
    out : str, optional
        CSV file to write; None for standard output.
    device : Device
        Device and precision to compute with.
    """

    run: FileName
    images: FileName
    out: FileName | None = None
    device: Device = setting(factory=Device)


def column_names(classes: Sequence[str]) -> list[str]:
    """Return the names of the columns: file, class, and the classes, which all begin with p_ if one has such a name."""
    columns = ("file", "class")
    return [*columns, *(f"p_{name}" if {*columns} & {*classes} else name for name in classes)]


def _check_out(out: str | None) -> None:
    """Refuse a table that could not be written, before there is one."""
    if out is None:
        if sys.__stdout__ is None:
            raise UserError("standard output is closed: give out=FILE.")
        return
    file = Path(out)
    if file.is_dir():
        raise UserError(f"out={out} is a folder: give a file, such as out={file / 'predictions.csv'}.")
    if not file.parent.is_dir():
        raise UserError(f"out={out}: there is no folder {file.parent}: make it, or give another file.")
    if not os.access(file.parent, os.W_OK):
        raise UserError(f"out={out}: the folder {file.parent} cannot be written: give another file.")


@command(PredictSettings)
def main(settings: PredictSettings) -> None:
    """Write a CSV table of files, classes, and the probability of each class."""
    if not Path(settings.run, "network.safetensors").exists():
        # The folder of a comparison contains the folders of its runs.
        runs = sorted(Path(settings.run).glob("runs/*/*/*/network.safetensors"))
        advice = f"; give one of its runs, such as run={runs[0].parent}" if runs else ""
        raise UserError(f"run={settings.run} holds no trained network (no network.safetensors){advice}.")
    _check_out(settings.out)
    from pretrain.data.unlabelled_pools import load_unlabelled
    from pretrain.network.convnet import ConvNet
    from pretrain.runs.atomic_files import write_text
    from pretrain.runs.run_folder import RunFolder

    fabric = settings.device.launch()
    network = ConvNet.load(RunFolder(Path(settings.run)).checked("network.safetensors")).to(fabric.device)
    channels, size, _ = network.image_shape
    decoded = load_unlabelled(settings.images, size, channels, cache=None)
    probabilities = network.predict_proba(decoded.images)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(column_names(network.classes))
    for path, row in zip(decoded.paths, probabilities.tolist(), strict=True):
        best = network.classes[row.index(max(row))]
        writer.writerow([path, best, *(f"{p:.4f}" for p in row)])
    if settings.out:
        write_text(Path(settings.out), table.getvalue())
        print(f"{len(decoded.images)} images classified: {settings.out}")
    else:
        # File names may be in an old encoding.
        sys.stdout.buffer.write(table.getvalue().encode(errors="surrogateescape"))
        sys.stdout.buffer.flush()
    for skip in decoded.skipped:
        print(f"skipped {skip.path}: {skip.reason}", file=sys.stderr)


if __name__ == "__main__":
    main()
