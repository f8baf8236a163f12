"""Properties of the readers of images for whatever pixels, files and damages come, by drawn examples."""

import io
import json
import re
import resource
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image, features

from pretrain.data.cache_blocks import INDEX, read_cache
from pretrain.data.decoding import DecodedImage, decode_image
from pretrain.data.encoded_images import ImageFiles
from pretrain.data.fingerprints import FINGERPRINT
from pretrain.data.image_cache import decode_files
from pretrain.data.parallel_decoding import try_decoding

GRAY_FORMATS = ("bmp", "png", "tif", "pgm", "tga", "pcx", "sgi", "gif", "jp2")
COLOR_FORMATS = ("bmp", "png", "tif", "ppm", "tga", "pcx", "sgi", "webp")
SQUARES = st.integers(1, 12).map(lambda side: (side, side))


def decoded(image, suffix, channels, **options):
    """Return what becomes of an image that is written in a format and read again, (side, side, channels)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"image.{suffix}")
        image.save(path, **options)
        return decode_image(path, image.width, channels).pixels


# --- Round trips


@given(
    pixels=arrays(np.uint8, SQUARES),
    suffix=st.sampled_from(GRAY_FORMATS),
)
def test_any_gray_image_comes_back_as_it_was(pixels, suffix):
    assert np.array_equal(decoded(Image.fromarray(pixels), suffix, 1)[:, :, 0], pixels)


@given(
    pixels=arrays(np.uint8, SQUARES.map(lambda sides: (*sides, 3))),
    suffix=st.sampled_from(COLOR_FORMATS),
)
def test_any_color_image_comes_back_as_it_was(pixels, suffix):
    options = {"lossless": True} if suffix == "webp" else {}
    assert np.array_equal(decoded(Image.fromarray(pixels), suffix, 3, **options), pixels)


@given(bits=arrays(np.bool_, SQUARES), suffix=st.sampled_from(["bmp", "png", "tif", "pbm", "pcx"]))
def test_any_image_of_one_bit_becomes_black_and_white(bits, suffix):
    assert np.array_equal(decoded(Image.fromarray(bits), suffix, 1)[:, :, 0], np.where(bits, 255, 0))


@given(pixels=arrays(np.uint16, SQUARES), suffix=st.sampled_from(["png", "tif", "jp2"]))
def test_any_image_of_sixteen_bits_is_scaled_by_its_full_range(pixels, suffix):
    assert np.array_equal(decoded(Image.fromarray(pixels), suffix, 1)[:, :, 0], np.rint(pixels / 65535 * 255))


@given(pixels=arrays(np.float32, SQUARES, elements=st.floats(0, 1, width=32)))
def test_any_image_of_floating_point_runs_from_zero_to_one(pixels):
    expected = np.rint(pixels.astype(np.float64) * 255)
    assert np.abs(decoded(Image.fromarray(pixels), "tif", 1)[:, :, 0] - expected).max() <= 1  # of rounding in float32


@given(pixels=arrays(np.uint8, SQUARES.map(lambda sides: (*sides, 4))), suffix=st.sampled_from(["png", "tif", "webp"]))
def test_any_transparent_image_lies_on_white(pixels, suffix):
    options = {"lossless": True, "exact": True} if suffix == "webp" else {}
    color, alpha = pixels[:, :, :3].astype(float), pixels[:, :, 3:] / 255
    expected = color * alpha + 255 * (1 - alpha)
    assert np.abs(decoded(Image.fromarray(pixels), suffix, 3, **options) - expected).max() <= 1


@given(pixels=arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=40)), size=st.integers(1, 20))
def test_an_image_of_any_sides_becomes_a_square_within_its_range(pixels, size):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "image.png")
        Image.fromarray(np.full_like(pixels, pixels[0, 0])).save(path)
        assert (decode_image(path, size, 3).pixels == pixels[0, 0]).all()
        assert decode_image(path, size, 3).pixels.shape == (size, size, 3)


# --- Damage to the cache


@settings(max_examples=50)
@given(name=st.sampled_from(["images.bin", INDEX]), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_of_the_cache_never_gives_other_pixels(name, place, bit):
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{k}.bmp") for k in range(6)]
        for k, path in enumerate(paths[:5]):
            Image.new("L", (4, 4), 40 * k).save(path)
        paths[5].write_bytes(b"damaged")
        fresh = decode_files(paths, 4, 1, Path(folder, "cache"))
        expected = fresh.images[:]
        (file,) = Path(folder, "cache").glob(f"*/{name}")
        content = bytearray(file.read_bytes())
        content[int(place * len(content))] ^= 1 << bit
        file.write_bytes(content)
        again = decode_files(paths, 4, 1, Path(folder, "cache"))
        assert torch.equal(again.images[:], expected)
        assert (again.paths, again.skipped) == (fresh.paths, fresh.skipped)


ROWS = {"images": ((4, 4, 1), np.uint8), "fingerprints": ((), FINGERPRINT)}


def test_each_byte_of_a_cache_is_watched(tmp_path):
    paths = [tmp_path / f"{k}.bmp" for k in range(3)]
    for k, path in enumerate(paths[:2]):
        Image.new("L", (4, 4), 40 * k).save(path)
    paths[2].write_bytes(b"damaged")
    decode_files(paths, 4, 1, tmp_path / "cache")
    (folder,) = (tmp_path / "cache").glob("*/")
    assert read_cache(folder, folder.name, ROWS).files == 3
    for file in (folder / "images.bin", folder / "fingerprints.bin", folder / INDEX):
        content = file.read_bytes()
        for k in range(0, 8 * len(content), 7):  # another bit of each byte
            changed = bytearray(content)
            changed[k // 8] ^= 1 << k % 8
            file.write_bytes(changed)
            assert read_cache(folder, folder.name, ROWS).files == 0
        file.write_bytes(content)


# --- Damage to images


def examples():
    """Return small files of every format and of most modes, by a name."""
    draw = np.random.default_rng(0)
    color = draw.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    image, gray = Image.fromarray(color), Image.fromarray(color[:, :, 0])
    clear = Image.fromarray(draw.integers(0, 256, (24, 32, 4), dtype=np.uint8))
    deep = Image.fromarray(draw.integers(0, 65536, (24, 32), dtype=np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    several = {"save_all": True, "append_images": [image.rotate(90)]}
    kinds = [
        *(("JPEG", each, {"exif": exif}) for each in (image, gray, image.convert("CMYK"))),
        ("JPEG", image, {"progressive": True}),
        *(("PNG", each, {"exif": exif}) for each in (image, gray, clear, deep, image.quantize(16), gray.convert("1"))),
        ("PNG", image, several),
        ("GIF", image, several),
        ("WEBP", image, several),
        ("WEBP", clear, {"lossless": True}),
        *(("TIFF", each, {}) for each in (image, deep, gray.convert("F").point(lambda value: value / 255), clear)),
        *(("TIFF", image, {"compression": each}) for each in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")),
        ("TIFF", gray.convert("1"), {"compression": "group4"}),
        ("TIFF", image, several),
        *(("BMP", each, {}) for each in (image, image.quantize(16), gray.convert("1"))),
        *(("JPEG2000", each, {}) for each in (image, deep)),
        *(("PPM", each, {}) for each in (image, deep, gray.convert("1"))),
        ("ICO", clear, {"sizes": [(24, 24)]}),
        *(("PCX", each, {}) for each in (image, gray)),
        *(("SGI", each, {}) for each in (image, gray)),
        *([("QOI", clear, {})] if "QOI" in Image.SAVE else []),
        *(("TGA", each, {"compression": "tga_rle"}) for each in (image, gray)),
        *([("AVIF", image, several)] if features.check("avif") else []),
    ]
    for number, (kind, each, options) in enumerate(kinds):
        written = io.BytesIO()
        each.save(written, kind, **options)
        yield f"{number:02}.{'tga' if kind == 'TGA' else kind.lower()}", written.getvalue()


def flipped(content, draw):
    for place in draw.integers(0, len(content), draw.integers(1, 9)):
        content[place] ^= 1 << int(draw.integers(8))
    return content


def cut(content, draw):
    return content[: draw.integers(len(content))]


def overwritten(content, draw):
    start = draw.integers(len(content))
    content[start : start + 16] = draw.bytes(16)
    return content


def other_header(content, draw):
    """Change bytes right behind the signature, where most formats have their sizes."""
    for place in draw.integers(2, min(64, len(content)), 4):
        content[place] = draw.integers(256)
    return content


def shifted(content, draw):
    start = draw.integers(len(content))
    return content[:start] + draw.bytes(int(draw.integers(1, 9))) + content[start:]


def enlarged(content, draw):
    """Make numbers of two or four bytes as large as can be."""
    for place in draw.integers(0, min(128, len(content)), 2):
        content[place : place + 4] = b"\xff\xff\xff\x7f"
    return content


DAMAGES = (flipped, cut, overwritten, other_header, shifted, enlarged)


def outcomes(rounds):
    """Return how often each kind of damage led to what, for every format."""
    draw, counts = np.random.default_rng(1), Counter()
    with tempfile.TemporaryDirectory() as folder:
        for name, content in examples():
            path = Path(folder, name)
            path.write_bytes(content)
            assert isinstance(try_decoding(ImageFiles([str(path)]), 0, 8, 3), DecodedImage), try_decoding(
                ImageFiles([str(path)]), 0, 8, 3
            )
            for k in range(rounds * len(DAMAGES)):
                path.write_bytes(DAMAGES[k % len(DAMAGES)](bytearray(content), draw))
                result = try_decoding(ImageFiles([str(path)]), 0, 8, 3)
                good = isinstance(result, DecodedImage)
                counts["decoded" if good else "passing fault" if result.passing else "skipped"] += 1
                if not good:
                    assert result.reason
                    counts["reason: " + re.sub(r"-?\d[\d,.e+-]*", "#", result.reason.split(":")[0])] += 1
                    if result.passing:
                        counts[f"passing: {path.suffix} {result.reason}"] += 1
    counts["peak memory in MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 2**10
    return counts


@pytest.mark.slow
def test_no_damage_to_a_file_is_more_than_a_skipped_file():
    """In a process of its own: a crash or a hang would be the end of it."""
    arguments = [sys.executable, "-W", "ignore", __file__, "30"]
    result = subprocess.run(arguments, capture_output=True, text=True, timeout=1800, check=False)
    assert result.returncode == 0, result.stderr
    counts = json.loads(result.stdout)
    assert counts["decoded"] > 500
    assert counts["skipped"] > 2000
    assert counts.get("passing fault", 0) == 0
    assert counts["peak memory in MiB"] < 3000


LARGE_IMAGES = """
import resource, sys
from pathlib import Path
from pretrain.data.image_cache import decode_files
folder = Path(sys.argv[1])
decode_files([folder / "small.png"], 8, 3, None)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(len(decode_files(sorted(folder.glob("large*")), 8, 3, None).paths))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 2**10)
"""


@pytest.mark.slow
def test_of_several_large_images_one_at_a_time_is_in_memory(tmp_path):
    side = 8000  # whose pixels take 244 MiB, of four bytes each
    Image.new("RGB", (8, 8)).save(tmp_path / "small.png")
    Image.new("RGB", (side, side), (1, 2, 3)).save(tmp_path / "large0.png", compress_level=1)
    for k in range(1, 4):
        (tmp_path / f"large{k}.png").hardlink_to(tmp_path / "large0.png")
    arguments = [sys.executable, "-c", LARGE_IMAGES, str(tmp_path)]
    count, mebibytes = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout.split()
    assert int(count) == 4
    assert int(mebibytes) < 2 * 244


if __name__ == "__main__":
    print(json.dumps(outcomes(int(sys.argv[1]))))
