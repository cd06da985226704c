"""State dicts by torchvision's names: a network of a cfg computes what the published architecture computes."""

from __future__ import annotations

import json
import os
import runpy
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models import build, load_model
from tests.conftest import ROOT
from utils.darknet.cfg import read_cfg
from utils.darknet.foreign_state import MEAN, STD, as_network, kernels_by_name, read_state
from utils.darknet.network import load_checkpoint
from utils.darknet.output_layers import Softmax
from utils.darknet.spec import ModelSpec
from utils.errors import InputError

NONE = {"mean": (0, 0, 0), "std": (1, 1, 1)}


class Block(nn.Module):
    """Two 3x3 convolutions and a projection where width or stride change (He et al., CVPR 2016)."""

    def __init__(self, given: int, wide: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(given, wide, 3, stride, 1, bias=False), nn.BatchNorm2d(wide)
        self.conv2, self.bn2 = nn.Conv2d(wide, wide, 3, 1, 1, bias=False), nn.BatchNorm2d(wide)
        if stride > 1:
            self.downsample = nn.Sequential(nn.Conv2d(given, wide, 1, stride, bias=False), nn.BatchNorm2d(wide))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + (self.downsample(x) if hasattr(self, "downsample") else x))


class ResNet(nn.Module):
    def __init__(self, blocks: tuple[int, ...]) -> None:
        super().__init__()
        self.conv1, self.bn1, given = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), 64
        for n, count in enumerate(blocks):
            wide = 64 * 2**n
            parts = [Block(given if k == 0 else wide, wide, 2 if n and k == 0 else 1) for k in range(count)]
            setattr(self, f"layer{n + 1}", nn.Sequential(*parts))
            given = wide
        self.fc = nn.Linear(512, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for n in range(1, 5):
            x = getattr(self, f"layer{n}")(x)
        return self.fc(x.mean((2, 3)))


def sequential(
    widths: list[int | str], first: tuple[int, int, int], pool: tuple[int, int], kernels: list[int]
) -> nn.Sequential:
    layers: list[nn.Module] = []
    given, sizes = 3, iter(kernels)
    for wide in widths:
        if wide == "M":
            layers.append(nn.MaxPool2d(*pool))
            continue
        kernel = next(sizes)
        stride, pad = (first[1], first[2]) if given == 3 else (1, kernel // 2)
        layers += [nn.Conv2d(given, int(wide), kernel, stride, pad), nn.ReLU()]
        given = int(wide)
    return nn.Sequential(*layers)


class Sequential(nn.Module):
    """AlexNet and VGG-16: features and a classifier, its layers where torchvision has them."""

    def __init__(self, features: nn.Sequential, classifier: nn.Sequential) -> None:
        super().__init__()
        self.features, self.classifier = features, classifier

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))


