"""Checks this folder and recomputes the network in it, from its files alone; names the first thing that is wrong.

  python3 verify.py               in the folder of manifest.json
  python3 verify.py other/folder

Needs Python 3.10 and numpy. It checks, in this order: every file's checksum (a flipped bit is found and named); that
all forms of a tensor (npy, bin, mem, coe, plain and tiled) hold the same integers; that the network, recomputed layer
by layer on the golden images, gives every element of every golden tensor; and that the golden spike trains, where there
are any, add up to the levels. Exit code 0 means all of that holds.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

POLYNOMIAL = 0xEDB88320  # of CRC-32, bits reversed
IMAGE = -1
Array = np.ndarray
Entry = dict[str, Any]  # of the manifest: a layer, a tensor, or all of it


class MismatchError(Exception):
    """What is wrong, and where."""


def check(folder: Path | str) -> str:
    """Check everything in the folder; returns what was checked, in one line, and in another what pictures go through.

    Raises:
        MismatchError: the first thing that is wrong.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    for path, stamp in manifest["files"].items():
        check_file(folder, path, stamp, manifest)
    tensors = load_tensors(folder, manifest)
    for k, refs in enumerate(manifest["golden"]["tensors"]):
        golden = {int(name): load(folder, ref) for name, ref in refs.items()}
        levels, accumulators = execute(manifest, tensors, golden[IMAGE])
        for layer in manifest["layers"]:
            if layer["output"] is not None:
                i = layer["layer"]
                found = accumulators[i] if layer.get("read_out") else levels[i]
                compare(found, golden[i], f"layer {i}", refs[f"{i}"]["files"]["npy"])
        if k < len(manifest["golden"]["spikes"]):
            check_trains(folder, manifest["golden"]["spikes"][k], levels)
    layers, images = sum(layer["output"] is not None for layer in manifest["layers"]), manifest["golden"]["images"]
    fitted = "{1}x{2} px, fitted by {resize} (prepare.py)".format(*manifest["image"]["shape"], **manifest["image"])
    whole = f"{len(manifest['files'])} files are whole; {layers} layers x {images} images equal in every element"
    if "time" in manifest:
        whole += f" of each of {manifest['time']['steps']} steps"
    return f"{whole}\nthe network takes pictures of {fitted}"


def compare(found: Array, golden: Array, name: str, path: str) -> None:
    """A layer's integers are the golden ones, or MismatchError names the first element that is not."""
    different = np.argwhere(found != golden)
    if len(different):
        at = tuple(map(int, different[0]))
        message = f"element {list(at)} is {golden[at]}, but {name} gives {found[at]}"
        raise MismatchError(f"{path}: {message} ({len(different)} of {found.size} elements differ)")


def check_trains(folder: Path, trains: Entry, levels: dict[int, Array]) -> None:
    """A neuron of level n fires in the first |n| steps of its window and in no other; its sign is set where n < 0."""
    for name, planes in trains.items():
        n, steps = levels[int(name)], np.arange(planes["train"]["shape"][0])[:, None, None, None]
        right = {"train": steps < abs(n), "sign": n < 0}
        for part, found in right.items():
            if part in planes:
                message = f"layer {name} at level n"
                compare(found.astype(np.uint8), load(folder, planes[part]), message, planes[part]["files"]["npy"])
        if abs(n).max() > len(steps) or ("sign" not in planes and right["sign"].any()):
            raise MismatchError(f"{planes['train']['files']['npy']}: has no room for the levels of layer {name}")


# ---------------------------------------------------------------------------------------------------- checksums


def read(folder: Path, path: str) -> bytes:
    """A file's content."""
    place = folder / path
    if place.exists() and not place.is_file():
        raise MismatchError(f"{path}: is no file")
    try:
        return place.read_bytes()
    except OSError as error:
        raise MismatchError(f"{path}: {error.strerror}") from None


def stamp_of(content: bytes) -> Entry:
    """What a file is known by."""
    crc = f"{zlib.crc32(content):08x}"
    return {"sha256": hashlib.sha256(content).hexdigest(), "crc32": crc, "bytes": len(content)}


