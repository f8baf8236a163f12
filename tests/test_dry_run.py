"""Dry runs: what would be run, what is there, and that nothing is written."""

import json
import re

import pytest
from conftest import SMALL_RUN

from pretrain.pipelines import time_estimates

COMPARED = ["labels=[10]", "recipe.steps=3", "out=runs/c"]


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("command", ["stage", "finetune", "probe"])
def test_a_dry_run_writes_nothing(tmp_path, run_here, command):
    result = run_here(tmp_path, command, *SMALL_RUN, "out=runs/x", "dry_run=true")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("would run 1 run (1 missing)\n")
    assert result.stdout.endswith("dry run: nothing was run or written\n")
    assert [*tmp_path.iterdir()] == []


@pytest.mark.integration
def test_a_dry_run_of_a_comparison_counts_what_is_there(tmp_path, run_here):
    options, one = [*SMALL_RUN, *COMPARED], "seeds=[0]"
    before = run_here(tmp_path, "compare", *options, one, "dry_run=true")
    assert before.stdout.startswith("would run 5 runs (5 missing)\n")
    assert run_here(tmp_path, "compare", *options, one).returncode == 0
    there = files(tmp_path)
    after = run_here(tmp_path, "compare", *options, "dry_run=true", "seeds=[0,1]").stdout.splitlines()
    assert after[0] == "would run 10 runs (5 complete, 5 missing)"
    (scratch,) = (line for line in after if line.startswith("scratch: "))
    summary = json.loads((tmp_path / "runs/c/runs/scratch/labels-10/seed-0/summary.json").read_text())
    left = re.fullmatch(r"scratch: 2 runs \(1 complete, 1 missing\); 0:00:(\d\d) left, as those .*", scratch)[1]
    assert int(left) == round(summary["finetune_seconds"])
    assert files(tmp_path) == there
    (tmp_path / "runs/c/runs/scratch/labels-10/seed-0/summary.json").unlink()
    again = run_here(tmp_path, "compare", *options, one, "dry_run=true").stdout.splitlines()
    assert again[0] == "would run 5 runs (4 complete, 1 begun)"


def test_an_estimate_grows_with_the_steps(configure, fabric, monkeypatch):
    """By a clock that ticks once at each look."""
    ticks = iter(range(10**6))
    monkeypatch.setattr(time_estimates.time, "monotonic", lambda: float(next(ticks)))
    settings = configure("finetune", "out=x", "recipe.steps=40")
    given = settings.stack, settings.data.shape, settings.data.class_names()
    assert time_estimates.finetuning_seconds(*given, settings.recipe, fabric) == 40
