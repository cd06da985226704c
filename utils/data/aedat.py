"""iniVation's files: AEDAT 2 (CIFAR10-DVS), 3.1 (DVS-Gesture) and 4.

AEDAT 2 is rows of 8 bytes, most significant first: an address, of which a DVS128's bits 1 to 7 are x, 8 to 14 y, and
bit 0 the polarity (0 is ON), and us. x is counted from the right and y from below. AEDAT 3.1 is packets, least
significant first, of 28 bytes of head and as many events as it says. AEDAT 4 is compressed packets of flatbuffers, read
by the library aedat.
Source: https://docs.inivation.com/software/software-advanced-usage/file-formats
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from utils.data.events import Events, in_order, joined
from utils.errors import InputError

DVS128 = 128  # px a side
HEAD = struct.Struct(
    "<HHIIIIII"
)  # type, source, size of an event, offset of its time, overflow, capacity, number, valid
EVENT = 8  # bytes of a change of brightness, at least
POLARITY = 1  # the type of packets that are changes of brightness
END_OF_HEADER = b"#!END-HEADER"
OVERFLOW = 31  # bits of a time; the packet's overflow counts from there


def read_aedat(path: Path) -> tuple[tuple[int, int] | None, Events]:
    """The sensor's (height, width), where it is known, and all events of an AEDAT 2 or 3.1.

    Raises:
        InputError: it cannot be read, is cut off, or is of another version.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot read this recording ({error.strerror}); check the list") from error
    version = content[:12].removeprefix(b"#!AER-DAT")[:1]
    if not content.startswith(b"#") or version not in (b"2", b"3"):
        told = content[:12].decode(errors="replace").strip()
        raise InputError(f"{path}: begins with {told!r}, not with #!AER-DAT2 or 3; AEDAT 4 ends in .aedat4")
    return read_packets(path, content) if version == b"3" else read_addresses(path, content)


def read_addresses(path: Path, content: bytes) -> tuple[tuple[int, int] | None, Events]:
    """AEDAT 2 of a DVS128."""
    at = 0
    while content[at : at + 1] == b"#":
        end = content.find(b"\n", at)
        if end < 0:
            raise InputError(f"{path}: its header has no end; the file is cut off")
        at = end + 1
    if (len(content) - at) % 8:
        raise InputError(f"{path}: ends inside an event ({(len(content) - at) % 8} bytes over); it is cut off")
    rows = np.frombuffer(content, ">u4", offset=at).reshape(-1, 2).astype(np.int64)
    address = rows[:, 0]
    if (address >> 15).any():
        raise InputError(f"{path}: addresses above 15 bits, which a DVS128 has not; convert it to AEDAT 4 or .dat")
    x, y = DVS128 - 1 - (address >> 1 & 0x7F), DVS128 - 1 - (address >> 8 & 0x7F)
    return (DVS128, DVS128), in_order(Events(rows[:, 1], x, y, 1 - (address & 1)), path)


def read_packets(path: Path, content: bytes) -> tuple[tuple[int, int] | None, Events]:
    """AEDAT 3.1; events that are marked invalid are left out, packets of another kind passed over."""
    at = content.find(b"\n", content.find(END_OF_HEADER)) + 1
    if END_OF_HEADER not in content or not at:
        raise InputError(f"{path}: its header has no end; the file is cut off")
    parts = []
    while at < len(content):
        if len(content) - at < HEAD.size:
            raise InputError(f"{path}: ends inside a packet's head; it is cut off")
        kind, _, size, _, overflow, _, number, _ = HEAD.unpack_from(content, at)
        begin, at = at + HEAD.size, at + HEAD.size + number * size
        if kind == POLARITY and size < EVENT:
            raise InputError(f"{path}: events of {size} bytes, not {EVENT}; it is damaged, copy it again")
        if at > len(content):
            raise InputError(f"{path}: ends inside a packet ({at - len(content)} bytes are missing); it is cut off")
        if kind == POLARITY:
            rows = np.frombuffer(content, np.uint8, number * size, begin).reshape(number, size)
            parts.append(_polarities(rows, overflow))
    return _dvs128(path, content), in_order(joined(parts), path)


def _polarities(rows: NDArray[np.uint8], overflow: int) -> Events:
    """Bit 0 says that an event is valid, 1 its polarity, 2 to 16 y, 17 to 31 x; then us, 31 bits."""
    words = np.ascontiguousarray(rows[:, :EVENT]).view("<u4").astype(np.int64)
    words = words[(words[:, 0] & 1) == 1]
    word = words[:, 0]
    return Events(words[:, 1] | overflow << OVERFLOW, word >> 17 & 0x7FFF, word >> 2 & 0x7FFF, word >> 1 & 1)


def _dvs128(path: Path, content: bytes) -> tuple[int, int] | None:
    """The sensor's size, where the header names one that is known."""
    head = content[: content.find(END_OF_HEADER)]
    return (DVS128, DVS128) if b"DVS128" in head else None


def read_aedat4(path: Path) -> tuple[tuple[int, int] | None, Events]:
    """The sensor's (height, width) and all events of an AEDAT 4, us from its first event on.

    Raises:
        InputError: aedat is not installed, or cannot read the file, or there is no stream of events in it.
    """
    try:
        import aedat
    except ImportError:
        raise InputError(
            f"{path}: AEDAT 4 is read by aedat, which is not installed; pip install -r requirements-events.txt"
        ) from None
    if not path.is_file():
        raise InputError(f"{path}: cannot read this recording (no such file); check the list")
    try:
        decoder = aedat.Decoder(path)
        streams = {number: each for number, each in decoder.id_to_stream().items() if each["type"] == "events"}
        chosen = min(streams, default=None)
        packets = [packet["events"] for packet in decoder if chosen is not None and packet["stream_id"] == chosen]
    except Exception as error:  # the library raises whatever its parser meets
        raise InputError(f"{path}: aedat cannot read it ({str(error)[:80]}); it is damaged, copy it again") from None
    if chosen is None:
        raise InputError(f"{path}: no stream of events in it; record it with events")
    found = joined([Events(*(each[name].astype(np.int64) for name in ("t", "x", "y", "on"))) for each in packets])
    begin = int(found.t[0]) if len(found) else 0
    size = (int(streams[chosen]["height"]), int(streams[chosen]["width"]))
    return size, in_order(Events(found.t - begin, found.x, found.y, found.p), path)
