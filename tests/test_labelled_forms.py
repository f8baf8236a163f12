"""Labelled images in the forms that people have: one folder of classes, and a table of files."""

import csv
import random
import shutil
from functools import partial
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import pretrain
from pretrain import FolderData, UserError, load_folder
from pretrain.data.dataset_settings import DataSource
from pretrain.data.label_table import read_label_table
from pretrain.data.splits import split_test
from pretrain.runs.run_folder import RunFolder
from pretrain.runs.typed_settings import as_config

SMALL_STACK = ["stack=cae_small", "stack.stages.stage1.training.steps=2", "stack.stages.stage2.training.steps=2"]


def save_noise(path, seed):
    """Save an image like no other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8), dtype=np.uint8)).save(path)
    return path


load_small = partial(load_folder, image_size=8, channels=1, cache=None)


def content(labelled):
    """Return the bytes of each image, with its class."""
    return {(image.numpy().tobytes(), int(k)) for image, k in zip(labelled.images[:], labelled.labels, strict=True)}


def rows_of(file):
    with file.open(encoding="utf-8", newline="") as opened:
        return [*csv.DictReader(opened)]


@pytest.fixture
def photos(tmp_path):
    """Forty cats and twenty dogs."""
    for k in range(60):
        save_noise(tmp_path / "photos" / ("cat" if k < 40 else "dog") / f"{k}.png", k)
    return tmp_path / "photos"


# --- One folder of classes


@pytest.mark.parametrize(("test", "counts"), [(0.2, [8, 4]), (12, [8, 4]), (0.5, [20, 10])])
def test_a_share_or_number_of_each_class_is_set_aside(photos, test, counts):
    data = load_small(photos, test=test, validation=0)
    assert data.classes == ("cat", "dog")
    assert data.open_test().labels.bincount().tolist() == counts
    assert not content(data.open_test()) & content(data.train)
    assert len(content(data.open_test()) | content(data.train)) == 60
    assert len(data.unlabelled) == 60 - sum(counts)


def test_validation_comes_from_the_rest(photos):
    whole, parted = (load_small(photos, test=0.2, validation=share) for share in (0, 0.25))
    assert content(parted.open_test()) == content(whole.open_test())
    assert len(parted.validation) == 12
    assert content(parted.train) | content(parted.validation) == content(whole.train)


def test_the_test_split_depends_on_no_name_and_no_order(photos, tmp_path):
    names = [f"{k:02}.png" for k in range(60)]
    random.Random(0).shuffle(names)
    for name, file in zip(names, sorted(photos.rglob("*.png")), strict=True):
        other = tmp_path / "other" / {"cat": "z", "dog": "a"}[file.parent.name] / "deeper" / name
        other.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, other)
    one, other = (load_small(root, test=0.3).open_test() for root in (photos, tmp_path / "other"))
    assert {image for image, _ in content(one)} == {image for image, _ in content(other)}


@given(st.lists(st.tuples(st.integers(0, 2), st.binary(min_size=1, max_size=1)), min_size=4, max_size=60), st.data())
def test_the_split_by_content_keeps_copies_together_and_counts_each_class(images, data):
    labels, keys = torch.tensor([k for k, _ in images]), [key * 16 for _, key in images]
    share = data.draw(st.floats(0.05, 0.6))
    try:
        rest, test = split_test(labels, share, keys, ["a", "b", "c"])
    except UserError:
        hypothesis.reject()
    assert sorted([*rest.tolist(), *test.tolist()]) == [*range(len(images))]
    assert not {keys[k] for k in rest} & {keys[k] for k in test}
    order = data.draw(st.permutations(range(len(images))))
    _, again = split_test(labels[order], share, [keys[k] for k in order], ["a", "b", "c"])
    assert {order[k] for k in again} == {*test.tolist()}


@given(st.integers(2, 200), st.integers(1, 50), st.integers(0, 2**32 - 1))
def test_images_that_are_added_move_others_to_one_side_only(count, more, seed):
    rng = np.random.default_rng(seed)
    keys = [rng.bytes(16) for _ in range(2 * count + more)]
    labels = torch.tensor([k % 2 for k in range(2 * count)] + [0] * more)
    before = {*split_test(labels[: 2 * count], 0.25, keys[: 2 * count], ["a", "b"])[1].tolist()}
    after = {*split_test(labels, 0.25, keys, ["a", "b"])[1].tolist()} & {*range(2 * count)}
    for k in (0, 1):
        one, other = ({place for place in test if labels[place] == k} for test in (before, after))
        assert one <= other or other <= one
    assert len(before ^ after) <= more + 2


@pytest.mark.parametrize(
    ("test", "message"),
    [(0.001, "data.test=0.001 makes 0 of 60"), (60, "data.test=60 makes 60 of 60"), (59, "leaves no other image of")],
)
def test_a_split_that_leaves_nothing_is_refused(photos, test, message):
    with pytest.raises(UserError, match=message):
        load_small(photos, test=test)


def test_a_class_of_copies_cannot_be_parted(photos):
    shutil.rmtree(photos / "dog")
    for k in range(3):
        save_noise(photos / f"dog/{k}.png", 99)
    with pytest.raises(UserError, match="leaves no other image of the class dog, which has 3"):
        load_small(photos, test=0.2)


def test_folders_for_training_and_testing_are_no_classes(photos):
    for split in ("train", "test"):
        save_noise(photos / split / "cat/1.png", 1)
    with pytest.raises(UserError, match="has the folders train and test: leave out"):
        load_small(photos, test=0.2)


def test_class_folders_without_a_folder_for_training_lead_to_the_setting(photos):
    with pytest.raises(UserError, match=r"train is missing: .* aside for testing with data.test=0.2"):
        load_small(photos)


def test_a_share_of_nothing_is_refused():
    with pytest.raises(UserError, match="is a share of labelled images"):
        FolderData(unlabelled=["pool"], test=0.2)


def test_an_empty_class_is_named(photos):
    (photos / "emu").mkdir()
    with pytest.raises(UserError, match="no readable training image of the class emu"):
        load_small(photos, test=0.2)


def test_a_run_records_the_split_and_takes_it_as_a_table(photos, run_here, tmp_path):
    options = ["data=folder", "data.root=photos", "data.image_size=8", "data.channels=1", *SMALL_STACK]
    result = run_here(tmp_path, "finetune", *options, "data.test=0.2", "recipe.steps=2", "out=runs/ft")
    assert result.returncode == 0, result.stderr
    rows = rows_of(tmp_path / "runs/ft/split.csv")
    assert [*rows[0]] == ["file", "class", "split"]
    assert all(Path(photos, row["file"]).parent.name == row["class"] for row in rows)
    assert [sum(row["split"] == name for row in rows) for name in ("train", "validation", "test")] == [43, 5, 12]
    drawn, given_again = (
        load_small(photos, **how) for how in ({"test": 0.2}, {"table": tmp_path / "runs/ft/split.csv"})
    )
    for one, other in [
        (drawn.train, given_again.train),
        (drawn.validation, given_again.validation),
        (drawn.open_test(), given_again.open_test()),
    ]:
        assert content(one) == content(other)
    described = run_here(tmp_path, "describe", *options[:4], "data.test=0.2", "stack=cae_small")
    assert described.returncode == 0, described.stderr


@pytest.mark.parametrize(
    ("settings", "title", "drawn"),
    [
        ({"name": "folder", "root": "photos", "test": 0.2}, "photos", True),
        ({"name": "folder", "root": "photos", "table": "labels.csv"}, "labels.csv", False),
        ({"name": "webdataset", "shards": ["a.tar"], "test": 3}, "a.tar", True),
        ({"name": "webdataset", "shards": ["a.tar"], "test": 3, "validation_shards": "b.tar"}, "a.tar", False),
        ({"name": "huggingface", "path": "saved"}, "saved", False),
        ({"name": "torchvision", "dataset": "SVHN"}, "SVHN", True),
        ({"name": "torchvision", "dataset": "DTD"}, "DTD", False),
        ({"name": "digits"}, "digits", True),
    ],
)
def test_a_report_can_say_what_the_data_are(settings, title, drawn):
    source = DataSource.from_config(settings)
    assert (source.title, source.draws_validation) == (title, drawn)
    assert DataSource.from_config(as_config(source)) == source


# --- A table


@pytest.fixture
def table(photos):
    """Return a function that writes a table beside the images."""

    def write(lines, header="file,label,split", encoding="utf-8", name="labels.csv"):
        path = photos / name
        path.write_bytes("\n".join([header, *lines]).encode(encoding))
        return path

    return write


def listed(photos, split=lambda k: ",test" if k % 4 == 0 else ",train"):
    files = sorted(photos.rglob("*.png"))
    return [f"{file.relative_to(photos)},{file.parent.name}{split(k)}" for k, file in enumerate(files)]


def test_swapped_test_labels_are_other_data(photos, table):
    one = load_small(table=table(listed(photos)))
    swapped = [line.replace(",cat,test", ",DOG,test").replace(",dog,test", ",cat,test") for line in listed(photos)]
    other = load_small(table=table([line.replace("DOG", "dog") for line in swapped], name="other.csv"))
    assert one.digest == other.digest
    assert one.labelled_digest != other.labelled_digest


@pytest.mark.parametrize("root", ["photos", None])
def test_a_table_names_files_classes_and_splits(photos, table, root):
    data = load_small(photos if root else None, table=table(listed(photos)), validation=0)
    assert data.classes == ("cat", "dog")
    for part, remainder in ((data.open_test(), [0]), (data.train, [1, 2, 3])):
        files = [file for k, file in enumerate(sorted(photos.rglob("*.png"))) if k % 4 in remainder]
        expected = {(np.asarray(Image.open(file)).tobytes(), int(file.parent.name == "dog")) for file in files}
        assert content(part) == expected


def test_the_order_of_a_table_changes_nothing(photos, table):
    lines = listed(photos)
    one = load_small(table=table(lines))
    other = load_small(table=table(random.Random(1).sample(lines, len(lines)), name="other.csv"))
    assert one.digests == other.digests


def test_a_table_without_splits_is_parted_by_content(photos, table):
    lines = listed(photos, split=lambda k: "")
    by_table = load_small(table=table(lines, "file,label"), test=0.2, validation=0)
    by_folder = load_small(photos, test=0.2, validation=0)
    assert content(by_table.open_test()) == content(by_folder.open_test())
    with pytest.raises(UserError, match=r"has no column split: .* data.test=0.2"):
        load_small(table=table(lines, "file,label"))
    with pytest.raises(UserError, match="has a column split, so leave it out"):
        load_small(table=table(listed(photos)), test=0.2)


def test_validation_images_that_a_table_marks_are_those(photos, table, capsys):
    marks = [",test", ",train", ",val", ",train"]
    data = load_small(table=table(listed(photos, lambda k: marks[k % 4])), validation=0.5)
    assert (len(data.train), len(data.validation), len(data.open_test())) == (30, 15, 15)
    note = "note: 15 validation images come with the data; data.validation=0.5 draws none"
    assert capsys.readouterr().err.splitlines() == [note]


def test_labels_that_are_numbers_are_in_their_order(photos, table):
    lines = [f"{file.relative_to(photos)},{k % 11}" for k, file in enumerate(sorted(photos.rglob("*.png")))]
    path = table(lines, "file,label")
    assert FolderData(table=path, test=0.2).class_names() == [str(k) for k in range(11)]
    assert load_small(table=path, test=0.2).classes == tuple(str(k) for k in range(11))


def test_a_pool_may_hold_the_files_that_a_table_lists(photos, table):
    lines = [line for k, line in enumerate(listed(photos)) if k % 2]
    lines[0] = lines[0].replace("train", "test")
    lines[-1] = lines[-1].replace("train", "test")
    data = load_small(table=table(lines), unlabelled=[photos], validation=0)
    images = [image.numpy().tobytes() for image in data.unlabelled[:]]
    assert len({*images}) == len(images) == 58
    assert [Path(skip.path).name for skip in data.skipped] == ["labels.csv"]


@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_tables_as_spreadsheets_write_them_are_read(photos, table, mark, encoding):
    save_noise(photos / "cat/é, (1).png", 77)
    lines = [line.replace(",", mark) for line in listed(photos) if "é" not in line]
    lines.append(mark.join(['"cat/é, (1).png"', "cat", "train"]))
    path = table(lines, mark.join(["file", "label", "split"]), encoding)
    assert "cat/é, (1).png" in read_label_table(path).files
    assert len(load_small(table=path, validation=0).train) == 46


@pytest.mark.parametrize(
    ("header", "change", "message"),
    [
        ("name,label,split", {}, "has no column file, but name, label, split: its first line must name"),
        ("file,species,split", {}, "has no column label, but file, species, split"),
        ("file,label,split", {1: "cat/none.png,cat,train"}, r"line 3: there is no file .*none.png"),
        ("file,label,split", {1: "cat/a,cat,train", 5: "cat/b,cat,test"}, r"line 3: .* \(the first of 2 missing\)"),
        ("file,label,split", {7: "cat/0.png,cat,train"}, "line 9: cat/0.png is listed a second time"),
        ("file,label,split", {7: "./cat/../cat/0.png,dog,test"}, "line 9: cat/0.png is listed a second time"),
        ("file,label,split", {3: "cat/11.png,cat,tset"}, "line 5: there is no split 'tset': give one of train, val"),
        ("file,label,split", {3: "cat/11.png,,test"}, "line 5: the label is empty"),
        ("file,label,split", {3: ",cat,test"}, "line 5: no file is named"),
        ("file,label,split", {3: '"cat/11.png"x,cat,test'}, "line 5: it is no CSV"),
    ],
)
def test_each_mistake_in_a_table_is_a_line(photos, table, header, change, message):
    lines = listed(photos)
    for k, line in change.items():
        lines[k] = line
    with pytest.raises(UserError, match=message) as caught:
        load_small(table=table(lines, header))
    assert "labels.csv" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_all_kinds_of_mistakes_are_told_at_once(photos, table):
    lines = [*listed(photos), "cat/0.png,cat,train", "cat/y.png,,train", "cat/z.png,cat,spare"]
    with pytest.raises(UserError) as caught:
        FolderData(table=table(lines)).class_names()
    assert [line.split(":")[0].rsplit(" ", 1)[1] for line in str(caught.value).splitlines()] == ["63", "62", "64"]


def test_one_class_and_no_lines_are_refused(photos, table):
    with pytest.raises(UserError, match="there is only one class"):
        load_small(table=table([line.replace("dog", "cat", 1) for line in listed(photos)][:40]))
    with pytest.raises(UserError, match="lists no files"):
        load_small(table=table([]))
    with pytest.raises(UserError, match="no image is marked test"):
        load_small(table=table(listed(photos, lambda k: ",train")))


def test_other_encodings_are_named(photos, table):
    lines = [*listed(photos), "cat/é.png,cat,train"]
    with pytest.raises(UserError, match="line 62: it is not in UTF-8"):
        load_small(table=table(lines, encoding="latin-1"))
    with pytest.raises(UserError, match="UTF-16"):
        load_small(table=table(lines, encoding="utf-16"))
    with pytest.raises(UserError, match=r"data\.table=.*none.csv is missing"):
        load_small(table=photos / "none.csv")
    with pytest.raises(UserError, match=r"data\.table=.* cannot be read"):
        load_small(table=photos)


def test_a_class_that_cannot_be_read_is_named(photos, table):
    lines = listed(photos)
    for file in (photos / "dog").iterdir():
        file.write_bytes(b"damaged")
    with pytest.raises(UserError, match="no readable training image of the class dog"):
        load_small(table=table(lines))


def test_commands_take_a_table(photos, table, run_here):
    table(listed(photos))
    options = ["data=folder", "data.table=photos/labels.csv", "data.image_size=8", *SMALL_STACK]
    described = run_here(photos.parent, "describe", *options[:3], "stack=cae_small")
    assert described.returncode == 0, described.stderr
    result = run_here(photos.parent, "stage", *options, "out=runs/stages")
    assert result.returncode == 0, result.stderr
    assert len(rows_of(photos.parent / "runs/stages/split.csv")) == 60
    assert RunFolder(photos.parent / "runs/stages").accepted()
    assert pretrain.load_folder(table=photos / "labels.csv", cache=None).classes == ("cat", "dog")
