"""Pictures of which nobody says anything: enough to measure ranges on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from utils.data import transforms
from utils.data.dataset import ImageFiles, SampleRequest
from utils.data.folders import IMAGE_SUFFIXES
from utils.data.loader import Batch
from utils.data.manifest import Manifest, read_list

SAYING = (".txt", ".xml", ".json", ".csv", ".data", ".names")  # files that say something of the pictures beside them
PARTS = ("labels", "annotations", "masks", "train", "images", "jpegimages")  # folders of a set that is laid out


@dataclass(frozen=True)
class BareFolder(Manifest):
    """A folder of images without labels: both of its lists are the folder, its classes are the network's."""


@dataclass(frozen=True, slots=True)
class BareSample:
    """``image`` uint8 [C, H, W], its number in the dataset."""

    image: Tensor
    index: int
    gaps: tuple[tuple[int, str], ...] = ()


class BareImages(ImageFiles):
    """The images of a list or folder, as the network takes them; the arguments are those of ``ImageFiles``."""

    def __getitem__(self, request: int | SampleRequest) -> BareSample:
        """The sample of an index, or of the loader's request."""
        request, size, _ = self.asked(request)
        gaps: dict[int, str] = {}
        index, image, original = self.fetch(request.index, gaps)
        fitted = transforms.letterbox(image, transforms.fit(original, size, self.how))
        return BareSample(self.as_tensor(fitted), index, tuple(gaps.items()))

    def collate(self, samples: Sequence[BareSample]) -> Batch:
        """One batch of samples, at least one."""
        return Batch(
            images=transforms.stack([sample.image for sample in samples]),
            indices=tuple(sample.index for sample in samples),
            gaps=tuple(gap for sample in samples for gap in sample.gaps),
        )


def is_bare(place: str | Path) -> bool:
    """Whether a folder has images and nothing beside them that says what is in them."""
    path = Path(place)
    if not path.is_dir():
        return False
    inside = list(path.iterdir())
    said = any(each.suffix.lower() in SAYING or (each.is_dir() and each.name.lower() in PARTS) for each in inside)
    return not said and any(each.suffix.lower() in IMAGE_SUFFIXES for each in inside)


def bare_folder(place: str | Path, classes: int, names: Sequence[str] = ()) -> BareFolder:
    """The folder as a manifest; classes without names are called by their numbers.

    Raises:
        InputError: an image's path cannot be written in a list.
    """
    path = Path(place).absolute()
    read_list(path)
    named = tuple(names) or tuple(map(str, range(classes)))
    return BareFolder(path=path, classes=classes, names=named, train=path, valid=path)
