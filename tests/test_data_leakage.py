import io
import json
import shutil
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from pretrain import DigitsData, UserError, load_digits, load_folder
from pretrain.data.dataset import gather
from pretrain.data.fingerprints import SMALLEST_SIDE, fingerprints
from pretrain.data.hash_search import MAX_HASH_DISTANCE, close_hashes
from pretrain.data.leakage_check import Count, Named, check_pool
from pretrain.data.loading import load_data
from pretrain.data.near_duplicates import alignment, find_shared


def scenes(count, seed=0, size=32):
    """Return images with the spectrum of photographs, amplitude falling as 1/f, (N, 3, size, size), uint8."""
    generator = torch.Generator().manual_seed(seed)
    spectrum = torch.fft.rfft2(torch.randn(count, 1, size, size, generator=generator))
    frequency = torch.hypot(torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)[None])
    images = torch.fft.irfft2(spectrum / frequency.clamp_min(1 / size), s=(size, size))
    images = (images - images.mean((2, 3), keepdim=True)) / images.std((2, 3), keepdim=True)
    tint = 1 + 0.1 * torch.rand(count, 3, 1, 1, generator=generator)
    return (110 + 40 * images * tint).clamp(0, 255).to(torch.uint8)


def shared(one: Tensor, other: Tensor):
    return find_shared(fingerprints(one), fingerprints(other), other, one)


def compressed(images, quality=75):
    copies = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality)
        copies.append(torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1))
    return torch.stack(copies)


COPIES = {
    "compressed": compressed,
    "shifted": partial(torch.roll, shifts=1, dims=3),
    "brighter": lambda images: (images.int() + 12).clamp(0, 255).to(torch.uint8),
    "mirrored": lambda images: images.flip(3),
    "less contrast": lambda images: (images.float() * 0.8).to(torch.uint8),
}


# --- What counts as the same


def test_equal_images_are_found_where_they_are():
    images = scenes(40)
    matches = shared(images[:20], torch.cat([scenes(10, seed=1), images[15:25], images[15:20]]))
    assert [(match.image, match.other, match.exact) for match in matches] == [(15 + k, 10 + k, True) for k in range(5)]


@pytest.mark.parametrize("copy", COPIES)
def test_near_duplicates_are_found(copy):
    images = scenes(200)
    matches = shared(images, COPIES[copy](images).flip(0))
    assert len(matches) >= 190
    assert all(match.image == 199 - match.other and not match.exact for match in matches)


def test_large_images_are_compared_too():
    images = scenes(50, size=96)
    assert len(shared(images, compressed(images))) == 50


def test_unrelated_images_are_not_shared():
    """At most one false alarm in 10,000 images that are compared with 3,000: none is found here."""
    assert len(shared(scenes(10_000, seed=1), scenes(3_000, seed=2))) <= 1
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (4_000, 3, 32, 32), generator=generator, dtype=torch.uint8)
    assert shared(noise[:3_000], noise[3_000:]) == []


def test_flat_images_are_shared_only_where_they_are_equal():
    flat = torch.arange(0, 250, 10, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 32, 32)
    generator = torch.Generator().manual_seed(0)
    noisy = flat + torch.randint(0, 2, flat.shape, generator=generator, dtype=torch.uint8)
    assert shared(noisy, torch.cat([flat, scenes(20)])) == []
    assert [(m.image, m.other, m.exact) for m in shared(flat[3:5], flat)] == [(0, 3, True), (1, 4, True)]


def test_small_or_enlarged_digits_are_shared_only_where_they_are_equal():
    digits = load_digits(validation=0)
    test = digits.open_test().images
    for size in (8, SMALLEST_SIDE, 32):
        enlarge = partial(F.interpolate, size=size, mode="bicubic")
        one, other = (enlarge(x[:].float()).clamp(0, 255).to(torch.uint8) for x in (digits.train.images, test))
        assert shared(one, torch.cat([other, one[7:8]]))[0].image == 7
        assert len(shared(one, torch.cat([other, one[7:8]]))) == 1


def test_the_search_equals_going_through_all_pairs():
    rng = np.random.default_rng(0)
    one = rng.integers(1, 2**63, 100, dtype=np.uint64)
    other = rng.integers(1, 2**63, 70, dtype=np.uint64)
    for k in range(40):
        flipped = sum(1 << int(bit) for bit in rng.choice(63, k % 20, replace=False))
        other[k] = one[2 * k] ^ np.uint64(flipped)
    one[5] = other[3] = 0  # cannot be near anything
    expected = [
        (i, j)
        for i, a in enumerate(one)
        for j, b in enumerate(other)
        if a and b and bin(int(a) ^ int(b)).count("1") <= MAX_HASH_DISTANCE
    ]
    assert len(expected) > 20
    assert sorted(map(tuple, close_hashes(one, other).tolist())) == expected


def test_the_correlation_of_gradients_is_that_of_numpy_at_the_best_shift():
    generator = torch.Generator().manual_seed(0)
    one = torch.rand(1, 12, 12, generator=generator).double()
    assert alignment(one, 3 * one.roll(1, 2) + 5).item() == pytest.approx(1)
    other = torch.rand(1, 12, 12, generator=generator).double()

    def slopes(image):
        corner = image[:-1, :-1]
        return np.stack([image[1:, :-1] - corner, image[:-1, 1:] - corner])

    a, b = slopes(one[0].numpy()), slopes(other[0].numpy())
    best = max(
        np.corrcoef(a[:, 1:-1, 1:-1].ravel(), b[:, y : y + 9, x : x + 9].ravel())[0, 1]
        for y in range(3)
        for x in range(3)
    )
    assert alignment(one, other).item() == pytest.approx(best)
    assert alignment(one, torch.zeros_like(one)).item() == 0


