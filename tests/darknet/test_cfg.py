from __future__ import annotations

from pathlib import Path

import pytest
import torch

from models import Darknet
from tests.conftest import ROOT
from utils.darknet import spec as s
from utils.darknet.cfg import parse_cfg, read_cfg, write_cfg
from utils.darknet.shapes import granularity, sizes, strides
from utils.darknet.words import ANYWHERE, SECTIONS
from utils.errors import InputError

SHIPPED = sorted((ROOT / "cfg").glob("*.cfg"))
PUBLISHED_PARAMETERS = {  # counted by the projects that published them, in all tensors that train
    "yolov3": 61_949_149,
    "yolov3-spp": 62_998_749,
    "yolov3-tiny": 8_852_366,
    "yolov4": 64_363_101,
    "yolov4-tiny": 6_056_606,
}
CONV = "[convolutional]\nbatch_normalize=1\nfilters={0}\nsize=3\nstride=1\npad=1\nactivation=leaky\n"
EVERYTHING = """\
[net]
width=96
height=64
channels=3
batch=8
momentum=0.9
[convolutional]
batch_normalize=1
filters=8
size=3
stride_x=2
stride_y=1
pad=1
activation=swish
[depthwise]
batch_normalize=1
filters=8
size=5
stride=2
padding=1
activation=h_swish
[convolutional]
filters=8
size=3
pad=1
dilation=2
groups=2
activation=relu6
[se]
reduction=2
[shortcut]
from=-3
activation=mish
[shortcut]
from=-2,-3
weights_type=per_channel
weights_normalization=softmax
activation=relu
[avgpool]
[convolutional]
filters=8
size=1
activation=logistic
[scale_channels]
from=4
activation=relu
[maxpool]
size=2
stride=1
[maxpool]
size=5
stride=1
[route]
layers=-1,8
groups=2
group_id=1
[dropout]
probability=.15
[upsample]
stride=2
[route]
layers=-1, 0
[convolutional]
filters=14
size=1
activation=linear
[yolo]
mask=1,2
anchors=1.5,2, 3,4, 5,6
classes=2
scale_x_y=1.05
new_coords=1
jitter=.3
"""

HEAD = "anchors=1,2, 3,4, 5,6\nclasses=3\n"

OLDER = """\
[convolutional]
filters=4
[reorg]
stride=2
[transposed_convolutional]
batch_normalize=1
filters=6
size=4
stride=2
padding=1
groups=2
activation=leaky
[upsample]
stride=3
zeros=1
[convolutional]
filters=7
[region]
anchors=1,2
classes=2
num=1
softmax=1
thresh=.6
"""


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_reading_what_was_written_gives_the_same_spec(path):
    spec = read_cfg(path)
    assert parse_cfg(write_cfg(spec)) == spec


def test_every_section_survives_writing_and_reading():
    text = EVERYTHING.replace("layers=-1, 0", "layers=-1").replace("stride_x=2", "stride_x=1") + OLDER
    spec = parse_cfg(text)
    assert parse_cfg(write_cfg(spec)) == spec
    kinds = {type(layer) for layer in spec.layers}
    assert kinds == {s.Conv, s.SqueezeExcite, s.Shortcut, s.AvgPool, s.ScaleChannels, s.MaxPool, s.Route, s.Dropout,
                     s.Upsample, s.Yolo, s.Reorg, s.Region, s.TransposedConv}  # fmt: skip


def test_sizes_and_strides_are_those_of_the_running_network():
    text = EVERYTHING.replace("layers=-1, 0", "layers=-1")
    spec = parse_cfg(text)
    assert (spec.height, spec.width, spec.batch) == (64, 96, 8)
    out = Darknet(spec).eval().activations(torch.rand(1, 3, 64, 96))
    assert {i: tuple(x.shape[2:]) for i, x in out.items()} == sizes(spec, 64, 96)


@pytest.mark.parametrize("path", [path for path in SHIPPED if "anchors" in path.read_text()], ids=lambda p: p.stem)
def test_strides_come_from_the_graph(path):
    spec = read_cfg(path)
    found = sorted(int(strides(spec)[i]) for i in spec.heads)
    small = path.stem == "dvs-digits-lif"  # 64 px, and digits of 16 in them
    assert found == ([8] if small else {1: [32], 2: [16, 32], 3: [8, 16, 32]}[len(spec.heads)])
    assert granularity(spec) == max(found)


@pytest.mark.parametrize("name", PUBLISHED_PARAMETERS)
def test_parameters_equal_the_published_count(name):
    with torch.device("meta"):
        model = Darknet(read_cfg(ROOT / "cfg" / f"{name}.cfg"))
    assert sum(p.numel() for p in model.parameters()) == PUBLISHED_PARAMETERS[name]


