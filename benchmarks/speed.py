"""Measure the speed of this toolkit beside that of its peers, and write the tables of docs/speed.md.

Each contender has a process of its own, which stays. They take turns, round by round (A B A B), and a figure is the
median of the rounds. Of loops with a DataLoader, the better of 0 and 2 workers counts. FLOPs are those of the
convolutions and matrix products that are executed. The rate of the machine is the best of three products of bfloat16
matrices, which take their turns as well.

    pip install pytorch-lightning learnergy
    python benchmarks/speed.py --root DIR                    # DIR/train/<class>/*, DIR/test/<class>/*
    python benchmarks/speed.py --root DIR --docs docs/speed.md
"""

import argparse
import importlib.metadata
import multiprocessing
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import image_training
import rbm_training
import torch
from torch.utils.flop_counter import FlopCounterMode

from pretrain.runs.environment import environment

OURS = "pretrain"
REST = 0.5  # seconds between turns, in which workers of the last contender come to rest
WORKERS = (0, 2)
# Steps of a round. Ours has so many that its round takes as long as that of the others, and that its twenty health
# checks of a training weigh little, as they do in a training of thousands of steps.
STEPS, OUR_STEPS = 40, 200
MATRIX_SIDES = (1024, 2048, 4096)
PACKAGES = ("torch", "torchvision", "pytorch-lightning", "learnergy", "scikit-learn", "numpy")

Contender = Callable[[Path], Callable[[int], object]]


@dataclass(frozen=True)
class Subject:
    """What is compared: the contenders by name, ours first, and the size of a round.

    Attributes
    ----------
    contenders : dict of str to list of callable
        Of each name the best counts.
    batch : int
        Images of a step.
    """

    contenders: dict[str, list[Contender]]
    batch: int


def with_workers(contender: Callable[..., Callable[[int], object]], **options: object) -> list[Contender]:
    """Return a contender with each number of workers."""
    return [partial(contender, workers=workers, **options) for workers in WORKERS]


def subjects() -> dict[str, Subject]:
    """Return all that is compared, by name."""
    finetuning, stage, batches = (
        image_training.plain_finetuning,
        image_training.plain_stage,
        image_training.plain_batches,
    )
    found = {
        "fine-tuning": Subject(
            {
                OURS: [image_training.our_finetuning],
                "plain loop": with_workers(finetuning),
                "Lightning": with_workers(finetuning, lightning=True),
                "plain loop, tuned": with_workers(finetuning, tuned=True),
            },
            image_training.FINETUNING_BATCH,
        )
    }
    for k in range(len(image_training.LAYER_SIZES)):
        contenders: dict[str, list[Contender]] = {
            OURS: [partial(image_training.our_stage, position=k)],
            "plain loop": with_workers(stage, position=k),
            "Lightning": with_workers(stage, position=k, lightning=True),
        }
        found[f"stage {k + 1}"] = Subject(contenders, image_training.STAGE_BATCH)
    return found | {
        "input pipeline": Subject(
            {OURS: [image_training.our_batches], "ImageFolder and DataLoader": with_workers(batches)},
            image_training.FINETUNING_BATCH,
        ),
        "convolutional RBM": Subject(
            {OURS: [rbm_training.our_convolutional], "learnergy": [rbm_training.learnergy]}, rbm_training.BATCH
        ),
        "dense RBM": Subject(
            {OURS: [rbm_training.our_dense], "scikit-learn": [rbm_training.scikit_learn]}, rbm_training.BATCH
        ),
    }


def matrix_product(_: Path, side: int) -> Callable[[int], object]:
    """Return products of bfloat16 matrices, one for each step."""
    a, b = (torch.randn(side, side).bfloat16() for _ in range(2))

    def run(steps: int) -> None:
        for _ in range(steps):
            a @ b

    return run


def serve(connection: Connection, contender: Contender, root: Path, steps: int) -> None:
    """Warm up, send the FLOPs of a step, and then answer each request with the seconds of a round."""
    run = contender(root)
    run(steps)
    connection.send(_counted(run, 3) - _counted(run, 2))
    while connection.recv():
        started = time.perf_counter()
        run(steps)
        connection.send(time.perf_counter() - started)


def _counted(run: Callable[[int], object], steps: int) -> int:
    with FlopCounterMode(display=False) as counter:
        run(steps)
    return counter.get_total_flops()


