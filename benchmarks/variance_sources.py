"""Which draws should seeds vary? Repeat a comparison of five seeds on the digits, with one draw varied or with all.

Bouthillier et al. (2021) found that an estimate from the same number of runs is better the more sources of variation
the runs vary, since what is held moves all runs of a comparison alike, and no number of runs removes that. Here each
comparison of `SEEDS` seeds is repeated with other seeds, and so with other held draws. Its estimate is the mean paired
difference between pretrained and scratch. For each way to vary, the table shows

- the standard deviation of the estimate over the repetitions, with its standard error;
- the standard error that a comparison itself reports, from its own five differences (root mean square);
- how often its 95% interval covers the mean over all repetitions in which every draw varies.

    python benchmarks/variance_sources.py --folder runs/variance-sources     # about half an hour on one core

Bouthillier et al. (2021), Accounting for variance in machine learning benchmarks, MLSys.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from pretrain.comparison.paired_differences import estimate

SEEDS = 5
HELD = {
    "every draw": [],
    "all but the pretraining": ["pretraining"],
    "all but the labels": ["labels"],
    "the order of images alone": ["labels", "weights", "pretraining"],
}
SETTINGS = ["experiment=digits", "tuning=none", "~arms.pretrained-frozen", "~arms.random-frozen"]


def differences(folder: Path, held: list[str], labels: int, repetition: int) -> np.ndarray:
    """Return the paired differences of one comparison, (seeds,), which is run unless it is there."""
    seeds = list(range(SEEDS * repetition, SEEDS * (repetition + 1)))
    given = [f"labels=[{labels}]", f"seeds={seeds}", f"hold={held}", f"out={folder}"]
    if not (folder / "results.csv").exists():
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "pretrain.compare", *SETTINGS, *(each.replace(" ", "") for each in given)]
        subprocess.run(command, check=True, capture_output=True, env=environment)
    accuracy = pd.read_csv(folder / "results.csv").pivot(index="seed", columns="arm", values="test_accuracy")
    return (accuracy["pretrained"] - accuracy["scratch"]).to_numpy()


def main() -> None:
    """Run what is missing, and print a table with a row for each way to vary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--labels", type=int, default=50)
    a = parser.parse_args()
    found: dict[str, list[np.ndarray]] = {name: [] for name in HELD}
    for repetition in range(a.repetitions):
        for name, held in HELD.items():
            folder = a.folder / name.replace(" ", "-") / f"repetition-{repetition}"
            found[name].append(differences(folder, held, a.labels, repetition))
    truth = np.mean(found["every draw"])
    rows = {}
    for name, repetitions in found.items():
        means = np.array([x.mean() for x in repetitions])
        own = [x.var(ddof=1) / len(x) for x in repetitions]
        covered = [e.low <= truth <= e.high for e in map(estimate, repetitions)]
        spread = 100 * means.std(ddof=1)
        rows[name] = {
            "estimate (points)": f"{100 * means.mean():+.2f}",
            "its standard deviation": f"{spread:.2f} ({spread / np.sqrt(2 * (len(means) - 1)):.2f})",
            "standard error reported": f"{100 * np.sqrt(np.mean(own)):.2f}",
            "intervals that cover": f"{sum(covered)} of {len(covered)}",
        }
    print(f"{a.repetitions} comparisons of {SEEDS} seeds for each row, {a.labels} labels")
    print(pd.DataFrame(rows).T.to_string())


if __name__ == "__main__":
    main()
