import re
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image, features

from pretrain.data.decoding import FORMATS, decode_image, known_formats
from pretrain.data.pixel_depth import UnreadableImage

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (8, 8), dtype=np.uint8)
COLOR = RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)
QUADRANTS = np.kron(np.array([[0, 80], [160, 240]], dtype=np.uint8), np.ones((8, 8), dtype=np.uint8))

# The formats that this version of Pillow writes.
SAVED_SUFFIXES = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.SAVE}

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
    flat = decoded.images[:].flatten(1)
    assert (flat == flat[:, :1]).all()
    return flat[:, 0].tolist()


def mode_on_disk(path):
    with Image.open(path) as opened:
        return opened.mode


def pixels(path, size, channels):
    return decode_image(path, size, channels).pixels


def gray(path, size=8):
    return pixels(path, size, 1)[:, :, 0]


def test_gray_comes_back_as_it_was_in_one_channel_and_in_three(tmp_path):
    path = save(Image.fromarray(GRAY), tmp_path / "gray.png")
    assert np.array_equal(pixels(path, 8, 1), GRAY[:, :, None])
    assert np.array_equal(pixels(path, 8, 3), np.stack([GRAY] * 3, axis=2))


def test_color_comes_back_as_it_was_and_as_luma(tmp_path):
    path = save(Image.fromarray(COLOR), tmp_path / "color.png")
    assert np.array_equal(pixels(path, 8, 3), COLOR)
    luma = COLOR @ np.array([0.299, 0.587, 0.114])
    assert np.abs(gray(path) - luma).max() < 0.505  # rounded, with 16-bit coefficients


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "F"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_gives_bytes_of_the_shape_asked_for(tmp_path, mode, channels):
    path = save(Image.new(mode, (20, 10)), tmp_path / "image.tif")
    assert mode_on_disk(path) == mode or mode == "YCbCr"  # which older versions of Pillow read as RGB
    decoded = pixels(path, 5, channels)
    assert decoded.shape == (5, 5, channels)
    assert decoded.dtype == np.uint8


def test_a_palette_is_looked_up(tmp_path):
    indices = RNG.integers(0, 4, (8, 8), dtype=np.uint8)
    palette = RNG.integers(0, 256, (4, 3), dtype=np.uint8)
    image = Image.fromarray(indices)
    image.putpalette(palette.tobytes())
    assert np.array_equal(pixels(save(image, tmp_path / "plain.png"), 8, 3), palette[indices])
    clear = save(image, tmp_path / "clear.png", transparency=2)
    assert np.array_equal(pixels(clear, 8, 3), np.where(indices[:, :, None] == 2, 255, palette[indices]))


@pytest.mark.parametrize(("mode", "black"), [("RGBA", (0, 0, 0)), ("LA", (0,))])
@pytest.mark.parametrize(("alpha", "expected"), [(0, 255), (51, 204), (204, 51), (255, 0)])
@pytest.mark.parametrize("channels", [1, 3])
def test_transparency_lies_on_white(tmp_path, mode, black, alpha, expected, channels):
    path = save(Image.new(mode, (8, 8), (*black, alpha)), tmp_path / "image.png")
    assert (pixels(path, 8, channels) == expected).all()


@pytest.mark.parametrize(("mode", "key"), [("L", 7), ("RGB", (7, 8, 9))])
def test_a_color_declared_transparent_lies_on_white(tmp_path, mode, key):
    image = Image.new(mode, (8, 8), key)
    assert (pixels(save(image, tmp_path / "image.png", transparency=key), 8, 3) == 255).all()


@pytest.mark.parametrize(
    ("ink", "color"),
    [((0, 255, 255, 0), (255, 0, 0)), ((255, 0, 100, 0), (0, 255, 155)), ((0, 0, 0, 255), (0, 0, 0))],
)
def test_ink_becomes_light(tmp_path, ink, color):
    path = save(Image.new("CMYK", (8, 8), ink), tmp_path / "print.tif")
    assert (pixels(path, 8, 3) == color).all()


