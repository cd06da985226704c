"""[sam], [reorg3d], [route_lhalf], Darknet's second names, and the sections that are refused by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models import Darknet, build
from tests.conftest import ROOT
from tests.darknet.opencv import opencv_outputs
from tests.pruning.nets import random_network
from tests.quantization.random_nets import random_images
from utils.darknet import spec as s
from utils.darknet.cfg import parse_cfg, read_cfg, write_cfg
from utils.darknet.cfg_schema import NO_PLACE, SECOND_NAMES
from utils.darknet.fold import fold_bn
from utils.darknet.ops import is_identity
from utils.darknet.weights import write_weights
from utils.errors import InputError
from utils.export.onnx_check import run, session
from utils.export.onnx_float import float_model
from utils.pruning.absorb import zeroed
from utils.pruning.bias_carrier import settle_and_cut
from utils.pruning.choices import Beta
from utils.pruning.plan import ShortcutRule, plan_channels
from utils.quantization.calibrate import calibrate
from utils.quantization.executor import IntegerExecutor
from utils.quantization.lower import lower

CONV = "[convolutional]\nbatch_normalize=1\nfilters=12\nsize=3\npad=1\nactivation={}\n"
SAM = (
    "[net]\nwidth=32\nheight=32\nchannels=3\n"
    + CONV.format("leaky")
    + CONV.format("logistic")
    + "[sam]\nfrom=-2\nactivation=linear\n"
    + CONV.format("leaky")
    + "[convolutional]\nfilters=7\nsize=1\nactivation=linear\n[yolo]\nmask=0\nanchors=6,8\nclasses=2\nnum=1\n"
)


def test_sam_is_the_product_of_two_maps_and_opencv_agrees(tmp_path):
    net = random_network(parse_cfg(SAM))
    x = torch.rand(1, 3, 32, 32)
    ours = build(net).activations(x)
    torch.testing.assert_close(ours[2], ours[1] * ours[0])
    theirs = opencv_outputs(net, x, tmp_path, ["conv_4"])[0]
    torch.testing.assert_close(theirs, ours[4].detach(), rtol=1e-4, atol=1e-4)


def test_an_activation_alone_leaves_what_it_reads_to_others():
    spec = read_cfg(ROOT / "tests" / "cfgs" / "preact.cfg")
    net = random_network(spec)
    out = build(net).activations(torch.rand(1, 3, 32, 32))
    torch.testing.assert_close(out[1], torch.nn.functional.leaky_relu(out[0], 0.1))
    torch.testing.assert_close(out[4], out[3] + out[0])
    torch.testing.assert_close(out[5], out[4].relu())
    assert out[0].min() < out[1].min() < 0


def test_a_network_with_sam_is_cut_as_the_one_with_gammas_at_zero():
    net = random_network(parse_cfg(SAM))
    plan = plan_channels(net, percent=0.5, tie=ShortcutRule.ANY)
    small, plan = settle_and_cut(net, plan, Beta.CARRIER)
    assert small.spec.kernels[0].filters == small.spec.kernels[1].filters < 12
    assert parse_cfg(write_cfg(small.spec)) == small.spec
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(build(small)(x), build(zeroed(net, plan))(x), rtol=1e-3, atol=1e-4)


def test_sam_has_a_float_onnx_form_and_none_in_integers():
    net = fold_bn(random_network(parse_cfg(SAM)))
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        ours = build(net)(x)
    found = run(session(float_model(net, (32, 32))), {"image": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(next(iter(found.values()))), ours[0], rtol=1e-4, atol=1e-4)
    with pytest.raises(
        InputError, match=r"layer 2 \(cfg line 17\): \[sam\] multiplies two whole maps.*take the \[sam\] out"
    ):
        calibrate(net, [x])


def test_reorg3d_takes_neighbours_for_channels():
    spec = parse_cfg("[net]\nwidth=6\nheight=9\nchannels=2\n[reorg3d]\nstride=3\n")
    x = torch.rand(1, 2, 9, 6)
    found, given = Darknet(spec).activations(x)[0][0].numpy(), x[0].numpy()
    want = np.zeros((18, 3, 2), np.float32)
    for k in range(18):  # the loop of the definition
        for j in range(3):
            for i in range(2):
                want[k, j, i] = given[k % 2, j * 3 + k // 2 // 3, i * 3 + k // 2 % 3]
    assert np.array_equal(found, want)


def test_route_lhalf_is_the_first_half_and_is_written_as_a_route():
    spec = read_cfg(ROOT / "tests" / "cfgs" / "space.cfg")
    assert spec.layers[3] == s.Route(sources=(2,), groups=2, group_id=0)
    assert "[route_lhalf]" not in write_cfg(spec) and parse_cfg(write_cfg(spec)) == spec


def test_darknets_second_names_are_the_same_sections():
    keys = {"convolutional": "filters=3\n", "connected": "output=2\n"}
    for second, first in SECOND_NAMES.items():
        texts = [f"[net]\n[{kind}]\n{keys.get(first, '')}" for kind in (second, first)]
        if first in NO_PLACE:
            for text in texts:
                with pytest.raises(InputError, match=rf"cfg line 2: \[{first}\] "):
                    parse_cfg(text)
            continue
        assert len({parse_cfg(text) for text in texts}) == 1


def test_an_empty_section_hands_on_what_it_reads_and_is_counted():
    spec = parse_cfg("[net]\nwidth=8\nheight=8\n[silence]\n" + CONV.format("relu") + "[empty]\n[route]\nlayers=2,0\n")
    assert [is_identity(layer) for layer in spec.layers] == [True, False, True, False]
    model, x = Darknet(spec).train(), torch.rand(1, 3, 8, 8)
    out = model.activations(x)
    assert torch.equal(out[0], x) and torch.equal(out[3], torch.cat((out[1], x), 1))
    assert parse_cfg(write_cfg(spec)) == spec


INSTEAD = {  # what a refusal says to do -> that, done
    "put a [convolutional] in its place": CONV.format("leaky"),
    "use a [convolutional]": CONV.format("leaky"),
    "use [lstm] and end the cfg in [sequence]": "[lstm]\noutput=4\n[connected]\noutput=2\nactivation=linear\n[sequence]\n",
    "use YOLOv2 or later": "[convolutional]\nfilters=7\n[region]\nanchors=1,2\nclasses=2\nnum=1\n",
    "use [yolo]": "[convolutional]\nfilters=7\n[yolo]\nmask=0\nanchors=4,4\nclasses=2\nnum=1\n",
    "take it out and train that again": "",
    "use [softmax]": "[convolutional]\nfilters=7\n[softmax]\n",
    "use a [transposed_convolutional]": "[transposed_convolutional]\nfilters=7\nsize=2\nstride=2\n",
    "say batch_normalize=1 in the": CONV.format("relu"),
    "use [implicit_add] and [shift_channels]": "[implicit_add]\nfilters=3\n[dropout]\n[route]\nlayers=0\n[shift_channels]\nfrom=1\n",
}


@pytest.mark.parametrize("kind", NO_PLACE)
def test_a_section_without_a_place_is_refused_by_name_and_what_it_says_to_do_instead_is_read(kind):
    front = "[net]\nwidth=1\nheight=1\n[dropout]\n"
    with pytest.raises(
        InputError, match=rf"c line 5: \[{kind}\] (is|has|keeps|normalises|predicts|divides) \S+ .*"
    ) as refused:
        parse_cfg(f"{front}[{kind}]\n", "c")
    (instead,) = (text for said, text in INSTEAD.items() if said in str(refused.value))
    steps = "input=frames\ntimesteps=3\n[dropout]" if "[sequence]" in instead else "[dropout]"
    parse_cfg(front.replace("[dropout]", steps) + instead)


@pytest.mark.parametrize("kind", ["rnn", "gru", "lstm", "local", "detection"])
def test_a_section_without_a_place_is_named_before_any_key_that_its_cfg_has(kind):
    with pytest.raises(InputError, match=rf"c line 4: \[{kind}\] "):
        parse_cfg(f"[net]\ninputs=256\nnever_heard_of=1\n[{kind}]\n", "c")


def test_yolov1_is_named_by_its_head_and_not_by_a_section_before_it():
    with pytest.raises(InputError, match=r"c line 3: \[detection\] is the head of YOLOv1, .*use YOLOv2 or later"):
        parse_cfg("[net]\n[local]\n[detection]\n", "c")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[net]\ninputs=256\n[connected]\noutput=4\n", "line 2: inputs=256 reads a vector of so many values"),
        ("[net]\n[maxpool]\nmaxpool_depth=1\n", "line 3: maxpool_depth=1 takes the largest over channels"),
        ("[net]\n[region]\nbackground=1\n", "line 3: background=1 has a class for what is no object"),
        ("[net]\n[yolo]\nfrom=88,99,110\n", "line 3: from=88,99,110 joins what several heads predict"),
    ],
)
def test_keys_that_compute_something_else_are_refused_with_what_they_do(text, message):
    with pytest.raises(InputError, match=message):
        parse_cfg(text)


def test_darknets_loss_of_embeddings_is_left_out_and_told_and_its_weights_stay(tmp_path, caplog):
    """yolov4-tiny_contrastive.cfg: the convolution whose embeddings it learns is read by nobody, and in the file."""
    front = "[net]\nwidth=32\nheight=32\n[convolutional]\nfilters=6\nactivation=linear\n"
    embed = "[convolutional]\nfilters=8\nactivation=linear\n[route]\nlayers=-2\n"
    head = "[convolutional]\nfilters=6\nactivation=linear\n[yolo]\nmask=0\nanchors=4,4\nclasses=1\nnum=1\nembedding_layer=-3\n[route]\nlayers=1\n"
    path = tmp_path / "net.cfg"
    path.write_text(f"{front}{embed}{head}[contrastive]\nclasses=1\nyolo_layer=-2\nmax_delta=10\n")
    caplog.set_level("INFO")
    spec = read_cfg(path)
    assert "[contrastive] is not used; embeddings for Darknet's tracking are not learned here" in caplog.text
    assert spec.heads == (4,) and len(spec.layers) == 6 and parse_cfg(write_cfg(spec)) == spec
    net = random_network(spec)
    write_weights(tmp_path / "net.weights", net)
    assert (tmp_path / "net.weights").stat().st_size == 20 + 4 * (6 + 18 + 8 + 48 + 6 + 36)
    x = random_images(1, side=32)
    assert IntegerExecutor(lower(calibrate(net, [x])))(x)[0].shape == (1, 6, 32, 32)
    with pytest.raises(InputError, match=r"\[contrastive\] is read as the last section only; delete it, embeddings"):
        parse_cfg(f"{front}[contrastive]\n{embed}{head}")
