"""Fetch a data set from where its makers publish it, and write its lists and labels.

  python3 data/get.py voc                        into data/voc, for --data data/voc.data
  python3 data/get.py coco2017 --dir /mnt/coco   archives and images there, lists and labels in data/coco2017
  python3 data/get.py visdrone --dir /mnt/vd     says where to fetch it by hand; once it is unpacked there, writes lists

A download that was cut goes on where it was; archives stay, in DIR/archives, until you delete them.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

DATA = Path(__file__).parent
sys.path.insert(0, str(DATA.parent))  # so that it runs from anywhere

from utils.data.download import download, need_room  # noqa: E402
from utils.data.source_ids import IDS  # noqa: E402
from utils.data.unpack import unpack  # noqa: E402
from utils.detection import coco, visdrone_bdd100k, voc  # noqa: E402
from utils.detection.label_writer import NOTES, Annotated, Findings, write_lists  # noqa: E402
from utils.endings import ended, say  # noqa: E402
from utils.errors import InputError  # noqa: E402

log = logging.getLogger(__name__)

# (where it was unpacked, what is counted, the classes) -> the images of "train" and "val"
Reader = Callable[[Path, Findings, Sequence[str]], Mapping[str, Sequence[Annotated]]]


@dataclass(frozen=True)
class Archive:
    """A published file; the digests of COCO are TensorFlow Datasets', those of VOC torchvision's."""

    url: str
    size: int | None = None
    digest: str = ""


@dataclass(frozen=True)
class Source:
    """Where a set comes from and how it is read.

    Without ``archives`` a person has to fetch it, because of ``by_hand``; ``needs`` are files and folders that are
    there when it is unpacked.
    """

    home: str
    archives: tuple[Archive, ...] = ()
    read: Reader | None = None
    by_hand: str = ""
    needs: tuple[str, ...] = ()


def read_coco(year: str) -> Reader:
    """The reader of COCO's train and val sets of a year.

    Classes are known by their places: six of the 80 names that Darknet gave them are not COCO's (motorbike, sofa …).
    """

    def images(place: Path, split: str, found: Findings, names: Sequence[str]) -> list[Annotated]:
        file = place / "annotations" / f"instances_{split}.json"
        items, known = coco.read_images(file, place / split, found)
        if len(known) != len(names):
            raise InputError(f"{file}: {len(known)} categories, data/coco.names has {len(names)}; fetch the file again")
        ours = dict(zip(known, names, strict=True))
        found.categories = {ours[name]: number for name, number in found.categories.items()}
        return [Annotated(i.image, tuple((ours[name], box) for name, box in i.objects), i.id) for i in items]

    def read(place: Path, found: Findings, names: Sequence[str]) -> Mapping[str, Sequence[Annotated]]:
        return {split: images(place, f"{split}{year}", found, names) for split in ("train", "val")}

    return read


def read_voc(place: Path, found: Findings, names: Sequence[str]) -> Mapping[str, Sequence[Annotated]]:
    """The usual pair: trainval of 2007 and 2012 against test of 2007; difficult objects out, as Darknet has it."""

    def images(year: str, split: str) -> list[Annotated]:
        folder = place / "VOCdevkit" / f"VOC{year}"
        stems = voc.read_stems(folder / "ImageSets" / "Main" / f"{split}.txt")
        return voc.read_images(folder, stems, found, difficult="skip")

    return {"train": images("2007", "trainval") + images("2012", "trainval"), "val": images("2007", "test")}


def read_dior(place: Path, found: Findings, names: Sequence[str]) -> Mapping[str, Sequence[Annotated]]:
    """DIOR's trainval against its test, horizontal boxes."""

    def images(split: str) -> list[Annotated]:
        stems = voc.read_stems(place / "ImageSets" / "Main" / f"{split}.txt")
        return voc.read_images(place, stems, found, places=(place / DIOR[0], place / f"JPEGImages-{kinds[split]}"))

    kinds = {"train": "trainval", "val": "trainval", "test": "test"}
    return {"train": images("train") + images("val"), "val": images("test")}


def read_visdrone(place: Path, found: Findings, names: Sequence[str]) -> Mapping[str, Sequence[Annotated]]:
    """VisDrone's train against its val."""
    return {
        split: visdrone_bdd100k.read_visdrone(place / f"VisDrone2019-DET-{split}", found) for split in ("train", "val")
    }


def read_bdd100k(place: Path, found: Findings, names: Sequence[str]) -> Mapping[str, Sequence[Annotated]]:
    """BDD100K's train against its val, by the labels of 2018 or those of 2020."""

    def images(split: str) -> list[Annotated]:
        labels = place / "labels" / f"bdd100k_labels_images_{split}.json"
        newer = place / "labels" / "det_20" / f"det_{split}.json"
        return visdrone_bdd100k.read_bdd100k(
            newer if newer.is_file() else labels, place / "images" / "100k" / split, found
        )

    return {split: images(split) for split in ("train", "val")}