# --- Pixels of more than eight bits


def tiff(path, order, rows, bits, **tags):
    """Write an uncompressed gray TIFF of one strip by hand, since Pillow writes few of its kinds.

    `order` is "<" or ">", `rows` are the bytes of 8x8 pixels, and `tags` are further fields of 16 bits.
    """
    numbers = {"photometric": 262, "samples": 277, "extra": 338, "format": 339}
    fields = {256: [8], 257: [8], 258: bits, 259: [1], 262: [1], 273: [8], 277: [1], 278: [8], 279: [len(rows)]}
    fields |= {numbers[name]: [value] for name, value in tags.items() if name in numbers}
    if "palette" in tags:
        fields[320] = tags["palette"]
    start, extra = 8 + len(rows), b""
    beyond = start + 2 + 12 * len(fields) + 4
    entries = struct.pack(order + "H", len(fields))
    for number, field in sorted(fields.items()):
        packed = struct.pack(f"{order}{len(field)}H", *field)
        if len(packed) > 4:
            extra, packed = extra + packed, struct.pack(order + "I", beyond + len(extra))
        entries += struct.pack(order + "HHI", number, 3, len(field)) + packed.ljust(4, b"\0")
    magic = b"II*\0" if order == "<" else b"MM\0*"
    path.write_bytes(magic + struct.pack(order + "I", start) + rows + entries + b"\0" * 4 + extra)
    return path


@pytest.mark.parametrize("name", ["deep.png", "deep.tif", "deep.jp2"])
def test_sixteen_bits_are_scaled_by_their_full_range(tmp_path, name):
    path = save(Image.fromarray(GRAY.astype(np.uint16) * 257), tmp_path / name)
    assert mode_on_disk(path).startswith("I;16")
    assert np.array_equal(gray(path), GRAY)
    assert np.array_equal(pixels(path, 8, 3), np.stack([GRAY] * 3, axis=2))


def test_sixteen_bits_of_a_portable_graymap_are_scaled_by_its_own_maximum(tmp_path):
    path = tmp_path / "gray.pgm"
    path.write_bytes(b"P5 8 8 65535\n" + (GRAY.astype(">u2") * 257).tobytes())
    assert np.array_equal(gray(path), GRAY)
    path.write_bytes(b"P5 8 8 1000\n" + np.full((8, 8), 500, ">u2").tobytes())
    assert (gray(path) == 128).all()  # half of 255, rounded to even


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(("value", "expected"), [(0, 0), (128, 0), (129, 1), (32767, 127), (32768, 128), (65535, 255)])
def test_sixteen_bits_of_either_byte_order_are_rounded_to_the_nearest(tmp_path, order, value, expected):
    rows = np.full((8, 8), value, f"{order}u2").tobytes()
    assert (gray(tiff(tmp_path / "deep.tif", order, rows, [16])) == expected).all()  # value / 257
    inverted = tiff(tmp_path / "inverted.tif", order, rows, [16], photometric=0)
    if order == "<":  # which of the two Pillow reads
        assert (gray(inverted) == 255 - expected).all()


def test_twelve_bits_are_scaled_by_the_range_of_twelve(tmp_path):
    rows = b"\xff\xf0\x00" * 32  # pairs of 4095 and 0
    path = tiff(tmp_path / "twelve.tif", "<", rows, [12])
    assert np.array_equal(gray(path), np.tile([255, 0], (8, 4)))


