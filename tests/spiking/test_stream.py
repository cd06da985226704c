"""Neurons that all run all the time: exact once settled, by the bound, in every layer; and the other rules are not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import ROOT
from tests.export.nets import LOW, lowered, narrow
from tests.quantization.random_nets import cfg_text, random_images
from tests.spiking.test_equality import CONV, UNEVEN, spiking
from utils.darknet.cfg import read_cfg, write_cfg
from utils.darknet.shapes import granularity
from utils.errors import InputError
from utils.quantization.executor import IntegerExecutor
from utils.spiking.choices import SCHEDULES
from utils.spiking.observe import hardware_state_bits, observe, raster
from utils.spiking.spike_schedule import SpikingNetwork, encode
from utils.spiking.stateful_video import CarriedStream
from utils.spiking.stream import StreamExecutor
from utils.spiking.stream_neuron import RULES, StreamingNeuron

CHAIN = cfg_text(*[("convolutional", CONV)] * 4)
LEAKY = cfg_text(*[("convolutional", CONV | {"activation": "leaky"})] * 3)
UPWARD = cfg_text(
    ("convolutional", CONV | {"stride": 2}),
    ("transposed_convolutional", CONV | {"stride": 2}),
    ("route", {"layers": "-1,-1"}),
    ("convolutional", CONV | {"stride": 2, "activation": "leaky"}),
    ("upsample", {"stride": 2, "zeros": 1}),
    ("transposed_convolutional", UNEVEN | {"groups": 4}),
)
SHIPPED = ("yolov3-tiny", "yolov3-tiny-digits", "yolov2-tiny", "yolov3-spp", "yolov4-tiny", "yolo-fastest")
THREE_BITS = replace(LOW, a_bit=3)


def assert_streams_exactly(executor: StreamExecutor, x: torch.Tensor) -> None:
    golden = IntegerExecutor(executor.spiking.integer).trace(x)
    state = executor.run(x)
    assert executor.settled(state) and state.t <= executor.bound
    for i, count in state.count.items():
        assert torch.equal(count.int(), golden.levels[i]), f"layer {i}"
    for i, charge in state.charge.items():
        assert torch.equal(charge.long(), golden.accumulators.get(i, charge.long())), f"accumulator {i}"
    for mine, theirs in zip(executor(x), IntegerExecutor(executor.spiking.integer)(x), strict=True):
        assert torch.equal(mine, theirs)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), bits=st.sampled_from([(8, 4), (8, 2), (4, 3)]), schedule=st.sampled_from(SCHEDULES))
def test_settled_counts_equal_integer_levels_in_every_layer_of_random_networks(seed, bits, schedule):
    network = spiking(seed, bits[1], bits[0])
    assert_streams_exactly(StreamExecutor(network, schedule=schedule), random_images(2, seed=seed))


@pytest.mark.parametrize("name", SHIPPED)
def test_settled_counts_equal_integer_levels_in_every_layer_of_shipped_cfgs(name):
    spec = narrow(read_cfg(ROOT / f"cfg/{name}.cfg"), by=16)
    images = random_images(1, side=max(32, granularity(spec)), image_channels=spec.channels)
    integer = lowered(write_cfg(spec), images, THREE_BITS)
    assert_streams_exactly(StreamExecutor(encode(integer)), images)


@pytest.mark.parametrize("cfg", [CHAIN, LEAKY, UPWARD], ids=["relu", "leaky", "transposed"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_layer_is_settled_by_its_bound(cfg, schedule):
    network = spiking(cfg, 3)
    executor, x = StreamExecutor(network, schedule=schedule), random_images(4, seed=3)
    golden, state = IntegerExecutor(network.integer).levels(x), executor.begin(x)
    for _ in range(executor.bound):
        executor.step(state)
        for i, count in state.count.items():
            assert state.t < executor.bounds[i] or torch.equal(count.int(), golden[i]), (state.t, i)
    span = max(op.requantiser.qmax - op.requantiser.qmin for op in network.integer.ops.values() if op.requantiser)
    depth = {i: network.start.get(i, network.depth) for i in executor.bounds}
    assert all(bound <= (depth[i] + 1) * max(span, network.window) for i, bound in executor.bounds.items())


def test_the_bound_is_not_idle_talk():
    """Half of it is too little for some network, or the test above would hold for any bound."""
    network = spiking(CHAIN, 3)
    seen = observe(StreamExecutor(network), random_images(4, seed=3))
    assert max(seen.settled.values()) > network.window
    early = observe(StreamExecutor(network, steps=network.window), random_images(4, seed=3))
    assert seen.exact and not early.exact


@pytest.mark.parametrize("rule", ["unsigned", "signed"])
def test_the_other_rules_differ(rule):
    """The negative control: were they equal too, the equality above would prove nothing."""
    network, x = spiking(CHAIN, 3), random_images(2)
    seen = observe(StreamExecutor(network, rule=rule, steps=network.window), x)
    assert not seen.exact
    assert seen.mismatches[0].wrong == 0, "the first layer's charge only grows"
    assert seen.mismatches[3].share > 0.02
    heads = StreamExecutor(network, rule=rule, steps=network.window)(x)
    assert not torch.equal(heads[0], IntegerExecutor(network.integer)(x)[0])


def test_unsigned_mistakes_stay_however_long_it_runs():
    network, x = spiking(CHAIN, 3), random_images(2)
    long, longer = (observe(StreamExecutor(network, rule="unsigned", steps=n), x) for n in (100, 200))
    assert long.mismatches == longer.mismatches and not long.exact


def test_without_its_cap_a_signed_neuron_passes_the_highest_level():
    by = spiking(CHAIN, 3).integer.ops[0].requantiser
    assert by is not None
    charge = torch.full((1, 8, 1, 1), 1e6, dtype=torch.float64)
    fired = {}
    for rule in RULES:
        neuron, count = StreamingNeuron(by, rule, charge.device), torch.zeros(1, 8, 1, 1)
        for _ in range(12):
            neuron.fire(charge, count)
        fired[rule] = float(count.max())
    assert fired == {"st-bif": 7.0, "signed": 12.0, "unsigned": 12.0}


def test_the_level_threshold_rule_takes_back_across_zero():
    """Leaky: up with theta, below zero down with theta / slope, whatever was fired before."""
    by = spiking(LEAKY, 3).integer.ops[0].requantiser
    assert by is not None
    neuron, count = StreamingNeuron(by, "st-bif", torch.device("cpu")), torch.zeros(1, 8, 1, 1)
    for target in (10**6, -(10**7), 10**6, 0):
        charge = torch.full((1, 8, 1, 1), float(target), dtype=torch.float64)
        for _ in range(by.qmax - by.qmin):
            neuron.fire(charge, count)
        assert torch.equal(count, neuron.level(charge))


def test_state_does_not_grow_with_time():
    network, x = spiking(CHAIN, 4), random_images(1)
    executor = StreamExecutor(network, rule="unsigned", steps=300)
    state, sizes = executor.begin(x), []
    for _ in range(60):
        executor.step(state)
        sizes.append(state.bytes)
    assert len(set(sizes)) == 1
    neurons, readout = 4 * 8 * 16 * 16, 6 * 16 * 16
    assert hardware_state_bits(network, 16, 16) == neurons * (32 + 4) + readout * 32


def test_batches_do_not_matter():
    network, x = spiking(9), random_images(3, seed=7)
    executor = StreamExecutor(network)
    whole = executor(x)
    for n in range(3):
        for mine, theirs in zip(executor(x[n : n + 1]), whole, strict=True):
            assert torch.equal(mine, theirs[n : n + 1])


def test_read_outs_on_the_way_are_those_of_a_shorter_run():
    network, x = spiking(CHAIN, 4), random_images(2)
    seen = observe(StreamExecutor(network), x, points=(3, 20, 500))
    assert list(seen.heads) == [3, 20, 500]
    for steps in (3, 20):
        assert torch.equal(seen.heads[steps][0], StreamExecutor(network, steps=steps)(x)[0])
    assert torch.equal(seen.heads[500][0], IntegerExecutor(network.integer)(x)[0])


def test_what_was_seen_earlier_is_what_a_shorter_run_sees():
    network, x = spiking(CHAIN, 4), random_images(2)
    seen = observe(StreamExecutor(network), x, points=(3, 15), also=(3, 15, 500))
    for steps in (3, 15):
        earlier, short = seen.earlier[steps], observe(StreamExecutor(network, steps=steps), x)
        assert (earlier.steps, earlier.settled, earlier.mismatches) == (steps, short.settled, short.mismatches)
        assert all(torch.equal(earlier.activity[i], short.activity[i]) for i in short.activity)
    assert not seen.earlier[3].exact and seen.earlier[500].exact and seen.earlier[500].steps == seen.steps
    assert list(seen.earlier[3].heads) == [3]


def test_charge_that_is_spread_has_all_arrived_after_a_window_and_never_runs_ahead():
    network, x = spiking(LEAKY, 3), random_images(1)
    executor = StreamExecutor(network)
    state = executor.begin(x)
    total = state.waiting[0].long()
    for t in range(1, executor.arrival + 1):
        executor.step(state)
        assert torch.equal(state.charge[0].long(), total * t // executor.arrival)  # in Python's and int64's own floor
    assert executor.arrival == network.window and torch.equal(state.charge[0].long(), total)


def test_a_video_goes_on_from_the_frame_before_and_is_as_exact():
    network = spiking(cfg_text(("convolutional", CONV), ("maxpool", {"size": 2, "stride": 1}), ("convolutional", CONV)))
    executor, frames = StreamExecutor(network), random_images(3, seed=5)
    frames[1] = (frames[0] * 255 + 2).clamp(0, 255) / 255  # hardly another picture
    state, taken = None, []
    for frame in frames:
        state = executor.run(frame[None], previous=state)
        taken.append(state.t)
        assert torch.equal(executor.read(state)[0], IntegerExecutor(network.integer)(frame[None])[0])
    assert taken[1] <= taken[0]


def test_activity_counts_every_spike_of_both_signs():
    network, x = spiking(LEAKY, 3), random_images(2)
    executor, total = StreamExecutor(network), 0.0

    def watch(state, spikes):
        nonlocal total
        total += float(spikes[1].abs().sum()) if spikes[1] is not None else 0.0

    for image in x.split(1):
        executor.run(image, watch)
    assert float(observe(executor, x).activity[1].sum()) == total > 0


def test_a_raster_shows_neurons_that_fire():
    trains = raster(StreamExecutor(spiking(CHAIN, 4)), random_images(1), neurons=5)
    assert set(trains) == {0, 1, 2, 3} and all(train.shape[0] == 5 for train in trains.values())
    assert all(bool(train.any(1).all()) for train in trains.values())


def test_an_unsigned_neuron_of_either_sign_never_takes_back_what_it_fired():
    executor, x = StreamExecutor(spiking(LEAKY), rule="unsigned", steps=60), random_images(2)
    steps: list[torch.Tensor] = []
    executor.run(x, lambda t, spikes: steps.append(spikes[1].clone()) if spikes[1] is not None else None)
    fired = torch.stack(steps)  # [T,N,C,H,W]
    assert (fired > 0).any() and (fired < 0).any()
    assert ((fired >= 0).all(0) | (fired <= 0).all(0)).all()
    assert not observe(executor, x).exact, "some fired too early"


def test_a_rule_that_there_is_not_is_refused():
    with pytest.raises(InputError, match="--neuron: 'psychic' is unknown"):
        StreamExecutor(spiking(CHAIN), rule="psychic")


def test_schedules_only_change_the_way():
    network: SpikingNetwork = spiking(CHAIN, 4)
    spread, preload = (observe(StreamExecutor(network, schedule=s), random_images(2)) for s in SCHEDULES)
    assert spread.exact and preload.exact
    totals = [sum(float(a.sum()) for a in seen.activity.values()) for seen in (spread, preload)]
    assert totals[0] != totals[1]


def test_a_carried_stream_is_exact_frame_after_frame_and_forgets_on_request():
    network = spiking(CHAIN)
    carried, frames = CarriedStream(StreamExecutor(network)), random_images(2, seed=5)
    golden = IntegerExecutor(network.integer)
    for frame in (frames[0], frames[0], frames[1]):
        assert torch.equal(carried(frame[None])[0], golden(frame[None])[0])
    assert carried.taken[1] < carried.taken[0], "nothing changed, nothing had to fire"
    carried.reset()
    carried(frames[:1])
    assert carried.taken[3] == carried.taken[0]
    assert torch.equal(carried(frames[:1, :, :8, :8])[0], golden(frames[:1, :, :8, :8])[0])


def test_sums_of_maps_of_other_shapes_settle_to_the_integers():
    images = random_images(2, side=64)
    integer = lowered((ROOT / "tests/cfgs/uneven.cfg").read_text(), images, THREE_BITS)
    assert_streams_exactly(StreamExecutor(encode(integer)), images)
