from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from harness.errors import ConfigError, RunFailed
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


def test_a_damaged_cache_is_found_and_rebuilt(files, cache):
    load_pixels(files, MLPERF, cache)
    (shard,) = cache.iterdir()
    with shard.open("r+b") as file:
        file.seek(128 + 2 * module._ROW + 1000)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    found = load_pixels(files, MLPERF, cache)
    found.read(1)
    with pytest.raises(RunFailed, match="was damaged and has been removed"):
        found.read(2)
    repaired = load_pixels(files, MLPERF, cache)
    assert (repaired.read(2) == pixels(files[2].read_bytes(), MLPERF)).all()


def test_a_cache_that_was_cut_short_is_rebuilt(files, cache):
    load_pixels(files, MLPERF, cache)
    (shard,) = cache.iterdir()
    shard.write_bytes(shard.read_bytes()[:-7])
    found = load_pixels(files, MLPERF, cache)
    assert (found.read(9) == pixels(files[9].read_bytes(), MLPERF)).all()


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
    with pytest.raises(RunFailed, match=r"cannot cache the images' pixels in .*file.* need 1 MiB"):
        load_pixels(files, MLPERF, tmp_path / "file")


def test_what_a_killed_process_left_is_removed_and_the_whole_shards_stay(files, cache):
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from resnet50 import pixels as module\n"
        "from resnet50.preprocess import PROFILES\n"
        "module.SHARD = 4\n"
        "save, count = np.save, []\n"
        "def slow(file, rows, **options):\n"
        "    count.append(1)\n"
        "    if len(count) == 2:\n"
        "        file.write(b'half')\n"
        "        file.flush()\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    save(file, rows, **options)\n"
        "module.np.save = slow\n"
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


def test_pixels_are_read_from_disk_and_not_held(files, cache):
    found = load_pixels(files, MLPERF, cache)
    image = found.read(0)
    while isinstance(image.base, np.ndarray):
        image = image.base
    assert isinstance(image, np.memmap) or isinstance(image.base, np.memmap) or "mmap" in type(image.base).__name__