@pytest.mark.parametrize(
    ("rows", "bits", "sign"),
    [
        (np.full((8, 8), 200, "<i4"), 32, 2),
        (np.full((8, 8), 200, "<u4"), 32, 1),
        (np.full((8, 8), 200, "<i2"), 16, 2),
    ],
)
def test_integers_without_an_agreed_range_are_refused(tmp_path, rows, bits, sign):
    path = tiff(tmp_path / "wide.tif", "<", rows.tobytes(), [bits], format=sign)
    with pytest.raises(UnreadableImage, match="convert the file to 8 or 16 bits"):
        gray(path)


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (0.25, 64), (0.5, 128), (0.7, 178), (1, 255)])
def test_floating_point_runs_from_zero_to_one_whatever_else_is_in_the_image(tmp_path, value, expected):
    values = np.full((8, 8), value, dtype=np.float32)
    assert (gray(save(Image.fromarray(values), tmp_path / "flat.tif")) == expected).all()
    white_is_zero = tiff(tmp_path / "inverted.tif", "<", values.tobytes(), [32], photometric=0, format=3)
    assert (gray(white_is_zero) == 255 - expected).all()


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        (np.nan, "not finite"),
        (np.inf, "not finite"),
        (-np.inf, "not finite"),
        (-9999, "run from -9999 to 0.5: scale them to 0 to 1"),
        (255, "run from 0.5 to 255"),
    ],
)
def test_floating_point_beyond_is_refused_and_the_reason_says_what_to_do(tmp_path, odd, reason):
    values = np.full((8, 8), 0.5, dtype=np.float32)
    values[3, 4] = odd
    with pytest.raises(UnreadableImage, match=reason):
        gray(save(Image.fromarray(values), tmp_path / "odd.tif"))


