"""Two processes that share each batch learn what one does. Run as a script by torchrun, this file is one of the two."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import pretrain
from pretrain import Layer, Recipe, Stack, Training, finetune_network, fit_stages
from pretrain.runs.batch_parts import BatchPart, drawn, empty_like_part
from pretrain.runs.seeding import generator, seeded
from pretrain.training.trainer import Callback

LATTICE = {"activation": "sigmoid", "pooling": "probabilistic"}
# One of each kind of stage, and one for each option that looks at the whole batch or draws.
KINDS = {
    "autoencoder": lambda: pretrain.ConvAutoencoder(Layer(1, 6)),
    "gaussian noise": lambda: pretrain.ConvAutoencoder(Layer(1, 6), corruption="gaussian"),
    "masking": lambda: pretrain.ConvAutoencoder(Layer(1, 6), corruption="masking"),
    "salt and pepper": lambda: pretrain.ConvAutoencoder(Layer(1, 6), corruption="salt_and_pepper"),
    "kl": lambda: pretrain.ConvAutoencoder(Layer(1, 6, activation="sigmoid"), sparsity="kl"),
    "winners": lambda: pretrain.ConvAutoencoder(Layer(1, 6), sparsity="lifetime_winner_take_all", sparsity_target=0.3),
    "rbm": lambda: pretrain.ConvRBM(Layer(1, 6, **LATTICE)),
    "learned variance": lambda: pretrain.ConvRBM(Layer(1, 6, **LATTICE), variance="learned", sample_last=True),
    "rectified": lambda: pretrain.ConvRBM(Layer(1, 6), gibbs_steps=2),
    "hinton": lambda: pretrain.ConvRBM(Layer(1, 6, **LATTICE), sparsity="hinton"),
    "centered": lambda: pretrain.ConvRBM(Layer(1, 6, **LATTICE), centered=True),
    "pcd": lambda: pretrain.ConvRBM(Layer(1, 6, activation="sigmoid"), sampler="pcd", chains=8),
    "tempering": lambda: pretrain.ConvRBM(Layer(1, 6, **LATTICE), sampler="pt", chains=8, temperatures=3),
    "k-means": lambda: pretrain.KMeans(Layer(1, 6)),
    "soft Hebbian": lambda: pretrain.SoftHebb(Layer(1, 6, activation="triangle")),
    "info_nce": lambda: pretrain.Contrastive(Layer(1, 6)),
    "vicreg": lambda: pretrain.Contrastive(Layer(1, 6), loss="vicreg", loss_per="position"),
}
RECIPES = {
    "plain": Recipe(steps=8, batch_size=32),
    "augmented": Recipe(steps=8, batch_size=32, crop=2, flip=True, mixup=0.3, evaluate_every=4, early_stopping=True),
}


class Keep(Callback):
    """Keeps the metrics of each step."""

    def __init__(self):
        self.rows = []

    def after_step(self, trainer, metrics):
        self.rows.append(torch.tensor([value for name, value in metrics.items() if name != "active"]))


def learn(devices):
    """Return the weights and the metrics of everything that can be trained."""
    fabric = pretrain.Device(accelerator="cpu", precision="32-true", threads=1, devices=devices).launch()
    digits, learned = pretrain.load_digits(), {}
    # Adam would take a step of full size also where the gradient is zero but for rounding.
    training = Training(steps=8, batch_size=32, optimizer="sgd", learning_rate=0.02)
    for name, build in KINDS.items():
        with seeded(0, "test"):
            stack, keep = Stack([build()], digits.unlabelled), Keep()
        fit_stages(stack, digits.unlabelled, training, fabric=fabric, callbacks=[keep])
        learned[name] = {**stack.state_dict(), "metrics": torch.stack(keep.rows)}
    for name, recipe in RECIPES.items():
        with seeded(0, "test"):
            stack, keep = Stack([KINDS["autoencoder"]()], digits.unlabelled), Keep()
        network = pretrain.assemble(stack, digits.classes, seed=0)
        finetune_network(network, digits, labels=200, recipe=recipe, fabric=fabric, callbacks=[keep])
        learned[name] = {**network.state_dict(), "metrics": torch.stack(keep.rows)}
    return learned, fabric.global_rank


def torchrun(*arguments, **options):
    """Return the command of torchrun with two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **options)


