"""Published files of classes as they stand: each is written here as its makers describe it, and read back."""

from __future__ import annotations

import gzip
import logging
import os
import pickle
import tracemalloc
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from utils.classification import open_data as reading
from utils.classification.dataset import ClassDataset
from utils.classification.open_data import open_data
from utils.data.manifest import in_order
from utils.errors import InputError

RNG = np.random.default_rng(0)
NAMES = ["airplane", "automobile", "bird"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    reading._folder.cache_clear()


def cifar(count: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [N, 3072] plane by plane, labels [N]."""
    return RNG.integers(0, 256, (count, 3072)).astype(np.uint8), RNG.integers(0, classes, count)


def write_python(folder: Path, kind: int) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    folder.mkdir()
    word, files = ("labels", [f"data_batch_{n}" for n in range(1, 6)]) if kind == 10 else ("fine_labels", ["train"])
    held = {}
    for part, names in (("train", files), ("valid", ["test_batch" if kind == 10 else "test"])):
        held[part] = [cifar(6, 3) for _ in names]
        for name, (pixels, labels) in zip(names, held[part], strict=True):
            content = {b"data": pixels, word.encode(): labels.tolist(), b"filenames": [b"x.png"] * 6}
            (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    key = b"label_names" if kind == 10 else b"fine_label_names"
    (folder / ("batches.meta" if kind == 10 else "meta")).write_bytes(pickle.dumps({key: [n.encode() for n in NAMES]}))
    return held


def write_binary(folder: Path, kind: int) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    folder.mkdir()
    files = [f"data_batch_{n}.bin" for n in range(1, 6)] if kind == 10 else ["train.bin"]
    held = {}
    for part, names in (("train", files), ("valid", ["test_batch.bin" if kind == 10 else "test.bin"])):
        held[part] = [cifar(6, 3) for _ in names]
        for name, (pixels, labels) in zip(names, held[part], strict=True):
            heads = [labels[:, None]] if kind == 10 else [np.full((6, 1), 19), labels[:, None]]
            (folder / name).write_bytes(np.concatenate([*heads, pixels], 1).astype(np.uint8).tobytes())
    meta = "batches.meta.txt" if kind == 10 else "fine_label_names.txt"
    (folder / meta).write_text("\n".join(NAMES) + "\n\n")
    return held


@pytest.mark.parametrize("kind", [10, 100])
@pytest.mark.parametrize("write", [write_python, write_binary])
def test_cifars_files_are_read_to_the_pixel_in_both_forms(tmp_path, write, kind, caplog):
    held = write(tmp_path / "files", kind)
    manifest = open_data(tmp_path / "files")
    assert manifest.names == tuple(NAMES) and manifest.flip == 0.5
    form = "python" if write is write_python else "binary"
    assert f"CIFAR-{kind}, {form}: {30 if kind == 10 else 6} images to train on, 6 to validate on" in caplog.text
    for part, place in (("train", manifest.train), ("valid", manifest.valid)):
        data = ClassDataset(place, manifest, (32, 32))
        pixels, labels = (np.concatenate([each[k] for each in held[part]]) for k in (0, 1))
        assert data.labels == labels.tolist()
        for i in range(len(data)):
            assert np.array_equal(data[i].image.numpy(), pixels[i].reshape(3, 32, 32)), "RGB, plane by plane"


def write_idx(folder: Path, zipped: bool) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    folder.mkdir(parents=True)
    held = {}
    for part, count in (("train", 12), ("t10k", 5)):
        pixels, labels = RNG.integers(0, 256, (count, 9, 7)).astype(np.uint8), RNG.integers(0, 10, count)
        held[part] = pixels, labels
        for name, magic, array in (("images-idx3", 0x803, pixels), ("labels-idx1", 0x801, labels.astype(np.uint8))):
            data = magic.to_bytes(4, "big") + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()
            path = folder / f"{part}-{name}-ubyte{'.gz' if zipped else ''}"
            path.write_bytes(gzip.compress(data) if zipped else data)
    return held


@pytest.mark.parametrize(("place", "zipped"), [("MNIST/raw", False), ("mine", True)])
def test_idx_files_are_read_to_the_pixel_and_digits_are_not_mirrored(tmp_path, place, zipped):
    held = write_idx(tmp_path / place, zipped)
    manifest = open_data(tmp_path / place.split("/")[0])
    assert manifest.names == tuple("0123456789") and manifest.flip == 0
    data = ClassDataset(manifest.train, manifest, (9, 7), channels=1)
    assert data.labels == held["train"][1].tolist()
    assert all(np.array_equal(data[i].image[0].numpy(), held["train"][0][i]) for i in range(12))


def test_fashion_has_names_of_its_own_and_may_be_mirrored(tmp_path):
    write_idx(tmp_path / "fashion-mnist", True)
    manifest = open_data(tmp_path / "fashion-mnist")
    assert manifest.names[9] == "Ankle boot" and manifest.flip == 0.5


def test_names_that_would_lead_elsewhere_stay_in_their_folder_and_keep_their_classes(tmp_path):
    held = write_idx(tmp_path / "mine", True)
    names = ["T-shirt/top", "../../x", "..", "a, b", 'so "called"', *"fghij"]
    (tmp_path / "mine/names.txt").write_text("\n".join(names))
    manifest = open_data(tmp_path / "mine")
    data = ClassDataset(manifest.train, manifest, (9, 7), channels=1)
    assert manifest.names == tuple(names) and data.labels == held["train"][1].tolist()
    assert all(path.parents[2] == tmp_path / "runs/data/mine" for path in data.images)


class Evil:
    def __reduce__(self):
        return os.system, ("touch hacked",)


def test_a_pickle_that_would_run_a_program_is_refused_and_runs_nothing(tmp_path):
    write_python(tmp_path / "files", 10)
    (tmp_path / "files/data_batch_2").write_bytes(pickle.dumps({b"data": Evil()}))
    with pytest.raises(InputError, match=r"data_batch_2: no plain pickle of arrays \(asks for posix.system\)"):
        open_data(tmp_path / "files")
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize(
    ("write", "damage", "message"),
    [
        (write_python, lambda p: (p / "data_batch_3").unlink(), r"data_batch_3: no such file, which CIFAR-10, python has"),
        (write_python, lambda p: (p / "test_batch").write_bytes(b"x"), "test_batch: a damaged pickle"),
        (write_binary, lambda p: (p / "test_batch.bin").write_bytes(b"x" * 99), "99 bytes are no rows of 3073"),
        (write_binary, lambda p: (p / "batches.meta.txt").write_text("one\n"), "class 2, but only 1 have names"),
        (write_binary, lambda p: (p / "data_batch_4.bin").write_bytes(b"\t" * 3073), "data_batch_4.bin: class 9, but only"),
    ],
)  # fmt: skip
def test_damaged_cifar_files_are_refused_by_name(tmp_path, write, damage, message):
    write(tmp_path / "files", 10)
    damage(tmp_path / "files")
    with pytest.raises(InputError, match=message):
        open_data(tmp_path / "files")


def test_damaged_idx_files_are_refused_by_name(tmp_path):
    write_idx(tmp_path / "raw", False)
    whole = (tmp_path / "raw/train-images-idx3-ubyte").read_bytes()
    for data, message in ((whole[:-1], "755 values, 756 are announced"), (b"\0" * 30, "does not begin as an IDX file")):
        (tmp_path / "raw/train-images-idx3-ubyte").write_bytes(data)
        reading._folder.cache_clear()
        with pytest.raises(InputError, match=message):
            open_data(tmp_path / "raw")
    (tmp_path / "raw/t10k-labels-idx1-ubyte").unlink()
    reading._folder.cache_clear()
    with pytest.raises(InputError, match="no t10k-labels-idx1-ubyte"):
        open_data(tmp_path / "raw")


def test_an_archive_is_unpacked_no_further_than_it_announces(tmp_path):
    """Some kB of .gz may be more than the memory holds."""
    write_idx(tmp_path / "raw", True)
    head = b"".join(n.to_bytes(4, "big") for n in (0x803, 12, 9, 7))
    (tmp_path / "raw/train-images-idx3-ubyte.gz").write_bytes(gzip.compress(head + bytes(2**26)))
    tracemalloc.start()
    with pytest.raises(InputError, match="757 or more values, 756 are announced"):
        open_data(tmp_path / "raw")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**24


def write_images(folder: Path, count: int = 10) -> None:
    folder.mkdir(parents=True)
    for n in range(count):
        cv2.imwrite(str(folder / f"{n}.png"), np.full((4, 4, 3), n, np.uint8))


def test_tables_say_image_and_class_whatever_their_columns_are_called(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    write_images(tmp_path / "set/pictures")
    (tmp_path / "set/train.csv").write_text("width;filename;class\n4;pictures/0.png;eel\n4;pictures/1.png;cat\n")
    (tmp_path / "set/val.csv").write_text("pictures/2.png,cat\n")
    manifest = open_data(tmp_path / "set")
    assert manifest.names == ("cat", "eel") and ".csv lists train.csv and val.csv, 2 classes" in caplog.text
    data = ClassDataset(manifest.train, manifest, (4, 4))
    assert data.labels == [1, 0] and [int(data[i].image.max()) for i in range(2)] == [0, 1]
    swapped = in_order(manifest, ("eel", "cat"), "w.pt")
    assert ClassDataset(swapped.train, swapped, (4, 4)).labels == [0, 1]


def test_numbers_in_a_table_are_those_of_the_file_of_names(tmp_path):
    write_images(tmp_path / "set/pictures")
    (tmp_path / "set/names.txt").write_text("dog\ncat\n")
    (tmp_path / "set/train.csv").write_text("path,label\npictures/0.png,1\npictures/1.png,dog\n")
    (tmp_path / "set/val.csv").write_text("path,label\npictures/2.png,0\n")
    manifest = open_data(tmp_path / "set")
    assert manifest.names == ("dog", "cat") and ClassDataset(manifest.train, manifest, (4, 4)).labels == [1, 0]
    swapped = in_order(manifest, ("cat", "dog"), "w.pt")
    assert ClassDataset(swapped.train, swapped, (4, 4)).labels == [0, 1]


def test_one_table_is_parted_by_names_and_each_image_keeps_its_class(tmp_path, caplog):
    write_images(tmp_path / "set/pictures", 40)
    rows = "".join(f"pictures/{n}.png,{n % 3}\n" for n in range(40))
    (tmp_path / "set/all.csv").write_text(rows)
    manifest = open_data(tmp_path / "set/all.csv")
    assert "no second part, so 20% by seed 0" in caplog.text
    seen = []
    for place in (manifest.train, manifest.valid):
        data = ClassDataset(place, manifest, (4, 4))
        assert [int(data[i].image.max()) % 3 for i in range(len(data))] == data.labels
        seen += [path.stem for path in data.images]
    assert sorted(map(int, seen)) == [*range(40)]


def test_quotes_and_commas_in_a_table_that_is_parted_stay_what_they_are(tmp_path):
    folder = tmp_path / "set"
    write_images(folder, 8)
    rows = []
    for n in range(8):
        (folder / f"{n}.png").rename(folder / f'{n}, "x";;.png')
        label = "a" if n % 2 else 'the ""b"", c'
        rows.append(f'"{n}, ""x"";;.png","{label}"\n')
    (folder / "all.csv").write_text("path,class\n" + "".join(rows))
    manifest = open_data(folder)
    assert manifest.names == ("a", 'the "b", c')
    for place in (manifest.train, manifest.valid):
        data = ClassDataset(place, manifest, (4, 4))
        assert [1 - int(data[i].image.max()) % 2 for i in range(len(data))] == data.labels


def test_names_that_two_classes_may_have_are_refused_and_written_ones_count_first(tmp_path):
    for part in ("train", "val"):
        for name in ("sea_lion", "sea lion"):
            write_images(tmp_path / "set" / part / name, 2)
    manifest = open_data(tmp_path / "set")
    data = ClassDataset(manifest.train, manifest, (4, 4))
    assert [manifest.names[label] for label in data.labels] == [path.parent.name for path in data.images]
    manifest = replace(manifest, names=("sea lion", "Sea Lion"))
    with pytest.raises(InputError, match="'sea_lion' may be 2 of its classes; give each a name of its own"):
        ClassDataset(manifest.train, manifest, (4, 4))


def test_a_folder_a_class_without_parts_is_parted_by_names(tmp_path):
    for name in ("cat", "dog"):
        write_images(tmp_path / "set" / name, 20)
    manifest = open_data(tmp_path / "set")
    data = [ClassDataset(place, manifest, (4, 4)) for place in (manifest.train, manifest.valid)]
    assert sum(map(len, data)) == 40 and min(map(len, data)) > 2 and not {*data[0].images} & {*data[1].images}
    assert all(
        manifest.names[label] == path.parent.name
        for each in data
        for label, path in zip(each.labels, each.images, strict=True)
    )


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.csv": "x.png,cat\n", "b.csv": "y.png,cat\n"}, r"lists a, b\.csv, none of them train\.csv"),
        ({"train.csv": "x.png,cat\n", "val.csv": "y.png,cow\n"}, r"val\.csv:1: class 'cow' is none of train\.csv"),
        ({"train.csv": "path,label\nx.png\n", "val.csv": "y.png,cat\n"}, r"train\.csv:2: 'x\.png' is no path and class"),
        ({"train.csv": "path,label\n", "val.csv": "y.png,cat\n"}, "has a heading and no row"),
        ({"train.csv": "x.png,cat\n", "val.csv": "y.png,cat\n", "names.txt": "dog\n"}, "class 'cat' is none of .*names.txt"),
    ],
)  # fmt: skip
def test_tables_that_contradict_themselves_are_refused(tmp_path, files, message):
    (tmp_path / "set").mkdir()
    for name, text in files.items():
        (tmp_path / "set" / name).write_text(text)
    with pytest.raises(InputError, match=message):
        open_data(tmp_path / "set")
