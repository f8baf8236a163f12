import os
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretrain import UserError, load_folder, load_unlabelled
from pretrain.data.file_listing import list_files


def save_flat(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), value).save(path)
    return path


def values(images):
    """Return the one value of each of these flat images."""
    flat = images[:].flatten(1)
    assert (flat == flat[:, :1]).all()
    return flat[:, 0].tolist()


def test_files_of_every_depth_are_listed_by_path_without_the_hidden_ones(tmp_path):
    shown = ["a/z/deep.png", "a/b.png", "b.png", "c/d/e/f.png", "z.png", "A.png"]
    hidden = [".b.png", "._b.png", "a/._b.png", ".git/x.png", "a/.thumbs/y.png", "c/d/.z.png"]
    for name in shown + hidden:
        save_flat(tmp_path / name, 0)
    assert list_files(tmp_path) == ([*map(str, sorted(tmp_path / name for name in shown))], [])


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path):
    save_flat(tmp_path / "real/x.png", 0)
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool/linked").symlink_to(tmp_path / "real")
    (tmp_path / "real/back").symlink_to(tmp_path)
    files, skipped = list_files(tmp_path / "pool")
    assert files == [str(tmp_path / "pool/linked/x.png")]
    assert [(skip.path, skip.reason) for skip in skipped] == [
        (str(tmp_path / "pool/linked/back"), "a link to a folder that contains it")
    ]


def test_links_that_lead_to_each_other_are_followed_once(tmp_path):
    for one, other in ("ab", "ba"):
        save_flat(tmp_path / one / "x.png", 0)
        (tmp_path / one / "to").symlink_to(tmp_path / other)
    files, skipped = list_files(tmp_path)
    assert files == [str(tmp_path / name) for name in ("a/to/x.png", "a/x.png", "b/to/x.png", "b/x.png")]
    assert [skip.path for skip in skipped] == [str(tmp_path / name) for name in ("a/to/to", "b/to/to")]


def labelled(root):
    """Make three images of each of two classes to train on and to test on."""
    for first, split in ((0, "train"), (50, "test")):
        for value, name in ((10, "cat"), (20, "dog")):
            for k in range(3):
                save_flat(root / split / name / f"{k}.png", first + value + k)
    return root


# --- What is no plain file


@pytest.fixture
def odd(tmp_path):
    """One good image among a named pipe, a socket, a device, and links to nothing and in circles."""
    folder = tmp_path / "odd"
    save_flat(folder / "good.png", 10)
    os.mkfifo(folder / "pipe.png")
    (folder / "nothing.png").symlink_to(folder / "gone.png")
    (folder / "circle.png").symlink_to(folder / "circle.png")
    (folder / "device.png").symlink_to(os.devnull)
    (folder / "pipe-by-link.png").symlink_to(folder / "pipe.png")
    here = os.open(".", os.O_RDONLY)
    os.chdir(folder)  # a socket's path may have a hundred characters
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket.png")
    os.fchdir(here)
    os.close(here)
    return folder


ODD_REASONS = {
    "circle.png": "a link to nothing, or in a circle",
    "device.png": "a device, not a file",
    "nothing.png": "a link to nothing, or in a circle",
    "pipe-by-link.png": "a named pipe, not a file",
    "pipe.png": "a named pipe, not a file",
    "socket.png": "a socket, not a file",
}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")
@pytest.mark.parametrize("cached", [False, True])
def test_what_is_no_plain_file_is_skipped_with_the_reason_and_never_opened(odd, tmp_path, cached, capsys):
    for _ in range(2):
        decoded = load_unlabelled(odd, 8, 1, cache=tmp_path / "cache" if cached else None)
        assert values(decoded.images) == [10]
        assert {Path(skip.path).name: skip.reason for skip in decoded.skipped} == ODD_REASONS
    assert capsys.readouterr().err == ""


def test_a_circle_of_links_in_a_class_folder_is_listed(tmp_path):
    root = labelled(tmp_path)
    (root / "train/cat/all").symlink_to(root / "train")
    (root / "train/dog/self").symlink_to(root / "train/dog/self")
    data = load_folder(root, image_size=8, channels=1, cache=None, validation=0)
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert [Path(skip.path).name for skip in data.skipped] == ["all", "self"]


# --- Folders that cannot be listed


@pytest.mark.parametrize("part", ["train/dog", "test/dog", "train", "test"])
def test_labelled_images_that_cannot_be_listed_are_an_error(ordinary_user, part):
    root = labelled(ordinary_user / "data")
    (root / part).chmod(0)
    with pytest.raises(UserError) as caught:
        load_folder(root, image_size=8, channels=1, cache=None, validation=0)
    assert f"{root / part} cannot be listed (Permission denied)" in str(caught.value)
    assert "chmod u+rx" in str(caught.value)
    (root / part).chmod(0o755)


