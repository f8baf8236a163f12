"""Stages learn from unlabelled images alone, and a later run tells what they learned of its test images."""

import json

import numpy as np
import pytest
import torch
from conftest import SMALL_RUN
from PIL import Image, ImageFilter, ImageOps

import pretrain
from pretrain.data.unlabelled_pools import load_unlabelled
from pretrain.runs.tensor_files import load_state

SIDE = 32
STACK = ["stack=cae_small", *SMALL_RUN, "data.validation=0.2"]


def scene(seed):
    """Return an image with edges of all directions, as photographs have them."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (7, 7, 3), dtype=np.uint8)).resize((SIDE, SIDE), Image.BICUBIC)
    fine = random.integers(-25, 26, (SIDE, SIDE, 3))
    return Image.fromarray((np.asarray(coarse).astype(int) + fine).clip(0, 255).astype(np.uint8))


def save_scenes(folder, seeds):
    folder.mkdir(parents=True)
    for seed in seeds:
        scene(seed).save(folder / f"{seed}.png")


@pytest.fixture
def photos(tmp_path):
    """Return a folder with labelled photos, and unlabelled ones beside them."""
    for k, name in enumerate(("cat", "dog")):
        save_scenes(tmp_path / "photos/train" / name, range(100 * k, 100 * k + 15))
        save_scenes(tmp_path / "photos/test" / name, range(100 * k + 50, 100 * k + 58))
    save_scenes(tmp_path / "pool", range(1000, 1040))
    return tmp_path


def test_stages_learn_the_same_from_files_as_from_a_tensor(photos):
    data = pretrain.load_folder(unlabelled=[photos / "pool"], image_size=8, channels=1, cache=photos / "cache")
    assert (data.classes, len(data.train), len(data.validation), len(data.unlabelled)) == ((), 0, 0, 40)
    trained = []
    for images in (data.unlabelled, data.unlabelled[:]):
        torch.manual_seed(0)
        stack = pretrain.Stack([pretrain.ConvAutoencoder(pretrain.Layer(1, 4))], images, "whiten")
        pretrain.fit_stages(stack, images, pretrain.Training(steps=5, batch_size=16))
        trained.append(stack.state_dict())
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[0])


def test_the_command_needs_no_labels(photos, run_here):
    command = ["data=folder", "data.unlabelled=[pool]", "data.image_size=[8,12]", *STACK, "out=runs/stages"]
    result = run_here(photos, "stage", *command)
    assert result.returncode == 0, result.stderr
    summary = json.loads((photos / "runs/stages/summary.json").read_text())
    assert (summary["unlabelled"], summary["stages"]) == (40, 2)
    # The same call finds a complete run.
    assert run_here(photos, "stage", *command).returncode == 0
    result = run_here(photos, "describe", "data=folder", "data.unlabelled=[pool]", "data.image_size=[8,12]", STACK[0])
    assert "8x12x3" in result.stdout
    assert "head.fc" not in result.stdout


@pytest.mark.parametrize("command", ["finetune", "probe", "compare"])
def test_what_needs_labels_says_so(photos, run_here, command):
    result = run_here(photos, command, "data=folder", "data.unlabelled=[pool]", "out=runs/x")
    assert result.returncode == 2
    assert "error: data.root is missing: give the folder of labelled images" in result.stderr
    assert not (photos / "runs").exists()


def test_no_images_at_all_are_refused(photos, run_here):
    result = run_here(photos, "stage", "data=folder", "out=runs/x")
    assert "error: data.root is missing: give the folder of labelled images" in result.stderr
    assert "or unlabelled images alone with data.unlabelled=[DIR]" in result.stderr


def finetune(photos, run_here):
    """Train stages on the pool alone, fine-tune them on the labelled photos, and return the summary and the line."""
    size = ["data.image_size=32", *STACK]
    stages = run_here(photos, "stage", "data=folder", "data.unlabelled=[pool]", *size, "out=runs/stages")
    assert stages.returncode == 0, stages.stderr
    options = ["data=folder", "data.root=photos", *size, "init=pretrained", "stages=runs/stages", "recipe.steps=2"]
    result = run_here(photos, "finetune", *options, "out=runs/ft")
    assert result.returncode == 0, result.stderr
    return json.loads((photos / "runs/ft/summary.json").read_text()), result.stderr


def test_copies_of_test_images_in_the_pool_are_found_without_the_pool(photos, run_here):
    copies = photos / "pool/copies"
    copies.mkdir()
    for k in range(3):
        scene(50 + k).save(copies / f"exact{k}.png")
    for k in range(3, 6):
        scene(50 + k).save(copies / f"near{k}.jpg", quality=90)
    scene(156).transpose(Image.Transpose.FLIP_LEFT_RIGHT).filter(ImageFilter.SMOOTH).save(copies / "mirrored.png")
    summary, said = finetune(photos, run_here)
    assert summary["pool_shared"]["pool"] == 47
    assert summary["pool_shared"]["test"] == {"exact": 3, "near": 4}
    assert summary["pool_shared"]["validation"] == {"exact": 0, "near": 0}
    assert "7 of its 47 images are validation or test images here" in said


def test_a_pool_of_other_images_shares_nothing(photos, run_here):
    summary, said = finetune(photos, run_here)
    assert summary["pool_shared"]["shared"] == 0
    assert "none of its 40 images is a validation or test image here" in said


def test_the_fingerprints_of_a_run_are_those_of_its_pool(photos, run_here):
    finetune(photos, run_here)
    kept = load_state(photos / "runs/stages/pool.safetensors")["fingerprints"]
    again = load_unlabelled(photos / "pool", cache=None).images.prints
    assert kept.numpy().tobytes() == again.tobytes()


def test_images_of_any_shape_are_those_that_pillow_fits(tmp_path):
    folder = tmp_path / "pool"
    folder.mkdir()
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 40, 3), dtype=np.uint8))
    image.save(folder / "x.png")
    loaded = load_unlabelled(folder, (12, 30), cache=None).images
    assert loaded.shape == (1, 3, 12, 30)
    expected = np.asarray(ImageOps.fit(image, (30, 12), Image.Resampling.BICUBIC))
    assert np.array_equal(loaded[0].permute(1, 2, 0), expected)