def test_nothing_is_shared_with_no_images():
    assert shared(scenes(3), scenes(3)[:0]) == shared(scenes(3)[:0], scenes(3)) == []


# --- What becomes of it


def named(images, name):
    return Named(images, [f"{name} {k}" for k in range(len(images))])


def test_the_report_counts_each_split_and_the_labelled_images_apart():
    images = scenes(30)
    pool = torch.cat([images[:10], scenes(10, seed=1), images[20:22]])
    validation = torch.cat([images[0:2], compressed(images[2:3])])
    test = torch.cat([images[1:2], compressed(images[4:7]), images[20:21]])
    free, leakage = check_pool(named(pool, "pool"), 10, named(validation, "validation"), named(test, "test"))
    assert (~free).nonzero()[:, 0].tolist() == [0, 1, 2, 4, 5, 6, 20]
    assert (leakage.pool, leakage.shared, leakage.kept) == (22, 7, False)
    assert (leakage.validation, leakage.test) == (Count(2, 1), Count(2, 3))
    assert (leakage.train_validation, leakage.train_test) == (Count(2, 1), Count(1, 3))
    first = leakage.examples[0]
    assert (first.pool, first.split, first.image, first.exact) == ("pool 1", "test", "test 0", True)
    assert len(leakage.examples) == 8
    assert "7 of the 22 unlabelled images" in str(leakage)
    assert "\n" not in str(leakage)


@pytest.fixture
def root(tmp_path):
    """Two classes of 20 training and 5 test images, and a pool of 10 images: one a test image by another name."""
    images = scenes(60).permute(0, 2, 3, 1).numpy()
    for k, image in enumerate(images):
        split, name = ("train", "test", "pool")[(k >= 40) + (k >= 50)], ("cat", "dog")[k % 2]
        folder = tmp_path / ("pool" if split == "pool" else f"data/{split}/{name}")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{k}.png")
    shutil.copy(tmp_path / "data/test/dog/43.png", tmp_path / "pool/59.png")
    return tmp_path / "data"


def load(root, **options):
    return load_folder(root, validation=4, unlabelled=[root.parent / "pool"], cache=None, **options)


def test_a_test_image_under_another_name_is_left_out_of_the_pool(root):
    data, kept = load(root), load(root, duplicates="keep")
    assert len(kept.unlabelled) == 36 + 10
    assert torch.equal(data.unlabelled[:], kept.unlabelled[:-1])
    assert data.leakage.test == kept.leakage.test == Count(1, 0)
    assert (data.leakage.kept, kept.leakage.kept) == (False, True)
    assert [example.pool for example in data.leakage.examples] == [str(root.parent / "pool/59.png")]
    assert [example.image for example in data.leakage.examples] == [str(root / "test/dog/43.png")]
    assert data.digest == load(root).digest != kept.digest


def test_training_images_that_are_shared_keep_their_labels(root):
    shutil.copy(root / "test/dog/43.png", root / "train/dog/0.png")
    data = load_folder(root, validation=0, cache=None)
    assert (len(data.train), len(data.unlabelled)) == (41, 40)
    assert data.leakage.train_test == Count(1, 0)


def test_the_labels_of_the_test_images_do_not_matter(root):
    before = load(root)
    for name, other in [("cat", "x"), ("dog", "cat"), ("x", "dog")]:
        (root / "test" / name).rename(root / "test" / other)
    after = load(root)
    assert (after.digest, after.leakage.test) == (before.digest, before.leakage.test)


def test_the_check_never_opens_the_test_split():
    images = scenes(20)

    def opened():
        raise AssertionError("the labels of the test images were read")

    train, test = named(images, "train"), named(images[:5], "test")
    data = gather(DigitsData(validation=0), ["a", "b"], train, torch.arange(20) % 2, opened, lambda: test)
    assert torch.equal(data.unlabelled[:], images[5:])
    assert data.leakage.test == Count(5, 0)


def test_a_pool_that_is_shared_altogether_is_refused(root):
    shutil.rmtree(root / "test")
    shutil.copytree(root / "train", root / "test")
    with pytest.raises(UserError, match=r"each of the 40 unlabelled images .* data\.duplicates=keep"):
        load_folder(root, validation=0, cache=None)


def test_a_setting_that_is_not_known_is_refused(root):
    with pytest.raises(UserError, match=r"^duplicates=drop is not known; choose one of remove, keep"):
        load(root, duplicates="drop")


@pytest.mark.parametrize("setting", ["remove", "keep"])
def test_what_was_found_is_said_and_written(root, configure, fabric, capsys, tmp_path, setting):
    config = configure(
        "stage",
        "data=folder",
        f"data.root={root}",
        f"data.unlabelled=[{root.parent / 'pool'}]",
        "data.cache=null",
        f"data.duplicates={setting}",
        "out=unused",
    )
    data = load_data(config.data, fabric)
    (line,) = capsys.readouterr().err.splitlines()
    assert "1 of the 46 unlabelled images" in line
    assert ("left out" in line, "kept" in line) == (setting == "remove", setting == "keep")
    (tmp_path / "run").mkdir()
    data.leakage.write(tmp_path / "run/leakage.json")
    written = json.loads((tmp_path / "run/leakage.json").read_text())
    assert (written["pool"], written["shared"], written["test"]) == (46, 1, {"exact": 1, "near": 0})
    assert written["examples"][0]["split"] == "test"


def test_digits_share_nothing():
    leakage = load_digits().leakage
    assert (leakage.pool, leakage.shared, leakage.examples) == (1000, 0, ())