def test_a_size_that_does_not_fit_the_strides_names_the_line_and_a_size_that_does():
    with pytest.raises(InputError, match=r"cfg line \d+: layer 20 joins .* multiple of 32"):
        sizes(read_cfg(ROOT / "cfg" / "yolov3-tiny.cfg"), 100, 100)


def test_pool_of_size_two_and_stride_one_pads_right_and_below_with_minus_infinity():
    spec = parse_cfg("[net]\nchannels=1\n[maxpool]\nsize=2\nstride=1\n")
    x = -torch.arange(1.0, 10.0).reshape(1, 1, 3, 3)
    y = Darknet(spec).activations(x)[0]
    assert y.tolist() == [[[[-1, -2, -3], [-4, -5, -6], [-7, -8, -9]]]]


def test_odd_maps_are_halved_upwards_as_darknet_does():
    spec = parse_cfg("[net]\nchannels=1\n[maxpool]\nsize=2\nstride=2\n")
    assert Darknet(spec).activations(torch.rand(1, 1, 5, 7))[0].shape[2:] == (3, 4)
    assert sizes(spec, 5, 7)[0] == (3, 4)


def test_a_grouped_route_slices_each_source_before_joining():
    spec = parse_cfg("[net]\nchannels=4\n[dropout]\n[dropout]\n[route]\nlayers=0,1\ngroups=2\ngroup_id=1\n")
    x = torch.rand(1, 4, 2, 2)
    assert torch.equal(Darknet(spec).eval().activations(x)[2], torch.cat([x[:, 2:], x[:, 2:]], 1))


REFUSED = [
    ("[net]\n[convolutinal]\nfilters=1\n", r"c line 2: unknown section \[convolutinal\]; did you mean 'convolutional'\?"),
    ("[net]\n[convolutional]\nfilter=8\n", r"c line 3: unknown key 'filter' in \[convolutional\]; did you mean 'filters'"),
    ("[net]\nwidht=8\n", r"c line 2: unknown key 'widht' in \[net\]; did you mean 'width'"),
    ("[net]\nwidth=abc\n", r"c line 2: width=abc must be whole numbers"),
    ("[convolutional]\nfilters=8\n", r"c line 1: a cfg starts with \[net\]"),
    ("[net]\n[convolutional]\nsize=3\n", r"c line 2: \[convolutional\] needs filters="),
    ("[net]\n[convolutional]\nfilters=0\n", r"c line 3: filters=0 must be one whole number from 1 up"),
    ("[net]\n[convolutional]\nfilters=8\nactivation=reul\n", r"c line 4: unknown activation 'reul'; did you mean 'relu'"),
    ("[net]\n[convolutional]\nfilters=8\ngroups=4\n", r"c line 2: groups=4 .* 3 channels in"),
    ("[net]\n" + CONV.format(8) + "[route]\nlayers=61\n", r"c line 10: \[route\] reads layer 61, but only layers 0 to 0"),
    ("[net]\n" + CONV.format(8) + "[route]\nlayers=-2\n", r"c line 10: \[route\] reads layer -1"),
    ("[net]\n" + CONV.format(8) + CONV.format(4) + "[scale_channels]\nfrom=-2\n", r"c line 16: scale_ch.* joins 4 and 8"),
    ("[net]\n" + CONV.format(8) + "[yolo]\nmask=0\nanchors=1,2\nclasses=80\n", r"c line 9: \[yolo\] reads 8 .* filters=85"),
    ("[net]\n" + CONV.format(8) + "[yolo]\nmask=3\nanchors=1,2\nclasses=3\n", r"c line 9: mask=3 picks from 1 anchors"),
    ("[net]\n[convolutional]\nfilters=8\nxnor=1\n", r"c line 4: xnor=1 computes with signs alone, which is not supp"),
    ("[net]\n[upsample]\nscale=2\n", r"c line 3: scale=2 multiplies what it enlarges, which is not supported"),
    ("[net]\n[maxpool]\nsize=2\nstride=2\nstride_x=1\n", r"c line 2: stride_x=1 beside stride=2 is not supported"),
    ("[net]\nwidth\n", r"c line 2: expected \[section\] or key=value, got 'width'"),
    ("[net]\n" + CONV.format(8) + "[shortcut]\nfrom=-1\nweights_type=some\n", r"c line 11: weights_type=some is none of none"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), REFUSED, ids=[m[:40] for _, m in REFUSED])
def test_a_mistake_in_a_cfg_names_file_line_and_remedy(text, message):
    with pytest.raises(InputError, match=message):
        parse_cfg(text, "c")


