from __future__ import annotations

import numpy as np
import pytest

from harness.catalog.datasets import find_dataset
from harness.errors import ConfigError
from harness.files.disk import room_for
from resnet50.images import check_official, dataset_file, find_images, make_stand_in


def official(folder, count=50_000, name="ILSVRC2012_val_{:08}.JPEG", by_class=False):
    """Empty files under the official names, 50 of each class."""
    labels = np.arange(count) % 1000
    lines = []
    for number, label in enumerate(labels, start=1):
        place = folder / f"n{label:08}" if by_class else folder
        place.mkdir(parents=True, exist_ok=True)
        (place / name.format(number)).touch()
        lines.append(f"{name.format(number)} {label}\n")
    return "".join(lines)


@pytest.fixture(scope="session")
def flat(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flat")
    (folder / "val_map.txt").write_text(official(folder))
    return folder


def test_a_map_finds_its_images_beside_it_in_val_and_in_folders_of_classes(small_imagenet):
    expected = [f"ILSVRC2012_val_{number:08}.JPEG" for number in range(1, 11)]
    mapped = find_images(small_imagenet / "val_map.txt")
    assert [file.name for file in mapped.files] == expected
    assert mapped.labels.tolist() == list(range(0, 1000, 100))

    text = (small_imagenet / "val_map.txt").read_text()
    (small_imagenet / "val_map.txt").write_text(text.replace("val/", ""))
    assert find_images(small_imagenet / "val_map.txt").files == mapped.files

    for number, file in enumerate(mapped.files):
        (small_imagenet / f"n{number:08}").mkdir()
        file.rename(small_imagenet / f"n{number:08}" / file.name)
    found = find_images(small_imagenet / "val_map.txt")
    assert [file.name for file in found.files] == expected
    assert all(file.is_file() for file in found.files)


def test_a_missing_image_is_named_and_shifts_nothing(small_imagenet):
    (small_imagenet / "val" / "ILSVRC2012_val_00000004.JPEG").unlink()
    with pytest.raises(ConfigError, match=r"image 4: .*ILSVRC2012_val_00000004\.JPEG does not exist"):
        find_images(small_imagenet / "val_map.txt")


def test_a_map_that_names_images_alike_in_several_folders_is_refused_where_they_do_not_lie_there(small_imagenet):
    val_map = small_imagenet / "val_map.txt"
    names = [line.split()[0] for line in val_map.read_text().splitlines()]
    val_map.write_text(f"a/{names[0][4:]} 1\nb/{names[0][4:]} 2\n")
    with pytest.raises(ConfigError, match="lists a file name in several folders"):
        find_images(small_imagenet / "val_map.txt")


def test_an_image_in_two_places_is_rejected(small_imagenet):
    text = (small_imagenet / "val_map.txt").read_text()
    (small_imagenet / "val_map.txt").write_text(text.replace("val/", "elsewhere/"))
    (small_imagenet / "ILSVRC2012_val_00000002.JPEG").touch()
    with pytest.raises(ConfigError, match=r"ILSVRC2012_val_00000002\.JPEG is in both .* and .*: keep one"):
        find_images(small_imagenet / "val_map.txt")


def test_the_map_identifies_the_folder_from_any_path(small_imagenet):
    for place in (small_imagenet, small_imagenet / "val", small_imagenet / "val_map.txt"):
        assert dataset_file(place) == small_imagenet / "val_map.txt"
    (small_imagenet / "val_map.txt").unlink()
    with pytest.raises(ConfigError, match=r"neither val_map\.txt nor class folders"):
        dataset_file(small_imagenet)


@pytest.mark.slow
def test_without_a_map_the_class_folders_determine_the_labels(tmp_path):
    official(tmp_path / "val", count=3000, by_class=True)
    images = find_images(dataset_file(tmp_path))
    assert [file.name for file in images.files[:2]] == ["ILSVRC2012_val_00000001.JPEG", "ILSVRC2012_val_00000002.JPEG"]
    assert images.labels.tolist() == [number % 1000 for number in range(3000)]


def test_other_than_1000_class_folders_leave_the_labels_unknown(tmp_path):
    official(tmp_path, count=999, by_class=True)
    with pytest.raises(ConfigError, match="has 999 class folders and ImageNet has 1000 classes"):
        find_images(dataset_file(tmp_path))


@pytest.mark.slow
def test_the_official_set_is_accepted(flat):
    check_official(find_images(flat / "val_map.txt"), flat)


@pytest.mark.slow
@pytest.mark.parametrize("wrong", ["few", "order", "labels"])
def test_what_is_not_the_official_set_is_refused_with_the_reason(flat, tmp_path, wrong):
    lines = (flat / "val_map.txt").read_text().splitlines()
    if wrong == "few":
        lines, reason = lines[:49_999], "it has 49,999 images"
    elif wrong == "order":
        lines[7], lines[8] = lines[8], lines[7]
        reason = r"image 8 is ILSVRC2012_val_00000009\.JPEG instead of ILSVRC2012_val_00000008"
    else:
        lines[10] = lines[10].split()[0] + " 11"
        reason = "label 10 has 49 images instead of 50"
    path = flat / f"{wrong}.txt"
    path.write_text("\n".join(lines))
    with pytest.raises(ConfigError, match=reason):
        check_official(find_images(path), path)


def test_the_environment_names_the_full_set(small_imagenet, monkeypatch):
    monkeypatch.setenv("IMAGENET_DIR", str(small_imagenet))
    found = find_dataset("resnet50", None)
    assert (found.name, found.path, found.official) == ("imagenet", small_imagenet / "val_map.txt", True)
    monkeypatch.setenv("IMAGENET_DIR", str(small_imagenet / "nowhere"))
    with pytest.raises(ConfigError, match=r"IMAGENET_DIR is .*nowhere, which does not exist"):
        find_dataset("resnet50", None)
    monkeypatch.delenv("IMAGENET_DIR")
    with pytest.raises(ConfigError, match="set IMAGENET_DIR"):
        find_dataset("resnet50", "imagenet")


@pytest.mark.slow
def test_a_stand_in_has_the_official_names_and_is_never_taken_for_the_real_images(small_imagenet, tmp_path):
    drawings = find_images(small_imagenet / "val_map.txt").files
    folder = tmp_path / "made" / "stand-in"
    val_map = make_stand_in(folder, drawings, 50_000)
    images = find_images(val_map)
    assert len(images.files) == 50_000
    assert images.files[-1].name == "ILSVRC2012_val_00050000.JPEG"
    assert np.bincount(images.labels).tolist() == [50] * 1000
    assert images.files[len(drawings)].samefile(images.files[0])
    with pytest.raises(ConfigError, match="several images are the same file, as in the stand-in"):
        check_official(images, val_map)
    before = val_map.stat().st_ino
    assert make_stand_in(folder, drawings, 50_000) == val_map
    assert val_map.stat().st_ino == before
    left = room_for(folder)
    left.mkdir()  # as by a rehearsal that was killed
    assert make_stand_in(folder, drawings, 50_000) == val_map
    assert {path.name for path in folder.parent.iterdir()} == {"stand-in"}