@pytest.fixture(scope="module")
def one_and_two(tmp_path_factory):
    """Return what one process learns and what two learn."""
    file = tmp_path_factory.mktemp("two") / "learned.pt"
    both = torchrun(__file__, str(file), env={**os.environ, "PYTHONPATH": str(Path(pretrain.__file__).parents[1])})
    assert both.returncode == 0, both.stderr[-2000:]
    return learn(1)[0], torch.load(file)


@pytest.mark.integration
@pytest.mark.parametrize("name", [*KINDS, *RECIPES])
def test_two_processes_learn_what_one_does(one_and_two, name):
    one, two = (learned[name] for learned in one_and_two)
    assert one.keys() == two.keys()
    for key, expected in one.items():
        if expected.numel():
            scale = float(expected.abs().max())
            torch.testing.assert_close(two[key], expected, rtol=0, atol=1e-3 * scale + 1e-7, msg=key)


def test_parts_of_a_draw_make_the_draw_of_the_whole_batch():
    x = torch.empty(6, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    for like in (x, x[:, :, ::2, ::2], torch.empty(6)):

        def draw(generator, like=like):
            return drawn(lambda shape: empty_like_part(like, shape).normal_(generator=generator), like.shape, generator)

        parts = [draw(BatchPart(rank, 2).generator(0, "x")) for rank in (0, 1)]
        whole = torch.empty_like(torch.cat([like, like])).normal_(generator=generator(0, "x"))
        assert torch.equal(torch.cat(parts), whole)
        assert all(part.stride() == torch.empty_like(like).stride() for part in parts)


STAGE = ["-m", "pretrain.stage", "stack=cae_small", "device.accelerator=cpu", "device.threads=1"]


@pytest.mark.integration
def test_torchrun_with_another_number_of_processes_is_told_in_one_line(tmp_path):
    both = torchrun(*STAGE, f"out={tmp_path}/run")
    assert both.returncode != 0
    line = "error: device.devices=1, but torchrun has started 2 processes: give 2.\n"
    assert both.stderr.count(line) == both.stderr.count("error:") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.integration
def test_a_dry_run_by_two_processes_is_told_once(tmp_path):
    command = [sys.executable, *STAGE, "device.devices=2", "dry_run=true", f"out={tmp_path}/run"]
    both = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert both.stdout.count("nothing was run or written") == 1


def children(pid):
    """Return the processes that a process has started, as Linux lists them."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.integration
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the children of a process are listed by Linux alone")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("whom", ["first", "other"])
def test_a_signal_to_one_process_ends_both_and_saves(tmp_path, number, whom):
    options = ["device.devices=2", "stack.stages.stage1.training.steps=100000", f"out={tmp_path}/run"]
    with subprocess.Popen([sys.executable, *STAGE, *options], stderr=subprocess.PIPE, text=True) as process:
        end = time.monotonic() + 120
        while not (tmp_path / "run/metrics.jsonl").exists():
            assert time.monotonic() < end
            time.sleep(0.1)
        (other,) = [pid for pid in children(process.pid) if b"pretrain" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        os.kill(process.pid if whom == "first" else other, number)
        _, printed = process.communicate(timeout=120)
    while alive(other):
        assert time.monotonic() < end
        time.sleep(0.1)
    assert "Traceback" not in printed
    if number == signal.SIGKILL:
        expected = {"first": (-number, 0), "other": (2, 1)}[whom]
        assert (process.returncode, printed.count("error: another process of this run has ended")) == expected
        return
    assert process.returncode == 128 + number
    assert printed.splitlines()[-1] == "interrupted; run the same command again to resume"
    assert (tmp_path / "run/checkpoint.safetensors").exists()


if __name__ == "__main__":
    learned, rank = learn(2)
    if rank == 0:
        torch.save(learned, sys.argv[1])
