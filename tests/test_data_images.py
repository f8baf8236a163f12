import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.data.decoding import decode_image, list_files
from pretrain.data.image_cache import decode_files

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (8, 8), dtype=np.uint8)
COLOR = RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)
QUADRANTS = np.kron(np.array([[0, 80], [160, 240]], dtype=np.uint8), np.ones((8, 8), dtype=np.uint8))

# How an upright picture is stored for each Orientation of the EXIF standard.
STORED = {
    1: lambda upright: upright,
    2: np.fliplr,
    3: lambda upright: np.rot90(upright, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: np.rot90(upright, 2).T,
    8: lambda upright: np.rot90(upright, -1),
}


def save(image, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def save_flat(path, value, **options):
    return save(Image.new("L", (8, 8), value), path, **options)


def save_truncated(path):
    save(Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def values(decoded):
    """Return the one value of each of these flat images."""
    flat = decoded.images.flatten(1)
    assert (flat == flat[:, :1]).all()
    return flat[:, 0].tolist()


def mode_on_disk(path):
    with Image.open(path) as opened:
        return opened.mode


def gray(path, size=8):
    return decode_image(path, size, 1)[:, :, 0]


def test_gray_comes_back_as_it_was_in_one_channel_and_in_three(tmp_path):
    path = save(Image.fromarray(GRAY), tmp_path / "gray.png")
    assert np.array_equal(decode_image(path, 8, 1), GRAY[:, :, None])
    assert np.array_equal(decode_image(path, 8, 3), np.stack([GRAY] * 3, axis=2))


def test_color_comes_back_as_it_was_and_as_luma(tmp_path):
    path = save(Image.fromarray(COLOR), tmp_path / "color.png")
    assert np.array_equal(decode_image(path, 8, 3), COLOR)
    luma = COLOR @ np.array([0.299, 0.587, 0.114])
    assert np.abs(gray(path) - luma).max() < 0.505  # rounded, with 16-bit coefficients


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "I;16", "F"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_gives_bytes_of_the_shape_asked_for(tmp_path, mode, channels):
    path = save(Image.new(mode, (20, 10)), tmp_path / "image.tif")
    assert mode_on_disk(path) == mode
    pixels = decode_image(path, 5, channels)
    assert pixels.shape == (5, 5, channels)
    assert pixels.dtype == np.uint8


def test_a_palette_is_looked_up(tmp_path):
    indices = RNG.integers(0, 4, (8, 8), dtype=np.uint8)
    palette = RNG.integers(0, 256, (4, 3), dtype=np.uint8)
    image = Image.fromarray(indices)
    image.putpalette(palette.tobytes())
    assert np.array_equal(decode_image(save(image, tmp_path / "plain.png"), 8, 3), palette[indices])
    clear = save(image, tmp_path / "clear.png", transparency=2)
    assert np.array_equal(decode_image(clear, 8, 3), np.where(indices[:, :, None] == 2, 255, palette[indices]))


@pytest.mark.parametrize(("mode", "black"), [("RGBA", (0, 0, 0)), ("LA", (0,))])
@pytest.mark.parametrize(("alpha", "expected"), [(0, 255), (51, 204), (204, 51), (255, 0)])
@pytest.mark.parametrize("channels", [1, 3])
def test_transparency_lies_on_white(tmp_path, mode, black, alpha, expected, channels):
    path = save(Image.new(mode, (8, 8), (*black, alpha)), tmp_path / "image.png")
    assert (decode_image(path, 8, channels) == expected).all()


@pytest.mark.parametrize(("mode", "key"), [("L", 7), ("RGB", (7, 8, 9))])
def test_a_color_declared_transparent_lies_on_white(tmp_path, mode, key):
    image = Image.new(mode, (8, 8), key)
    assert (decode_image(save(image, tmp_path / "image.png", transparency=key), 8, 3) == 255).all()


@pytest.mark.parametrize(
    ("ink", "color"),
    [((0, 255, 255, 0), (255, 0, 0)), ((255, 0, 100, 0), (0, 255, 155)), ((0, 0, 0, 255), (0, 0, 0))],
)
def test_ink_becomes_light(tmp_path, ink, color):
    path = save(Image.new("CMYK", (8, 8), ink), tmp_path / "print.tif")
    assert (decode_image(path, 8, 3) == color).all()


@pytest.mark.parametrize("name", ["deep.png", "deep.tif"])
@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_sixteen_bits_are_scaled_by_their_full_range(tmp_path, name, order):
    path = save(Image.fromarray((GRAY.astype(np.uint16) * 257).astype(order)), tmp_path / name)
    assert mode_on_disk(path).startswith("I;16")
    assert np.array_equal(gray(path), GRAY)
    assert np.array_equal(decode_image(path, 8, 3), np.stack([GRAY] * 3, axis=2))


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_deeper_pixels_are_scaled_by_their_own_range(tmp_path, dtype):
    pixels = np.clip(GRAY, 1, 254)
    pixels[0, :2] = 0, 255
    path = save(Image.fromarray(pixels.astype(dtype) * 1000 - 5000), tmp_path / "deeper.tif")
    assert np.array_equal(gray(path), pixels)


def test_one_bit_is_black_or_white(tmp_path):
    bits = GRAY > 127
    assert np.array_equal(gray(save(Image.fromarray(bits), tmp_path / "bits.png")), np.where(bits, 255, 0))


def test_of_an_animation_the_first_frame_is_taken(tmp_path):
    first, second = Image.new("L", (8, 8), 10), Image.new("L", (8, 8), 200)
    path = save(first, tmp_path / "moving.gif", save_all=True, append_images=[second])
    with Image.open(path) as opened:
        assert opened.n_frames == 2
    assert (decode_image(path, 8, 3) == 10).all()


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_a_picture_taken_sideways_comes_out_upright(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(STORED[orientation](QUADRANTS))
    options = {"quality": 100} if suffix == "jpg" else {}  # which keeps flat blocks of 8x8 exactly
    path = save(Image.fromarray(stored), tmp_path / f"sideways.{suffix}", exif=exif, **options)
    assert np.array_equal(gray(path, 16), QUADRANTS)


@pytest.mark.parametrize("tall", [False, True])
def test_the_centre_of_a_longer_side_is_kept(tmp_path, tall):
    strip = RNG.integers(0, 256, (8, 20), dtype=np.uint8)
    path = save(Image.fromarray(strip.T.copy() if tall else strip), tmp_path / "strip.png")
    middle = strip[:, 6:14]
    assert np.array_equal(gray(path), middle.T if tall else middle)


def test_a_ramp_shrunk_by_half_takes_the_mean_of_each_two_pixels(tmp_path):
    ramp = np.tile(np.arange(64, dtype=np.uint8) * 4, (64, 1))
    small = gray(save(Image.fromarray(ramp), tmp_path / "ramp.png"), 32)
    inside = slice(4, -4)  # where the kernel does not reach the edge
    assert np.array_equal(small[:, inside], np.tile(np.arange(32) * 8 + 2, (32, 1))[:, inside])


def test_files_of_every_depth_are_listed_by_path_without_the_hidden_ones(tmp_path):
    shown = ["a/z/deep.png", "a/b.png", "b.png", "c/d/e/f.png", "z.png", "A.png"]
    hidden = [".b.png", ".git/x.png", "a/.thumbs/y.png", "c/d/.z.png"]
    for name in shown + hidden:
        save_flat(tmp_path / name, 0)
    assert list_files(tmp_path) == sorted(tmp_path / name for name in shown)


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path):
    save_flat(tmp_path / "real/x.png", 0)
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool/linked").symlink_to(tmp_path / "real")
    (tmp_path / "real/back").symlink_to(tmp_path)
    assert list_files(tmp_path / "pool") == [tmp_path / "pool/linked/x.png"]


def test_links_that_lead_to_each_other_are_followed_once(tmp_path):
    for one, other in ("ab", "ba"):
        save_flat(tmp_path / one / "x.png", 0)
        (tmp_path / one / "to").symlink_to(tmp_path / other)
    assert list_files(tmp_path) == [tmp_path / name for name in ("a/to/x.png", "a/x.png", "b/to/x.png", "b/x.png")]


@pytest.fixture
def messy(tmp_path):
    """Two good images among what folders of photographs gather, in the order of their paths."""
    folder = tmp_path / "messy"
    return [
        save_flat(folder / "a.png", 10),
        save_truncated(folder / "b.jpg"),
        save_flat(folder / "c.png", 20),
        _write(folder / "d.jpg", b"not an image at all"),
        _write(folder / "e.png", b""),
    ]


def _write(path, content):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("cached", [False, True])
def test_what_cannot_be_read_is_skipped_and_listed_and_the_rest_is_intact(messy, tmp_path, cached):
    for _ in range(2):  # with a cache, the second time from there
        decoded = decode_files(messy, 8, 3, tmp_path / "cache" if cached else None)
        assert decoded.images.shape == (2, 3, 8, 8)
        assert decoded.images.dtype == torch.uint8
        assert values(decoded) == [10, 20]
        assert decoded.paths == [messy[0], messy[2]]
        assert [skip.path for skip in decoded.skipped] == [str(messy[k]) for k in (1, 3, 4)]
        reasons = [skip.reason for skip in decoded.skipped]
        assert "truncated" in reasons[0]
        assert "cannot identify" in reasons[1]
        assert "cannot identify" in reasons[2]


@pytest.mark.parametrize("cached", [False, True])
def test_a_link_to_nowhere_is_skipped_and_listed(tmp_path, cached):
    link = tmp_path / "link.png"
    link.symlink_to(tmp_path / "nowhere.png")
    good = save_flat(tmp_path / "good.png", 10)
    decoded = decode_files([good, link], 8, 1, tmp_path / "cache" if cached else None)
    assert values(decoded) == [10]
    assert [skip.path for skip in decoded.skipped] == [str(link)]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
@pytest.mark.parametrize("cached", [False, True])
def test_a_name_in_an_old_encoding_does_no_harm(tmp_path, cached):
    plain = save_flat(tmp_path / "cafe.png", 10)
    path = plain.rename(Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")))
    assert values(decode_files([path], 8, 1, tmp_path / "cache" if cached else None)) == [10]


def test_the_cache_holds_what_decoding_gives(tmp_path):
    paths = [
        save(Image.fromarray(RNG.integers(0, 256, (9 + k, 12, 3), dtype=np.uint8)), tmp_path / f"{k}.png")
        for k in range(5)
    ]
    fresh = decode_files(paths, 6, 3, None)
    assert np.array_equal(fresh.images.permute(0, 2, 3, 1), [decode_image(path, 6, 3) for path in paths])
    for _ in range(2):
        assert torch.equal(decode_files(paths, 6, 3, tmp_path / "cache").images, fresh.images)


def test_unchanged_files_are_not_decoded_again_and_changed_ones_are(tmp_path):
    path, cache = save_flat(tmp_path / "image.bmp", 10), tmp_path / "cache"
    assert values(decode_files([path], 8, 1, cache)) == [10]
    before = path.stat()
    save_flat(path, 99)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert values(decode_files([path], 8, 1, cache)) == [10]  # the old pixels: nothing showed that they changed
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert values(decode_files([path], 8, 1, cache)) == [99]


def test_a_cache_serves_only_the_files_the_size_and_the_channels_it_was_made_for(tmp_path):
    one, two = save_flat(tmp_path / "1.png", 10), save_flat(tmp_path / "2.png", 20)
    cache = tmp_path / "cache"
    assert values(decode_files([one, two], 8, 1, cache)) == [10, 20]
    assert values(decode_files([two, one], 8, 1, cache)) == [20, 10]
    assert values(decode_files([two], 8, 1, cache)) == [20]
    assert decode_files([one, two], 4, 1, cache).images.shape == (2, 1, 4, 4)
    assert decode_files([one, two], 8, 3, cache).images.shape == (2, 3, 8, 8)


def test_writing_to_cached_images_leaves_the_cache_alone(tmp_path):
    path, cache = save_flat(tmp_path / "image.png", 10), tmp_path / "cache"
    decode_files([path], 8, 1, cache).images.fill_(0)
    assert values(decode_files([path], 8, 1, cache)) == [10]
