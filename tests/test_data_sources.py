import hashlib
import pickle
import shutil
import socket
import tarfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits as bundled_digits
from torchvision.datasets import CIFAR10

from pretrain import UserError, load_cifar10, load_digits, load_folder, load_unlabelled


def save_flat(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), value).save(path)
    return path


def values(images):
    """Return the one value of each of these flat images."""
    flat = images[:].flatten(1)
    assert (flat == flat[:, :1]).all()
    return flat[:, 0].tolist()


def pairs(*parts):
    """Return all images with their labels, sorted, as a bag that two data sets can be compared by."""
    return sorted((int(k), x.tobytes()) for part in parts for x, k in zip(*part, strict=True))


def arrays(labelled):
    return np.asarray(labelled.images), labelled.labels.numpy()


# --- Folders without classes


def test_pools_are_read_to_any_depth_and_only_what_can_be_read(tmp_path):
    save_flat(tmp_path / "a.png", 10)
    (tmp_path / "b.jpg").write_text("not an image")
    (tmp_path / "c.jpg").touch()
    save_flat(tmp_path / "d/e/f/g.png", 20)
    save_flat(tmp_path / ".hidden.png", 30)
    save_flat(tmp_path / ".trash/h.png", 40)
    decoded = load_unlabelled([tmp_path], 8, 1, cache=None)
    assert values(decoded.images) == [10, 20]
    assert decoded.paths == [str(tmp_path / "a.png"), str(tmp_path / "d/e/f/g.png")]
    assert [Path(skip.path).name for skip in decoded.skipped] == ["b.jpg", "c.jpg"]


def test_pools_follow_each_other_in_the_order_given(tmp_path):
    for folder, value in [("one", 10), ("two", 20)]:
        save_flat(tmp_path / folder / "x.png", value)
        (tmp_path / folder / "y.png").touch()
    decoded = load_unlabelled([tmp_path / "two", str(tmp_path / "one")], 8, 3, cache=None)
    assert decoded.images.shape == (2, 3, 8, 8)
    assert values(decoded.images) == [20, 10]
    assert decoded.paths == [str(tmp_path / "two/x.png"), str(tmp_path / "one/x.png")]
    assert [skip.path for skip in decoded.skipped] == [str(tmp_path / "two/y.png"), str(tmp_path / "one/y.png")]


@pytest.mark.parametrize("kind", [str, Path])
def test_a_single_pool_needs_no_list(tmp_path, kind):
    save_flat(tmp_path / "x.png", 10)
    assert values(load_unlabelled(kind(tmp_path), 8, 1, cache=None).images) == [10]


@pytest.mark.parametrize("kind", [str, Path])
def test_pools_are_cached_where_asked(tmp_path, kind):
    save_flat(tmp_path / "pool/x.bmp", 10)
    for _ in range(2):
        decoded = load_unlabelled(tmp_path / "pool", 8, 1, cache=kind(tmp_path / "cache"))
        assert values(decoded.images) == [10]
    (images,) = (tmp_path / "cache").glob("*/images.bin")
    assert images.read_bytes() == bytes([10] * 64)


def test_a_missing_pool_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere is not a folder"):
        load_unlabelled([tmp_path / "nowhere"], cache=None)


@pytest.mark.parametrize("cached", [False, True])
def test_a_pool_without_images_is_refused(tmp_path, cached):
    cache = tmp_path / "cache" if cached else None
    pool = tmp_path / "pool"
    pool.mkdir()
    with pytest.raises(UserError, match="pool has no readable image"):
        load_unlabelled(pool, cache=cache)
    (pool / "notes.txt").write_text("nothing to see")
    with pytest.raises(UserError, match="the first of 1: not an image in a format that is read"):
        load_unlabelled(pool, cache=cache)


def test_two_channels_are_refused(tmp_path):
    save_flat(tmp_path / "x.png", 10)
    with pytest.raises(UserError, match=r"data\.channels=2"):
        load_unlabelled(tmp_path, channels=2, cache=None)


