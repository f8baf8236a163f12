import csv
import importlib.util
import os
import signal
import stat
import sys
import time
from pathlib import Path

import pytest

from pretrain import UserError
from pretrain.comparison.slurm_jobs import submit_workers
from pretrain.reporting.html_report import write_report
from pretrain.runs.run_folder import RunFolder
from pretrain.runs.typed_settings import as_config

needs_submitit = pytest.mark.skipif(not importlib.util.find_spec("submitit"), reason="submitit is not installed")
TINY = ["stack=cae_small", "recipe.steps=6", "labels=[20,40]", "seeds=[0,1]"]


def comparison(configure, out, *more):
    return configure("compare", *TINY, f"out={out}", "slurm.workers=2", *more)


@pytest.fixture
def package_path(monkeypatch):
    """Let the jobs find the package, which need not be installed."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))


def wait_for(condition, seconds=240.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def children(pid):
    """Return the processes that a process has started, as Linux lists them."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@needs_submitit
@pytest.mark.integration
@pytest.mark.usefixtures("package_path")
def test_workers_share_a_comparison_and_the_last_one_writes_the_report(configure, tmp_path):
    out = tmp_path / "shared"
    jobs, advice = submit_workers(comparison(configure, out), write_report, cluster="local")
    assert [job.result() for job in jobs] == [[], []]
    rows = list(csv.DictReader((out / "results.csv").open()))
    assert len(rows) == 4 * 2 * 2  # arms, label budgets and seeds
    assert (out / "report.html").exists()
    logs = [file.read_text() for file in (out / "slurm").glob("*_log.err")]
    done = [
        line.split("] ")[1].split(":")[0].split(";")[0] for log in logs for line in log.splitlines() if "] " in line
    ]
    assert len(done) == len({*done}) == 16 + 2  # each run and each pretraining once
    assert f"python -m pretrain.report run={out}" in advice[-1]


@needs_submitit
@pytest.mark.integration
@pytest.mark.usefixtures("package_path")
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the children of a process are listed by Linux alone")
def test_a_worker_that_is_told_of_its_time_limit_is_submitted_again_and_goes_on(configure, tmp_path):
    out = tmp_path / "limited"
    more = ["slurm.workers=1", "stack.stages.stage1.training.steps=3000"]
    few = configure("compare", "stack=cae_small", "recipe.steps=6", "labels=[20]", "seeds=[0]", f"out={out}", *more)
    (job,), _ = submit_workers(few, write_report, cluster="local")
    run = out / "stages/seed-0"
    wait_for((run / "metrics.jsonl").exists)
    (worker,) = children(job._process.pid)
    os.kill(worker, signal.SIGUSR2)
    assert job.result() == []
    assert len(RunFolder(run).environments()) == 2
    assert (out / "report.html").exists()
    log = job.paths.stderr.read_text() + job.paths.stdout.read_text()
    assert "Requeued job" in log
    steps = [row["step"] for row in RunFolder(run).metrics() if row["phase"] == "stage 1" and "loss" in row]
    assert max(steps) == 3000


@needs_submitit
@pytest.mark.slow
@pytest.mark.usefixtures("package_path")
def test_the_time_limit_itself_submits_a_worker_again_so_often_as_is_allowed(configure, tmp_path):
    out = tmp_path / "limited"
    more = [
        "slurm.workers=1",
        "slurm.hours=0.02",
        "slurm.resubmissions=1",
        "stack.stages.stage1.training.steps=10000000",
    ]
    (job,), _ = submit_workers(configure("compare", *TINY, f"out={out}", *more), write_report, cluster="local")
    job.wait()
    run = RunFolder(out / "stages/seed-0")
    assert len(run.environments()) == 2
    assert (run.path / "checkpoint.safetensors").exists()
    steps = [row["step"] for row in run.metrics() if "loss" in row]
    assert steps == [*range(20, 20 * len(steps) + 1, 20)]  # the second sitting went on where the first had ended
    assert "timed-out too many times" in job.paths.stderr.read_text() + job.paths.stdout.read_text()


@needs_submitit
def test_what_sbatch_gets_is_what_the_settings_say(configure, tmp_path, monkeypatch):
    programs, out = tmp_path / "bin", tmp_path / "asked"
    programs.mkdir()
    for name, text in {"srun": "exit 0", "sbatch": f"cp $1 {tmp_path}/asked.sh; echo Submitted batch job 77"}.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    more = ["slurm.partition=long", "slurm.hours=1.5", "slurm.cpus=3", "slurm.gpus=1", "slurm.memory=8"]
    jobs, advice = submit_workers(comparison(configure, out, *more, "+slurm.options.qos=high"), write_report)
    asked = (tmp_path / "asked.sh").read_text().splitlines()
    wanted = ["partition=long", "time=90", "cpus-per-task=3", "gpus-per-node=1", "mem=8GB", "qos=high", "array=0-1%2"]
    assert {f"#SBATCH --{option}" for option in wanted} <= {*asked}
    assert any(line.startswith("#SBATCH --signal=USR2@") for line in asked)
    assert [job.job_id for job in jobs] == ["77_0", "77_1"]
    assert advice[0] == "2 workers submitted: job 77"


@needs_submitit
def test_without_slurm_a_line_says_so(configure, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"^slurm\.workers=2: .*srun"):
        submit_workers(comparison(configure, tmp_path / "run"), write_report)


def test_without_submitit_a_line_says_how_to_install_it(configure, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r"slurm\.workers=2 needs submitit: run pip install 'pretrain\[slurm\]'"):
        submit_workers(comparison(configure, tmp_path / "run"), write_report)
    assert not (tmp_path / "run").exists()


@needs_submitit
def test_a_folder_with_another_comparison_is_refused_before_anything_is_submitted(configure, tmp_path):
    there = configure("compare", *TINY[:1], "recipe.steps=7", "labels=[30]", f"out={tmp_path}/run")
    RunFolder.open(there.out, {**as_config(there), "data_digest": "of these images"}).close()
    with pytest.raises(UserError, match=r"other settings: recipe\.steps is 7 there and 6 here\. Give"):
        submit_workers(comparison(configure, tmp_path / "run"), write_report, cluster="local")
    assert not (tmp_path / "run/slurm").exists()
