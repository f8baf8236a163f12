"""Classify a folder of images: ``python -m pretrain.predict run=runs/ft images=DIR``."""

import csv
import io
import sys
from pathlib import Path

from pretrain.command_line.command import command
from pretrain.data.image_folder import load_unlabelled
from pretrain.errors import UserError
from pretrain.network.convnet import ConvNet
from pretrain.runs.atomic_files import write_text
from pretrain.runs.device import device_settings
from pretrain.runs.settings import Config


@command("predict")
def main(config: Config) -> None:
    """Write a CSV: file, class, and the probability of each class."""
    file = Path(config["run"], "network.pt")
    if not file.exists():
        runs = sorted(Path(config["run"]).glob("runs/*/*/*/network.pt"))  # of a comparison
        advice = f"; give one of its runs, such as run={runs[0].parent}" if runs else ""
        raise UserError(f"run={config['run']} holds no trained network (no network.pt){advice}.")
    fabric = device_settings(config["device"]).launch()
    network = ConvNet.load(file).to(fabric.device)
    channels, size, _ = network.image_shape
    decoded = load_unlabelled(config["images"], size, channels, cache=None)
    probabilities = network.predict_proba(decoded.images)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["file", "class", *network.classes])
    for path, row in zip(decoded.paths, probabilities.tolist(), strict=True):
        best = network.classes[row.index(max(row))]
        writer.writerow([path, best, *(f"{p:.4f}" for p in row)])
    if config["out"]:
        write_text(Path(config["out"]), table.getvalue())
        print(f"{len(decoded.images)} images classified: {config['out']}")
    else:
        sys.stdout.buffer.write(table.getvalue().encode(errors="surrogateescape"))  # names may be in an old encoding
    for skip in decoded.skipped:
        print(f"skipped {skip.path}: {skip.reason}", file=sys.stderr)


if __name__ == "__main__":
    main()
