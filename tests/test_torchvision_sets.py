"""Sets of torchvision, from small files of their own formats that the tests write: no network is needed."""

import gzip
import hashlib
import pickle
import struct
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image
from torchvision import datasets

from pretrain import UserError
from pretrain.data.torchvision_sets import SPLITS_OF, read_torchvision
from pretrain.data.torchvision_settings import SETS, TorchvisionData

RNG = np.random.default_rng(0)


QUICK = {"download": False, "validation": 0, "duplicates": "keep", "cache": None}


def read(root, dataset, **settings):
    return read_torchvision(TorchvisionData(dataset=dataset, root=root, **QUICK | settings))


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def drawn(count, classes, shape):
    """Return images of noise, and labels of which each class has one at least."""
    return RNG.integers(0, 256, (count, *shape), dtype=np.uint8), RNG.permutation(np.arange(count) % classes)


def require_equal(labelled, images, labels):
    """Compare with images, (N, C, H, W)."""
    assert np.array_equal(labelled.images, images)
    assert np.array_equal(labelled.labels, labels)


# --- CIFAR-100


@pytest.fixture
def cifar100(tmp_path, monkeypatch):
    kind, made = datasets.CIFAR100, {}
    folder = tmp_path / kind.base_folder
    for name, count in (("train", 200), ("test", 100)):
        images, labels = drawn(count, 100, (3, 32, 32))
        batch = {"data": images.reshape(count, -1), "fine_labels": labels.tolist()}
        file = write(folder / name, pickle.dumps(batch, protocol=2))
        monkeypatch.setattr(kind, f"{name}_list", [[name, md5(file)]])
        made[name] = images, labels
    names = {"fine_label_names": [f"thing {k}" for k in range(100)]}
    file = write(folder / "meta", pickle.dumps(names, protocol=2))
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5(file)})
    return tmp_path, made


def test_cifar100_comes_back_as_it_was_written(cifar100):
    root, made = cifar100
    data = read(root, "CIFAR100")
    require_equal(data.train, *made["train"])
    require_equal(data.open_test(), *made["test"])
    assert data.classes == tuple(f"thing {k}" for k in range(100))
    assert torch.equal(data.unlabelled[:], data.train.images[:])


def test_images_are_brought_to_the_size_and_channels_that_are_set(cifar100):
    root, made = cifar100
    data = read(root, "CIFAR100", image_size=[8, 16], channels=1)
    assert data.train.images.shape == (200, 1, 8, 16)
    image = Image.fromarray(made["train"][0][5].transpose(1, 2, 0)).convert("L")
    expected = image.resize((16, 8), Image.Resampling.BICUBIC, box=(0, 8, 32, 24))
    assert np.array_equal(data.train.images[5][0], np.asarray(expected))


def test_decoded_images_are_kept_until_the_files_change(cifar100, tmp_path):
    root, made = cifar100
    for _ in range(2):
        data = read(root, "CIFAR100", cache=tmp_path / "cache")
        require_equal(data.train, *made["train"])
        require_equal(data.open_test(), *made["test"])
    assert len([*(tmp_path / "cache").glob("*/images.bin")]) == 2


def test_validation_images_are_drawn_from_those_for_training(cifar100):
    root, made = cifar100
    data = read(root, "CIFAR100", validation=15)
    assert (len(data.train), len(data.validation)) == (185, 15)
    assert len(data.unlabelled) == 185
    both = torch.cat([data.train.images[:], data.validation.images[:]])
    assert sorted(image.numpy().tobytes() for image in both) == sorted(image.tobytes() for image in made["train"][0])


# --- SVHN


def test_svhn_comes_back_as_it_was_written(tmp_path, monkeypatch):
    made, files = {}, {}
    for split in ("train", "test"):
        images, labels = drawn(30, 10, (3, 32, 32))
        # MATLAB counts from 1, and SVHN calls the digit 0 ten.
        stored = {"X": images.transpose(2, 3, 1, 0), "y": np.where(labels == 0, 10, labels)[:, None].astype(np.uint8)}
        scipy.io.savemat(tmp_path / f"{split}_32x32.mat", stored)
        files[split] = ["", f"{split}_32x32.mat", md5(tmp_path / f"{split}_32x32.mat")]
        made[split] = images, labels
    monkeypatch.setattr(datasets.SVHN, "split_list", {**datasets.SVHN.split_list, **files})
    data = read(tmp_path, "SVHN")
    require_equal(data.train, *made["train"])
    require_equal(data.open_test(), *made["test"])
    assert data.classes == tuple("0123456789")


# --- STL-10


@pytest.fixture
def stl10(tmp_path, monkeypatch):
    kind, made, folder = datasets.STL10, {}, tmp_path / datasets.STL10.base_folder
    for split in ("train", "test", "unlabeled"):
        images, labels = drawn(20, 10, (3, 96, 96))
        # Its pixels follow each other down the columns.
        write(folder / f"{split}_X.bin", images.transpose(0, 1, 3, 2).tobytes())
        write(folder / f"{split}_y.bin", (labels + 1).astype(np.uint8).tobytes())
        made[split] = images, labels
    (folder / "unlabeled_y.bin").unlink()
    classes = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]
    write(folder / "class_names.txt", "\n".join(classes).encode())
    for name in ("train_list", "test_list"):
        monkeypatch.setattr(kind, name, [[file, md5(folder / file)] for file, _ in getattr(kind, name)])
    return tmp_path, made, classes