def published(name: str) -> nn.Module:
    if name.startswith("resnet"):
        return ResNet((2, 2, 2, 2) if name == "resnet18" else (3, 4, 6, 3))
    if name == "alexnet":
        features = sequential([64, "M", 192, "M", 384, 256, 256, "M"], (11, 4, 2), (3, 2), [11, 5, 3, 3, 3])
        matrices = [
            nn.Linear(9216, 4096),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Linear(4096, 1000),
        ]
        return Sequential(features, nn.Sequential(nn.Dropout(), *matrices))
    widths: list[int | str] = [64, 64, "M", 128, 128, "M", *[256] * 3, "M", *[512] * 3, "M", *[512] * 3, "M"]
    features = sequential(widths, (3, 1, 1), (2, 2), [3] * 13)
    matrices = [nn.Linear(25088, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout()]
    return Sequential(features, nn.Sequential(*matrices, nn.Linear(4096, 1000)))


def randomised(name: str) -> nn.Module:
    with torch.device("meta"):  # torch's own start of 60 million weights takes seconds
        module = published(name)
    module = module.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for key, tensor in module.state_dict().items():
        if key.endswith("num_batches_tracked"):
            tensor.zero_()
        elif tensor.dim() > 1:
            bound = (6 / tensor[0].numel()) ** 0.5
            tensor.uniform_(-bound, bound, generator=generator)
        elif key.endswith("running_var"):
            tensor.uniform_(1e-4, 1.5, generator=generator)
        else:
            tensor.uniform_(-0.2, 0.2, generator=generator).add_(0.6 if ".bn" in key and key.endswith("weight") else 0)
    return module.eval()


def cfg(name: str) -> ModelSpec:
    return read_cfg(ROOT / f"cfg/classes/{name}.cfg")


def scores(network, x: Tensor) -> Tensor:
    (output,) = [layer for layer in network.spec.layers if isinstance(layer, Softmax)]
    assert output.groups == 1
    with torch.no_grad():
        (raw,) = build(network)(x)
    return raw.mean((2, 3))


@pytest.fixture(scope="module")
def resnet18() -> nn.Module:
    return randomised("resnet18")


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "alexnet"])
def test_a_published_state_dict_computes_the_same_in_the_cfg_of_its_name(name):
    module = randomised(name)
    x = torch.rand(1, 3, 224 if name == "alexnet" else 96, 224 if name == "alexnet" else 64)
    with torch.no_grad():
        wanted = module(x)
    state = dict(sorted(module.state_dict().items(), reverse=True))  # by name, so the order tells nothing
    found = scores(as_network(state, cfg(name), name, **NONE), x)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))


def test_vgg16_is_read_by_name_and_shape():
    with torch.device("meta"):
        module = published("vgg16")
    names = kernels_by_name(module.state_dict(), "vgg16")
    assert [each.weights for each in names[-4:]] == ["features.28", "classifier.0", "classifier.3", "classifier.6"]
    assert [each.weights for each in names[:3]] == ["features.0", "features.2", "features.5"]
    spec = cfg("vgg16")
    assert len(names) == len(spec.kernels) == 16 and all(each.norm is None for each in names)


def test_mean_and_deviation_of_pictures_go_into_the_first_convolution(resnet18):
    """Inside the picture, exactly; at the border the other network pads the mean's colour, ours black."""
    x = torch.rand(1, 3, 64, 64)
    mean, std = (torch.tensor(values)[None, :, None, None] for values in (MEAN, STD))
    padded = F.pad(x, (3, 3, 3, 3))  # black beyond the border, as our network sees it
    conv = resnet18.conv1
    with torch.no_grad():
        first = resnet18.bn1(F.conv2d((padded - mean) / std, conv.weight, stride=2))
        out = F.max_pool2d(F.relu(first), 3, 2, 1)
        for n in range(1, 5):
            out = getattr(resnet18, f"layer{n}")(out)
        wanted = resnet18.fc(out.mean((2, 3)))
    found = scores(as_network(resnet18.state_dict(), cfg("resnet18"), "x"), x)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))


def write_safetensors(path: Path, state: dict[str, Tensor]) -> None:
    """As the format is described: length, header, bytes."""
    header, body = {"__metadata__": {"format": "pt"}}, b""
    for name, tensor in state.items():
        data = tensor.contiguous().numpy().tobytes()
        kind = {torch.float32: "F32", torch.int64: "I64"}[tensor.dtype]
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


def command(*words: object) -> int:
    before = sys.argv
    sys.argv = ["import", *map(str, words)]
    try:
        runpy.run_module("utils.darknet.import", run_name="__main__")
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = before
    raise AssertionError("the command says no exit code")


def test_both_kinds_of_file_hold_the_same_tensors(tmp_path):
    state = {"a.weight": torch.randn(3, 2), "b": torch.arange(4)}
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "x.pth")
    write_safetensors(tmp_path / "x.safetensors", state)
    for name in ("x.pth", "x.safetensors"):
        found = read_state(tmp_path / name)
        assert found.keys() == state.keys() and all(torch.equal(found[key], state[key]) for key in state)


