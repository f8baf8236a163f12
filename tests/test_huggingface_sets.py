"""Data sets of the library datasets, which the tests save themselves."""

import io
import pickle
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

from pretrain import UserError, load_unlabelled
from pretrain.data import parallel_decoding
from pretrain.data.dataset_settings import HuggingFaceData
from pretrain.data.huggingface_sets import read_huggingface
from pretrain.data.image_cache import decode_images
from pretrain.data.saved_datasets import open_saved, saved_images

datasets = pytest.importorskip("datasets", reason="datasets is not installed")

SMALL = {"image_size": 8, "channels": 1, "cache": None, "validation": 0}
CLASSES = ["zebra", "ant", "emu"]  # in an order of their own


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Keep what the library makes of parquet files within the test, and its progress bars silent."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    datasets.disable_progress_bars()


def flat(value):
    return Image.new("L", (8, 8), value)


def split(values, label=None, classes=CLASSES[:2], image="image", name="label"):
    """Return a split of flat images, of which the value is even for the first class."""
    features = {image: datasets.Image()}
    labels = [value % 2 for value in values] if label is None else [label(value) for value in values]
    kind = datasets.ClassLabel(names=classes) if classes else None
    features[name] = kind or datasets.Value("string" if isinstance(labels[0], str) else "int64")
    content = {image: [flat(value) for value in values], name: labels}
    return datasets.Dataset.from_dict(content, features=datasets.Features(features))


def save(path, **splits):
    datasets.DatasetDict(splits).save_to_disk(path)
    return path


def parquet(path, **splits):
    path.mkdir()
    for name, each in splits.items():
        each.to_parquet(path / f"{name}-00000-of-00001.parquet")
    return path


def values(images):
    pixels = images[:].flatten(1)
    assert (pixels == pixels[:, :1]).all()
    return pixels[:, 0].tolist()


def read(path, **settings):
    return read_huggingface(HuggingFaceData(path=path, **SMALL | settings))


@pytest.mark.parametrize("form", [save, parquet])
@pytest.mark.parametrize("cached", [False, True])
def test_a_saved_set_comes_back_as_it_was(tmp_path, form, cached):
    path = form(tmp_path / "saved", train=split(range(20)), test=split(range(30, 36)))
    for _ in range(1 + cached):  # with a cache, the second time from there
        data = read(path, cache=tmp_path / "cache" if cached else None)
        assert data.classes == ("zebra", "ant")
        assert values(data.train.images) == [*range(20)]
        assert data.train.labels.tolist() == [0, 1] * 10
        assert values(data.open_test().images) == [*range(30, 36)]
        assert data.open_test().labels.tolist() == [0, 1] * 3
        assert data.skipped == []
    assert HuggingFaceData(path=path).class_names() == ["zebra", "ant"]


def test_validation_and_unlabelled_splits_are_used(tmp_path):
    splits = {"train": split(range(10)), "valid": split(range(10, 14)), "test": split(range(20, 24))}
    pool = split(range(40, 45)).remove_columns("label")
    more = split(range(50, 52)).remove_columns("label")
    path, other = save(tmp_path / "saved", **splits, unlabeled=pool), tmp_path / "more"
    more.save_to_disk(other)
    data = read(path, unlabelled=[other], validation=0.3)
    assert values(data.validation.images) == [*range(10, 14)]
    assert values(data.unlabelled) == [*range(10), *range(40, 45), 50, 51]
    assert values(load_unlabelled([other], 8, 1, cache=None).images) == [50, 51]


def test_other_splits_are_told(tmp_path, capsys):
    path = save(tmp_path / "saved", train=split(range(10)), test=split(range(20, 24)), extra=split(range(30, 40)))
    assert len(read(path).unlabelled) == 10
    assert "the split extra is not used" in capsys.readouterr().err


def test_a_set_without_splits_is_parted_by_content(tmp_path):
    split(range(40)).save_to_disk(tmp_path / "saved")
    data = read(tmp_path / "saved", test=0.25)
    assert data.open_test().labels.bincount().tolist() == [5, 5]
    assert sorted(values(data.open_test().images) + values(data.train.images)) == [*range(40)]
    shuffled = split([*reversed(range(40))])
    shuffled.save_to_disk(tmp_path / "other")
    assert {*values(read(tmp_path / "other", test=0.25).open_test().images)} == {*values(data.open_test().images)}
    with pytest.raises(UserError, match=r"there are no test images: .* data\.test=0\.2"):
        read(tmp_path / "saved")
    both = save(tmp_path / "both", train=split(range(20)), test=split(range(30, 36)))
    with pytest.raises(UserError, match=r"data\.test=0\.2: there are test images already"):
        read(both, test=0.2)


@pytest.mark.parametrize(
    ("label", "classes"),
    [(lambda k: ("b", "a", "c")[k % 3], ["a", "b", "c"]), (lambda k: k % 12, [str(k) for k in range(12)])],
)
def test_labels_may_be_names_or_numbers(tmp_path, label, classes):
    path = save(tmp_path / "saved", train=split(range(24), label, None), test=split(range(30, 54), label, None))
    data = read(path)
    assert data.classes == tuple(classes)
    assert [classes[k] for k in data.train.labels] == [str(label(k)) for k in range(24)]


def test_classes_that_do_not_occur_are_left_out(tmp_path):
    path = save(tmp_path / "saved", train=split(range(20), classes=CLASSES), test=split(range(30, 36), classes=CLASSES))
    assert HuggingFaceData(path=path).class_names() == ["zebra", "ant"]
    assert read(path).classes == ("zebra", "ant")