@pytest.mark.parametrize("cached", [False, True])
def test_the_unlabelled_images_of_stl10_are_in_the_pool(stl10, cached):
    root, made, classes = stl10
    data = read(root, "STL10", cache=root / "cache" if cached else None)
    require_equal(data.train, *made["train"])
    require_equal(data.open_test(), *made["test"])
    assert data.classes == tuple(classes)
    assert np.array_equal(data.unlabelled[:20], made["train"][0])
    assert np.array_equal(data.unlabelled[20:], made["unlabeled"][0])


def test_more_images_follow_those_of_stl10(stl10, tmp_path):
    root, _, _ = stl10
    (tmp_path / "more").mkdir()
    Image.new("RGB", (96, 96), (9, 99, 199)).save(tmp_path / "more/x.png")
    data = read(root, "STL10", unlabelled=[tmp_path / "more"])
    assert len(data.unlabelled) == 41
    assert data.unlabelled[-1][:, 0, 0].tolist() == [9, 99, 199]


# --- MNIST and its kind


def idx(array):
    """Return an array in the format of MNIST's files."""
    return struct.pack(f">{array.ndim + 1}I", 0x0800 + array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def idx_files(tmp_path):
    """Return a function that writes the files of a set of MNIST's kind."""

    def make(dataset, classes, train="train", test="t10k"):
        made = {}
        for name, prefix in (("train", train), ("test", test)):
            images, labels = drawn(2 * classes, classes, (28, 28))
            stored = images.transpose(0, 2, 1) if dataset == "EMNIST" else images
            write(tmp_path / dataset / f"raw/{prefix}-images-idx3-ubyte", idx(np.ascontiguousarray(stored)))
            write(tmp_path / dataset / f"raw/{prefix}-labels-idx1-ubyte", idx(labels.astype(np.uint8)))
            made[name] = images[:, None], labels
        return made

    return make


@pytest.mark.parametrize("dataset", ["MNIST", "FashionMNIST", "KMNIST"])
def test_mnist_and_its_kind_come_back_as_they_were_written(idx_files, tmp_path, dataset):
    made = idx_files(dataset, 10)
    data = read(tmp_path, dataset, image_size=28)
    require_equal(data.train, *made["train"])
    require_equal(data.open_test(), *made["test"])
    assert data.classes == tuple(getattr(datasets, dataset).classes)
    assert read(tmp_path, dataset).unlabelled.shape == (20, 1, 32, 32)
    assert read(tmp_path, dataset, channels=3).unlabelled.shape == (20, 3, 32, 32)


def test_emnist_is_turned_upright(idx_files, tmp_path):
    made = idx_files("EMNIST", 47, "emnist-balanced-train", "emnist-balanced-test")
    data = read(tmp_path, "EMNIST", image_size=28)
    require_equal(data.train, *made["train"])
    require_equal(data.open_test(), *made["test"])
    assert data.classes[:11] == (*"0123456789", "A")


# --- Sets of files


def noise_file(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, (70, 90, 3), dtype=np.uint8)).save(path)
    return path.stem


def describable_textures(root):
    splits = {"train1": 3, "val1": 2, "test1": 2}
    for split, count in splits.items():
        names = [f"{kind}/{kind}_{split}_{k}.jpg" for kind in ("dotted", "banded") for k in range(count)]
        for name in names:
            noise_file(root / "dtd/dtd/images" / name)
        write(root / f"dtd/dtd/labels/{split}.txt", "\n".join(names).encode())
    return (6, 4, 4), ("banded", "dotted"), [1, 1, 1, 0, 0, 0]


def pets(root):
    for split, count in (("trainval", 3), ("test", 2)):
        names = [(f"{kind}_{split}{k}", n) for n, kind in enumerate(("Bengal", "pug")) for k in range(count)]
        for name, _ in names:
            noise_file(root / "oxford-iiit-pet/images" / f"{name}.jpg")
        lines = [f"{name} {n + 1} {n + 1} 1" for name, n in names]
        write(root / f"oxford-iiit-pet/annotations/{split}.txt", "\n".join(lines).encode())
    return (6, 0, 4), ("Bengal", "Pug"), [0, 0, 0, 1, 1, 1]


def imagenette(root):
    for split, count in (("train", 3), ("val", 2)):
        for kind in ("n01440764", "n03888257"):
            for k in range(count):
                noise_file(root / "imagenette2-160" / split / kind / f"{k}.JPEG")
    return (6, 0, 4), ("tench", "parachute"), [0, 0, 0, 1, 1, 1]


