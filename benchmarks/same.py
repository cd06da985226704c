"""Fingerprints of what the scripts compute, written down before a move of code and compared after it.

  python3 benchmarks/same.py --write before.json                        this checkout
  python3 benchmarks/same.py --tree ../older --write before.json        another one
  python3 benchmarks/same.py --against before.json                      all equal, or exit code 1 and what differs

One thread, fixed seeds, CPU. The user's three lines (two epochs), every prune script, quantised training in each style,
every --KDstr, --progressive, a run that is cut and resumed, two gloo processes, every mode of conversion and every form
of export. Of a checkpoint it keeps the sha256 of every tensor (their names may move, their bytes may not), of a record
the metrics that are no clock's, of a hand-off its manifest and the stamps of its files but texts, pictures and
verify.py. It takes about half an hour; --only NAME... runs a part.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CLOCKS = ("latency", "seconds", "_ms", "images_per_second", "wait", "peak_bytes")  # in the names of metrics
VOLATILE = ("git", "files", "sha256")  # keys of a manifest or report that are no results: commits, stamps of files
TEXTS = (".md", ".py", ".png", ".jpg", ".json")  # files of a hand-off that may be worded anew
SMALL = ["--data", "small.data", "--epochs", "2", "--batch-size", "16", "--workers", "0"]
FROM_SLIM = ["--weights", "weights/slim_prune_0.8.pt"]
SPARSE = ["--weights", "weights/last.pt", "--data", "small.data", "--force", "--recalibrate", "1"]
STRATEGIES = ("1", "2", "3", "4", "5", "cwd", "mgd", "objectness", "3+cwd")


def steps() -> Iterator[tuple[str, list[str]]]:
    """Names and command lines, each a script with its flags, in an order that can be followed."""
    yield "train", ["train.py", "-sr", "--s", "0.001", "--prune", "0", "--epochs", "2", "--workers", "0"]
    yield "slim", ["slim_prune.py", "--percent", "0.8", "--force"]
    yield "convert", ["convert_snn.py"]
    for script, extra in {
        "normal": ["--percent", "0.5"],
        "regular": ["--percent", "0.5"],
        "shortcut": ["--percent", "0.5"],
        "layer": ["--shortcuts", "1"],
        "layer_channel": ["--percent", "0.5", "--shortcuts", "1"],
    }.items():
        yield script, [f"{script}_prune.py", *SPARSE, *extra, "--name", script]
    yield "taylor", ["slim_prune.py", *SPARSE, "--percent", "0.4", "--score", "taylor", "--name", "taylor"]
    yield "iterative", ["slim_prune.py", *SPARSE, "--percent", "0.4", "--iterative", "2", "--finetune", "1",
                        "--name", "iterative"]  # fmt: skip
    for style in ("google", "dorefa", "pow2"):
        flags = ["--quantized", style, "--w-bit", "4", "--a-bit", "4", "--name", style]
        yield style, ["train.py", *SMALL, *FROM_SLIM, *flags]
    eight = ["--w-bit", "8", "--a-bit", "8"]  # said, since a default that all scripts share is 4 now
    yield "folded", ["train.py", *SMALL, *FROM_SLIM, "--quantized", "google", "--BN_Fold", "--learn-scales", *eight,
                     "--sparsify", "2", "--name", "folded"]  # fmt: skip
    yield "progressive", ["train.py", *SMALL, *FROM_SLIM, "--quantized", "pow2", "--progressive", "8", "4",
                          "--name", "progressive"]  # fmt: skip
    for kd in STRATEGIES:
        name = f"kd{kd.replace('+', '')}"
        yield name, ["train.py", *SMALL, *FROM_SLIM, "--KDstr", kd, "--t_weights", "weights/last.pt", "--name", name]
    yield "adam", ["train.py", *SMALL, *FROM_SLIM, "--adam", "--multi-scale", "--name", "adam"]
    yield "gloo", ["-m", "torch.distributed.run", "--nproc_per_node=2", "--", "train.py", *SMALL, "--sync-bn",
                   "--name", "gloo"]  # fmt: skip
    yield "ptq", ["quantize.py", *FROM_SLIM, "--data", "small.data", "--a-bit", "8", "--name", "ptq"]
    yield "ptq-pow2", ["quantize.py", *FROM_SLIM, "--data", "small.data", "--FPGA", "--a-bit", "4", "--name", "ptqpow2"]
    yield "bits-auto", ["quantize.py", *FROM_SLIM, "--data", "small.data", "--bits", "auto", "--budget", "size=0.6",
                        "--max-drop", "0.5", "--name", "auto"]  # fmt: skip
    for mode in ("stream", "rate"):
        yield mode, ["convert_snn.py", *FROM_SLIM, "--data", "small.data", "--mode", mode, "--images", "8",
                     *(["--timesteps", "16"] if mode == "rate" else ["--a-bit", "4"]), "--name", mode]  # fmt: skip
    yield "test", ["test.py", "--weights", "weights/last_google.pt", "--data", "small.data"]
    yield "detect", ["detect.py", "--weights", "weights/last.pt", "--save-txt", "--conf-thres", "0.1"]
    yield "one-scale", ["train.py", *SMALL, "--cfg", "cfg/yolov2-tiny.cfg", "-pt", "--act", "relu", "--img-size", "96",
                        "--name", "v2"]  # fmt: skip
    yield "one-scale-spikes", ["convert_snn.py", "--weights", "weights/last_v2.pt", "--data", "small.data"]
    chosen = {"fpga": "last_pow2.int.pt", "qonnx": "last_pow2.int.pt", "nir": "last_v2.snn.pt"}
    for form in ("fpga", "c", "onnx", "qonnx", "aer", "nir"):
        weights = f"weights/{chosen.get(form, 'slim_prune_0.8.snn.pt')}"
        yield f"export-{form}", ["export.py", form, "--weights", weights, "--data", "small.data",
                                 *(["--golden", "1"] if form != "nir" else []), "--out", f"export/{form}"]  # fmt: skip


def prepare(tree: Path, place: Path) -> None:
    """A folder to run in: the cfgs, the sample set, a small part of it, and nothing else."""
    shutil.copytree(tree / "cfg", place / "cfg", ignore=shutil.ignore_patterns("pruned"))
    code = "from utils.detection.sample import prepare_if_sample; prepare_if_sample('data/digits.data')"
    subprocess.run([sys.executable, "-c", code], cwd=tree, check=True, env=os.environ | {"PYTHONPATH": str(tree)})
    (place / "data").symlink_to(tree / "data")
    for split, count in (("train", 128), ("valid", 32)):
        lines = (tree / f"data/digits/{split}.txt").read_text().split()[:count]
        files = [Path(line) if Path(line).is_absolute() else _found(tree, line) for line in lines]
        (place / f"{split}.txt").write_text("".join(f"{path}\n" for path in files))
    names = tree / "data/digits.names"
    (place / "small.data").write_text(
        f"classes=10\ntrain=train.txt\nvalid=valid.txt\nnames={names}\nflip=0\nmosaic=0.5\nscale=0.1\n"
    )
    (place / "weights").mkdir()


def _found(tree: Path, line: str) -> Path:
    return next(path for path in (tree / line, tree / "data" / line, tree / "data/digits" / line) if path.is_file())


def run(tree: Path, place: Path, words: list[str]) -> None:
    """Run a script of the checkout in the folder, one thread; its output goes to a log."""
    script = [str(tree / word) if (tree / word).is_file() and word.endswith(".py") else word for word in words]
    env = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(tree)}
    with (place / "log.txt").open("a") as log:
        subprocess.run([sys.executable, *script], cwd=place, check=True, stdout=log, stderr=log, env=env)


def tensors(value: Any) -> Iterator[str]:
    """sha256 of every tensor anywhere inside, with its type and shape."""
    import torch

    if isinstance(value, torch.Tensor):
        plain = value.detach().cpu().contiguous()
        content = plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""
        yield f"{plain.dtype} {list(plain.shape)} {hashlib.sha256(content).hexdigest()[:24]}"
    elif isinstance(value, dict):
        for each in value.values():
            yield from tensors(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from tensors(each)


def plain(value: Any) -> Any:
    """A record's metrics without what clocks say."""
    if isinstance(value, dict):
        # a checkpoint's length depends on the words in it
        lost = {k for k in value if any(word in k for word in CLOCKS) or k in VOLATILE or k.startswith("bytes")}
        kept = {k: v for k, v in value.items() if k not in lost}
        return {k: plain(v) for k, v in kept.items()}
    return [plain(each) for each in value] if isinstance(value, list) else value


