"""Large files over HTTP: resumed where they were cut, checked where a digest is published, never half there."""

from __future__ import annotations

import hashlib
import http.client
import logging
import shutil
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tqdm import tqdm

from utils.errors import InputError

log = logging.getLogger(__name__)

CHUNK = 1 << 20  # bytes
TIMEOUT = 30.0  # seconds without a byte
STALLS = 3  # attempts in a row that bring nothing
SPARE = 100_000_000  # bytes that stay free on the disk
BROKEN = (http.client.HTTPException, OSError)  # what a connection that is cut raises; URLError is an OSError


def download(url: str, path: Path, *, size: int | None = None, digest: str = "") -> Path:
    """Fetch ``url`` to ``path``; what came so far waits in ``path.part``, and the next call goes on from there.

    Args:
        url: http or https.
        path: the file; one that is there already is only checked.
        size: bytes as published, if they are.
        digest: as published: ``sha256:…`` or ``md5:…``; empty: none is.

    Raises:
        InputError: no connection, another file than the published one, or a full disk; what came so far is kept.
    """
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.part")
        log.info("fetching %s", url)
        _fetch_all(url, part, size)
        part.replace(path)
        _tag(part).unlink(missing_ok=True)
    _verify(path, size, digest)
    return path


def need_room(folder: Path, count: int, what: str) -> None:
    """See that ``count`` bytes fit on the disk of ``folder``.

    Raises:
        InputError: they do not.
    """
    free = shutil.disk_usage(folder).free
    if free < count + SPARE:
        gigabytes = (f"{value / 1e9:.1f} GB" for value in (count, free))
        raise InputError(
            "{}: {} needs {}, {} are free; make room or choose another --dir".format(folder, what, *gigabytes)
        )


def _fetch_all(url: str, part: Path, size: int | None) -> None:
    """Connect again as long as each connection brings something."""
    stalls = 0
    while True:
        have = _length(part)
        try:
            return _fetch(url, part, size)
        except urllib.error.HTTPError as error:
            raise InputError(f"{url}: {error.code} {error.reason}; the set may have moved, see its home page") from None
        except BROKEN as error:
            if getattr(error, "filename", None):  # the disk's, not the net's
                raise InputError(f"{part}: {error.strerror}; make room, then run this again") from None  # type: ignore[union-attr]
            stalls = 0 if _length(part) > have else stalls + 1
            refused = isinstance(error, urllib.error.URLError) and not have
            if refused or stalls == STALLS:
                reason = getattr(error, "reason", None) or error
                kept = f"; {_length(part):,} bytes are kept" if _length(part) else ""
                raise InputError(f"{url}: no connection ({reason}){kept}; run this again when you are online") from None
            log.info("%s: cut after %s bytes, going on", url, f"{_length(part):,}")


def _fetch(url: str, part: Path, size: int | None) -> None:
    """One connection: append what is missing, or begin anew where the server can not resume or has another file."""
    have, tag = _length(part), _tag(part)
    headers = {"User-Agent": "darkspike", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if tag.is_file():
            headers["If-Range"] = tag.read_text(encoding="utf-8")
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        if error.headers.get("Content-Range", "").rpartition("/")[2] == str(have):
            return  # the file was whole already
        part.unlink()
        return _fetch(url, part, size)
    with answer:
        resumed = answer.status == http.client.PARTIAL_CONTENT
        if resumed and not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            raise InputError(f"{url}: the server resumes at another byte than asked; delete {part} and run this again")
        begin = have if resumed else 0
        length = answer.headers.get("Content-Length")
        total = begin + int(length) if length else size
        if size and total != size:
            raise InputError(f"{url}: {total:,} bytes, published are {size:,}; the set has changed, see its home page")
        need_room(part.parent, (total or 0) - begin, url.rpartition("/")[2])
        tag.write_text(answer.headers.get("ETag") or answer.headers.get("Last-Modified") or "", encoding="utf-8")
        if not tag.stat().st_size:
            tag.unlink()
        _save(answer, part, begin, total)


def _save(answer: Any, part: Path, begin: int, total: int | None) -> None:
    bar = tqdm(total=total, initial=begin, unit="B", unit_scale=True, desc=part.stem, disable=None, leave=False)
    with part.open("ab" if begin else "wb") as file, bar:
        while data := answer.read(CHUNK):
            file.write(data)
            bar.update(len(data))
    if total is not None and _length(part) < total:
        raise ConnectionError(f"ended {total - _length(part):,} bytes early")


def _verify(path: Path, size: int | None, digest: str) -> None:
    """See that the file is the published one; another is put aside, so that the next call fetches it anew."""
    wrong = ""
    if size and _length(path) != size:
        wrong = f"{_length(path):,} bytes, published are {size:,}"
    elif digest:
        kind, _, published = digest.partition(":")
        found = _digest(path, kind)
        wrong = "" if found == published else f"its {kind} is {found}, published is {published}"
    if wrong:
        aside = path.with_name(f"{path.name}.wrong")
        path.replace(aside)
        raise InputError(f"{path}: {wrong}; it was put aside as {aside.name}, run this again to fetch it anew")


def _digest(path: Path, kind: str) -> str:
    found = hashlib.new(kind)
    bar = tqdm(
        total=_length(path), unit="B", unit_scale=True, desc=f"{kind} {path.name}", delay=2, disable=None, leave=False
    )
    with path.open("rb") as file, bar:
        while data := file.read(CHUNK):
            found.update(data)
            bar.update(len(data))
    return found.hexdigest()


def _length(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _tag(part: Path) -> Path:
    """Where the server's name for this version of the file is kept."""
    return part.with_name(f"{part.name}.tag")