@pytest.mark.parametrize("empty", ["", [""], ["pool", ""]])
def test_a_folder_without_a_name_is_not_the_current_one(tmp_path, monkeypatch, empty):
    save_flat(tmp_path / "x.png", 10)
    save_flat(tmp_path / "pool/x.png", 10)
    monkeypatch.chdir(tmp_path)
    for load in (lambda: load_unlabelled(empty, 8, 1, cache=None), lambda: load_digits(unlabelled=empty, cache=None)):
        with pytest.raises(UserError, match=r"unlabelled=.*: it must be the name of a file or folder"):
            load()


# --- Digits


def test_the_digits_are_those_of_scikit_learn_each_in_just_one_split():
    data, bundled = load_digits(), bundled_digits()
    test = data.open_test()
    assert (len(data.train), len(data.validation), len(test)) == (1000, 297, 500)
    pixels = np.rint(bundled.images * 255 / 16).astype(np.uint8)[:, None]
    assert pairs(*map(arrays, (data.train, data.validation, test))) == pairs((pixels, bundled.target))
    assert data.classes == tuple("0123456789")
    assert data.unlabelled.shape[1:] == (1, 8, 8)


def test_the_digits_to_pretrain_on_are_the_training_images():
    data = load_digits(validation=100)
    assert torch.equal(data.unlabelled[:], data.train.images[:])
    assert len(data.unlabelled) == 1797 - 500 - 100


def test_the_splits_of_the_digits_are_fixed():
    one, two = load_digits(), load_digits()
    for first, second in [(one.train, two.train), (one.validation, two.validation), (one.open_test(), two.open_test())]:
        assert torch.equal(first.images[:], second.images[:])
        assert torch.equal(first.labels, second.labels)


def test_a_pool_is_added_to_the_digits(tmp_path):
    save_flat(tmp_path / "x.png", 77)
    data = load_digits(unlabelled=[tmp_path], cache=None)
    assert torch.equal(data.unlabelled[:-1], data.train.images[:])
    assert values(data.unlabelled[-1:]) == [77]


# --- Folders with classes


@pytest.fixture
def root(tmp_path):
    """Ten cats of values 10 to 19 and ten dogs of 100 to 109; one image of each to test, of 50 and 150."""
    for k in range(10):
        save_flat(tmp_path / f"data/train/dog/{k}.png", 100 + k)
        save_flat(tmp_path / f"data/train/cat/{'deeper/' * (k % 2)}{k}.png", 10 + k)
    save_flat(tmp_path / "data/test/cat/x.png", 50)
    save_flat(tmp_path / "data/test/dog/x.png", 150)
    return tmp_path / "data"


load_small = partial(load_folder, image_size=8, channels=1, cache=None)


def test_classes_are_the_folders_in_alphabetical_order(root):
    data = load_small(root, validation=4)
    assert data.classes == ("cat", "dog")
    assert data.unlabelled.shape[1:] == (1, 8, 8)
    for split in (data.train, data.validation, data.open_test()):
        assert split.labels.tolist() == [int(value >= 100) for value in values(split.images)]
    assert values(data.open_test().images) == [50, 150]
    assert data.skipped == []


@pytest.mark.parametrize(("validation", "count"), [(0, 0), (4, 4), (0.1, 2), (0.25, 5)])
def test_validation_is_a_number_or_a_share(root, validation, count):
    data = load_small(root, validation=validation)
    assert len(data.validation) == count
    both = values(data.train.images) + (values(data.validation.images) if count else [])
    assert sorted(both) == [*range(10, 20), *range(100, 110)]
    assert torch.equal(data.unlabelled[:], data.train.images[:])


@pytest.mark.parametrize("validation", [20, 21, -1])
def test_validation_must_leave_something_to_train_on(root, validation):
    with pytest.raises(UserError, match=rf"validation={validation}"):
        load_small(root, validation=validation)


def test_a_test_folder_may_lack_a_class(root):
    (root / "test/cat/x.png").unlink()
    (root / "test/cat").rmdir()
    assert load_small(root).open_test().labels.tolist() == [1]


def test_pools_come_after_the_training_images(root, tmp_path):
    save_flat(tmp_path / "pool/x.png", 200)
    (tmp_path / "pool/y.png").touch()
    data = load_small(root, unlabelled=[tmp_path / "pool"])
    assert torch.equal(data.unlabelled[:-1], data.train.images[:])
    assert values(data.unlabelled[-1:]) == [200]
    assert [Path(skip.path).name for skip in data.skipped] == ["y.png"]


