import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.data import decoding, image_cache, parallel_decoding
from pretrain.data.cache_blocks import INDEX
from pretrain.data.decoding import DecodedImage, decode_image
from pretrain.data.encoded_images import ImageFiles
from pretrain.data.image_cache import decode_files
from pretrain.data.parallel_decoding import FILES_PER_BLOCK, try_decoding
from pretrain.data.skipped_files import Skipped

RNG = np.random.default_rng(0)


def save(image, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def save_flat(path, value):
    return save(Image.new("L", (8, 8), value), path)


def save_truncated(path):
    save(Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def values(decoded):
    """Return the one value of each of these flat images."""
    flat = decoded.images[:].flatten(1)
    assert (flat == flat[:, :1]).all()
    return flat[:, 0].tolist()


def _write(path, content):
    path.write_bytes(content)
    return path


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


@pytest.mark.parametrize("cached", [False, True])
def test_what_cannot_be_read_is_skipped_and_listed_and_the_rest_is_intact(messy, tmp_path, cached):
    for _ in range(2):  # with a cache, the second time from there
        decoded = decode_files(messy, 8, 3, tmp_path / "cache" if cached else None)
        assert decoded.images.shape == (2, 3, 8, 8)
        assert decoded.images.dtype == torch.uint8
        assert values(decoded) == [10, 20]
        assert decoded.paths == [str(messy[0]), str(messy[2])]
        assert [skip.path for skip in decoded.skipped] == [str(messy[k]) for k in (1, 3, 4)]
        reasons = [skip.reason for skip in decoded.skipped]
        assert "truncated" in reasons[0]
        assert "not an image in a format that is read" in reasons[1]
        assert "the file is empty" in reasons[2]


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
    assert np.array_equal(fresh.images[:].permute(0, 2, 3, 1), [decode_image(path, 6, 3).pixels for path in paths])
    for _ in range(2):
        assert torch.equal(decode_files(paths, 6, 3, tmp_path / "cache").images[:], fresh.images[:])


# --- What the cache depends on


def caches(cache):
    return {each.name for each in cache.iterdir() if each.is_dir()}


def test_unchanged_files_are_not_decoded_again(tmp_path):
    path, cache = save_flat(tmp_path / "image.bmp", 10), tmp_path / "cache"
    decode_files([path], 8, 1, cache)
    (folder,) = cache.glob("*/")
    before = (folder / "images.bin").stat()
    assert values(decode_files([path], 8, 1, cache)) == [10]
    assert (folder / "images.bin").stat() == before


def test_other_pixels_are_noticed_though_size_and_time_are_the_same(tmp_path):
    path, cache = save_flat(tmp_path / "image.bmp", 10), tmp_path / "cache"
    assert values(decode_files([path], 8, 1, cache)) == [10]
    before = path.stat()
    save_flat(path, 99)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert values(decode_files([path], 8, 1, cache)) == [99]
    other = save_flat(tmp_path / "other.bmp", 50)
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)
    assert values(decode_files([path], 8, 1, cache)) == [50]


@pytest.mark.parametrize(
    ("where", "name", "value"),
    [
        (image_cache, "DECODER_VERSION", decoding.DECODER_VERSION + 1),
        (image_cache.PIL, "__version__", "99.0"),
        (image_cache.features, "version", lambda name: "99.0" if name == "avif" else None),
        (image_cache, "known_formats", lambda: ("PNG",)),
    ],
)
def test_another_decoder_has_its_own_cache(tmp_path, monkeypatch, where, name, value):
    path, cache = save_flat(tmp_path / "image.png", 10), tmp_path / "cache"
    decode_files([path], 8, 1, cache)
    monkeypatch.setattr(where, name, value)
    decode_files([path], 8, 1, cache)
    assert len(caches(cache)) == 2


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
    decode_files([path], 8, 1, cache).images[:].fill_(0)
    assert values(decode_files([path], 8, 1, cache)) == [10]


def test_a_cache_of_an_older_version_is_left_alone(tmp_path):
    path, cache = save_flat(tmp_path / "image.png", 10), tmp_path / "cache"
    old = cache / "0123456789abcdef0123456789abcdef"
    old.mkdir(parents=True)
    (old / "images.npy").write_bytes(b"old")
    assert values(decode_files([path], 8, 1, cache)) == [10]
    assert (old / "images.npy").read_bytes() == b"old"


# --- Faults that pass


@pytest.mark.parametrize("cached", [False, True])
def test_a_file_that_may_not_be_read_is_told_and_read_as_soon_as_it_may(ordinary_user, cached):
    paths = [save_flat(ordinary_user / f"{k}.png", 10 * k) for k in range(1, 4)]
    cache = ordinary_user / "cache" if cached else None
    paths[1].chmod(0)
    for _ in range(2):
        decoded = decode_files(paths, 8, 1, cache)
        assert values(decoded) == [10, 30]
        assert [(skip.path, skip.reason) for skip in decoded.skipped] == [
            (str(paths[1]), "PermissionError: Permission denied")
        ]
        assert decoded.remarks == [
            f"1 files or folders could not be read just now, such as {paths[1]} (PermissionError: Permission denied): "
            "they are left out, and the next run tries them again"
        ]
    paths[1].chmod(0o644)
    decoded = decode_files(paths, 8, 1, cache)
    assert values(decoded) == [10, 20, 30]
    assert decoded.skipped == decoded.remarks == []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other limits")
def test_a_fault_of_the_system_is_no_fault_of_the_file(tmp_path):
    path = save_flat(tmp_path / "image.png", 10)
    assert isinstance(try_decoding(ImageFiles([str(path)]), 0, 8, 1), DecodedImage)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
        skip = try_decoding(ImageFiles([str(path)]), 0, 8, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert skip == Skipped(str(path), "OSError: Too many open files", passing=True)


# --- Damage


@pytest.fixture
def cached(tmp_path):
    """Return 600 files of small images, their cache and their pixels: three blocks."""
    pixels = RNG.integers(0, 256, (600, 2, 2), dtype=np.uint8)
    paths = [save(Image.fromarray(image), tmp_path / f"images/{k:03}.bmp") for k, image in enumerate(pixels)]
    for k in (5, 300):  # which are no images
        paths[k].write_bytes(b"damaged")
    assert len(paths) > 2 * FILES_PER_BLOCK
    decode_files(paths, 2, 1, tmp_path / "cache")
    (folder,) = (tmp_path / "cache").glob("*/")
    return paths, tmp_path / "cache", folder, np.delete(pixels, [5, 300], axis=0)[:, None]


def flip(file, position):
    content = bytearray(file.read_bytes())
    content[position] ^= 1 << int(RNG.integers(8))
    file.write_bytes(content)


def cut(file, position):
    file.write_bytes(file.read_bytes()[:position])


def blank(file, position):
    content = file.read_bytes()
    file.write_bytes(content[:position] + b"\0" * 64 + content[position + 64 :])


def remove(file, _):
    file.unlink()


@pytest.mark.parametrize("name", ["images.bin", INDEX])
@pytest.mark.parametrize("damage", [flip, cut, blank, remove])
@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_a_damaged_cache_is_named_and_decoded_again(cached, capsys, name, damage, share):
    paths, cache, folder, pixels = cached
    file = folder / name
    damage(file, int(share * file.stat().st_size))
    for told in (f"{file} is damaged or cut", ""):  # the second time, all is well
        decoded = decode_files(paths, 2, 1, cache)
        assert np.array_equal(decoded.images[:], pixels)
        assert [skip.path for skip in decoded.skipped] == [str(paths[5]), str(paths[300])]
        err = capsys.readouterr().err
        assert told in err
        assert bool(err) == bool(told)


def test_what_is_intact_before_the_damage_is_kept(cached, capsys):
    paths, cache, folder, pixels = cached
    flip(folder / "images.bin", (FILES_PER_BLOCK + 5) * 4)  # in the second block
    assert np.array_equal(decode_files(paths, 2, 1, cache).images[:], pixels)
    assert f"the images after the first {FILES_PER_BLOCK - 1} are decoded again" in capsys.readouterr().err


def test_a_cache_in_use_is_not_changed_but_replaced(cached):
    paths, cache, folder, pixels = cached
    opened = decode_files(paths, 2, 1, cache).images
    (folder / INDEX).unlink()
    decode_files(paths, 2, 1, cache)
    assert np.array_equal(opened[:], pixels)


def test_a_cache_of_other_files_is_never_taken_for_this_one(cached):
    paths, cache, folder, pixels = cached
    decode_files(paths[:500], 2, 1, cache)
    (other,) = caches(cache) - {folder.name}
    shutil.rmtree(folder)
    (cache / other).rename(folder)
    assert np.array_equal(decode_files(paths, 2, 1, cache).images[:], pixels)


def test_lines_of_the_index_cannot_be_left_out_or_exchanged(cached):
    paths, cache, folder, pixels = cached
    lines = (folder / INDEX).read_bytes().splitlines(keepends=True)
    for changed in (lines[1:], [lines[0], lines[2]], [lines[1], lines[0], lines[2]], [*lines, lines[2]]):
        (folder / INDEX).write_bytes(b"".join(changed))
        assert np.array_equal(decode_files(paths, 2, 1, cache).images[:], pixels)


# --- Interruption, and other processes

DECODE = """
import sys
from pathlib import Path
from pretrain.data.image_cache import decode_files
folder, cache = Path(sys.argv[1]), Path(sys.argv[2])
decoded = decode_files(sorted(folder.iterdir()), 64, 3, cache)
print(decoded.images[:].long().sum().item(), len(decoded.paths))
"""


def start(folder, cache):
    arguments = [sys.executable, "-c", DECODE, str(folder), str(cache)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def many(tmp_path):
    """Return a folder of 2,000 names of one image, which take seconds to decode."""
    first = save(Image.fromarray(RNG.integers(0, 256, (300, 300, 3), dtype=np.uint8)), tmp_path / "many/0000.png")
    for k in range(1, 2000):
        os.link(first, first.with_name(f"{k:04}.png"))
    return first.parent


@pytest.mark.integration
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_decoding_goes_on_from_what_is_decoded(many, tmp_path, sent):
    cache = tmp_path / "cache"
    process = start(many, cache)
    while not (index := [*cache.glob("*.part/" + INDEX)]) or not index[0].read_bytes().count(b"\n"):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(sent)
    process.communicate()
    (index,) = cache.glob("*.part/" + INDEX)
    lines = index.read_bytes().splitlines()
    assert 0 < len(lines) < 2000 / FILES_PER_BLOCK
    out, err = start(many, cache).communicate()
    assert err == "" or "decoding images" in err
    one = int(decode_image(many / "0000.png", 64, 3).pixels.sum(dtype=np.int64))
    assert out.split() == [str(2000 * one), "2000"]
    (complete,) = cache.glob("*/" + INDEX)
    assert complete.read_bytes().splitlines()[: len(lines)] == lines


@pytest.fixture
def by_processes(monkeypatch):
    """Have few files decoded by several processes, as many are."""
    monkeypatch.setattr(parallel_decoding, "FILES_FOR_PROCESSES", 1)
    monkeypatch.setattr(parallel_decoding, "FILES_PER_BLOCK", 7)
    monkeypatch.setattr(parallel_decoding, "cpu_count", lambda: 2)


@pytest.mark.integration
def test_several_processes_decode_as_one_does(messy, tmp_path, by_processes, monkeypatch):
    good = [
        save(Image.fromarray(RNG.integers(0, 256, (9, 12, 3), dtype=np.uint8)), tmp_path / f"{k}.png")
        for k in range(40)
    ]
    paths = [*good[:20], *messy, *good[20:]]
    several = decode_files(paths, 6, 3, tmp_path / "cache")
    monkeypatch.setattr(parallel_decoding, "cpu_count", lambda: 1)
    one = decode_files(paths, 6, 3, None)
    assert torch.equal(several.images[:], one.images[:])
    assert (several.paths, several.skipped, several.remarks) == (one.paths, one.skipped, one.remarks)


BY_PROCESSES = """
from pretrain.data import parallel_decoding
parallel_decoding.FILES_FOR_PROCESSES, parallel_decoding.cpu_count = 1, lambda: 2
"""


def session(leader):
    """Return whether a process of the session of `leader` is left."""
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.integration
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no sessions")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_processes_that_decode_end_with_the_one_that_started_them(many, tmp_path, sent):
    cache, arguments = tmp_path / "cache", [sys.executable, "-c", BY_PROCESSES + DECODE]
    process = subprocess.Popen(
        [*arguments, many, tmp_path / "cache"], stderr=subprocess.DEVNULL, start_new_session=True
    )
    while not (index := [*cache.glob("*.part/" + INDEX)]) or not index[0].read_bytes().count(b"\n"):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(sent)
    process.wait()
    for _ in range(300):
        if not session(process.pid):
            break
        time.sleep(0.1)
    assert not session(process.pid)


@pytest.mark.integration
def test_two_processes_that_decode_the_same_files_are_both_right(many, tmp_path):
    processes = [start(many, tmp_path / "cache") for _ in range(2)]
    (first, one), (second, other) = (process.communicate() for process in processes)
    sum_of_one = int(decode_image(many / "0000.png", 64, 3).pixels.sum(dtype=np.int64))
    assert first.split() == second.split() == [str(2000 * sum_of_one), "2000"]
    assert "another process decodes the same images: waiting for it" in one + other


# --- Where no cache can be written


def test_a_folder_that_cannot_be_written_is_told_and_the_images_stay_in_memory(ordinary_user, capsys):
    path, locked = save_flat(ordinary_user / "image.png", 10), ordinary_user / "locked"
    locked.mkdir(mode=0o555)
    assert values(decode_files([path], 8, 1, locked / "cache")) == [10]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"data.cache={locked / 'cache'}: decoded images cannot be kept there (Permission denied)")
    assert "give data.cache another folder, or data.cache=null" in line


def test_a_cache_that_is_complete_is_used_where_nothing_can_be_written(ordinary_user, capsys):
    path, cache = save_flat(ordinary_user / "image.png", 10), ordinary_user / "cache"
    decode_files([path], 8, 1, cache)
    for folder in [*cache.glob("*/"), cache]:
        folder.chmod(0o555)
    assert values(decode_files([path], 8, 1, cache)) == [10]
    assert capsys.readouterr().err == ""
    for folder in [cache, *cache.glob("*/")]:
        folder.chmod(0o755)


def test_a_file_in_place_of_the_folder_is_told(tmp_path, capsys):
    path, cache = save_flat(tmp_path / "image.png", 10), tmp_path / "cache"
    cache.write_text("mine")
    assert values(decode_files([path], 8, 1, cache)) == [10]
    assert f"data.cache={cache}" in capsys.readouterr().err
    assert cache.read_text() == "mine"


def test_a_user_without_a_home_folder_is_told(tmp_path, capsys):
    path = save_flat(tmp_path / "image.png", 10)
    assert values(decode_files([path], 8, 1, Path("~/.cache/pretrain"))) == [10]
    assert "(there is no home folder)" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="Windows limits no sizes of files")
def test_a_cache_for_which_there_is_no_space_is_told_before_anything_is_decoded(tmp_path, capsys):
    paths = [save_flat(tmp_path / f"images/{k}.png", k) for k in range(20)]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # bytes; the images need 1,280
        assert values(decode_files(paths, 8, 1, tmp_path / "cache")) == [*range(20)]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "decoded images cannot be kept there (File too large)" in capsys.readouterr().err
    assert values(decode_files(paths, 8, 1, tmp_path / "cache")) == [*range(20)]
    assert capsys.readouterr().err == ""