def png(path, depth, kind, rows, *chunks):
    """Write an 8x8 PNG by hand: `rows` are the bytes of its lines, `chunks` pairs of a name and a content."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, depth, kind, 0, 0, 0))
    lines = zlib.compress(b"".join(b"\0" + row for row in rows))
    middle = b"".join(chunk(*each) for each in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + middle + chunk(b"IDAT", lines) + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize(
    ("depth", "row", "key", "expected"),
    [
        (1, b"\x55", 0, [255] * 8),
        (2, b"\x1b\x1b", 1, [0, 255, 170, 255] * 2),
        (4, b"\x05\xaf" * 2, 5, [0, 255, 170, 255] * 2),
        (8, bytes([0, 5, 10, 15] * 2), 5, [0, 255, 10, 15] * 2),
        (16, struct.pack(">8H", *[0, 300, 40000, 65535] * 2), 300, [0, 255, 156, 255] * 2),
    ],
)
def test_a_shade_declared_transparent_is_white_at_every_depth(tmp_path, depth, row, key, expected):
    path = png(tmp_path / "key.png", depth, 0, [row] * 8, (b"tRNS", struct.pack(">H", key)))
    assert np.array_equal(gray(path), [expected] * 8)


def test_a_color_of_sixteen_bits_keeps_its_high_bytes_and_its_transparent_color(tmp_path):
    row = struct.pack(">24H", *[256, 40000, 65535, 513, 300, 9] * 4)
    key = (b"tRNS", struct.pack(">3H", 513, 300, 9))
    first, second = [1, 156, 255], [2, 1, 0]
    assert np.array_equal(pixels(png(tmp_path / "color.png", 16, 2, [row] * 8), 8, 3), [[first, second] * 4] * 8)
    clear = pixels(png(tmp_path / "clear.png", 16, 2, [row] * 8, key), 8, 3)
    assert np.array_equal(clear, [[first, [255] * 3] * 4] * 8)


@pytest.mark.parametrize(("largest", "peak"), [(255, 1), (4095, 16), (65535, 255)])
def test_how_much_of_sixteen_bits_is_used_is_noted(tmp_path, largest, peak):
    values = np.zeros((8, 8), np.uint16)
    values[0, 0] = largest
    assert decode_image(save(Image.fromarray(values), tmp_path / "deep.png"), 8, 1).deep_peak == peak
    assert decode_image(save_flat(tmp_path / "shallow.png", 3), 8, 1).deep_peak is None
    floats = save(Image.fromarray(values / np.float32(65535)), tmp_path / "floats.tif")
    assert decode_image(floats, 8, 1).deep_peak is None


# --- Other modes


def test_one_bit_is_black_or_white(tmp_path):
    bits = GRAY > 127
    assert np.array_equal(gray(save(Image.fromarray(bits), tmp_path / "bits.png")), np.where(bits, 255, 0))
    assert np.array_equal(gray(save(Image.fromarray(bits), tmp_path / "bits.tif")), np.where(bits, 255, 0))


def test_a_palette_with_alpha_lies_on_white(tmp_path):
    palette = [value * 257 for value in (255, *[0] * 255, 0, *[0] * 255, 0, *[0] * 255)]  # 0 is red, the others black
    rows = bytes([0, 255, 0, 0, 1, 51, 1, 255] * 8 * 2)  # pairs of an index and its alpha
    tags = {"photometric": 3, "samples": 2, "extra": 2, "palette": palette}
    path = tiff(tmp_path / "palette.tif", "<", rows, [8, 8], **tags)
    assert mode_on_disk(path) == "PA"
    expected = [[255, 0, 0], [255, 255, 255], [204, 204, 204], [0, 0, 0]]
    assert np.array_equal(pixels(path, 8, 3), [expected * 2] * 8)


def test_a_palette_with_an_alpha_for_each_color_lies_on_white(tmp_path):
    image = Image.new("P", (8, 8), 1)
    image.putpalette([9, 9, 9, 0, 0, 0])
    path = save(image, tmp_path / "palette.png", transparency=bytes([255, 51]))
    assert (pixels(path, 8, 3) == 204).all()


@pytest.mark.parametrize(
    ("value", "color"),
    [((255, 128, 128), (255, 255, 255)), ((0, 128, 128), (0, 0, 0)), ((76, 85, 255), (254, 0, 0))],
)
def test_luma_and_chroma_become_color(tmp_path, value, color):
    path = save(Image.new("YCbCr", (8, 8), value), tmp_path / "video.tif")
    assert mode_on_disk(path) in ("YCbCr", "RGB")  # by the version of Pillow
    assert (pixels(path, 8, 3) == color).all()  # the equations of JFIF, rounded
    assert np.abs(gray(path).astype(int) - value[0]).max() <= 1


@pytest.mark.parametrize(("lightness", "expected"), [(0, 0), (255, 255), (137, 128)])
def test_lightness_becomes_gray(tmp_path, lightness, expected):
    path = save(Image.new("LAB", (8, 8), (lightness, 128, 128)), tmp_path / "lab.tif")
    assert mode_on_disk(path) == "LAB"
    assert np.abs(pixels(path, 8, 3).astype(int) - expected).max() <= 1  # L* = 53.7 is sRGB 128.3


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif", "avif"])
def test_of_several_frames_or_pages_the_first_is_taken(tmp_path, suffix):
    if suffix in ("webp", "avif") and not features.check(suffix):
        pytest.skip(f"this Pillow does not read {suffix}")
    first, second = Image.new("RGB", (8, 8), (10, 10, 10)), Image.new("RGB", (8, 8), (200, 200, 200))
    options = {} if suffix in ("gif", "png", "tif", "avif") else {"lossless": True}
    path = save(first, tmp_path / f"moving.{suffix}", save_all=True, append_images=[second], **options)
    with Image.open(path) as opened:
        assert opened.n_frames == 2
    decoded = pixels(path, 8, 3)
    assert (np.abs(decoded.astype(int) - 10) <= (2 if suffix == "avif" else 0)).all()


def test_heic_is_read_where_its_plugin_is_installed(tmp_path):
    pytest.importorskip("pillow_heif")
    assert "HEIF" in known_formats()
    path = save(Image.new("RGB", (64, 64), (200, 100, 50)), tmp_path / "phone.heic", quality=-1)
    assert np.abs(pixels(path, 8, 3).astype(int) - [200, 100, 50]).max() <= 2


def test_heic_without_a_plugin_is_refused_with_what_to_do(tmp_path):
    if "HEIF" in known_formats():
        pytest.skip("a plugin is installed")
    path = tmp_path / "phone.jpg"
    path.write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 100)
    with pytest.raises(UnreadableImage, match="install pillow-heif, or convert the file"):
        gray(path)


@pytest.mark.parametrize(
    "suffix", ["bmp", "png", "tif", "ppm", "tga", "pcx", "qoi", "sgi", "ico", "gif", "webp", "jp2"]
)
def test_each_format_without_loss_comes_back_as_it_was(tmp_path, suffix):
    if f".{suffix}" not in SAVED_SUFFIXES:
        pytest.skip(f"this Pillow does not write {suffix}")
    pixels_in = np.tile(COLOR, (2, 2, 1)) if suffix == "ico" else COLOR  # the smallest icon is of 16x16
    size = len(pixels_in)
    image = Image.fromarray(pixels_in)
    options = {"webp": {"lossless": True}, "ico": {"sizes": [(size, size)]}, "jp2": {"irreversible": False}}
    path = save(image, tmp_path / f"image.{suffix}", **options.get(suffix, {}))
    assert np.array_equal(pixels(path, size, 3), pixels_in)


def test_white_on_transparent_is_blank_and_said_to_be(tmp_path):
    image = Image.new("RGBA", (8, 8), (255, 255, 255, 0))
    image.paste((255, 255, 255, 255), (2, 2, 6, 6))
    decoded = decode_image(save(image, tmp_path / "white.png"), 8, 3)
    assert (decoded.pixels == 255).all()
    assert decoded.vanished
    image.paste((0, 0, 0, 255), (2, 2, 4, 4))
    assert not decode_image(save(image, tmp_path / "both.png"), 8, 3).vanished
    assert not decode_image(save_flat(tmp_path / "opaque.png", 255), 8, 3).vanished


# --- Rotation, size and limits


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


@pytest.mark.parametrize("content", [b"", b"Exif\0\0", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff", b"x" * 99])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_damaged_exif_block_leaves_the_picture_as_it_is(tmp_path, content):
    path = png(tmp_path / "image.png", 8, 0, [bytes(row) for row in GRAY], (b"eXIf", content))
    assert np.array_equal(gray(path), GRAY)


def test_an_orientation_that_does_not_exist_leaves_the_picture_as_it_is(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 77
    assert np.array_equal(gray(save(Image.fromarray(GRAY), tmp_path / "image.png", exif=exif)), GRAY)


@pytest.mark.parametrize("sides", [(50_000, 50_000), (65_535, 65_535), (2**31 - 1, 1), (2**31 - 1, 2**31 - 1)])
def test_a_header_of_a_gigantic_image_is_refused_before_anything_is_decoded(tmp_path, sides):
    path = png(tmp_path / "bomb.png", 8, 2, [b"\0" * 24] * 8)
    content = path.read_bytes()
    header = b"IHDR" + struct.pack(">II", *sides) + content[24:29]
    path.write_bytes(content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:])
    tracemalloc.start()
    with pytest.raises(UnreadableImage, match="has more than 178,956,970 pixels: scale it down"):
        gray(path)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


@pytest.mark.parametrize("sides", [(1, 100_000), (100_000, 1), (8, 801)])
def test_a_strip_is_refused_with_its_sides(tmp_path, sides):
    path = save(Image.new("L", sides), tmp_path / "strip.png")
    with pytest.raises(UnreadableImage, match=re.escape(f"a strip of {sides[0]:,} x {sides[1]:,} pixels")):
        gray(path)


def test_a_hundred_times_as_long_as_wide_is_still_an_image(tmp_path):
    assert (gray(save(Image.new("L", (8, 800), 7), tmp_path / "long.png")) == 7).all()


def test_a_program_for_a_printer_is_never_run(tmp_path):
    program = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
    for name in ("drawing.eps", "drawing.png"):
        (tmp_path / name).write_text(program)
        with pytest.raises(UnreadableImage, match="not an image in a format that is read"):
            gray(tmp_path / name)
    assert "EPS" not in FORMATS