def read_manifest(folder: Path) -> Entry:
    """manifest.json, once it is known to be whole."""
    content, line = read(folder, "manifest.json"), read(folder, "manifest.sum")
    right = stamp_of(content)
    if line == sum_line(right):
        return json.loads(content)
    try:
        digest, crc, size, _ = line.decode("ascii").split()
        known = {"sha256": digest, "crc32": crc, "bytes": int(size)}
    except ValueError:
        raise MismatchError("manifest.sum: cannot be read; it is damaged") from None
    if len([key for key in ("sha256", "crc32") if known[key] != right[key]]) < 2:  # a change of content changes both
        raise MismatchError("manifest.sum: is damaged; manifest.json itself is whole")
    raise MismatchError(f"manifest.json: {describe(content, repair(content, known))}")


def sum_line(stamp: Entry) -> bytes:
    """What manifest.sum holds."""
    return f"{stamp['sha256']} {stamp['crc32']} {stamp['bytes']} manifest.json\n".encode()


def check_file(folder: Path, path: str, stamp: Entry, manifest: Entry) -> None:
    """The file is what the manifest says, or MismatchError names byte and element."""
    content = read(folder, path)
    if stamp_of(content) == stamp:
        return
    whole = repair(content, stamp)
    message = [describe(content, whole)]
    for ref, form, order in forms_of(manifest):
        if path_of(ref, form, order) == path:
            message.insert(0, first_difference(content, whole, folder, ref, form, order))
    raise MismatchError(f"{path}: " + "; ".join(filter(None, message)))