def test_what_lies_beside_the_class_folders_or_is_damaged_is_listed_and_left_out(root):
    stray = save_flat(root / "train/stray.png", 200)
    (root / "train/notes.txt").write_text("mine")
    (root / "train/cat/4.png").write_bytes(b"")
    data = load_small(root, validation=0)
    assert sorted(values(data.train.images)) == [*(k for k in range(10, 20) if k != 14), *range(100, 110)]
    assert data.train.labels.bincount().tolist() == [9, 10]
    assert {Path(skip.path).name for skip in data.skipped} == {"stray.png", "notes.txt", "4.png"}
    assert {skip.path: skip.reason for skip in data.skipped}[str(stray)] == "not in a class folder"


def test_hidden_folders_are_no_classes(root):
    save_flat(root / "train/.cache/x.png", 200)
    save_flat(root / "test/.cache/x.png", 200)
    data = load_small(root)
    assert data.classes == ("cat", "dog")
    assert data.skipped == []


def test_the_test_images_are_read_again_when_they_are_opened(root):
    data = load_small(root)
    save_flat(root / "test/cat/x.png", 60)
    save_flat(root / "test/dog/y.png", 160)
    assert values(data.open_test().images) == [60, 150, 160]


def test_a_test_split_that_cannot_be_read_is_named(root):
    for name in ("cat", "dog"):
        (root / f"test/{name}/x.png").write_bytes(b"damaged")
    with pytest.raises(UserError, match="test has no readable image"):
        load_small(root)


def test_damaged_test_images_are_listed_once_they_are_opened(root):
    save_flat(root / "test/dog/y.png", 160)
    (root / "test/dog/x.png").write_bytes(b"damaged")
    data = load_small(root)
    assert data.skipped == []
    for _ in range(2):
        assert values(data.open_test().images) == [50, 160]
        assert [Path(skip.path).name for skip in data.skipped] == ["x.png"]


def test_one_class_is_refused(root):
    shutil.rmtree(root / "train/dog")
    shutil.rmtree(root / "test/dog")
    with pytest.raises(UserError, match="only one class"):
        load_small(root)


def test_validation_may_not_take_the_last_image_of_a_class(root):
    for k in range(1, 10):
        (root / f"train/dog/{k}.png").unlink()
    with pytest.raises(UserError, match="leaves no training image for the class dog, which has 1:"):
        load_small(root, validation=4)


def test_test_images_outside_the_class_folders_are_none(root):
    (root / "test/cat/x.png").rename(root / "test/x.png")
    (root / "test/dog/x.png").unlink()
    with pytest.raises(UserError, match="test"):
        load_small(root).open_test()


def test_a_missing_root_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere/train is missing"):
        load_small(tmp_path / "nowhere")


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_missing_split_is_named(root, split):
    (root / split).rename(root / "elsewhere")
    with pytest.raises(UserError, match=f"{split} is missing: put the labelled images into .*{split}/<class>/"):
        load_small(root)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_split_without_class_folders_is_refused(root, split):
    (root / split).rename(root / "elsewhere")
    save_flat(root / split / "x.png", 10)
    with pytest.raises(UserError, match=f"{split} has no class folders"):
        load_small(root)


@pytest.mark.parametrize("damaged", [False, True])
def test_a_class_without_images_is_named(root, damaged):
    (root / "train/emu").mkdir()
    if damaged:
        (root / "train/emu/x.png").touch()
    with pytest.raises(UserError, match="no readable image of the class emu"):
        load_small(root)


def test_a_class_that_only_the_test_has_is_named(root):
    save_flat(root / "test/emu/x.png", 10)
    with pytest.raises(UserError, match="lacks: emu"):
        load_small(root)