def test_the_command_writes_a_network_that_every_script_opens(tmp_path, monkeypatch, resnet18, capsys):
    monkeypatch.chdir(tmp_path)
    path, state = tmp_path / "resnet18.safetensors", resnet18.state_dict()
    write_safetensors(path, state)
    assert command(path, "--cfg", ROOT / "cfg/classes/resnet18.cfg") == 0
    assert "weights/resnet18.pt: 21 layers with weights, 11,689,512 parameters" in capsys.readouterr().out
    assert command(path, "--cfg", ROOT / "cfg/classes/resnet18.cfg", "--batch-norm") == 2
    assert "every layer of" in capsys.readouterr().err and len([*(tmp_path / "weights").glob("*.pt")]) == 1
    loaded = load_model(tmp_path / "weights/resnet18.pt")
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        found = loaded.predictor(x)[0].mean((2, 3))
    made = as_network(state, cfg("resnet18"), "x")
    kept = load_checkpoint(tmp_path / "weights/resnet18.pt").network
    assert kept.spec == made.spec and all(torch.equal(kept.state[key], made.state[key]) for key in made.state)
    torch.testing.assert_close(found, scores(made, x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "name", "message"),
    [
        (lambda s: s.pop("bn1.running_var"), "resnet18", "has no bn1.running_var, beside conv1.weight"),
        (lambda s: s.update({"extra.weight": torch.ones(2, 2)}), "resnet18", "'extra' is no layer of torchvision's resnet"),
        (lambda s: s.update({"layer1.0.bn9.weight": torch.ones(2)}), "resnet18", "bn9.weight has no place"),
        (lambda s: s.update({"fc.weight": torch.ones(10, 512)}), "resnet18", r"fc.weight is \[10, 512\], layer"),
        (lambda s: None, "resnet34", "has 21 layers with weights, the cfg has 37"),
        (lambda s: (s.clear(), s.update({"blocks.0.attn.weight": torch.ones(2, 2)})), "resnet18", "no name of torchvision's"),
        (lambda s: s["fc.bias"].fill_(float("nan")), "resnet18", "finite|nan"),
    ],
)  # fmt: skip
def test_a_state_dict_of_something_else_is_refused_by_name(resnet18, change, name, message):
    state = OrderedDict((key, value.clone()) for key, value in resnet18.state_dict().items())
    change(state)
    with pytest.raises(InputError, match=message):
        as_network(state, cfg(name), "x.pth")


class Evil:
    def __reduce__(self):
        return os.system, ("touch hacked",)


def test_files_that_would_run_a_program_or_are_damaged_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.save({"conv1.weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(InputError, match="no state dict that can be read without running it"):
        read_state(tmp_path / "evil.pth")
    assert not (tmp_path / "hacked").exists()
    (tmp_path / "empty.pth").write_bytes(b"")
    with pytest.raises(InputError, match=r"read without running it \(EOFError\); save"):
        read_state(tmp_path / "empty.pth")
    for data, message in ((b"\xff" * 40, "longer than the file"), (b"\x02" + b"\0" * 7 + b"[]", "damaged")):
        (tmp_path / "x.safetensors").write_bytes(data)
        with pytest.raises(InputError, match=message):
            read_state(tmp_path / "x.safetensors")
    write_safetensors(tmp_path / "y.safetensors", {"a": torch.ones(4)})
    (tmp_path / "y.safetensors").write_bytes((tmp_path / "y.safetensors").read_bytes()[:-4])
    with pytest.raises(InputError, match="outside the file"):
        read_state(tmp_path / "y.safetensors")
    assert command("none.pth", "--cfg", ROOT / "cfg/classes/resnet18.cfg") == 2
    assert "none.pth: no such file" in capsys.readouterr().err