DIOR = ("Annotations/Horizontal Bounding Boxes", "JPEGImages-trainval", "JPEGImages-test", "ImageSets/Main")
COCO = "http://images.cocodataset.org"
VOC = "http://host.robots.ox.ac.uk/pascal/VOC"
SOURCES = {
    "coco2014": Source(
        "https://cocodataset.org/#download",
        (
            Archive(
                f"{COCO}/annotations/annotations_trainval2014.zip",
                252872794,
                "sha256:031296bbc80c45a1d1f76bf9a90ead27e94e99ec629208449507a4917a3bf009",
            ),
            Archive(
                f"{COCO}/zips/train2014.zip",
                13510573713,
                "sha256:ede4087e640bddba550e090eae701092534b554b42b05ac33f0300b984b31775",
            ),
            Archive(
                f"{COCO}/zips/val2014.zip",
                6645013297,
                "sha256:fe9be816052049c34717e077d9e34aa60814a55679f804cd043e3cbee3b9fde0",
            ),
        ),
        read_coco("2014"),
    ),
    "coco2017": Source(
        "https://cocodataset.org/#download",
        (
            Archive(
                f"{COCO}/annotations/annotations_trainval2017.zip",
                252907541,
                "sha256:113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
            ),
            Archive(
                f"{COCO}/zips/train2017.zip",
                19336861798,
                "sha256:69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
            ),
            Archive(
                f"{COCO}/zips/val2017.zip",
                815585330,
                "sha256:4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
            ),
        ),
        read_coco("2017"),
    ),
    "voc": Source(
        "http://host.robots.ox.ac.uk/pascal/VOC/",
        (
            Archive(
                f"{VOC}/voc2007/VOCtrainval_06-Nov-2007.tar",
                None,
                "sha256:7d8cd951101b0957ddfd7a530bdc8a94f06121cfc1e511bb5937e973020c7508",
            ),
            Archive(
                f"{VOC}/voc2007/VOCtest_06-Nov-2007.tar",
                None,
                "sha256:6836888e2e01dca84577a849d339fa4f73e1e4f135d312430c4856b5609b4892",
            ),
            Archive(
                f"{VOC}/voc2012/VOCtrainval_11-May-2012.tar",
                None,
                "sha256:e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb",
            ),
        ),
        read_voc,
    ),
    "bdd100k": Source(
        "http://bdd-data.berkeley.edu",
        read=read_bdd100k,
        by_hand="its makers ask for a login",
        needs=("images/100k/train", "images/100k/val", "labels"),
    ),
    "visdrone": Source(
        "https://github.com/VisDrone/VisDrone-Dataset",
        read=read_visdrone,
        by_hand="its makers publish it on Google Drive and Baidu",
        needs=("VisDrone2019-DET-train", "VisDrone2019-DET-val"),
    ),
    "dior": Source(
        "https://gcheng-nwpu.github.io/",
        read=read_dior,
        by_hand="its makers publish it on Google Drive and Baidu",
        needs=DIOR,
    ),
    "oxfordhand": Source(
        "https://www.robots.ox.ac.uk/~vgg/data/hands/",
        by_hand="its annotations are Matlab files, which are not read here",
    ),
    "uav": Source(
        "https://github.com/SpursLipu/YOLOv3v4-ModelCompression-MultidatasetTraining-Multibackbone",
        by_hand="it is only on the disk that this page links to",
    ),
}


def get(name: str, place: Path, lists: Path, names: Sequence[str]) -> Findings | None:
    """Fetch, check, unpack and convert a set; None when its lists are there already.

    Args:
        name: one of ``SOURCES``.
        place: where archives and images go.
        lists: where train.txt, val.txt and labels/ go.
        names: the classes, in the order of their numbers.

    Raises:
        InputError: no connection, a wrong file, too small a disk, or the set must be fetched by hand.
    """
    source = SOURCES[name]
    if (lists / "train.txt").is_file():
        return None
    if not source.archives:
        _see_that_it_is_there(name, source, place)
    place.mkdir(parents=True, exist_ok=True)
    files = [(place / "archives" / each.url.rpartition("/")[2], each) for each in source.archives]
    missing = sum(each.size or 0 for path, each in files if not path.is_file())
    need_room(place, missing + sum(each.size or 0 for _, each in files), f"{name}, its archives and what is in them,")
    for path, each in files:
        download(each.url, path, size=each.size, digest=each.digest)
    for path, _ in files:
        log.info("unpacking %s: %d files", path.name, unpack(path, place))
    found = Findings()
    assert source.read is not None, "what is fetched can be read"
    splits = source.read(place, found, names)
    lists.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=lists, prefix=".") as temporary:
        build = Path(temporary) / name
        write_lists(build, splits, names, found)
        for part in (IDS, NOTES, "labels", "val.txt", "train.txt"):  # the one that is looked for comes last
            if (build / part).exists():
                (build / part).replace(lists / part)
    return found


def _see_that_it_is_there(name: str, source: Source, place: Path) -> None:
    """Whether a person has fetched and unpacked the set.

    Raises:
        InputError: not, and this is where it is to be had; or it is none that can be read.
    """
    fetch = f"{name}: {source.by_hand}; fetch it from {source.home} by hand"
    if source.read is None:
        raise InputError(f"{fetch}, and write data/{name}/train.txt, val.txt and labels/ for it")
    if not all((place / need).exists() for need in source.needs):
        raise InputError(f"{fetch}, unpack it so that {place} holds {', '.join(source.needs)}, then run this again")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 2 when there is no set at its end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(SOURCES))
    parser.add_argument("--dir", type=Path, default=None, help="where the images go (default: data/NAME)")
    args = parser.parse_args(arguments)
    return ended(partial(_get, args), "get.py", left="run this again to go on")


def _get(args: argparse.Namespace) -> None:
    manifest = DATA / f"{args.name}.data"
    names = DATA / ("coco.names" if args.name.startswith("coco") else f"{args.name}.names")
    classes = names.read_text(encoding="utf-8").split("\n")
    found = get(args.name, (args.dir or DATA / args.name).resolve(), DATA / args.name, [c for c in classes if c])
    say(f"{manifest}: {found or 'was there already'}")


if __name__ == "__main__":
    sys.exit(main())