def test_a_missing_cfg_is_one_line():
    with pytest.raises(InputError, match=r"nowhere\.cfg: cannot read this cfg .*check --cfg"):
        read_cfg(Path("nowhere.cfg"))


def test_comments_and_spaces_mean_nothing():
    plain = parse_cfg("[net]\nwidth=64\n[maxpool]\nsize=2\nstride=2\n")
    spaced = parse_cfg("# a comment\n[net]\n width = 64 # px\n\n; another\n[maxpool]\nsize = 2\nstride=2")
    assert spaced == plain


def test_a_cfg_that_begins_with_a_byte_order_mark_is_read(tmp_path):
    plain, marked = tmp_path / "plain.cfg", tmp_path / "marked.cfg"
    plain.write_text("[net]\nwidth=32\nheight=32\n[maxpool]\nsize=2\nstride=2\n", encoding="utf-8")
    marked.write_text(plain.read_text(), encoding="utf-8-sig")
    assert read_cfg(marked) == read_cfg(plain)


TWICE = "[net]\nwidth=32\nheight=32\nwidth=64\n" + CONV.format(8) + "filters=9\nstopbackward=1\n"


def test_of_a_key_that_stands_twice_the_first_counts_and_it_is_told_once(tmp_path, caplog):
    path = tmp_path / "twice.cfg"
    path.write_text(TWICE)
    caplog.set_level("INFO")
    spec, again = read_cfg(path), read_cfg(path)
    assert spec == again and spec.width == 32 and spec.kernels[0].filters == 8
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        f"{path} line 4: width=64 stands a second time in its section; as in Darknet the first counts, "
        "width=32 of line 2",
        f"{path} line 12: filters=9 stands a second time in its section; as in Darknet the first counts, "
        "filters=8 of line 7",
    ]


def test_silu_is_swish_and_none_is_linear():
    text = "[net]\n[convolutional]\nfilters=1\nactivation={}\n"
    assert parse_cfg(text.format("silu")) == parse_cfg(text.format("swish"))
    assert parse_cfg(text.format("none")) == parse_cfg(text.format("linear"))


@pytest.mark.parametrize(("num", "anchors"), [(1, ((1, 2),)), (3, ((1, 2), (3, 4), (0.5, 0.5)))])
def test_num_beside_another_count_of_anchors_is_read_as_darknet_reads_it(tmp_path, caplog, num, anchors):
    path = tmp_path / "net.cfg"
    path.write_text(f"[net]\n{CONV.format(6)}[yolo]\nmask=0\nanchors=1,2, 3,4\nclasses=1\nnum={num}\n")
    caplog.set_level("INFO")
    spec = read_cfg(path)
    assert spec.layers[1].anchors == anchors
    assert parse_cfg(write_cfg(spec)) == spec
    assert f"num={num} beside 2 anchors; as in Darknet" in caplog.text


def test_every_word_of_darknets_own_is_read_kept_and_written():
    for kind, own in SECTIONS.items():
        if kind in ("cost", "contrastive", "crop", "shift_channels", "control_channels"):
            continue  # no layer, the first one, and what reads implicit values: test_classifiers.py, test_implicit.py
        rest = {"convolutional": "filters=3\n", "depthwise": "filters=3\n", "transposed_convolutional": "filters=3\n",
                "route": "layers=0\n", "route_lhalf": "layers=0\n", "shortcut": "from=0\n", "sam": "from=0\n",
                "scale_channels": "from=0\n", "fit": "from=0\nfilters=3\n", "yolo": HEAD, "region": HEAD,
                "implicit_add": "filters=3\n", "implicit_mul": "filters=3\n",
                "connected": "output=3\n", "segment": "classes=24\n", "yolo_bdp": HEAD.replace("classes=3", "classes=1"),
                "Gaussian_yolo": HEAD.replace(", 5,6", "")}  # fmt: skip
        own = {} if kind == "net" else own | ANYWHERE
        said = "".join(f"{key}=0\n" for key in own)
        front = "[net]\nwidth=32\nheight=32\n[convolutional]\nfilters=24\nsize=1\n"
        spec = parse_cfg(front + (f"[{kind}]\n{rest.get(kind, '')}{said}" if kind != "net" else "[maxpool]\n"))
        assert parse_cfg(write_cfg(spec)) == spec
        assert {key for key, _ in spec.layers[1].options} == set(own)
        assert all(text and not text.endswith(".") for text in own.values())


def test_batch_norm_over_several_iterations_is_batch_norm():
    text = "[net]\n[convolutional]\nfilters=4\n{}"
    assert parse_cfg(text.format("cbn=1\n")).kernels[0].bn
    assert not parse_cfg(text.format("cbn=0\n")).kernels[0].bn