def fingerprints(place: Path) -> dict[str, Any]:
    """By path: tensors of checkpoints, metrics of records, manifests and files of hand-offs."""
    import torch

    found: dict[str, Any] = {}
    for path in sorted((place / "weights").glob("*")):
        if path.suffix == ".pt":
            # last*.pt of a finished run and what --resume needs of a cut one alike
            found[path.name] = sorted(tensors(torch.load(path, weights_only=True)))
        elif path.suffix == ".weights":
            found[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    for path in sorted((place / "cfg/pruned").glob("*.cfg")):
        found[f"pruned/{path.name}"] = hashlib.sha256(path.read_bytes()).hexdigest()
    for path in sorted((place / "runs").glob("*/record.json")):
        found[f"runs/{path.parent.name}"] = plain(json.loads(path.read_text())["metrics"])
    for path in sorted(path for path in (place / "export").rglob("*") if path.is_file()):
        name = path.relative_to(place).as_posix()
        if path.name in ("manifest.json", "report.json"):
            content = json.loads(path.read_text())
            found[name] = hashlib.sha256(json.dumps(plain(content), sort_keys=True).encode()).hexdigest()
        elif path.suffix not in (*TEXTS, ".sum", ".nir", ".onnx"):  # those two carry versions and dates
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def differences(before: Any, after: Any, place: str = "") -> Iterator[str]:
    """Paths at which two fingerprints differ; what only ``before`` has counts, what only ``after`` has does not."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key, value in before.items():
            if key not in after:
                yield f"{place}/{key}: is missing"
            else:
                yield from differences(value, after[key], f"{place}/{key}")
    elif before != after:
        yield f"{place}: {str(before)[:90]} -> {str(after)[:90]}"


def main() -> None:
    """Run all steps; write or compare."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--tree", type=Path, default=ROOT, help="the checkout whose scripts are run")
    flags.add_argument("--write", type=Path, help="where the fingerprints go")
    flags.add_argument("--against", type=Path, help="fingerprints to compare with")
    flags.add_argument("--only", nargs="+", help="names of steps; the networks they start from must be among them")
    flags.add_argument("--keep", type=Path, help="run in this folder and leave it; with --only: go on in it")
    args = flags.parse_args()
    place = (args.keep or Path(tempfile.mkdtemp(prefix="same-"))).absolute()
    place.mkdir(parents=True, exist_ok=True)
    tree = args.tree.absolute()
    try:
        if not (place / "cfg").exists():  # --keep with a folder of an earlier call: go on in it
            prepare(tree, place)
        for name, words in steps():
            if args.only is None or name in args.only:
                print(name, flush=True)
                run(tree, place, words)
        found = fingerprints(place)
    except subprocess.CalledProcessError as error:
        print((place / "log.txt").read_text()[-2000:])
        raise SystemExit(f"{' '.join(map(str, error.cmd))}: ended with code {error.returncode}") from error
    finally:
        if not args.keep:
            shutil.rmtree(place, ignore_errors=True)
    if args.write:
        args.write.write_text(json.dumps(found, indent=1) + "\n")
    if args.against:
        before = json.loads(args.against.read_text())
        wrong = list(differences(before, found))
        print("\n".join(wrong) or f"{len(before)} files and records, all equal")
        raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