# --- CIFAR-10: torchvision's own code, pointed at a small archive of the same format


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """Serve five batches of four images and a test batch of four from this machine."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "server" / CIFAR10.base_folder
    folder.mkdir(parents=True)
    names = [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]
    data = rng.integers(0, 256, (6, 4, 3072), dtype=np.uint8)
    labels = rng.permutation(np.arange(24) % 10).reshape(6, 4)
    classes = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    for name, pixels, targets in zip(names, data, labels, strict=True):
        batch = {"batch_label": name, "labels": targets.tolist(), "data": pixels, "filenames": ["x.png"] * 4}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    (folder / "batches.meta").write_bytes(pickle.dumps({"num_vis": 3072, "label_names": classes}, protocol=2))
    archive = folder.parent / "small.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, folder.name)

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=folder.parent))
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    checked = [[name, md5(folder / name)] for name in names]
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{server.server_port}/small.tar.gz")
    monkeypatch.setattr(CIFAR10, "filename", "small.tar.gz")
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(archive))
    monkeypatch.setattr(CIFAR10, "train_list", checked[:5])
    monkeypatch.setattr(CIFAR10, "test_list", checked[5:])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": md5(folder / "batches.meta")})
    images = data.reshape(24, 3, 32, 32)
    yield SimpleNamespace(
        root=tmp_path / "cifar", archive=archive, images=images, labels=labels.ravel(), classes=tuple(classes)
    )
    server.shutdown()
    thread.join()
    server.server_close()


def test_cifar10_is_downloaded_and_comes_back_as_it_was_written(cifar):
    data = load_cifar10(cifar.root, validation=0)
    assert np.array_equal(data.train.images, cifar.images[:20])
    assert np.array_equal(data.train.labels, cifar.labels[:20])
    assert torch.equal(data.unlabelled[:], data.train.images[:])
    test = data.open_test()
    assert np.array_equal(test.images, cifar.images[20:])
    assert np.array_equal(test.labels, cifar.labels[20:])
    assert data.classes == cifar.classes
    assert data.unlabelled.shape[1:] == (3, 32, 32)
    assert (data.train.images.dtype, data.train.labels.dtype) == (torch.uint8, torch.int64)


def test_validation_of_cifar10_is_taken_from_training(cifar):
    data = load_cifar10(cifar.root, validation=4)
    assert len(data.validation) == 4
    assert pairs(arrays(data.train), arrays(data.validation)) == pairs((cifar.images[:20], cifar.labels[:20]))
    assert torch.equal(data.unlabelled[:], data.train.images[:])


@pytest.mark.parametrize("download", [False, True])
def test_cifar10_is_downloaded_once_and_says_so(cifar, monkeypatch, capsys, download):
    load_cifar10(cifar.root, validation=0)
    assert f"downloading it from {CIFAR10.url}" in capsys.readouterr().err
    monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{closed_port()}/small.tar.gz")
    data = load_cifar10(cifar.root, download=download, validation=0)
    assert np.array_equal(data.train.images, cifar.images[:20])
    assert capsys.readouterr().err == ""


def refusal(root, **options):
    """Return the one line that a user reads when CIFAR-10 cannot be read."""
    with pytest.raises(UserError) as caught:
        load_cifar10(root, **options)
    message = str(caught.value)
    assert f"data.root={root}" in message
    assert "\n" not in message
    return message


def test_an_archive_with_the_wrong_checksum_is_refused(cifar, monkeypatch):
    monkeypatch.setattr(CIFAR10, "tgz_md5", "0" * 32)
    assert "corrupted" in refusal(cifar.root)


def test_an_archive_cut_short_is_refused(cifar):
    cifar.archive.write_bytes(cifar.archive.read_bytes()[:-100])
    assert "corrupted" in refusal(cifar.root)


def test_a_damaged_batch_is_refused_when_nothing_may_be_downloaded(cifar):
    load_cifar10(cifar.root, validation=0)
    (cifar.root / CIFAR10.base_folder / "data_batch_3").write_bytes(b"damaged")
    assert "data.download=true" in refusal(cifar.root, download=False)


def test_missing_data_that_may_not_be_downloaded_says_what_to_set(cifar):
    assert "data.download=true" in refusal(cifar.root, download=False)


def test_a_server_that_cannot_be_reached_is_one_line(cifar, monkeypatch):
    monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{closed_port()}/small.tar.gz")
    assert "refused" in refusal(cifar.root)


def test_a_server_that_lacks_the_archive_is_one_line(cifar):
    cifar.archive.unlink()
    assert "404" in refusal(cifar.root)
