"""WebDataset's tar shards, written by tarfile, and by the library itself where it is installed."""

import io
import os
import pickle
import tarfile

import numpy as np
import pytest
from PIL import Image

from pretrain import UserError, load_unlabelled
from pretrain.data import parallel_decoding
from pretrain.data.dataset_settings import WebDatasetData
from pretrain.data.decoding import decode_image
from pretrain.data.image_cache import decode_images
from pretrain.data.shard_samples import read_webdataset
from pretrain.data.tar_shards import read_shards

SMALL = {"image_size": 8, "channels": 1, "cache": None, "validation": 0}


def encoded(value, kind="PNG"):
    """Return an image file of one value, and no other image like it."""
    written = io.BytesIO()
    Image.new("L", (8, 8), value).save(written, kind)
    return written.getvalue()


def write_tar(path, files, mode="w"):
    """Write files, (name, content), in their order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def samples(values, label=lambda k: str(k % 2)):
    """Return the files of samples, of which the values name the images."""
    for k in values:
        yield f"{k:04}.cls", label(k).encode()
        yield f"{k:04}.png", encoded(k)


def values(images):
    flat = images[:].flatten(1)
    assert (flat == flat[:, :1]).all()
    return flat[:, 0].tolist()


@pytest.fixture
def shards(tmp_path):
    """Twenty samples in two shards, and six to test in another; even values have the class 0."""
    write_tar(tmp_path / "train-000.tar", samples(range(10)))
    write_tar(tmp_path / "train-001.tar", samples(range(10, 20)))
    write_tar(tmp_path / "test-000.tar", samples(range(20, 26)))
    return tmp_path


def read(**settings):
    return read_webdataset(WebDatasetData(**SMALL | settings))


@pytest.mark.parametrize("pattern", ["train-{000..001}.tar", "train-*.tar", ["train-000.tar", "train-001.tar"]])
@pytest.mark.parametrize("cached", [False, True])
def test_samples_come_back_in_order_with_their_labels(shards, pattern, cached):
    patterns = [pattern] if isinstance(pattern, str) else pattern
    settings = {"shards": [shards / name for name in patterns], "test_shards": shards / "test-000.tar"}
    for _ in range(1 + cached):  # with a cache, the second time from there
        data = read(**settings, cache=shards / "cache" if cached else None)
        assert values(data.train.images) == [*range(20)]
        assert data.train.labels.tolist() == [k % 2 for k in range(20)]
        assert values(data.open_test().images) == [*range(20, 26)]
        assert data.open_test().labels.tolist() == [0, 1] * 3
        assert data.classes == ("0", "1")
        assert data.skipped == []


def test_a_folder_stands_for_its_shards(shards, tmp_path):
    write_tar(tmp_path / "more/a.tar", samples(range(4)))
    write_tar(tmp_path / "more/b.tar", samples(range(4, 8)))
    (tmp_path / "more/notes.txt").write_text("mine")
    data = read(shards=tmp_path / "more", test_shards=shards / "test-000.tar")
    assert values(data.train.images) == [*range(8)]


def test_images_are_decoded_as_files_are(tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 70, 3), dtype=np.uint8))
    for suffix in ("jpg", "webp", "tga", "png"):
        image.save(tmp_path / f"x.{suffix}")
    files = [(f"{k}.{path.suffix[1:]}", path.read_bytes()) for k, path in enumerate(sorted(tmp_path.glob("x.*")))]
    found = read_shards([write_tar(tmp_path / "a.tar", files)], "data.shards").images
    for k, path in enumerate(sorted(tmp_path.glob("x.*"))):
        assert np.array_equal(found.decode(k, (16, 16), 3).pixels, decode_image(path, (16, 16), 3).pixels)


def test_a_part_is_decoded_in_another_process(shards, monkeypatch):
    found = read_shards([shards / "train-*.tar"], "data.shards").images
    part = pickle.loads(pickle.dumps(found.part(5, 15)))
    assert [int(part.decode(k, 8, 1).pixels[0, 0, 0]) for k in range(10)] == [*range(5, 15)]
    monkeypatch.setattr(parallel_decoding, "FILES_FOR_PROCESSES", 1)
    monkeypatch.setattr(parallel_decoding, "FILES_PER_BLOCK", 6)
    assert values(decode_images(found, 8, 1, shards / "cache").images) == [*range(20)]


def test_a_changed_shard_is_decoded_again(shards):
    settings = {"shards": shards / "train-*.tar", "test_shards": shards / "test-000.tar", "cache": shards / "cache"}
    assert values(read(**settings).train.images) == [*range(20)]
    write_tar(shards / "train-001.tar", samples(range(110, 120)))
    assert values(read(**settings).train.images) == [*range(10), *range(110, 120)]


def test_names_are_in_the_order_of_their_numbers_or_of_the_alphabet(shards, tmp_path):
    for label, expected in [
        (lambda k: str(k % 12), [str(k) for k in range(12)]),
        (lambda k: "zebra" if k % 2 else "ant\n", ["ant", "zebra"]),
    ]:
        path = write_tar(tmp_path / "named.tar", samples(range(24), label))
        source = WebDatasetData(shards=path, test=0.2, **SMALL | {"cache": None})
        assert source.class_names() == expected
        assert list(read_webdataset(source).classes) == expected


def test_test_images_are_set_aside_by_content(shards):
    data = read(shards=[shards / "train-*.tar", shards / "test-000.tar"], test=0.25)
    assert len(data.open_test()) == 6
    assert sorted(values(data.open_test().images) + values(data.train.images)) == [*range(26)]
    assert len(data.parting) == 26
    again = read(shards=[shards / "test-000.tar", shards / "train-*.tar"], test=0.25)
    assert {*values(again.open_test().images)} == {*values(data.open_test().images)}


def test_validation_shards_are_used_where_they_are_given(shards):
    data = read(
        shards=shards / "train-000.tar", validation_shards=shards / "train-001.tar", test_shards=shards / "test-000.tar"
    )
    assert values(data.train.images) == [*range(10)]
    assert values(data.validation.images) == [*range(10, 20)]


def test_only_samples_with_an_image_and_a_label_are_labelled_images(shards, tmp_path):
    odd = [
        ("a.png", encoded(100)),
        ("b.cls", b"1"),
        ("c.png", b"damaged"),
        ("c.cls", b"1"),
        ("d.cls", b" \n"),
        ("d.png", encoded(101)),
        ("._e.png", encoded(102)),
        ("__f__", b"note"),
        ("g.seg.png", encoded(103)),
        ("g.cls", b"0"),
        ("deep/er/h.JPG", encoded(104, "JPEG")),
        ("deep/er/h.cls", b"0"),
        ("deep/er/h.png", encoded(105)),
        ("deep/h.png", encoded(106)),
        ("deep/h.cls", b"1"),
    ]
    path = write_tar(tmp_path / "odd.tar", odd)
    data = read(shards=[shards / "train-000.tar", path], test_shards=shards / "test-000.tar")
    assert values(data.train.images) == [*range(10), 104, 106]
    assert data.train.labels.tolist()[10:] == [0, 1]
    reasons = {os.path.basename(skip.path): skip.reason for skip in data.skipped}
    assert reasons == {
        "a.png": "no label (.cls)",
        "b": "a sample without an image",
        "c.png": "not an image in a format that is read, or its beginning is damaged",
        "d.png": "no label (.cls)",
        "g": "a sample without an image",
    }


def test_unlabelled_pools_may_be_shards(shards, tmp_path):
    path = write_tar(tmp_path / "pool.tar", [(f"{k}.png", encoded(k)) for k in range(200, 205)])
    assert values(load_unlabelled([path], 8, 1, cache=None).images) == [*range(200, 205)]
    data = read(shards=shards / "train-*.tar", test_shards=shards / "test-000.tar", unlabelled=[path])
    assert values(data.unlabelled) == [*range(20), *range(200, 205)]


def test_a_shard_is_given_once(shards):
    for twice in ({"test_shards": shards / "train-001.tar"}, {"unlabelled": [shards / "*.tar"]}):
        with pytest.raises(UserError, match=r"\.tar is given twice"):
            read(**{"shards": shards / "train-*.tar", "test_shards": shards / "test-000.tar"} | twice)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "^shards=null|^shards is missing"),
        ({"shards": []}, "^shards is missing"),
        ({"shards": ["a.tar"]}, "^test_shards is missing: give tar files, or set a share"),
        ({"shards": ["a.tar"], "test_shards": ["b.tar"], "test": 0.1}, "^test=0.1: there are test shards"),
    ],
)
def test_settings_that_name_too_little_or_too_much_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        WebDatasetData(**{"shards": None} | settings)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.tar", r"^data\.shards=.*none\.tar: there is no file"),
        ("none-{0..3}.tar", r"there is no file .*none-0\.tar"),
        ("none-*.tar", r"there is no file .*none-\*\.tar"),
        ("packed.tar.gz", r"packed\.tar\.gz cannot be read .*: a compressed shard cannot be read in any order: unpack"),
        ("text.tar", "it is damaged, compressed or no tar file"),
        ("packed.tar", "it is damaged, compressed or no tar file"),
        ("cut.tar", "it is damaged, compressed or no tar file"),
        ("empty.tar", r"data\.shards: no sample has both an image and a label, as in 7\.jpg and 7\.cls"),
        ("binary.tar", r"0\.cls is no label, .*: give the ending of the labels as data\.label"),
    ],
)
def test_what_is_no_shard_is_one_line(shards, name, message):
    files = [*samples(range(5))]
    write_tar(shards / "packed.tar.gz", files, "w:gz")
    (shards / "packed.tar").write_bytes((shards / "packed.tar.gz").read_bytes())
    (shards / "text.tar").write_text("no tar file" * 100)
    (shards / "cut.tar").write_bytes((shards / "train-000.tar").read_bytes()[:3000])
    write_tar(shards / "empty.tar", [])
    write_tar(shards / "binary.tar", [("0.cls", b"\xff\xfe\xfd"), ("0.png", encoded(0))])
    with pytest.raises(UserError, match=message) as caught:
        read(shards=shards / name, test_shards=shards / "test-000.tar")
    assert len(str(caught.value).splitlines()) == 1


def test_a_shard_that_was_cut_meanwhile_loses_its_last_images_alone(shards):
    found = read_shards([shards / "train-000.tar"], "data.shards").images
    os.truncate(shards / "train-000.tar", int(found.places[9, 2]) - 1)
    decoded = decode_images(found, 8, 1, None)
    assert values(decoded.images) == [*range(9)]
    assert [skip.reason for skip in decoded.skipped] == ["the shard ends before it"]


def test_a_class_that_only_the_test_has_is_named(shards):
    write_tar(shards / "emu.tar", samples([200, 201], lambda k: "emu"))
    with pytest.raises(UserError, match=r"data\.shards has no image of the class emu"):
        read(shards=shards / "train-*.tar", test_shards=shards / "emu.tar")


def test_shards_of_the_library_are_read(tmp_path):
    webdataset = pytest.importorskip("webdataset", reason="webdataset is not installed")
    with webdataset.ShardWriter(str(tmp_path / "s-%03d.tar"), maxcount=7, verbose=0) as sink:
        for k in range(20):
            sink.write({"__key__": f"sample{k:03}", "png": np.full((8, 8), k, np.uint8), "cls": k % 2})
    data = read(shards=tmp_path / "s-{000..002}.tar", test=0.2)
    streamed = webdataset.WebDataset(sorted(map(str, tmp_path.glob("*.tar"))), shardshuffle=False)
    expected = {
        (int(np.asarray(Image.open(io.BytesIO(each["png"])))[0, 0]), int(each["cls"].decode())) for each in streamed
    }
    read_here = [
        pair
        for part in (data.train, data.open_test())
        for pair in zip(values(part.images), part.labels.tolist(), strict=True)
    ]
    assert {*read_here} == expected
    assert len(read_here) == 20


def test_commands_take_shards(shards, run_here):
    options = ["data=webdataset", "data.shards=train-{000..001}.tar", "data.image_size=8", "stack=cae_small"]
    described = run_here(shards, "describe", *options, "data.test_shards=[test-000.tar]")
    assert described.returncode == 0, described.stderr
    steps = ["stack.stages.stage1.training.steps=2", "stack.stages.stage2.training.steps=2", "out=runs/stages"]
    result = run_here(shards, "stage", *options, *steps, "data.test=0.2", "data.duplicates=keep")
    assert result.returncode == 0, result.stderr
    assert (shards / "runs/stages/split.csv").read_text().count("test\n") == 4