def flowers(root, monkeypatch):
    folder, kind = root / "flowers-102", datasets.Flowers102
    labels = np.tile(np.arange(1, 103), 3)
    for k in range(1, len(labels) + 1):
        noise_file(folder / f"jpg/image_{k:05}.jpg")
    scipy.io.savemat(folder / "imagelabels.mat", {"labels": labels})
    ids = np.arange(1, 307)
    scipy.io.savemat(folder / "setid.mat", {"trnid": ids[:102], "valid": ids[102:204], "tstid": ids[204:]})
    files = {key: (name, md5(folder / name) if key != "image" else "") for key, (name, _) in kind._file_dict.items()}
    monkeypatch.setattr(kind, "_file_dict", files)
    return (102, 102, 102), None, [*range(102)]


@pytest.mark.parametrize(
    ("dataset", "make"),
    [("DTD", describable_textures), ("OxfordIIITPet", pets), ("Imagenette", imagenette), ("Flowers102", flowers)],
)
def test_sets_of_files_are_decoded_as_folders_are(tmp_path, monkeypatch, dataset, make):
    counts, classes, labels = make(tmp_path, monkeypatch) if make is flowers else make(tmp_path)
    data = read(tmp_path, dataset, cache=tmp_path / "cache", image_size=24)
    assert (len(data.train), len(data.validation), len(data.open_test())) == counts
    assert data.train.labels.tolist() == labels
    assert data.train.images.shape[1:] == (3, 24, 24)
    assert classes is None or data.classes == classes


# --- What is missing


@pytest.mark.parametrize("dataset", SETS)
def test_missing_data_is_one_line(tmp_path, dataset):
    with pytest.raises(UserError) as caught:
        read(tmp_path, dataset)
    message = str(caught.value)
    assert message.startswith(f"{dataset} could not be read from data.root={tmp_path} (")
    assert message.endswith("): download it with data.download=true.")
    assert "\n" not in message


def test_a_failed_download_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(datasets.KMNIST, "mirrors", ["http://127.0.0.1:9/"])
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(UserError, match=r"check the connection, or put the files that torchvision expects there\.$"):
        read(tmp_path, "KMNIST", download=True)
    assert f"KMNIST is not in {tmp_path} yet: downloading it" in capsys.readouterr().err


def test_missing_files_are_downloaded_once(tmp_path, idx_files, monkeypatch, capsys):
    made = idx_files("FashionMNIST", 10)
    mirror = tmp_path / "mirror"
    resources = []
    for file in sorted((tmp_path / "FashionMNIST/raw").iterdir()):
        packed = write(mirror / f"{file.name}.gz", gzip.compress(file.read_bytes()))
        resources.append((packed.name, md5(packed)))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=mirror))
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
    monkeypatch.setattr(datasets.FashionMNIST, "resources", resources)
    try:
        for told in (True, False):
            data = read(tmp_path / "new", "FashionMNIST", download=True, image_size=28)
            require_equal(data.train, *made["train"])
            assert ("downloading it" in capsys.readouterr().err) == told
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("damage", [b"", b"damaged", idx(np.zeros((3, 28, 28), dtype=np.uint8))[:-9]])
def test_damaged_files_are_one_line(tmp_path, idx_files, damage):
    idx_files("MNIST", 10)
    write(tmp_path / "MNIST/raw/train-images-idx3-ubyte", damage)
    with pytest.raises(UserError, match=r"^MNIST could not be read from data\.root=.*: download it with"):
        read(tmp_path, "MNIST")


# --- Settings


def test_each_set_has_its_splits_and_its_form():
    assert SETS.keys() == SPLITS_OF.keys()
    for dataset, (side, channels, classes) in SETS.items():
        source = TorchvisionData(dataset=dataset)
        assert source.shape == (channels, side, side)
        assert len(source.class_names()) == classes
        assert hasattr(datasets, dataset)
    assert TorchvisionData(dataset="MNIST", image_size=[28, 40], channels=3).shape == (3, 28, 40)


@pytest.mark.parametrize("dataset", SETS)
def test_the_default_stack_fits_each_set(tmp_path, run_here, dataset):
    result = run_here(tmp_path, "describe", "data=torchvision", f"data.dataset={dataset}")
    assert result.returncode == 0, result.stderr


@pytest.mark.integration
def test_commands_take_a_set(tmp_path, idx_files, run_here):
    idx_files("MNIST", 10)
    small = ["stack.stages.stage1.training.steps=2", "stack.stages.stage2.training.steps=2", "stack=cae_small"]
    options = ["data=torchvision", "data.dataset=MNIST", "data.root=.", "data.image_size=8", "data.validation=5"]
    run = partial(run_here, tmp_path)
    assert run("stage", *options, *small, "out=runs/stages").returncode == 0
    start = ["init=pretrained", "stages=runs/stages", "recipe.steps=2", "stack=cae_small"]
    result = run("finetune", *options, *start, *small[:2], "out=runs/ft")
    assert result.returncode == 0, result.stderr
    assert not Path(tmp_path, "runs/ft/split.csv").exists()
