"""test.py and detect.py take a model.onnx, ours or with a cfg another's: the numbers of the network it was made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import compress
import export
import quantize
import test as test_script
from models import load_model
from tests.conftest import ROOT
from tests.export.nets import small
from tests.export.test_script import HERE, place
from tests.quantization.random_nets import random_images
from utils.darknet.cfg import write_cfg
from utils.detection.decode import decode
from utils.errors import InputError
from utils.export.onnx_graph import save
from utils.export.onnx_qdq import qdq_model

assert place  # a fixture


def written(*words: str) -> str:
    typed = ["onnx", "--float", "--weights", "weights/net.pt", *words, *HERE]
    return str(export.run(export.parser().parse_args(typed)).paths()[0])


def test_test_measures_the_file_as_it_measures_the_network(place):
    path = written()
    found = [
        test_script.run(test_script.parser().parse_args(["--weights", w, *HERE])) for w in ("weights/net.pt", path)
    ]
    one, other = (next(iter(each.metrics.values())) if "map50" not in each.metrics else each.metrics for each in found)
    names = ("map50", "map", "precision", "recall")
    assert [one[name] for name in names] == pytest.approx([other[name] for name in names], abs=1e-6)


def test_a_chain_measures_the_file_as_its_baseline_and_trains_nothing(place):
    path = written()
    asked = ["--weights", path, "--until", "baseline", *HERE]
    found = [
        compress.run(compress.parser().parse_args(asked)).metrics,
        test_script.run(test_script.parser().parse_args(["--weights", path, *HERE])).metrics,
    ]
    one, other = (each if "map50" in each else next(iter(each.values())) for each in found)
    assert [one[name] for name in ("map50", "map")] == [other[name] for name in ("map50", "map")]
    for more, fact in (
        ([], r"model\.onnx: nothing trains an ONNX file; --until baseline measures it"),
        (["--until", "pruned"], r"model\.onnx: nothing trains an ONNX file"),
        (["--until", "baseline", "--percent", "0.5"], r"--percent: an ONNX file is only measured; leave it away"),
    ):
        with pytest.raises(InputError, match=fact):
            compress.run(compress.parser().parse_args(["--weights", path, *more, *HERE]))


def test_the_door_gives_maps_names_and_size_of_the_file(place):
    loaded, right = load_model(written()), load_model("weights/net.pt")
    assert (loaded.kind, loaded.names, loaded.size, loaded.spec) == ("onnx", right.names, right.size, right.spec)
    x = random_images(2, side=64)
    with torch.no_grad():
        for mine, theirs in zip(loaded.predictor(x), right.predictor(x), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    with pytest.raises(
        InputError, match=r"--img-size: \(3, 32, 32\), and this ONNX file takes \(3, 64, 64\); .*--dynamic"
    ):
        loaded.predictor(x[:, :, :32, :32])


def test_files_that_do_not_say_what_they_are_are_refused(place):
    network, _ = small("tests/cfgs/plain.cfg")
    save(qdq_model(network, (64, 64)), Path("qdq.onnx"))
    with pytest.raises(InputError, match=r"qdq\.onnx: does not say what its outputs mean; add --cfg"):
        load_model("qdq.onnx")
    with pytest.raises(InputError, match=r"model\.onnx: carries its own structure; leave --cfg away"):
        load_model(written("--name", "own"), str(ROOT / "cfg/yolov3-tiny-digits.cfg"))
    Path("broken.onnx").write_bytes(b"not a model")
    with pytest.raises(InputError, match=r"broken\.onnx: onnxruntime cannot read it"):
        load_model("broken.onnx")
    words = ["--weights", written("--name", "q"), *HERE]
    with pytest.raises(InputError, match=r"model\.onnx: is onnx; quantise the float network it was made of"):
        quantize.run(quantize.parser().parse_args(words))
    with pytest.raises(InputError, match=r"gone\.onnx: no such file"):
        load_model("gone.onnx")


def test_the_file_of_integers_is_measured_as_they_are(place):
    words = ["onnx", "--weights", "weights/net.int.pt", *HERE]
    path = str(export.run(export.parser().parse_args(words)).paths()[0])
    found = [
        test_script.run(test_script.parser().parse_args(["--weights", w, *HERE])).metrics
        for w in ("weights/net.int.pt", path)
    ]
    assert all(found[0][name] == found[1][name] for name in ("map50", "map", "precision", "recall"))


def of_another_program() -> str:
    """A float model without a word of ours: other names, its heads in another order."""
    model = onnx.load(written())
    del model.metadata_props[:]
    graph = model.graph
    for n, output in enumerate(reversed(list(graph.output))):
        graph.node.append(onnx.helper.make_node("Identity", [output.name], [f"out{n}"]))
        graph.output.append(onnx.helper.make_tensor_value_info(f"out{n}", 1, None))
        graph.output.remove(output)
    onnx.save(model, "theirs.onnx")
    return "theirs.onnx"


def test_another_programs_maps_are_told_apart_by_the_heads_of_a_cfg(place):
    right = load_model("weights/net.pt")
    Path("net.cfg").write_text(write_cfg(right.spec))
    theirs = load_model(of_another_program(), "net.cfg")
    assert [each.name for each in theirs.predictor.session.get_outputs()] != list(theirs.predictor.outputs)
    x = random_images(2, side=64)
    with torch.no_grad():
        for mine, wanted in zip(theirs.predictor(x), right.predictor(x), strict=True):
            torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=1e-4)
    Path("other.cfg").write_text(
        write_cfg(right.spec).replace("filters=14", "filters=16").replace("classes=2", "classes=3")
    )
    with pytest.raises(InputError, match=r"theirs\.onnx: its outputs are .*, or boxes \[N, boxes, 5 \+ classes\]"):
        load_model("theirs.onnx", "other.cfg")


def decoded_in(form: str) -> str:
    """The file of boxes, as another program would have written it."""
    model = onnx.load(written("--decode", "--name", form))
    del model.metadata_props[:]
    graph, make, kept = model.graph, onnx.helper.make_node, ["joined"]
    for name, values in (("half", 0.5), ("two", 2.0)):
        graph.initializer.append(onnx.numpy_helper.from_array(np.float32(values), name))
    graph.initializer.append(onnx.numpy_helper.from_array(np.array([2, 2]), "parts"))
    graph.node.append(make("Split", ["boxes", "parts"], ["low", "high"], axis=2))
    graph.node.append(make("Add", ["low", "high"], ["sum"]))
    graph.node.append(make("Mul", ["sum", "half"], ["centre"]))
    graph.node.append(make("Sub", ["high", "low"], ["extent"]))
    graph.node.append(make("ReduceMax", ["scores"], ["best"], axes=[2], keepdims=1))  # an objectness
    graph.node.append(make("Div", ["scores", "best"], ["shares"]))
    if form == "rows":
        graph.node.append(make("Concat", ["centre", "extent", "best", "shares"], kept, axis=2))
    else:
        graph.node.append(make("Concat", ["centre", "extent", "scores"], ["flat"], axis=2))
        graph.node.append(make("Transpose", ["flat"], kept, perm=[0, 2, 1]))
    del graph.output[:]
    graph.output.append(onnx.helper.make_tensor_value_info("joined", 1, None))
    onnx.save(model, f"{form}.onnx")
    return f"{form}.onnx"


@pytest.mark.parametrize("form", ["ours", "rows", "columns"])
def test_boxes_that_are_decoded_already_are_measured_as_the_network(place, form):
    right = load_model("weights/net.pt")
    Path("net.cfg").write_text(write_cfg(right.spec))
    file = ["--weights", written("--decode", "--name", "boxes")] if form == "ours" else []
    words = [file or ["--weights", decoded_in(form), "--cfg", "net.cfg"], ["--weights", "weights/net.pt"]]
    found = [test_script.run(test_script.parser().parse_args([*each, *HERE])).metrics for each in words]
    names = ("map50", "map", "precision", "recall")
    assert [found[0][name] for name in names] == pytest.approx([found[1][name] for name in names], abs=1e-6)
    model, x = load_model(*[w for w in words[0] if not w.startswith("--")]).predictor, random_images(2, side=64)
    heads = [right.spec.layers[i] for i in right.spec.heads]
    with torch.no_grad():
        mine, wanted = decode(model(x), heads, (64, 64)), decode(right.predictor(x), heads, (64, 64))
    torch.testing.assert_close(mine[..., :4], wanted[..., :4], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(mine[..., 4:5] * mine[..., 5:], wanted[..., 4:5] * wanted[..., 5:], rtol=1e-3, atol=1e-6)
