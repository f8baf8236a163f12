"""What a user who gives folders of images is refused in one line: names that are missing, and runs among the images."""

import os

import pytest
from PIL import Image

from pretrain import DigitsData, FolderData, UserError


@pytest.fixture
def folder(tmp_path):
    """A user's folder of images, two classes and a pool."""
    for k, name in enumerate(("train/cat", "train/dog", "test/cat", "test/dog", "pool")):
        place = tmp_path / "photos" / name
        place.mkdir(parents=True)
        Image.new("L", (8, 8), 40 * k).save(place / "x.png")
    return tmp_path


PHOTOS = ["data=folder", "data.root=photos", "stack=cae_small"]


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("stage", ["data.unlabelled=", "out=x"], "data.unlabelled=: it must be the name of a file or folder"),
        (
            "stage",
            ["data.unlabelled=[photos/pool,'']", "out=x"],
            "data.unlabelled=['photos/pool', '']: it must be the name of a file or folder",
        ),
        ("finetune", ["data=folder", "data.root=", "out=x"], "data.root=: it must be the name of a file or folder"),
        ("stage", ["out="], "out=: it must be the name of a file or folder"),
        ("compare", ["out="], "out=: it must be the name of a file or folder"),
        ("stage", ["data.cache=", "out=x"], "data.cache=: it must be the name of a file or folder"),
        ("predict", ["run=x", "images="], "images=: it must be the name of a file or folder"),
        ("predict", ["run=x", "images=photos", "out="], "out=: it must be the name of a file or folder"),
        ("stage", [*PHOTOS, "out=photos/train/runs"], "out=photos/train/runs lies inside photos/train"),
        ("stage", [*PHOTOS, "out=photos/test/cat"], "out=photos/test/cat lies inside photos/test"),
        ("compare", [*PHOTOS, "out=photos/train"], "out=photos/train lies inside photos/train"),
        ("stage", ["data.unlabelled=photos/pool", "out=photos/pool/runs/1"], "lies inside photos/pool, so what is"),
        ("stage", ["data.unlabelled=photos/pool", "out=by-link/runs"], "out=by-link/runs lies inside photos/pool"),
        ("stage", ["data.unlabelled=.", "out=runs/1"], "out=runs/1 lies inside ."),
        (
            "stage",
            ["data.unlabelled=photos/pool", "data.cache=photos/pool/c", "out=x"],
            "data.cache=photos/pool/c lies",
        ),
    ],
)
def test_a_folder_that_cannot_be_meant_is_refused_in_one_line(folder, run_here, command, arguments, message):
    (folder / "by-link").symlink_to(folder / "photos/pool")
    before = sorted(folder.rglob("*"))
    result = run_here(folder, command, *arguments)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("written", ["photos/runs", "photos/pool/.cache", "runs", "photos/pool-runs"])
def test_folders_beside_the_images_and_hidden_ones_may_be_written(folder, monkeypatch, written):
    monkeypatch.chdir(folder)
    data = FolderData("photos", unlabelled=["photos/pool"])
    data.refuse_output("out", written)
    assert FolderData("photos", unlabelled=["photos/pool"], cache=written).cache == written


def test_a_cache_of_the_home_folder_does_not_keep_the_home_folder_from_being_a_pool(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert DigitsData(unlabelled=["~"]).cache == os.path.expanduser("~/.cache/pretrain")
    with pytest.raises(UserError, match="lies inside"):
        DigitsData(unlabelled=["~"], cache="~/cache")
