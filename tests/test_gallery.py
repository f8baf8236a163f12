"""The gallery of test images: which are chosen, how they reach the report, and what happens when they cannot."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from pretrain import Comparison, RunFolder, UserError, write_report
from pretrain.comparison.image_gallery import GALLERY, choose_budget, choose_images, keep_gallery, read_gallery
from pretrain.comparison.paired_predictions import PairedPredictions, read_paired_predictions
from pretrain.comparison.tasks import runs_that_count
from pretrain.evaluation.kept_predictions import FILE, keep_predictions
from pretrain.evaluation.predictions import Evaluation
from pretrain.pictures.drawing import own_style
from pretrain.reporting.comparison_results import read_results
from pretrain.reporting.gallery_figures import draw_gallery, gallery_sentence
from pretrain.reporting.plotting import save_svg_and_png
from pretrain.reporting.prediction_differences import prediction_differences
from pretrain.runs.tensor_files import load_state, save_state
from pretrain.runs.typed_settings import as_config

TINY = ("labels=[20,50]", "seeds=[0,1,2,3,4]", "tuning=none")
GAIN = {"pretrained": 0.06, "scratch": 0.0}  # the arms that have run


def pair(truth, of_arm, of_baseline, labels=100):
    return PairedPredictions("pretrained", "scratch", labels, *map(np.asarray, (truth, of_arm, of_baseline)))


#                      both  arm   arm   tie   base  none
THREE_SEEDS = pair(
    [0, 0, 1, 1, 2, 2],
    [[0, 0, 1, 1, 0, 0], [0, 0, 1, 0, 0, 0], [0, 1, 1, 1, 2, 1]],
    [[0, 1, 0, 1, 2, 0], [0, 2, 0, 0, 2, 0], [0, 0, 0, 1, 2, 1]],
)


def test_the_images_are_chosen_by_the_shares_of_seeds_that_are_right():
    """Arm right: 3 2 3 2 1 0 of 3; baseline: 3 1 0 2 3 0."""
    chosen = choose_images(THREE_SEEDS)
    assert chosen.only_arm == (2, 1)  # 3 - 0 before 2 - 1
    assert chosen.only_baseline == (4,)
    assert chosen.shown == (1, 2, 4)
    assert gallery_sentence(chosen) == (
        "With 100 labels, pretrained alone classifies 2 of 6 test images correctly in most of the 3 seeds, and scratch "
        "alone 1."
    )


def test_half_of_the_seeds_are_not_most():
    even = pair([0, 0, 0], [[0, 0, 0], [1, 0, 0]], [[1, 1, 1], [1, 0, 1]])
    # The first is right in half of them, the second's other arm wrong in half of them.
    assert choose_images(even).only_arm == (2,)
    assert choose_images(even).only_baseline == ()


def test_images_with_equal_gains_come_in_order_of_position_and_both_directions_have_equal_room():
    truth = np.zeros(60, dtype=int)
    arm = np.tile(truth < np.r_[np.ones(40), np.zeros(20)], (5, 1)).astype(int) ^ 1
    chosen = choose_images(pair(truth, arm, arm ^ 1))
    assert chosen.only_arm == tuple(range(40))
    assert chosen.only_baseline == tuple(range(40, 60))
    assert chosen.shown == (*range(12), *range(40, 52))


def test_exchanging_the_arms_exchanges_the_directions():
    draw = np.random.default_rng(0).integers
    truth, one, other = draw(0, 3, 200), draw(0, 3, (5, 200)), draw(0, 3, (5, 200))
    chosen, exchanged = choose_images(pair(truth, one, other)), choose_images(pair(truth, other, one))
    assert chosen.only_arm == exchanged.only_baseline
    assert chosen.only_baseline == exchanged.only_arm
    seeds = np.random.default_rng(1).permutation(5)
    assert choose_images(pair(truth, one[seeds], other[seeds])).only_arm == chosen.only_arm


def test_the_budget_has_most_seeds_and_of_these_most_differing_images():
    few = replace(THREE_SEEDS, labels=10, of_arm=THREE_SEEDS.of_baseline)  # they differ nowhere
    more_seeds = pair([0], [[0]] * 4, [[0]] * 4, labels=50)
    assert choose_budget([]) is None
    assert choose_budget([few, THREE_SEEDS]).paired.labels == 100
    assert choose_budget([replace(THREE_SEEDS, labels=20), THREE_SEEDS]).paired.labels == 20
    assert choose_budget([THREE_SEEDS, more_seeds]).paired.labels == 50
    # Both directions count alike.
    assert choose_budget([few, replace(THREE_SEEDS, of_arm=THREE_SEEDS.of_baseline, of_baseline=THREE_SEEDS.of_arm)])


@pytest.fixture
def make(configure, digits, tmp_path):
    """Return a function that writes a comparison on the digits, with the runs that `keep` selects."""
    test = digits.open_test()

    def write(*options, out=tmp_path / "run", keep=lambda task: True, names=digits.classes):
        comparison = configure("compare", f"out={out}", *(options or TINY))
        out.mkdir(parents=True, exist_ok=True)
        config = as_config(comparison) | digits.digests
        (out / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        (out / "env.json").write_text(json.dumps({"command": "compare", "products": Comparison.products}))
        for task in filter(keep, runs_that_count(comparison)):
            if task.arm in GAIN and not (task.folder(out) / "summary.json").exists():
                write_run(task, task.folder(out), test, names, digits.labelled_digest)
        return comparison

    return write


def write_run(task, path, test, names, digest):
    """Write a complete run. The same images are hard for all arms, and each arm gets a share of its own right."""
    path.mkdir(parents=True)
    draw = np.random.default_rng([task.seed, task.labels, sum(map(ord, task.arm))])
    easy = np.random.default_rng(0).uniform(0.4, 1, len(test))
    labels = test.labels.numpy()
    predicted = np.where(draw.random(len(test)) < easy + GAIN[task.arm], labels, (labels + 1) % 10)
    accuracy = float((predicted == labels).mean())
    recall = {name: float((predicted == labels)[labels == k].mean()) for k, name in enumerate(names)}
    confusion = np.zeros((10, 10), dtype=int)
    np.add.at(confusion, (labels, predicted), 1)
    probabilities = torch.eye(10)[torch.from_numpy(predicted)]
    folder = RunFolder(path)
    folder.products = (FILE,)
    keep_predictions(folder, Evaluation(accuracy, recall, confusion, test.labels, probabilities), digest)
    values = {"arm": task.arm, "init": "scratch", "stack": "s", "labels": task.labels, "seed": task.seed}
    values |= dict.fromkeys(("val_accuracy", "test_accuracy"), accuracy)
    values |= dict.fromkeys(("pretrain_seconds", "finetune_seconds", "images_per_second"), 1.0)
    values |= dict.fromkeys(("pretrain_flops", "finetune_flops", "steps", "parameters"), 9)
    folder.log({"phase": "finetune", "step": 1, "seconds": 1.0, "val_accuracy": accuracy})
    folder.write_summary({**values, "per_class_accuracy": recall, "confusion": confusion.tolist()})


def shown_of(comparison):
    """Return the sentences of the report on predictions and the names of its figures."""
    found = prediction_differences(read_results(comparison.out))
    with own_style():
        return found.about_images(), [drawing.name for drawing in found.drawings()]


def report_of(comparison):
    path = write_report(comparison.out).path
    return path.read_text(), path.with_suffix(".md").read_text()


def test_the_images_of_the_choice_come_back_from_the_folder(make, digits):
    comparison = make()
    keep_gallery(comparison, digits)
    chosen = choose_budget(read_paired_predictions(comparison))
    assert len(chosen.only_arm) > len(chosen.only_baseline) > 0
    images = read_gallery(RunFolder(comparison.out).path / GALLERY, digits.labelled_digest)
    assert tuple(images) == chosen.shown
    test = digits.open_test()
    assert all(torch.equal(image, test.images[position]) for position, image in images.items())


def test_the_images_are_written_once_and_anew_when_the_choice_changes(make, digits, tmp_path):
    comparison = make(keep=lambda task: task.seed < 3)
    opened = []
    counted = replace(digits, open_test=lambda: opened.append(1) or digits.open_test())
    for _ in range(2):
        keep_gallery(comparison, counted)
    assert opened == [1]
    before = (tmp_path / "run" / GALLERY).read_bytes()
    keep_gallery(make(), counted)
    assert opened == [1, 1]
    assert (tmp_path / "run" / GALLERY).read_bytes() != before


@pytest.mark.integration
def test_without_predictions_there_is_nothing_to_keep_or_to_show(make, digits, tmp_path):
    comparison = make(keep=lambda task: task.arm != "scratch")
    keep_gallery(comparison, digits)
    assert not (tmp_path / "run" / GALLERY).exists()
    page, text = report_of(comparison)
    assert "Where the difference comes from" not in page + text
    assert json.loads((tmp_path / "run" / "results.json").read_text())["classes"] == []


@pytest.mark.integration
def test_the_report_shows_both_directions_and_is_the_same_when_written_twice(make, digits, tmp_path):
    comparison, out = make(), tmp_path / "run"
    keep_gallery(comparison, digits)
    page, text = report_of(comparison)
    first = {file: file.read_bytes() for file in out.rglob("*.*")}
    report_of(comparison)
    assert {file: file.read_bytes() for file in out.rglob("*.*")} == first
    chosen = choose_budget(read_paired_predictions(comparison))
    assert gallery_sentence(chosen) in page
    assert gallery_sentence(chosen) in text
    for arm in ("pretrained", "scratch"):
        assert f"figures/gallery-{arm}.png)" in text
        assert np.asarray(Image.open(out / "figures" / f"gallery-{arm}.png").convert("L")).std() > 0
    assert page.count("<image ") == len(chosen.shown)
    rows = json.loads((out / "results.json").read_text())["classes"]
    assert {(row["class"], row["labels"]) for row in rows} == {(str(k), n) for k in range(10) for n in (20, 50)}
    assert "not in gallery.safetensors" not in text
    assert "damaged" not in text


def damage(file):
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


FAULTS = {
    "changed": (damage, "is damaged"),
    "empty": (lambda file: file.write_bytes(b""), "is damaged"),
    "other": (lambda file: save_state(file, {"a": 1}), "is damaged"),
    "odd": (
        lambda file: save_state(file, load_state(file) | {"positions": None}),
        "is damaged",
    ),
    "missing": (lambda file: file.unlink(), "The images are not in gallery.safetensors"),
    "other data": (
        lambda file: save_state(file, load_state(file) | {"labelled_digest": "0"}),
        "The images are not in gallery.safetensors",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_report_goes_without_images_that_cannot_be_read_and_the_next_worker_writes_them(make, digits, fault):
    comparison = make()
    keep_gallery(comparison, digits)
    file = RunFolder(comparison.out).path / GALLERY
    whole = file.read_bytes()
    spoil, said = FAULTS[fault]
    spoil(file)
    said_of_it, drawn = shown_of(comparison)
    assert said in said_of_it[-1]
    assert said_of_it[-1].endswith("Run the same command again, and the report shows them.")
    assert drawn == ["classes"]
    keep_gallery(comparison, digits)
    assert file.read_bytes() == whole


@pytest.mark.integration
def test_an_early_report_shows_the_images_that_are_there(make, digits):
    comparison = make(keep=lambda task: task.seed < 3 or (task.arm == "scratch" and task.seed == 3))
    keep_gallery(comparison, digits)
    assert choose_budget(read_paired_predictions(comparison)).paired.seeds == 3
    make()
    _, text = report_of(comparison)
    there = {*read_gallery(RunFolder(comparison.out).path / GALLERY, digits.labelled_digest)}
    chosen = choose_budget(read_paired_predictions(comparison))
    both = there & {*chosen.shown}
    assert 0 < len(both) < len(chosen.shown)
    svgs = (RunFolder(comparison.out).path / "figures").glob("gallery-*.svg")
    assert sum(svg.read_text().count("<image ") for svg in svgs) == len(both)
    assert f"{len(chosen.shown) - len(both)} of the images that belong here are not in gallery.safetensors." in text


def test_a_damaged_run_is_left_out(make, digits):
    comparison = make()
    run = next(task for task in runs_that_count(comparison) if task.arm == "pretrained" and task.labels == 20)
    damage(run.folder(RunFolder(comparison.out).path) / FILE)
    assert [paired.seeds for paired in read_paired_predictions(comparison)] == [4, 5]
    keep_gallery(comparison, digits)
    sentences, drawn = shown_of(comparison)
    assert sentences[-1].startswith("With 50 labels, pretrained alone classifies")
    assert drawn == ["classes", "gallery-pretrained", "gallery-scratch"]


@pytest.mark.parametrize("error", [UserError("the images are gone."), PermissionError(13, "Permission denied", "x")])
def test_images_that_cannot_be_had_are_one_line_and_stop_nothing(make, digits, capsys, error):
    def unreadable():
        raise error

    comparison = make()
    keep_gallery(comparison, replace(digits, open_test=unreadable))
    said = capsys.readouterr().err
    assert re.fullmatch(r"note: the report has no gallery of test images: .*(gone|denied)\.\n", said)
    assert "The images are not in gallery.safetensors" in shown_of(comparison)[0][-1]


def test_a_file_that_cannot_be_written_is_one_line(make, digits, capsys):
    comparison = make()
    (RunFolder(comparison.out).path / GALLERY).mkdir()
    keep_gallery(comparison, digits)
    assert capsys.readouterr().err.count("\n") == 1
    assert "gallery.safetensors is damaged" in shown_of(comparison)[0][-1]


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (3, 96, 64), (1, 1, 1)])
def test_images_of_any_shape_are_drawn_with_their_own_pixels(shape, tmp_path):
    chosen = choose_images(THREE_SEEDS)
    draw = torch.Generator().manual_seed(0)
    images = {k: torch.randint(256, shape, generator=draw, dtype=torch.uint8) for k in chosen.shown}
    with own_style():
        figure = draw_gallery(chosen, True, images, ["a", "b", "c"])
        save_svg_and_png(figure, tmp_path / "figures" / "gallery")
    shown = [axes for axes in figure.axes if axes.images]
    for axes, position in zip(shown, (2, 1), strict=True):
        expected = images[position].expand(3, -1, -1).permute(1, 2, 0).numpy()
        assert (np.asarray(axes.images[0].get_array()) == expected).all()
    assert [axes.get_title() for axes in shown] == ["b", "a"]
    # In the second, scratch gives 1, 2 and 0 in turn, and of two mistakes the first class is named.
    assert [axes.get_xlabel() for axes in shown] == [
        "pretrained 3/3\nscratch 0/3\n→ a",
        "pretrained 2/3\nscratch 1/3\n→ b",
    ]


def test_the_other_direction_names_the_baseline_first():
    images = {4: torch.zeros(1, 2, 2, dtype=torch.uint8)}
    with own_style():
        figure = draw_gallery(choose_images(THREE_SEEDS), False, images, ["a", "b", "c"])
    assert figure.axes[0].get_xlabel() == "scratch 3/3\npretrained 1/3\n→ a"
    assert draw_gallery(choose_images(THREE_SEEDS), True, images, ["a", "b", "c"]) is None


@pytest.mark.integration
def test_names_in_the_gallery_are_as_they_are_written(make, digits, tmp_path, recwarn):
    names = ["$", "$x_1$", r"\frac", "caf\udce9", "猫", "a\nb", "<b>", "&", "\x1b[31m", "x" * 300]
    comparison = make(names=names)
    keep_gallery(comparison, digits)
    page, text = report_of(comparison)
    assert not [each for each in recwarn.list if "font" in str(each.message) or "Glyph" in str(each.message)]
    assert "<b>" not in page.split("<svg", 1)[1]
    assert "\x1b" not in page + text
    assert "x" * 30 not in page


@pytest.mark.integration
def test_a_comparison_keeps_its_gallery(configure, tmp_path):
    from pretrain.comparison.worker_processes import run_comparison

    out = tmp_path / "run"
    comparison = configure(
        "compare", f"out={out}", "labels=[50]", "seeds=[0,1]", "tuning=none", "recipe.steps=20", "stack=cae_small"
    )
    assert run_comparison(comparison) == []
    chosen = choose_budget(read_paired_predictions(comparison))
    assert tuple(read_gallery(out / GALLERY, RunFolder(out).config()["labelled_digest"])) == chosen.shown
    assert GALLERY in Comparison.products
