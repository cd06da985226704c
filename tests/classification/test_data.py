"""Folders of classes and Darknet's lists as data sets; what training changes; what is refused."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from utils.classification.dataset import ClassAugment, ClassDataset, changed, in_turn, part_of
from utils.classification.open_data import is_of_classes, labels_of, open_data
from utils.classification.show import of_all_classes
from utils.data.dataset import SampleRequest
from utils.data.manifest import in_order
from utils.data.transforms import GREY, fit
from utils.errors import InputError


def write_set(folder: Path, classes=("cat", "dog", "eel"), images: int = 4, size: int = 12) -> Path:
    """Images of which every class has a brightness of its own."""
    for part in ("train", "val"):
        for k, name in enumerate(classes):
            (folder / part / name).mkdir(parents=True)
            for n in range(images):
                picture = np.full((size, size, 3), 40 + 60 * k + n, np.uint8)
                cv2.imwrite(str(folder / part / name / f"{n}.png"), picture)
    return folder


def test_a_folder_a_class_is_a_data_set_and_its_first_images_are_of_all_classes(tmp_path):
    manifest = open_data(write_set(tmp_path))
    assert manifest.names == ("cat", "dog", "eel") and manifest.classes == 3
    dataset = ClassDataset(manifest.valid, manifest, (12, 12))
    assert [dataset[i].label for i in range(6)] == [0, 1, 2, 0, 1, 2]
    for i in range(len(dataset)):
        sample = dataset[i]
        assert (int(sample.image.float().mean()) - 40) // 60 == sample.label
    batch = dataset.collate([dataset[i] for i in range(5)])
    assert batch.labels.tolist() == [0, 1, 2, 0, 1] and batch.images.shape == (5, 3, 12, 12)


def test_every_image_is_there_once_when_classes_take_turns():
    order = in_turn([2, 2, 2, 0, 1, 1])
    assert sorted(order) == list(range(6)) and order == [3, 4, 0, 5, 1, 2]


@pytest.mark.parametrize("most", [8, 25])
def test_pictures_are_of_as_many_classes_as_there_is_room_for(most):
    """Of 2,000 images whose classes take turns every 250th is of one class."""
    for labels in ([n % 10 for n in range(2000)], [n // 200 for n in range(2000)], [n % 100 for n in range(2000)]):
        shown = of_all_classes(labels, most)
        assert len(set(shown)) == most and len({labels[n] for n in shown}) == min(most, len(set(labels)))


def test_classes_of_a_network_in_another_order_are_found_by_name(tmp_path):
    manifest = in_order(open_data(write_set(tmp_path)), ("eel", "cat", "dog"), "w.pt")
    dataset = ClassDataset(manifest.valid, manifest, (12, 12))
    for i in range(6):
        assert manifest.names[dataset[i].label] == dataset.images[i].parent.name


def test_darknets_lists_tell_a_class_by_the_one_word_of_a_path(tmp_path):
    (tmp_path / "labels.txt").write_text("_cat\n_dog\n")
    (tmp_path / "set.names").write_text("Cat\nDog\n")
    for name in ("1_cat", "2_dog", "3_cat"):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.zeros((4, 4, 3), np.uint8))
    (tmp_path / "list.txt").write_text("1_cat.png\n2_dog.png\n3_cat.png\n")
    data = tmp_path / "set.data"
    data.write_text("classes=2\ntrain=list.txt\nvalid=list.txt\nlabels=labels.txt\nnames=set.names\ntop=2\n")
    manifest = open_data(data)
    assert ClassDataset(manifest.train, manifest, (4, 4)).labels == [0, 1, 0]
    swapped = in_order(manifest, ("dog", "cat"), "w.pt")
    assert ClassDataset(swapped.train, swapped, (4, 4)).labels == [1, 0, 1]
    with pytest.raises(InputError, match="tells no class; put it into a folder"):
        labels_of([Path("/x/1_eel.png")], manifest, manifest.train)
    with pytest.raises(InputError, match="tells more than one class: _cat, _dog"):
        labels_of([Path("/x/1_cat_dog.png")], manifest, manifest.train)


def test_darknets_words_are_the_names_where_there_are_none(tmp_path):
    """Its cfg/cifar.data says classes, train, valid, labels, backup and top."""
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    for name in ("1_cat", "2_dog"):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.zeros((4, 4, 3), np.uint8))
    (tmp_path / "list.txt").write_text("1_cat.png\n2_dog.png\n")
    data = tmp_path / "set.data"
    data.write_text("classes=2\ntrain=list.txt\nvalid=list.txt\nlabels=labels.txt\nbackup=backup/\ntop=2\n")
    manifest = open_data(data)
    assert manifest.names == ("cat", "dog") and is_of_classes(data)
    assert ClassDataset(manifest.train, manifest, (4, 4)).labels == [0, 1]


def test_a_sample_depends_on_seed_epoch_and_index_alone(tmp_path):
    manifest = open_data(write_set(tmp_path, size=40))
    one, other = (ClassDataset(manifest.train, manifest, (32, 32), augment=True, seed=3) for _ in range(2))
    request = SampleRequest(5, 2)
    assert torch.equal(one[request].image, other[request].image)
    plain = ClassDataset(manifest.train, manifest, (32, 32))
    assert torch.equal(plain[SampleRequest(5, 2)].image, plain[SampleRequest(5, 7)].image)


def test_a_shift_moves_pixels_and_brings_grey_in():
    image, box = np.arange(64, dtype=np.uint8).reshape(8, 8, 1), fit((8, 8), (8, 8))
    places = set()
    for seed in range(40):
        out = changed(image, box, ClassAugment(flip=0, shift=0.25), np.random.default_rng(seed))
        inner = out != GREY
        ys, xs, _ = np.nonzero(inner)
        moved = (int(ys[0]) - int(out[ys[0], xs[0], 0]) // 8, int(xs[0]) - int(out[ys[0], xs[0], 0]) % 8)
        assert all(abs(each) <= 2 for each in moved)
        assert all(out[y, x, 0] == image[y - moved[0], x - moved[1], 0] for y, x in zip(ys, xs, strict=True))
        places.add(moved)
    assert len(places) > 10


def test_what_is_cut_out_has_the_area_that_was_asked_for():
    parts = [part_of((90, 120), 0.5, np.random.default_rng(k)) for k in range(60)]
    shares = [height * width / (90 * 120) for _, (height, width) in parts]
    assert min(shares) > 0.35 and max(shares) <= 1  # cut at the border where the ratio does not fit
    assert all(y + height <= 90 and x + width <= 120 for (y, x), (height, width) in parts)
    assert ClassAugment.off() == ClassAugment(flip=0.0, shift=0.0, least=1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: [f.unlink() for f in (p / "train/cat").iterdir()] and (p / "train").rename(p / "other"), "classes are read of folders train/CLASS/"),
        (lambda p: (p / "val/cat").rename(p / "val/cow"), "has no such class; rename the folder"),
        (lambda p: (p / "train/cat/0.png").rename(p / "train/0.png"), "beside the folders of classes"),
    ],
)  # fmt: skip
def test_a_folder_that_contradicts_itself_is_refused(tmp_path, change, message):
    place = write_set(tmp_path / "set")
    change(place)
    with pytest.raises(InputError, match=message):
        open_data(place)
