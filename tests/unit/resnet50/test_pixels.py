from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.errors import ConfigError, RunFailed
from harness.files.disk import staging
from resnet50 import pixels as module
from resnet50.images import find_images
from resnet50.pixels import load_pixels
from resnet50.preprocess import PROFILES, SIDE, pixels

MLPERF = PROFILES["mlperf"]


@pytest.fixture
def files(small_imagenet):
    return find_images(small_imagenet / "val_map.txt").files


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def test_the_cache_holds_what_the_profile_makes_in_the_order_of_the_files(files, cache, monkeypatch):
    monkeypatch.setattr(module, "SHARD", 4)
    found = load_pixels(files, MLPERF, cache)
    assert len(found) == len(files)
    for index, file in enumerate(files):
        assert (found.read(index) == pixels(file.read_bytes(), MLPERF)).all()
    assert len(list(cache.iterdir())) == 3  # shards of 4, 4 and 2


def test_a_second_time_nothing_is_decoded(files, cache, monkeypatch):
    first = load_pixels(files, MLPERF, cache)
    monkeypatch.setattr(module, "pixels", lambda *_: pytest.fail("an image was decoded again"))
    seen = []
    second = load_pixels(files, MLPERF, cache, progress=lambda done, total: seen.append((done, total)))
    assert all((first.read(i) == second.read(i)).all() for i in range(len(files)))
    assert seen[-1] == (10, 10)


@pytest.mark.parametrize("change", ["content", "order", "profile", "code"])
def test_whatever_decides_on_the_pixels_is_part_of_the_key(files, cache, monkeypatch, change):
    load_pixels(files, MLPERF, cache)
    profile = MLPERF
    if change == "content":
        files[3].write_bytes(files[4].read_bytes())
    elif change == "order":
        files = files[::-1]
    elif change == "profile":
        profile = PROFILES["pytorch"]
    else:
        monkeypatch.setattr(module, "CODE_VERSION", -1)
    found = load_pixels(files, profile, cache)
    assert all((found.read(i) == pixels(file.read_bytes(), profile)).all() for i, file in enumerate(files))
    assert len(list(cache.glob("*.npy"))) == 2


def test_neither_the_names_nor_the_source_of_a_profile_are_part_of_the_key(files, cache, tmp_path):
    load_pixels(files, MLPERF, cache)
    moved = [tmp_path / f"{number}.jpg" for number in range(len(files))]
    for old, new in zip(files, moved, strict=True):
        old.rename(new)
    load_pixels(moved, replace(MLPERF, source="another page"), cache)
    assert len(list(cache.iterdir())) == 1


def right(found, files, profile=MLPERF):
    return all((found.read(i) == pixels(file.read_bytes(), profile)).all() for i, file in enumerate(files))