@contextmanager
def started(contender: Contender, root: Path, steps: int) -> Iterator[tuple[Connection, int]]:
    """Run a contender in a process of its own; yield the connection to it, and the FLOPs of a step."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs, contender, root, steps))
    process.start()
    theirs.close()
    try:
        yield ours, ours.recv()
        ours.send(False)
    except EOFError:
        sys.exit(f"{contender} has failed: see above.")
    finally:
        process.join(10)
        process.kill()


def rates(contenders: list[tuple[Contender, int]], root: Path, rounds: int) -> list[tuple[list[float], int]]:
    """Return the steps per second of each contender in each round of so many steps, and the FLOPs of its step."""
    with ExitStack() as stack:
        processes = [stack.enter_context(started(each, root, steps)) for each, steps in contenders]
        found: list[list[float]] = [[] for _ in contenders]
        for _ in range(rounds):
            for rate, (connection, _), (_, steps) in zip(found, processes, contenders, strict=True):
                time.sleep(REST)
                connection.send(True)
                rate.append(steps / connection.recv())
        return [(rate, flops) for rate, (_, flops) in zip(found, processes, strict=True)]


def measured(name: str, subject: Subject, root: Path, rounds: int, peak: float) -> str:
    """Return the rows of a subject's table: images per second, ratio, and share of the machine's matrix rate."""
    each = [(label, one) for label, several in subject.contenders.items() for one in several]
    found = rates([(one, OUR_STEPS if label == OURS else STEPS) for label, one in each], root, rounds)
    best: dict[str, tuple[float, list[float], int]] = {}
    for (label, _), (rate, flops) in zip(each, found, strict=True):
        best[label] = max(best.get(label, (0.0, [], 0)), (statistics.median(rate), rate, flops))
    ours = best[OURS][0]
    lines = []
    for label, (median, rate, flops) in best.items():
        images = [subject.batch * value for value in (median, min(rate), max(rate))]
        share = f"{median * flops / peak:.0%}" if flops else ""
        ratio = "" if label == OURS else f"{ours / median:.1f}"
        lines.append(
            f"| {name} | {label} | {images[0]:,.0f} | {images[1]:,.0f} to {images[2]:,.0f} | {ratio} | {share} |"
        )
        name = ""
    return "\n".join(lines)


def matrix_rate(root: Path, rounds: int) -> float:
    """Return the FLOPs per second of the best of several products of bfloat16 matrices."""
    steps = [max(1, 2 * (4096 // side) ** 3) for side in MATRIX_SIDES]
    best = 0.0
    for side, count in zip(MATRIX_SIDES, steps, strict=True):
        ((rate, _),) = rates([(partial(matrix_product, side=side), count)], root, rounds)
        best = max(best, statistics.median(rate) * 2 * side**3)
    return best


def hardware(peak: float, rounds: int) -> str:
    """Return what was measured on, in a sentence or two."""
    here = environment()
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in PACKAGES)
    amx = "with" if "amx_bf16" in here["instructions"] else "without"
    return (
        f"Medians of {rounds} rounds, with their range, on {here['processor']} {amx} AMX, {here['threads']} threads. "
        f"Its matrix rate is {peak / 1e9:,.0f} GFLOP/s in bfloat16. {versions}."
    )


def main() -> None:
    """Measure all subjects, or those that are named, and print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder with train/<class>/* and test/<class>/*")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, after a warm-up")
    parser.add_argument("--only", nargs="*", choices=[*subjects()], help="subjects to measure")
    parser.add_argument("--docs", type=Path, help="page whose table to replace")
    options = parser.parse_args()

    peak = matrix_rate(options.root, options.rounds)
    table = (
        "| | | images a second | range | pretrain is faster by | of the matrix rate |\n|---|---|---:|---:|---:|---:|"
    )
    here = hardware(peak, options.rounds)
    print(f"{here}\n\n{table}", flush=True)
    for name, subject in subjects().items():
        if not options.only or name in options.only:
            rows = measured(name, subject, options.root, options.rounds, peak)
            print(rows, flush=True)
            table += "\n" + rows
    if options.docs:
        page = options.docs.read_text()
        text = f"<!-- speed -->\n{here}\n\n{table}\n<!-- end -->"
        options.docs.write_text(re.sub(r"<!-- speed -->.*?<!-- end -->", lambda _: text, page, flags=re.S))


if __name__ == "__main__":
    main()