def repair(content: bytes, stamp: Entry) -> bytes | None:
    """The content before one bit of it was flipped, by the checksum's own algebra; None if more has changed."""
    wanted = int(stamp["crc32"], 16) ^ zlib.crc32(content)
    if len(content) != stamp["bytes"] or not wanted:
        return None
    register = POLYNOMIAL  # what a flip of the last byte's top bit does to the checksum; then bit by bit backwards
    for back in range(8 * len(content)):
        if register == wanted:
            fixed = bytearray(content)
            fixed[len(content) - 1 - back // 8] ^= 1 << (7 - back % 8)
            return bytes(fixed) if hashlib.sha256(fixed).hexdigest() == stamp["sha256"] else None
        register = register >> 1 ^ (POLYNOMIAL if register & 1 else 0)
    return None


def describe(content: bytes, whole: bytes | None) -> str:
    """Which byte differs, in words."""
    if whole is None:
        return "its checksum is wrong, in more than one bit"
    place = next(i for i, (a, b) in enumerate(zip(content, whole, strict=True)) if a != b)
    bit, line = (content[place] ^ whole[place]).bit_length() - 1, content.count(b"\n", 0, place) + 1
    return f"bit {bit} of byte {place} is flipped (0x{content[place]:02x}, was 0x{whole[place]:02x}; line {line})"


def first_difference(
    content: bytes, whole: bytes | None, folder: Path, ref: Entry, form: str, order: Array | None
) -> str:
    """Which element of a tensor is damaged, or nothing where its values are whole."""
    try:
        reference = decode(whole, form, ref) if whole is not None else intact(folder, ref, form, order)
        values = decode(content, form, ref)
    except Exception:  # numpy's parser raises this and that where a header is damaged
        return "its values cannot be read"
    if reference is None or (values == reference).all():
        return ""
    at = int(np.flatnonzero(values != reference)[0])
    index = np.argwhere(np.arange(values.size).reshape(ref["shape"]) == (at if order is None else order[at]))[0]
    where = "" if order is None else f"tiled element {at}, "
    return f"{where}element {index.tolist()} is {values[at]}, was {reference[at]}"


def intact(folder: Path, ref: Entry, form: str, order: Array | None) -> Array | None:
    """The values as another form of the same tensor has them."""
    for other, path in ref["files"].items():
        if other != form or order is not None:
            values = decode(read(folder, path), other, ref)
            return values if order is None else values[order]
    return None


# ------------------------------------------------------------------------------------------------------ formats


def tensors_of(layer: Entry) -> dict[str, Entry]:
    """Name -> tensor of a layer's own integers."""
    names = ("weights", "bias", "gains", "m", "m_neg", "table", "log2_threshold")
    return {name: layer[name] for name in names if layer.get(name) is not None}


def forms_of(manifest: Entry) -> Iterator[tuple[Entry, str, Array | None]]:
    """Every (tensor, form, order of its elements) in the folder; the order is None where it is plain."""
    refs = [ref for layer in manifest["layers"] for ref in tensors_of(layer).values()]
    refs += [ref for image in manifest["golden"]["tensors"] for ref in image.values()]
    refs += [ref for image in manifest["golden"]["spikes"] for planes in image.values() for ref in planes.values()]
    for ref in refs:
        yield from ((ref, form, None) for form in ref["files"])
        if ref.get("tiled"):
            order = tile_order(ref["shape"], ref["tiled"]["tm"], ref["tiled"]["tn"])
            yield from ((ref, form, order) for form in ref["tiled"]["files"])


def path_of(ref: Entry, form: str, order: Array | None) -> str:
    """Where that form of a tensor lies."""
    return (ref if order is None else ref["tiled"])["files"][form]


def tile_order(shape: Sequence[int], tm: int, tn: int) -> Array:
    """Plain element number of each element of the tiled file: tile by tile, in it [ky][kx][o][i], remainders short."""
    number = np.arange(int(np.prod(shape))).reshape(shape)
    tiles = [number[o : o + tm, i : i + tn] for o in range(0, shape[0], tm) for i in range(0, shape[1], tn)]
    return np.concatenate([tile.transpose(2, 3, 0, 1).ravel() for tile in tiles])


def decode(content: bytes, form: str, ref: Entry) -> Array:
    """The integers of a file, int64, flat."""
    bits, count = ref["bits"], int(np.prod(ref["shape"]))
    if ref.get("layout") == "rows":
        return decode_rows(content, form, ref["shape"])
    if form == "npy":
        values = np.load(io.BytesIO(content), allow_pickle=False).astype(np.int64).ravel()
    elif form == "bin":
        values = unpack(np.frombuffer(content, np.uint8), bits, count)
    else:
        text = content.decode("ascii")
        if form == "coe":
            text = text.split("memory_initialization_vector=")[1].replace(",", " ").replace(";", " ")
        values = np.array([int(word, 16) for word in text.split()], np.int64)
    if form != "npy" and ref["signed"]:
        values = np.where(values >= 1 << (bits - 1), values - (1 << bits), values)
    if len(values) != count:
        raise ValueError(f"{len(values)} values instead of {count}")
    return values


def decode_rows(content: bytes, form: str, shape: Sequence[int]) -> Array:
    """The bits of a spike train, uint8, flat; in npy and mem a row of the map is a word, column 0 its lowest bit."""
    wide, count = shape[-1], int(np.prod(shape))
    if form == "npy":
        rows = np.load(io.BytesIO(content), allow_pickle=False)
    elif form == "bin":
        wide, rows = count, np.frombuffer(content, np.uint8)
    else:
        words = (int(word, 16).to_bytes(-(-wide // 8), "little") for word in content.split())
        rows = np.frombuffer(b"".join(words), np.uint8)
    values = np.unpackbits(rows.reshape(-1, -(-wide // 8)), axis=1, count=wide, bitorder="little").ravel()
    if len(values) != count:
        raise ValueError(f"{len(values)} bits instead of {count}")
    return values


def unpack(packed: Array, bits: int, count: int) -> Array:
    """Words of ``bits`` bits without gaps, least significant bit first."""
    if bits in (8, 16, 32):
        return packed.view(f"<u{bits // 8}").astype(np.int64)
    stream = np.unpackbits(packed, bitorder="little")[: count * bits].reshape(count, bits)
    return stream.astype(np.int64) @ (1 << np.arange(bits, dtype=np.int64))


def load(folder: Path, ref: Entry) -> Array:
    """A tensor from its npy file, int64 in its shape."""
    return decode(read(folder, ref["files"]["npy"]), "npy", ref).reshape(ref["shape"])


def load_tensors(folder: Path, manifest: Entry) -> dict[int, dict[str, Array]]:
    """Layer -> name -> integers; all forms of each must agree, and those of the golden tensors too."""
    for ref, form, order in forms_of(manifest):
        path, plain = path_of(ref, form, order), load(folder, ref).ravel()
        different = np.flatnonzero(decode(read(folder, path), form, ref) != (plain if order is None else plain[order]))
        if len(different):
            raise MismatchError(f"{path}: element {different[0]} is not that of {ref['files']['npy']}")
    layers = manifest["layers"]
    return {each["layer"]: {name: load(folder, ref) for name, ref in tensors_of(each).items()} for each in layers}


# ------------------------------------------------------------------------------------------------- the network


def execute(
    manifest: Entry, tensors: dict[int, dict[str, Array]], image: Array
) -> tuple[dict[int, Array], dict[int, Array]]:
    """Run the integer network.

    Args:
        manifest: what manifest.json holds.
        tensors: layer number -> name -> integers.
        image: pixels, int64 [C,H,W]; [T,C,H,W] where every step has its own.

    Returns:
        Levels of every edge (-1: the image), accumulators of every convolution; int64 [C,H,W] by layer number. Of a
        network of steps: levels of every step, [T,C,H,W], and the accumulators' sums over the steps.
    """
    time, membranes = manifest.get("time"), dict[int, Array]()
    if time is None:
        return step(manifest, tensors, image, membranes)
    frames = image if time["input"] == "frames" else [image] * time["steps"]
    found = [step(manifest, tensors, frame, membranes) for frame in frames]
    levels, accumulators = ({i: [each[k][i] for each in found] for i in found[0][k]} for k in (0, 1))
    return {i: np.stack(each) for i, each in levels.items()}, {i: np.sum(each, 0) for i, each in accumulators.items()}


def step(
    manifest: Entry, tensors: dict[int, dict[str, Array]], image: Array, membranes: dict[int, Array]
) -> tuple[dict[int, Array], dict[int, Array]]:
    """All layers once; ``membranes`` of leaky neurons go on from what they were."""
    levels, accumulators = {IMAGE: image}, {}
    for layer in manifest["layers"]:
        i, kind, own = layer["layer"], layer["kind"], tensors[layer["layer"]]
        if layer["output"] is None:  # a head, which begins where the integers end
            continue
        given = [levels[j] for j in layer["inputs"]]
        if kind in MOVES:
            levels[i] = MOVES[kind](layer, given)
            continue
        if kind == "conv":
            accumulators[i] = acc = convolve(layer, own["weights"], own["bias"], given[0])
        else:
            acc = SUMS[kind](layer, own, given)
        if layer.get("lif"):
            levels[i] = fire(acc, own["log2_threshold"], layer["lif"], membranes, i)
        elif layer["requantise"] is not None:
            levels[i] = requantise(acc, own, layer["requantise"])
    return levels, accumulators


def fire(acc: Array, log2_threshold: Array, by: Entry, membranes: dict[int, Array], i: int) -> Array:
    """u = v >> shift, or v - (v >> shift), + acc; a spike where u > 2^log2_threshold takes that off u, or all of it."""
    v, threshold = membranes.get(i, np.zeros_like(acc)), (1 << log2_threshold)[:, None, None]
    part = v >> by["shift"]
    u = (v - part if by["keeps_most"] else part) + acc
    spikes = (u > threshold).astype(np.int64)
    membranes[i] = u - threshold * spikes if by["reset"] == "soft" else u * (1 - spikes)
    return spikes


def convolve(layer: Entry, weight: Array, bias: Array, n: Array) -> Array:
    """acc[o] = sum over i, ky, kx of w[o,i,ky,kx] * n[i, y*stride + ky*dilation - pad, ...] + bias[o].

    The products are summed in float64, which is exact: all of them are integers, and no sum can pass 2^acc_bits.
    """
    assert layer["acc_bits"] <= 53, "beyond what float64 holds exactly"
    (down, right), pad, dilation, groups = layer["stride"], layer["pad"], layer["dilation"], layer["groups"]
    outputs, inputs, size = weight.shape[:3]
    x = np.pad(n, ((0, 0), (pad, pad), (pad, pad))).astype(np.float64)
    reach = dilation * (size - 1)
    height, width = (x.shape[1] - reach - 1) // down + 1, (x.shape[2] - reach - 1) // right + 1
    w = weight.reshape(groups, outputs // groups, inputs, size, size).astype(np.float64)
    acc = np.zeros((groups, outputs // groups, height * width))
    for ky in range(size):
        for kx in range(size):
            top, left = ky * dilation, kx * dilation
            tap = x[:, top : top + (height - 1) * down + 1 : down, left : left + (width - 1) * right + 1 : right]
            acc += np.ascontiguousarray(w[..., ky, kx]) @ tap.reshape(groups, inputs, height * width)
    return acc.astype(np.int64).reshape(outputs, height, width) + bias[:, None, None]


def requantise(acc: Array, own: dict[str, Array], by: Entry) -> Array:
    """n = clip((acc * m + 2^(f-1)) >> f, lo, hi) in int64; m_neg stands in for m where acc < 0."""
    f, lo, hi = by["f"], by["lo"], by["hi"]
    m, m_neg = own["m"][:, None, None], own.get("m_neg", own["m"])[:, None, None]
    value = acc * np.where(acc < 0, m_neg, m)
    # where f <= 0 it is clipped first too, so that nothing overflows
    value = np.clip((value + (1 << (f - 1))) >> f if f > 0 else np.clip(value, lo, hi) << -f, lo, hi)
    return own["table"][value - lo] if "table" in own else value


def weighted_sum(layer: Entry, own: dict[str, Array], given: list[Array]) -> Array:
    """acc = sum of gains[j] * n_j over the inputs; gains [inputs, 1], or [inputs, C]."""
    return sum(n * gain[:, None, None] for n, gain in zip(given, own["gains"], strict=True))


def average(layer: Entry, own: dict[str, Array], given: list[Array]) -> Array:
    """acc[c] = sum of the map of channel c; m and f divide it by its H * W."""
    if layer["count"] != given[0][0].size:
        raise MismatchError(
            f"manifest.json: layer {layer['layer']} averages {given[0][0].size} values as {layer['count']}"
        )
    return given[0].sum((1, 2), keepdims=True)


def gate(layer: Entry, own: dict[str, Array], given: list[Array]) -> Array:
    """acc[c] = n_gate[c] * n[c]: the first input is 1 x 1 and scales the second."""
    return given[0] * given[1]


def max_pool(layer: Entry, given: list[Array]) -> Array:
    """The largest level of each window; the padding is the lowest level."""
    size, step, pad = layer["size"], layer["stride"], layer["pad"]
    before, after = pad // 2, pad - pad // 2
    x = np.pad(given[0], ((0, 0), (before, after), (before, after)), constant_values=layer["grid"]["lo"])
    height, width = (x.shape[1] - size) // step + 1, (x.shape[2] - size) // step + 1
    places = [(ky, kx) for ky in range(size) for kx in range(size)]
    return np.maximum.reduce([x[:, ky:, kx:][:, ::step, ::step][:, :height, :width] for ky, kx in places])


def upsample(layer: Entry, given: list[Array]) -> Array:
    """Every level ``stride`` times in both directions."""
    return given[0].repeat(layer["stride"], 1).repeat(layer["stride"], 2)


def spread(layer: Entry, given: list[Array]) -> Array:
    """Every level, and ``stride`` - 1 zeros behind it, in both directions."""
    (c, h, w), step = given[0].shape, layer["stride"]
    found = np.zeros((c, h * step, w * step), given[0].dtype)
    found[:, ::step, ::step] = given[0]
    return found


def fit(layer: Entry, given: list[Array]) -> Array:
    """The channels that both have, zeros in the others; every ``stride``-th level, or levels ``spread`` apart."""
    channels, height, width = layer["output"]
    step, apart, shared = layer["stride"], layer["spread"], min(channels, len(given[0]))
    found = np.zeros((channels, height, width), given[0].dtype)
    found[:shared, ::apart, ::apart] = given[0][:shared, ::step, ::step]
    return found


def route(layer: Entry, given: list[Array]) -> Array:
    """Slice ``group_id`` of ``groups`` of each input, one after the other."""
    return np.concatenate([np.split(n, layer["groups"])[layer["group_id"]] for n in given])


def reorg(layer: Entry, given: list[Array]) -> Array:
    """The map, read as C / stride^2 channels of ``stride`` times its sides, space to depth: [dy][dx][c] outside."""
    (c, h, w), step = given[0].shape, layer["stride"]
    parts = given[0].reshape(c // step**2, h, step, w, step)
    return parts.transpose(2, 4, 0, 1, 3).reshape(c * step**2, h // step, w // step)


def space_to_depth(layer: Entry, given: list[Array]) -> Array:
    """The levels of each square as channels: [dy][dx][c] outside."""
    step = layer["stride"]
    return np.concatenate([given[0][:, dy::step, dx::step] for dy in range(step) for dx in range(step)])


MOVES = {
    "maxpool": max_pool,
    "upsample": upsample,
    "spread": spread,
    "fit": fit,
    "route": route,
    "reorg": reorg,
    "space_to_depth": space_to_depth,
    "copy": lambda layer, given: given[0],
}
SUMS = {"shortcut": weighted_sum, "avgpool": average, "gate": gate}


def main(folder: Path | str) -> int:
    """Say what holds, or what does not; the exit code."""
    try:
        sys.stdout.write(f"{check(folder)}\n")
    except MismatchError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent))