def flipped(bit):
    def flip(shard):
        raw = bytearray(shard.read_bytes())
        raw[bit // 8] ^= 1 << bit % 8
        shard.write_bytes(raw)

    return flip


def replaced(make):
    def replace_by(shard):
        shard.unlink()
        make(shard)

    return replace_by


def resaved(change):
    return lambda shard: np.save(shard, change(np.load(shard)))


DAMAGES = {
    "empty": lambda shard: shard.write_bytes(b""),
    "cut": lambda shard: os.truncate(shard, shard.stat().st_size - 7),
    "longer": lambda shard: os.truncate(shard, shard.stat().st_size + 1),
    "text": lambda shard: shard.write_text("<html>" * 100),
    "shape beyond memory": lambda shard: shard.write_bytes(shard.read_bytes().replace(b"(10, ", b"(10000000000000, ")),
    "dtype": resaved(lambda rows: rows.astype(">u2")),
    "shape": resaved(lambda rows: rows[:-1]),
    "order": resaved(np.asfortranarray),
    "folder": replaced(lambda shard: (shard / "x").mkdir(parents=True)),
    "link to nothing": replaced(lambda shard: shard.symlink_to("nowhere")),
    "link to itself": replaced(lambda shard: shard.symlink_to(shard.name)),
    "pipe": replaced(os.mkfifo),
    "absent": Path.unlink,
    **{f"bit {bit} of the header": flipped(bit) for bit in (0, 50, 57, 65, 85, 200, 300, 480, 500, 600, 1023)},
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_shard_that_is_not_as_it_was_written_is_rebuilt(files, cache, monkeypatch, damage):
    load_pixels(files[:3], MLPERF, cache)
    (shard,) = cache.iterdir()
    damage(shard)
    assert right(load_pixels(files[:3], MLPERF, cache), files[:3])
    monkeypatch.setattr(module, "pixels", lambda *_: pytest.fail("an image was decoded again"))
    load_pixels(files[:3], MLPERF, cache).read(2)
    assert list(cache.iterdir()) == [shard]


def exchanged(shards):
    """Exchange two rows of the first shard, or of the first two: each is whole, but not in its place."""
    places = [(shards[0], 0), (shards[-1], 1)]
    rows = [np.load(shard)[number] for shard, number in places]
    for (shard, number), row in zip(places, rows[::-1], strict=True):
        np.load(shard, mmap_mode="r+")[number] = row


def renamed(shards):
    """Exchange two shards."""
    one, other = shards[0].read_bytes(), shards[1].read_bytes()
    shards[0].write_bytes(other)
    shards[1].write_bytes(one)


@pytest.mark.parametrize(
    ("size", "damage"),
    [
        (1024, lambda shards: flipped(8 * (128 + 2 * module._ROW_BYTES + 1000))(shards[0])),
        (1024, lambda shards: flipped(8 * (128 + 3 * module._ROW_BYTES - 1))(shards[0])),
        (1024, exchanged),
        (4, exchanged),
        (4, renamed),
    ],
    ids=["a bit of an image", "a bit of a seal", "rows of one shard", "rows of two shards", "two shards"],
)
def test_rows_that_were_changed_or_exchanged_are_decoded_again(files, cache, monkeypatch, capsys, size, damage):
    monkeypatch.setattr(module, "SHARD", size)
    files = files[:8]
    load_pixels(files, MLPERF, cache)
    shards = sorted(cache.iterdir())
    damage(shards)
    damaged = load_pixels(files, MLPERF, cache)
    assert right(damaged, files)
    assert right(damaged, files)
    warnings = capsys.readouterr().err.count("is damaged: its images are decoded again")
    assert warnings == len(shards) - len(list(cache.iterdir()))
    assert warnings >= 1
    load_pixels(files, MLPERF, cache)
    monkeypatch.setattr(module, "pixels", lambda *_: pytest.fail("an image was decoded again"))
    load_pixels(files, MLPERF, cache).read(1)


@pytest.mark.parametrize("damage", [lambda shard: os.truncate(shard, 0), Path.unlink], ids=["cut", "removed"])
def test_a_shard_that_is_cut_or_removed_while_in_use_loses_nothing(files, cache, damage):
    found = load_pixels(files, MLPERF, cache)
    (shard,) = cache.iterdir()
    damage(shard)
    assert right(found, files)


def test_an_image_that_changed_is_not_decoded_in_place_of_a_damaged_row(files, cache):
    found = load_pixels(files, MLPERF, cache)
    os.truncate(next(cache.iterdir()), 0)
    files[3].write_bytes(files[4].read_bytes())
    with pytest.raises(RunFailed, match=rf"{files[3].name} changed while it was in use: repeat the run"):
        found.read(3)


def test_a_full_disk_is_named_and_leaves_nothing(files, cache, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("harness.files.disk.os.fsync", full)
    with pytest.raises(RunFailed, match=r"\(No space left on device\): .* with 1 MiB free"):
        load_pixels(files, MLPERF, cache)
    assert list(cache.iterdir()) == []


def test_what_another_process_is_writing_is_left_alone(files, cache):
    """Also where its process id is that of no process here, as in another container."""
    with staging(cache / "imagenet-0.npy") as room:
        (room / "new").touch()
        load_pixels(files, MLPERF, cache)
        assert (room / "new").exists()


def test_a_broken_image_is_named_and_nothing_is_left(files, cache):
    files[6].write_bytes(files[6].read_bytes()[:2000])
    with pytest.raises(ConfigError, match=rf"{files[6].name} cannot be used: .*truncated.*no image may be skipped"):
        load_pixels(files, MLPERF, cache)
    assert list(cache.iterdir()) == []


def test_a_missing_image_is_named(files, cache):
    files[6].unlink()
    with pytest.raises(ConfigError, match=files[6].name):
        load_pixels(files, MLPERF, cache)


def test_a_folder_that_cannot_hold_the_cache_says_what_it_needs(files, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunFailed, match=r"cannot cache the images' pixels in .*file.* with 1 MiB free"):
        load_pixels(files, MLPERF, tmp_path / "file")


def test_what_a_killed_process_left_is_removed_and_the_whole_shards_stay(files, cache):
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from harness.files import cache\n"
        "from resnet50 import pixels as module\n"
        "from resnet50.preprocess import PROFILES\n"
        "module.SHARD = 4\n"
        "sync, count = cache.sync, []\n"
        "def slow(path):\n"
        "    count.append(1)\n"
        "    if len(count) == 2:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    sync(path)\n"
        "cache.sync = slow\n"
        "module.load_pixels([Path(p) for p in sys.argv[2:]], PROFILES['mlperf'], Path(sys.argv[1]))\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(cache), *map(str, files)], capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    whole = set(cache.glob("*.npy"))
    assert len(whole) == 1
    assert len(list(cache.iterdir())) == 2
    found = load_pixels(files, MLPERF, cache)
    assert not list(cache.glob(".*"))
    assert whole < set(cache.iterdir())
    assert found.read(0).shape == (SIDE, SIDE, 3)