def test_images_without_a_label_and_cells_that_cannot_be_read_are_listed(tmp_path):
    train = split(range(10), label=lambda k: -1 if k == 3 else k % 2)
    rows = train.cast_column("image", datasets.Image(decode=False)).to_list()
    rows[5]["image"], rows[6]["image"] = {"bytes": b"damaged", "path": None}, None
    damaged = datasets.Dataset.from_list(rows, features=train.features)
    data = read(save(tmp_path / "saved", train=damaged, test=split(range(30, 36))))
    assert values(data.train.images) == [0, 1, 2, 4, 7, 8, 9]
    assert data.train.labels.tolist() == [0, 1, 0, 0, 1, 0, 1]
    assert {skip.path for skip in data.skipped} == {"train/3", "train/5", "train/6"}


def test_columns_are_found_by_their_types_or_named(tmp_path):
    def two(numbers):
        one = split(numbers, image="photo", name="species")
        other = split([value + 100 for value in numbers], image="mask", name="site")
        return datasets.concatenate_datasets([one, other], axis=1)

    path = save(tmp_path / "saved", train=two(range(10)), test=two(range(20, 24)))
    with pytest.raises(UserError, match=r"^data\.label: 2 columns may be the label; give one of photo, species, mask"):
        read(path)
    with pytest.raises(UserError, match=r"^data\.image: 2 columns may be the image; give one of photo"):
        read(path, label="site")
    assert values(read(path, label="site", image="mask").train.images) == [*range(100, 110)]
    with pytest.raises(UserError, match=r"^data\.image=foto: there is no such column; choose one of photo, species"):
        read(path, label="site", image="foto")


def test_bytes_and_files_are_images_too(tmp_path):
    def encoded(value):
        written = io.BytesIO()
        flat(value).save(written, "PNG")
        return written.getvalue()

    plain = {"jpg": [encoded(k) for k in range(10)], "label": [k % 2 for k in range(10)]}
    path = parquet(tmp_path / "plain", train=datasets.Dataset.from_dict(plain), test=datasets.Dataset.from_dict(plain))
    assert values(read(path, duplicates="keep").train.images) == [*range(10)]
    (tmp_path / "files").mkdir()
    for k in range(10):
        flat(k).save(tmp_path / f"files/{k}.png")
    cells = [{"bytes": None, "path": str(tmp_path / f"files/{k}.png")} for k in range(10)]
    assert values(decode_images(named(cells, tmp_path / "named"), 8, 1, None).images) == [*range(10)]


def named(cells, path):
    features = datasets.Features({"image": datasets.Image(decode=False)})
    table = datasets.Dataset.from_dict({"image": cells}, features=features)
    return saved_images(table, "train")


def test_a_part_is_decoded_in_another_process(tmp_path, monkeypatch):
    path = save(tmp_path / "saved", train=split(range(20)), test=split(range(30, 36)))
    images = saved_images(open_saved(path, "data.path")["train"], "train")
    part = pickle.loads(pickle.dumps(images.part(5, 15)))
    assert [int(part.decode(k, 8, 1).pixels[0, 0, 0]) for k in range(10)] == [*range(5, 15)]
    monkeypatch.setattr(parallel_decoding, "FILES_FOR_PROCESSES", 1)
    monkeypatch.setattr(parallel_decoding, "FILES_PER_BLOCK", 6)
    assert values(decode_images(images, 8, 1, tmp_path / "cache").images) == [*range(20)]


def test_a_changed_set_is_decoded_again(tmp_path):
    settings = {"cache": tmp_path / "cache"}
    for start in (0, 100):
        path = save(tmp_path / "saved", train=split(range(start, start + 20)), test=split(range(60, 66)))
        assert values(read(path, **settings).train.images) == [*range(start, start + 20)]
        shutil.rmtree(path)


def test_what_is_no_data_set_is_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    damaged = save(tmp_path / "damaged", train=split(range(10)), test=split(range(10)))
    next((damaged / "train").glob("*.arrow")).write_bytes(b"damaged")
    only_test = save(tmp_path / "only", test=split(range(10)))
    for path, message in [
        (tmp_path / "none", r"^data\.path=.*none is not a folder"),
        (tmp_path / "empty", r"was not written by save_to_disk, and it has no parquet files"),
        (damaged, r"^data\.path=.*damaged cannot be read \(.*\): write it again\.$"),
        (only_test, r"there is no split train, but test"),
    ]:
        with pytest.raises(UserError, match=message) as caught:
            read(path)
        assert len(str(caught.value).splitlines()) == 1


def test_without_the_library_a_line_says_how_to_get_it(tmp_path, monkeypatch, run_here):
    monkeypatch.setitem(sys.modules, "datasets", None)
    result = run_here(tmp_path, "describe", "data=huggingface", "data.path=saved")
    assert result.returncode == 2
    assert result.stderr == "error: the library datasets is missing: run pip install 'pretrain[huggingface]'.\n"


def test_commands_take_a_saved_set(tmp_path, run_here):
    save(tmp_path / "saved", train=split(range(40)), test=split(range(60, 66)))
    options = ["data=huggingface", "data.path=saved", "data.image_size=8", "stack=cae_small", "data.validation=4"]
    described = run_here(tmp_path, "describe", *options)
    assert described.returncode == 0, described.stderr
    steps = ["stack.stages.stage1.training.steps=2", "stack.stages.stage2.training.steps=2"]
    result = run_here(tmp_path, "finetune", *options, *steps, "recipe.steps=2", "out=runs/ft")
    assert result.returncode == 0, result.stderr
    assert Path(tmp_path, "runs/ft/split.csv").read_text().splitlines()[1] == "train/0,zebra,train"
