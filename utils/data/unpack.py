"""Archives unpacked safely: nothing outside the folder, no links, nothing half-written, no full disk."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from tqdm import tqdm

from utils.data.download import need_room
from utils.errors import InputError

DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError)


@dataclass(frozen=True)
class Member:
    """A file in an archive."""

    name: str
    size: int
    open: Callable[[], IO[bytes] | None]


def unpack(archive: Path, folder: Path) -> int:
    """Unpack a zip or tar (also compressed) into ``folder``; returns the number of files written.

    A file that is there with the size it should have is left alone, so that an interrupted unpacking goes on.

    Raises:
        InputError: a name leads out of the folder, there is a link, the archive is damaged, or the disk is too small;
            in the first two cases nothing at all was written.
    """
    marker = folder / f".{archive.name}.unpacked"
    if marker.is_file():
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    try:
        sizes = [(_target(archive, folder, member.name), member.size) for member in _members(archive)]
        missing = [size for path, size in sizes if not _there(path, size)]
        need_room(folder, sum(missing), f"what is in {archive.name}")
        bar = tqdm(total=sum(missing), unit="B", unit_scale=True, desc=archive.name, delay=2, disable=None, leave=False)
        with bar:
            for member in _members(archive):
                path = _target(archive, folder, member.name)
                if not _there(path, member.size):
                    _write(member, path)
                    bar.update(member.size)
    except DAMAGED as error:
        reason = str(error).splitlines()[0].rstrip(":")
        raise InputError(f"{archive}: damaged ({reason}); delete it and run this again to fetch it anew") from None
    marker.touch()
    return len(missing)


def _members(archive: Path) -> Iterator[Member]:
    """The files of an archive, one after the other; each is to be read before the next is asked for."""
    if archive.suffix == ".zip" or zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            for entry in packed.infolist():
                if entry.external_attr >> 28 == 0o12:  # the upper bits are Unix's mode
                    raise InputError(f"{archive}: holds a link ({entry.filename}), which is not unpacked")
                if not entry.is_dir():
                    yield Member(entry.filename, entry.file_size, lambda entry=entry: packed.open(entry))  # type: ignore[misc]
        return
    with closing(tarfile.open(archive)) as tar:
        for item in tar:
            if item.isdir():
                continue
            if not item.isfile():
                raise InputError(f"{archive}: holds a link or device ({item.name}), which is not unpacked")
            yield Member(item.name, item.size, lambda item=item: tar.extractfile(item))  # type: ignore[misc]


def _target(archive: Path, folder: Path, name: str) -> Path:
    """Where a member goes."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not parts or ".." in parts or parts[0].startswith("/") or ":" in parts[0]:
        raise InputError(f"{archive}: holds '{name}', which leads out of {folder}; do not trust this archive")
    return folder.joinpath(*parts)


def _there(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _write(member: Member, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        source = member.open()
        assert source is not None, "only files are members"
        with source, temporary.open("wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; make room or allow it, then run this again") from None
    finally:
        temporary.unlink(missing_ok=True)