def test_a_part_of_a_pool_that_cannot_be_listed_is_told_and_in_the_list(ordinary_user, capsys):
    save_flat(ordinary_user / "pool/a.png", 10)
    save_flat(ordinary_user / "pool/locked/b.png", 20)
    locked = ordinary_user / "pool/locked"
    locked.chmod(0)
    decoded = load_unlabelled(ordinary_user / "pool", 8, 1, cache=None)
    assert values(decoded.images) == [10]
    assert [(skip.path, skip.reason) for skip in decoded.skipped] == [
        (str(locked), "cannot be listed (Permission denied)")
    ]
    assert f"{locked} cannot be listed (Permission denied): its images are left out" in capsys.readouterr().err
    locked.chmod(0o755)


def test_a_link_into_a_locked_folder_is_no_link_to_nothing(ordinary_user):
    target = save_flat(ordinary_user / "locked/a.png", 20)
    save_flat(ordinary_user / "pool/b.png", 10)
    (ordinary_user / "pool/a.png").symlink_to(target)
    target.parent.chmod(0)
    decoded = load_unlabelled(ordinary_user / "pool", 8, 1, cache=ordinary_user / "cache")
    assert [(skip.reason, skip.passing) for skip in decoded.skipped] == [("PermissionError: Permission denied", True)]
    target.parent.chmod(0o755)
    assert values(load_unlabelled(ordinary_user / "pool", 8, 1, cache=ordinary_user / "cache").images) == [20, 10]


def test_a_pool_that_cannot_be_listed_at_all_is_an_error_with_the_reason(ordinary_user):
    save_flat(ordinary_user / "pool/a.png", 10)
    (ordinary_user / "pool").chmod(0)
    with pytest.raises(UserError, match=r"pool has no readable image.*cannot be listed \(Permission denied\)"):
        load_unlabelled(ordinary_user / "pool", 8, 1, cache=None)
    (ordinary_user / "pool").chmod(0o755)


def test_a_folder_with_too_long_a_path_is_told(tmp_path, capsys):
    save_flat(tmp_path / "a.png", 10)
    here = os.open(".", os.O_RDONLY)
    os.chdir(tmp_path)
    for _ in range(20):  # each of 250 characters; a path may have 4,096
        os.mkdir("d" * 250)
        os.chdir("d" * 250)
    os.fchdir(here)
    os.close(here)
    decoded = load_unlabelled(tmp_path, 8, 1, cache=None)
    assert values(decoded.images) == [10]
    assert [skip.reason for skip in decoded.skipped] == ["cannot be listed (File name too long)"]
    assert "its images are left out" in capsys.readouterr().err


def test_a_class_that_is_a_broken_link_is_an_error(tmp_path):
    root = labelled(tmp_path)
    (root / "test/dog").rename(tmp_path / "elsewhere")
    (root / "test/dog").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="test/dog is a link to nothing, or in a circle: mend it or remove it"):
        load_folder(root, image_size=8, channels=1, cache=None, validation=0)


def test_a_test_class_of_which_nothing_can_be_read_is_an_error(tmp_path):
    root = labelled(tmp_path)
    for file in (root / "test/dog").iterdir():
        file.write_bytes(b"")
    with pytest.raises(UserError, match="no readable image of the class dog; the first of 3: the file is empty"):
        load_folder(root, image_size=8, channels=1, cache=None, validation=0)


# --- Remarks on a set


def save_deep(path, largest):
    path.parent.mkdir(parents=True, exist_ok=True)
    deep = np.linspace(0, largest, 64).reshape(8, 8).astype(np.uint16)
    Image.fromarray(deep).save(path)


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize(("largest", "share"), [(255, "0.4%"), (4095, "6.3%"), (16383, "25.1%"), (65535, None)])
def test_a_set_that_uses_a_sliver_of_sixteen_bits_is_told_so_each_time(tmp_path, capsys, cached, largest, share):
    for k in range(3):
        save_deep(tmp_path / f"pool/{k}.png", largest)
    for _ in range(2):
        load_unlabelled(tmp_path / "pool", 8, 1, cache=tmp_path / "cache" if cached else None)
        told = capsys.readouterr().err
        assert (f"the 3 images of 16 bits, such as {tmp_path}/pool/0.png, use at most {share}" in told) == bool(share)


def test_one_bright_image_of_sixteen_bits_is_enough(tmp_path, capsys):
    save_deep(tmp_path / "dark.png", 255)
    save_deep(tmp_path / "bright.png", 65535)
    load_unlabelled(tmp_path, 8, 1, cache=None)
    assert capsys.readouterr().err == ""


def test_images_that_vanish_on_white_are_told(tmp_path, capsys):
    image = Image.new("RGBA", (8, 8), (255, 255, 255, 0))
    image.paste((255, 255, 255, 255), (2, 2, 6, 6))
    image.save(tmp_path / "icon.png")
    save_flat(tmp_path / "other.png", 9)
    load_unlabelled(tmp_path, 8, 1, cache=None)
    assert f"1 transparent images, such as {tmp_path / 'icon.png'}, are blank on white" in capsys.readouterr().err
