"""Images that are few, alike or flat, and budgets and batches that do not fit them, through the commands."""

import json
import math

import numpy as np
import pytest
from conftest import SMALL_RUN
from PIL import Image

FOLDER = ["data=folder", "data.root=photos", "data.image_size=8", "data.duplicates=keep", "stack=cae_small", *SMALL_RUN]
FIT = {"random": [], "ridge": ["recipe.head=ridge"]}
NONE = "there are none: give a greater data.validation"


def photos(folder, train, test, draw):
    """Write images, drawn one by one as pixels (8, 8), of so many per class in each split."""
    for split, counts in (("train", train), ("test", test)):
        for name, count in counts.items():
            (folder / "photos" / split / name).mkdir(parents=True)
            for k in range(count):
                Image.fromarray(draw()).save(folder / "photos" / split / name / f"{k}.png")


def noise():
    random = np.random.default_rng(0)
    return lambda: random.integers(0, 256, (8, 8)).astype(np.uint8)


def shades():
    shade = iter(range(0, 256, 5))
    return lambda: np.full((8, 8), next(shade), np.uint8)


def flat(gray):
    return lambda: np.full((8, 8), gray, np.uint8)


def alike():
    image = noise()()
    return lambda: image


def attempts(run_here, folder, *options):
    """Run every command on the images, and return the line of the mistake of each, or nothing where it succeeds."""
    heads = {f"{name} head": ["finetune", "recipe.steps=3", *head] for name, head in FIT.items()}
    lines = {}
    for name, (command, *own) in {"stage": ["stage"], **heads, "probe": ["probe"]}.items():
        out = f"runs/{len([*folder.glob('runs/*')])}"
        result = run_here(folder, command, *FOLDER, *own, *options, f"out={out}")
        assert "Traceback" not in result.stderr
        assert result.returncode == (2 if "error: " in result.stderr else 0)
        lines[name] = result.stderr.partition("error: ")[2].strip()
        assert "\n" not in lines[name]
        assert lines[name] or (folder / out / "summary.json").exists()
    return lines


@pytest.mark.integration
@pytest.mark.parametrize(
    ("train", "test", "draw", "validation"),
    [
        ({"a": 6, "b": 6}, {"a": 3, "b": 0}, noise(), 2),
        ({"a": 6, "b": 6}, {"a": 3}, noise(), 2),
        ({"a": 9, "b": 2}, {"a": 1, "b": 1}, noise(), 2),
        ({"a": 3, "b": 3}, {"a": 1, "b": 1}, alike(), 2),
        ({"a": 6, "b": 6}, {"a": 2, "b": 2}, shades(), 2),
    ],
    ids=["empty test class", "no test class", "one label of a class", "all alike", "a shade each"],
)
def test_what_can_be_learned_from_is(tmp_path, run_here, train, test, draw, validation):
    photos(tmp_path, train, test, draw)
    lines = attempts(run_here, tmp_path, f"data.validation={validation}")
    assert not any(lines.values()), lines


@pytest.mark.integration
@pytest.mark.parametrize("validation", ["0", "0.1"])
def test_without_validation_images_only_what_needs_them_is_refused(tmp_path, run_here, validation):
    photos(tmp_path, {"a": 1, "b": 1}, {"a": 1, "b": 1}, noise())
    lines = attempts(run_here, tmp_path, f"data.validation={validation}")
    assert [name for name, line in lines.items() if NONE in line] == ["ridge head", "probe"]
    assert lines["stage"] == lines["random head"] == ""


@pytest.mark.integration
@pytest.mark.parametrize(
    ("train", "draw", "message"),
    [
        ({"a": 6}, noise(), "there is only one class (a): give two or more."),
        ({"a": 6, "b": 0}, noise(), "has no readable image of the class b"),
        ({"a": 6, "b": 1}, noise(), "leaves no training image for the class b, which has 1: give fewer validation"),
        ({"a": 6, "b": 6}, flat(0), "each of the 10 unlabelled images is of the same single color (0, 0, 0)"),
        ({"a": 6, "b": 6}, flat(99), "each of the 10 unlabelled images is of the same single color (99, 99, 99)"),
    ],
    ids=["one class", "empty class", "no image left", "black", "gray"],
)
def test_what_cannot_be_learned_from_is_named_by_every_command(tmp_path, run_here, train, draw, message):
    photos(tmp_path, train, {"a": 2}, draw)
    for line in attempts(run_here, tmp_path, "data.validation=2").values():
        assert message in line


def test_a_black_pool_beside_other_images_is_learned_from(tmp_path, run_here):
    photos(tmp_path, {"a": 2, "b": 2}, {"a": 1, "b": 1}, noise())
    (tmp_path / "more").mkdir()
    for k in range(9):
        Image.fromarray(flat(0)()).save(tmp_path / "more" / f"{k}.png")
    result = run_here(tmp_path, "stage", *FOLDER, "data.unlabelled=[more]", "data.validation=0", "out=run")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["labels=9"], "labels=9: give a number from 10 (one per class) to 1000"),
        (["labels=0"], "labels=0: it must be"),
        (["labels=1001"], "labels=1001: give a number from 10 (one per class) to 1000"),
        (["data.validation=1297"], "data.validation=1297: give a share below 1, or a whole number below 1297"),
    ],
)
def test_a_budget_that_does_not_fit_the_labels_is_a_line(tmp_path, run_here, options, message):
    result = run_here(tmp_path, "finetune", *SMALL_RUN, *options, "out=run")
    assert (result.returncode, message in result.stderr) == (2, True)


@pytest.mark.parametrize(
    "options",
    [["labels=10"], ["recipe.batch_size=100000"], ["recipe.batch_size=1"], ["data.validation=0"], ["labels=1000"]],
)
def test_budgets_and_batches_at_their_limits_are_trained_on(tmp_path, run_here, options):
    result = run_here(tmp_path, "finetune", *SMALL_RUN, "recipe.steps=2", *options, "out=run")
    assert result.returncode == 0, result.stderr
    assert math.isfinite(json.loads((tmp_path / "run" / "summary.json").read_text())["test_accuracy"])


@pytest.mark.parametrize("stack", ["crbm_small", "cae_small"])
def test_a_pool_of_one_image_is_learned_from(tmp_path, run_here, stack):
    result = run_here(tmp_path, "stage", f"stack={stack}", *SMALL_RUN, "num_unlabelled=1", "out=run")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("stack", ["cae", "crbm", "kmeans", "contrastive", "soft_hebb", "mixed", "cae_small"])
def test_images_smaller_than_the_receptive_field_are_described_or_refused(tmp_path, run_here, size, stack):
    photos(tmp_path, {"a": 1, "b": 1}, {"a": 1, "b": 1}, noise())
    image = ["data=folder", "data.root=photos", f"data.image_size={size}", f"stack={stack}"]
    result = run_here(tmp_path, "describe", *image)
    assert result.returncode in (0, 2)
    assert result.returncode == 0 or "stage" in result.stderr
