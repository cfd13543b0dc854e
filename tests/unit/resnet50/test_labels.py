from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from harness.errors import ConfigError
from resnet50.labels import read_val_map


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "val_map.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_names_and_labels_come_in_the_order_of_the_lines(tmp_path):
    names, labels = read_val_map(write(tmp_path, "val/b.JPEG 999\nval/a.JPEG 0\nc.JPEG 65\n"))
    assert names == ["val/b.JPEG", "val/a.JPEG", "c.JPEG"]
    assert labels.dtype == np.int64
    assert labels.tolist() == [999, 0, 65]


@pytest.mark.parametrize(
    "text",
    [
        "a.JPEG 1\nb.JPEG 2",
        "a.JPEG 1\nb.JPEG 2\n\n \n\n",
        "a.JPEG\t1\r\n  b.JPEG   2 \r\n",
        "a.JPEG 1\rb.JPEG 2\r",
        "a.JPEG 1 tench 7\nb.JPEG 2 x\n",
        "\ufeffa.JPEG 1\nb.JPEG 2\n",
    ],
    ids=["no end of line", "blank lines at the end", "tabs and CRLF", "CR alone", "more columns", "byte order mark"],
)
def test_what_the_official_script_splits_alike_is_read_alike(tmp_path, text):
    names, labels = read_val_map(write(tmp_path, text))
    assert (names, labels.tolist()) == (["a.JPEG", "b.JPEG"], [1, 2])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("a.JPEG 1\nb.JPEG\n", r", line 2: 'b\.JPEG' has no label; write 'NAME LABEL'"),
        ("a.JPEG 1\n\nb.JPEG 2\n", ", line 2: it is blank"),
        ("a.JPEG 1\nb.JPEG n01440764\n", ", line 2: the label 'n01440764' is not an integer"),
        ("a.JPEG 1\nb.JPEG 2.0\n", ", line 2: the label '2.0' is not an integer"),
        ("65 a.JPEG\n", r", line 1: the label 'a\.JPEG' is not an integer"),
        ("a.JPEG 0\nb.JPEG 1000\n", r", line 2: the label 1000 is outside 0-999; use ImageNet's labels"),
        ("a.JPEG 1\nb.JPEG 1001\n", ", line 2: the label 1001 is outside 0-999"),
        ("a.JPEG 1\nb.JPEG -1\nc.JPEG 1000\n", ", line 2: the label -1 is outside 0-999"),
        (f"a.JPEG {'9' * 200}\n", r", line 1: the label 9{57}\.\.\. is outside"),
        (f"a.JPEG {'9' * 5000}\n", r", line 1: the label '9{57}\.\.\.' is not an integer"),
        ("a.JPEG 3\nb.JPEG 4\na.JPEG 3\n", r", line 3: 'a\.JPEG' is already in line 1"),
        ("a.JPEG 7\nb.JPEG 1000\n", ", line 2: .*seem to start at 1, .*: subtract 1 from each"),
        (b"", " is empty: pass a val_map.txt"),
        (b" \n\n", " is empty"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", " is not a text file"),
        ("a.JPEG 1\n".encode("utf-16-le"), " is not a text file"),
    ],
)
def test_a_bad_line_is_named_with_its_fix(tmp_path, content, reason):
    path = write(tmp_path, content)
    with pytest.raises(ConfigError, match=f"^{path}{reason}") as error:
        read_val_map(path)
    assert "\n" not in str(error.value)


def test_labels_that_start_at_1_are_distinguished_from_a_stray_1000(tmp_path):
    from_one = "".join(f"{label}.JPEG {label}\n" for label in range(1, 1001))
    with pytest.raises(ConfigError, match=r"line 1000: .*seem to start at 1, .*: subtract 1 from each"):
        read_val_map(write(tmp_path, from_one))
    with pytest.raises(ConfigError, match="line 1000: the label 1000 is outside 0-999"):
        read_val_map(write(tmp_path, from_one + "zero.JPEG 0\n"))


def test_an_absent_map_and_a_folder_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read the val_map .*: No such file"):
        read_val_map(tmp_path / "val_map.txt")
    with pytest.raises(ConfigError, match=r"cannot read the val_map .*: Is a directory"):
        read_val_map(tmp_path)


def test_the_map_of_the_whole_validation_set_is_read_in_no_time(tmp_path):
    path = write(tmp_path, "".join(f"ILSVRC2012_val_{i + 1:08}.JPEG {i % 1000}\n" for i in range(50_000)))
    began = time.perf_counter()
    names, labels = read_val_map(path)
    assert time.perf_counter() - began < 2
    assert (len(names), int(labels.sum())) == (50_000, 50 * 499_500)
