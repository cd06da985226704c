"""report.html: its numbers are the record's, everything is inside it, and nothing is cut off on a desk, phone or paper."""

from __future__ import annotations

import dataclasses
import html
import itertools
import json
import re

import cv2
import numpy as np
import pytest

from tests.reporting.browser import FOUND, browser
from utils.detection.task import DetectionTask
from utils.errors import InputError
from utils.reporting.html import charts
from utils.reporting.html.report import NAME, load, render, write_report
from utils.reporting.html.svg import Axis, Bars, Line, axis, bar_chart, histogram, line_chart, written
from utils.reporting.html.words import duration, times
from utils.reporting.record import finish_record, read_record, start_record, write_record
from utils.reporting.results import write_rows

STAGES = ["baseline", "sparse", "pruned", "finetuned", "quantised", "spiking"]
HOSTILE = '<b onclick="alert(1)">&amp;</b>'  # as a class, a folder or a flag may be called
LONG = "weights/" + "a_name_that_somebody_thought_would_say_everything_about_the_run" * 3 + ".pt"
needs_browser = pytest.mark.skipif(FOUND is None, reason="no Chromium here")


def row_of(number):
    """A stage's metrics: digits enough that rounding anywhere would show."""
    small = 1 / (1 + 3 * number)
    row = {"map50": 0.9117614220131187 - number / 173, "map": 0.550409966680385 - number / 311, "params": 2193506 - number,
           "macs": int(38944512 * small), "bytes": int(8817737 * small), "latency_ms": 7.804761499755841 * small,
           "energy_pj": 179144755.2 * small}  # fmt: skip
    return row | ({"spikes": 288626.890625, "sops": 23140230.78125} if number == 5 else {})


def make_record(folder):
    folder.mkdir(parents=True)
    record = start_record(folder, script="compress", args={}, seed=7, task=DetectionTask())
    runs = {
        name: {
            "command": f"python3 {name}.py --weights {LONG} --name '{HOSTILE}'",
            "folder": LONG,
            "seconds": 59.96 * i,
        }
        for i, name in enumerate(STAGES, 1)
    }
    stages = {name: row_of(i) for i, name in enumerate(STAGES)}
    about = {"network": "yolov3", "data": "set", "valid_images": 5000, "size": [320, 416]}
    part = {
        "name": HOSTILE,
        "clock_mhz": 100,
        "array": [8, 8],
        "stages": {name: 10**8 - 7**i for i, name in enumerate(STAGES)},
    }
    part |= {"needs": {"lut": 22860, "bram_bytes": 282624}, "has": {"lut": 83640}}
    tried = [
        {"stage": name, "flags": "--percent auto --max-drop 0.05 --target-cycles 0.5", "score": 0.8 if name == "pruned" else None,
         "why": "the largest that the pre-flight and the drop allow", "fact": LONG, "kept": name != "sparse"}
        for name in STAGES
    ]  # fmt: skip
    metrics = {
        "stages": stages,
        "stage_seconds": 8000.0,
        "runs": runs,
        "about": about,
        "hardware": part,
        "decisions": tried,
    }
    done = finish_record(record, metrics=metrics)
    return dataclasses.replace(done, outputs=[{"path": LONG, "sha256": "0" * 64}])


def write_tables(folder, layers=75, classes=9, epochs=37):
    losses = {"total": 9.5, "box": 3.1, "objectness": 0.02, "classification": 1.4, "kd_soft": 0.3, "kd_cwd": 0.1}
    kinds = [*["baseline"] * (epochs - 7), *["sparse"] * 5, *["finetuned"] * 2]
    write_rows(folder / "epochs.csv", [
        {"stage": kind, "epoch": i, **{k: v / i if not k.startswith("kd") or kind == "finetuned" else None for k, v in losses.items()},
         "map50": None if i % 3 else i / 50, "map": None if i % 3 else i / 90, "precision": i / 60, "recall": i / 70,
         "images_per_second": 200 + i, "near_zero": i / 40 if kind == "sparse" else None}
        for i, kind in enumerate(kinds, 1)
    ])  # fmt: skip
    edges = np.geomspace(1e-6, 2, 60).tolist()
    write_rows(folder / "gammas.csv", [
        {"from": a, "to": b, "baseline": i, "sparse": 60 - i, "pruned": i % 7} for i, (a, b) in enumerate(itertools.pairwise(edges))
    ])  # fmt: skip
    write_rows(folder / "channels.csv", [
        {"layer": i, "line": 10 + 8 * i, "before": 1024, "after": None if i == 3 else 1024 - 13 * i} for i in range(layers)
    ])  # fmt: skip
    write_rows(folder / "layers.csv", [
        {"layer": i, "kind": "conv", "w_bit": 8, "a_bit": None if i == layers - 1 else 4, "neurons": 692224,
         "spikes": None if i == layers - 1 else 1.2e6, "sops": 2.5e9} for i in range(layers)
    ])  # fmt: skip
    write_rows(folder / "hardware.csv", [  # the slowest have their names beside them, and lie where others lie
        {"layer": i, "kind": "conv", "clocks": 10**6 - 9000 * i, "utilisation": 0.5, "macs": 10**7, "macs_a_clock": 50 / (1 + i // 5),
         "macs_a_byte": 60 / (1 + i // 5), "bound": "bandwidth" if i > 40 else "compute", "bytes_read": 10**6, "bytes_written": 10**6}
        for i in range(layers)
    ])  # fmt: skip
    write_rows(folder / "pr_curves.csv", [
        {"recall": i / 100, **{name: 1 - i / (110 + k) for k, name in enumerate(STAGES)}} for i in range(101)
    ])  # fmt: skip
    write_rows(folder / "classes.csv", [
        {"class": HOSTILE if i == 1 else f"class {i}", "boxes": i, "baseline": 0.9 if i else None, "pruned": 0.1,
         "spiking": 0.8 if i else None}
        for i in range(classes)
    ])  # fmt: skip


def write_pictures(folder, shape=(320, 416), count=6):
    (folder / "detections").mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (*shape, 3), dtype=np.uint8)  # the worst that JPEG can meet
    for i in range(1, count + 1):
        for j, title in enumerate(("ground_truth", "baseline", "fine-tuned", "spiking")):
            cv2.imwrite(str(folder / "detections" / f"{i}-{j}-{title}.jpg"), noise)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run of a network of 75 layers, with long and hostile names in it."""
    folder = tmp_path_factory.mktemp("report") / "runs" / "compress"
    record = make_record(folder)
    write_record(record)
    write_tables(folder)
    write_pictures(folder)
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


NUMBERS = "[...document.querySelectorAll('data')].map(e => [e.dataset.stage, e.dataset.name, e.value, e.textContent])"


@needs_browser
def test_the_browser_reads_the_records_numbers_from_the_page(place, tab):
    stages = read_record(place).metrics["stages"]
    tab.open(place / NAME, 1280)
    found = tab.value(NUMBERS)
    assert {(stage, name) for stage, name, _, _ in found} >= {
        (stage, name)
        for stage in STAGES
        for name in ("map50", "map", "params", "macs", "bytes", "latency_ms", "energy_pj")
    }
    for stage, name, value, shown in found:
        assert json.loads(value) == stages[stage][name], (stage, name)
        number, _, unit = shown.partition(" ")
        factor = {"k": 1e3, "M": 1e6, "kB": 1e3, "MB": 1e6, "nJ": 1e3, "µJ": 1e6, "ms": 1, "B": 1, "": 1}[unit]
        assert float(number) * factor == pytest.approx(stages[stage][name], rel=5e-3), shown
    cards = tab.value("[...document.querySelectorAll('.card data')].map(e => [e.dataset.stage, e.dataset.name])")
    ends = {name: [stage for stage, each in cards if each == name] for name in ("map50", "bytes", "latency_ms")}
    assert ends == {
        "map50": ["spiking", "baseline"],
        "bytes": ["spiking", "baseline"],
        "latency_ms": ["finetuned", "baseline"],
    }


LAYOUT = """(() => {
  const wide = document.documentElement.clientWidth, told = [];
  if (document.documentElement.scrollWidth > wide) told.push(`page ${document.documentElement.scrollWidth} of ${wide}`);
  for (const e of document.querySelectorAll('body *')) {
    const style = getComputedStyle(e), at = e.getBoundingClientRect();
    if (at.width < 2 || e.closest('thead') && getComputedStyle(e.closest('thead')).position == 'absolute') continue;
    if (at.right > wide + 1 || at.left < -1) told.push(`${e.tagName} ${e.className} ${at.left}..${at.right}`);
    if (!e.closest('svg') && style.display != 'inline' && e.scrollWidth > e.clientWidth + 1 && e.clientWidth)
      told.push(`${e.tagName}.${e.className} holds ${e.scrollWidth} in ${e.clientWidth}`);
    if (parseFloat(style.fontSize) < SMALLEST && e.children.length == 0) told.push(`${e.tagName} ${style.fontSize}`);
  }
  for (const svg of document.querySelectorAll('svg')) {
    const frame = svg.getBoundingClientRect(), texts = [...svg.querySelectorAll('text')];
    const boxes = texts.map(t => t.getBoundingClientRect());
    boxes.forEach((a, i) => {
      if (a.left < frame.left - 1 || a.right > frame.right + 1 || a.top < frame.top - 1 || a.bottom > frame.bottom + 1)
        told.push(`${svg.ariaLabel}: "${texts[i].textContent}" leaves the chart`);
      boxes.slice(i + 1).forEach((b, k) => {
        if (a.left < b.right && b.left < a.right && a.top + 3 < b.bottom && b.top + 3 < a.bottom)
          told.push(`${svg.ariaLabel}: "${texts[i].textContent}" covers "${texts[i + 1 + k].textContent}"`);
      });
    });
  }
  for (const e of document.querySelectorAll('tbody th, td, li, code span')) for (const node of e.childNodes)
    for (const word of node.nodeType == 3 && e.getClientRects().length ? node.textContent.matchAll(/\\S+/g) : []) {
      const range = document.createRange();
      if (word[0].length > 20) continue;  // a path may break anywhere
      for (const part of word[0].matchAll(/[\\w.]+/g)) {
        range.setStart(node, word.index + part.index), range.setEnd(node, word.index + part.index + part[0].length);
        if (new Set([...range.getClientRects()].map(r => r.top)).size > 1) told.push(`${e.tagName}: "${part[0]}" is broken`);
      }
    }
  for (const img of document.images) if (!img.naturalWidth) told.push(`no picture: ${img.alt}`);
  return told;
})()"""
CONTRAST = """(() => {
  const light = c => { const v = c.match(/[\\d.]+/g).slice(0, 3).map(x => x / 255)
    .map(x => x <= .04045 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4); return .2126 * v[0] + .7152 * v[1] + .0722 * v[2]; };
  const ground = e => { for (; e; e = e.parentElement) {
    const c = getComputedStyle(e).backgroundColor; if (c != 'rgba(0, 0, 0, 0)') return c; } return 'rgb(255, 255, 255)'; };
  const told = new Set();
  for (const e of document.querySelectorAll('p, td, th, h1, h2, h3, dt, dd, figcaption, code, small, span, svg text, li, summary')) {
    const style = getComputedStyle(e), [a, b] = [light(e.closest('svg') ? style.fill : style.color), light(ground(e))];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) told.add(`${e.tagName}.${e.className} ${ratio.toFixed(2)}`);
  }
  return [...told];
})()"""
VIEWS = {"desk": (1280, False, "screen"), "phone": (390, False, "screen"), "small phone": (320, False, "screen"),
         "night": (1280, True, "screen"), "phone at night": (390, True, "screen"), "paper": (703, False, "print")}  # fmt: skip


@needs_browser
@pytest.mark.parametrize("view", VIEWS)
def test_nothing_is_cut_off_and_nothing_complains(place, tab, tmp_path, view):
    width, dark, medium = VIEWS[view]
    tab.complaints.clear()
    tab.requests.clear()
    tab.open(place / NAME, width, dark=dark, medium=medium)
    smallest = "8.5" if medium == "print" else "10.5"  # px
    assert tab.value(LAYOUT.replace("SMALLEST", smallest)) == []
    assert tab.value(CONTRAST) == []
    assert tab.complaints == []
    asked = [address for address in tab.requests if not address.startswith("data:")]
    assert asked == [(place / NAME).resolve().as_uri()], "the page asks for nothing outside itself"
    picture = cv2.imread(str(tab.screenshot(tmp_path / "page.png")))
    assert picture.shape[1] == width and picture.shape[0] > 2000
    paper = picture[2, 2].mean()  # the scheme is the reader's
    assert paper < 40 if dark else paper > 240


@needs_browser
def test_eighty_classes_and_one_layer_fit_too(tab, tmp_path):
    folder = tmp_path / "compress"
    make_record(folder)
    write_tables(folder, layers=1, classes=80, epochs=9)
    tab.open(write_report(folder), 390)
    assert tab.value(LAYOUT.replace("SMALLEST", "10.5")) == []


@needs_browser
def test_it_prints_on_a_few_pages(place, tab, tmp_path):
    tab.open(place / NAME, 1280, dark=True)
    pdf = tab.printed(tmp_path / "page.pdf").read_bytes()
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 24


def test_it_is_one_small_file_without_scripts_and_addresses(place):
    text = (place / NAME).read_text()
    assert (place / NAME).stat().st_size < 5_000_000
    assert not re.search(r"<script|@import|url\(|https?:|<link(?! rel=\"icon\" href=\"data:,\")", text)
    assert text.count("<svg") == 12 and text.count("<img") == 24


def test_large_pictures_are_made_smaller_until_the_page_fits(tmp_path):
    folder = tmp_path / "compress"
    make_record(folder)
    write_pictures(folder, shape=(450, 800), count=24)
    size = write_report(folder).stat().st_size
    assert 500_000 < size < 5_000_000


def test_names_are_shown_not_obeyed(place):
    text = (place / NAME).read_text()
    assert not re.search(r"<b\b", text)
    assert html.escape(HOSTILE[:9]) in text  # a chart shortens it
    assert html.escape(HOSTILE.split()[0]) in text


def test_commands_and_seed_stand_on_the_page_word_for_word(place):
    record = read_record(place)
    text = html.unescape(re.sub(r"<[^>]+>", "", (place / NAME).read_text()))
    for run in record.metrics["runs"].values():
        assert run["command"].replace(HOSTILE, "") in text.replace(HOSTILE, "")
    assert record.command in text and "seed7" in text
    assert record.versions["torch"] in text and "0" * 64 in text


def test_what_a_stage_did_not_leave_is_a_sentence(tmp_path):
    folder = tmp_path / "compress"
    make_record(folder)
    text = render(load(folder))
    for name in (
        "epochs.csv",
        "gammas.csv",
        "channels.csv",
        "layers.csv",
        "pr_curves.csv",
        "classes.csv",
        "detections/",
    ):
        assert re.search(f'<p class="missing">[^<]* left out: this run has no [^<]*{name}', text), name
    assert "<svg" not in text


def test_a_record_of_numbers_alone_makes_a_page(tmp_path):
    folder = tmp_path / "compress"
    folder.mkdir()
    record = start_record(folder, script="compress", args={})
    row = {"map50": 0.5, "map": 0.2}
    finish_record(record, metrics={"stages": {"baseline": row, "pruned": row | {"bytes": None}}})
    text = render(load(folder))
    assert text.count("<data") == 6 and "list of its stages" in text


@pytest.mark.parametrize(("spikes", "said"), [(450.0, "as spikes 15 times more"), (15.0, "as spikes 2 times less")])
def test_the_headline_compares_spikes_with_integers_too(tmp_path, spikes, said):
    """Against floats alone nearly every spiking network looks frugal."""
    folder = tmp_path / "compress"
    folder.mkdir()
    energies = {"baseline": 1000.0, "quantised": 30.0, "spiking": spikes}
    stages = {name: {"map50": 0.5, "map": 0.2, "energy_pj": value} for name, value in energies.items()}
    finish_record(start_record(folder, script="compress", args={}), metrics={"stages": stages})
    assert f"energy ({said} than as integers)" in render(load(folder))


def test_no_record_is_told(tmp_path):
    with pytest.raises(InputError, match=r"record\.json: no such record"):
        write_report(tmp_path)


def test_an_untrained_network_makes_a_page_too(tmp_path):
    """No detections, losses that are not there, one epoch, no spikes at all."""
    folder = tmp_path / "compress"
    make_record(folder)
    write_rows(folder / "epochs.csv", [{"stage": "baseline", "epoch": 1, "total": 0.0, "map50": 0.0, "map": None}])
    write_rows(folder / "gammas.csv", [{"from": 1e-6, "to": 1e-5, "baseline": 0, "sparse": 0}])
    rows = [{"layer": 0, "kind": "conv", "w_bit": 8, "a_bit": None, "neurons": 0, "spikes": None, "sops": 0.0}]
    write_rows(folder / "layers.csv", rows)
    write_rows(folder / "pr_curves.csv", [{"recall": 0.0, "baseline": None}, {"recall": 1.0, "baseline": None}])
    assert "Spikes of the layers are left out" in render(load(folder))


def test_ticks_are_round_and_inside():
    for low, high in ((0, 1), (0, 0.9), (3, 1024), (0, 123456), (-2, 7), (0, 1e-4)):
        found = axis("", [low, high])
        ticks = found.ticks()
        assert 2 <= len(ticks) <= 7 and found.low <= low and high <= found.high
        assert all(0 <= found.share(tick) <= 1 for tick in ticks)
    assert Axis("", 1e-6, 2, log=True).ticks() == pytest.approx([1e-6, 1e-4, 1e-2, 1])
    assert [written(x) for x in (0.5, 1000, 20000, 3e6, 2e9)] == ["0.5", "1,000", "20 k", "3 M", "2 G"]
    assert [written(x, log=True) for x in (1e-6, 5e-4, 0.1)] == ["10⁻⁶", "5·10⁻⁴", "0.1"]


def test_every_chart_draws_the_numbers_of_its_own_table(place):
    """Each mark says its number; what it should be follows from ``write_tables``."""
    page = load(place)
    tables, (curve, classes) = page.tables, page.task.charts

    def said(chart):
        return [html.unescape(title) for title in re.findall("<title>(.*?)</title>", chart)]

    bits, spikes, widths = (said(draw(tables)) for draw in (charts.bits, charts.spikes, charts.channels))
    assert "weights, layer 3: 8" in bits and "activations, layer 3: 4" in bits and len(bits) == 2 * 75 - 1
    assert "spikes a neuron, layer 3: 1.73354" in spikes and len(spikes) == 74
    left = sum(1024 - 13 * i for i in range(75) if i != 3)
    assert {"before, 76,800, layer 5: 1024", f"after, {left:,}, layer 5: 959", f"after, {left:,}, layer 3: 0"} <= {
        *widths
    }
    assert {"baseline, class class 2: 0.9", "spiking, class class 2: 0.8"} <= {*said(charts.of_task(tables, classes))}
    ends = {"baseline": 1 - 100 / 110, "fine-tuned": 1 - 100 / 113, "spiking": 1 - 100 / 115}
    assert {f"{name}: {value:.6g} at the end" for name, value in ends.items()} <= {*said(charts.of_task(tables, curve))}
    sums = {"baseline, 1,711", "sparse, 1,829"}
    assert sums <= {title.rpartition(":")[0] for title in said(charts.gammas(tables))}
    losses, scores, sparse, speed = map(said, charts.curves(tables, page.task))
    assert {f"total: {9.5 / 37:.6g} at the end", f"box: {3.1 / 37:.6g} at the end"} <= {*losses}
    assert f"teacher: {0.4 / 37:.6g} at the end" in losses
    assert {"mAP@.5: 0.72 at the end", "mAP@.5:.95: 0.4 at the end", f"recall: {37 / 70:.6g} at the end"} <= {*scores}
    assert sparse == ["|gamma| < 0.01: 0.875 at the end"] and speed == ["images a second: 237 at the end"]


def test_a_line_passes_through_its_points_and_a_logarithm_through_its_powers():
    def spots(x, y, points):
        path = re.search(r'<path class="line[^"]*" d="M([^"]*)"', line_chart("t", [Line("a", points)], x, y))[1]
        return [tuple(float(v) for v in spot.split()) for spot in path.split("L")]

    flat = Axis("", 0, 10)
    assert spots(flat, flat, [(0, 0), (10, 10), (5, 5), (5, 20)]) == [
        (46, 202),
        (388, 20),
        (217, 111),
        (217, 20),  # what lies outside is drawn at the edge
    ]
    powers = Axis("", 1e-2, 1e2, log=True)
    assert [round(x) for x, _ in spots(powers, flat, [(1e-2, 0), (1, 0), (1e2, 0), (0, 0)])] == [46, 217, 388, 46]


def test_a_taught_stage_says_who_taught_it(place, tmp_path):
    record = read_record(place)
    runs = record.metrics["runs"]
    runs["finetuned"]["teacher"] = {"stage": "baseline", "strategy": HOSTILE}
    write_record(dataclasses.replace(record, folder=tmp_path))
    text = render(load(tmp_path))
    message = f"trained again after the cut, taught by the baseline network, strategy {HOSTILE}"
    assert html.escape(message) in text and text.count("taught by") == 1


def test_bars_are_as_high_as_their_values():
    chart = bar_chart("t", ["a", "b", "c"], [Bars("x", [1.0, 4.0, None])], "layer", Axis("", 0, 4))
    heights = [float(h) for h in re.findall(r'<rect[^>]* height="([\d.]+)"', chart)]
    assert len(heights) == 2 and heights[0] * 4 == pytest.approx(heights[1], rel=1e-3)


def test_names_that_do_not_fit_side_by_side_stand_upright_and_numbers_are_thinned_out():
    names = [f"a class {n}" for n in range(12)]
    upright = bar_chart("t", names, [Bars("x", [1.0] * 12)], "class", Axis("", 0, 1))
    assert upright.count("rotate(-90)") == 12 and all(f">{name}</text>" in upright for name in names)
    numbers = bar_chart("t", [str(n) for n in range(120)], [Bars("x", [1.0] * 120)], "layer", Axis("", 0, 1))
    assert "rotate" not in numbers and ">0</text>" in numbers and ">7</text>" not in numbers


def test_the_histogram_keeps_every_channel():
    points = histogram([1, 2, 4, 8], [5, 0, 15])
    assert sum(y for _, y in points[1:-1:2]) == pytest.approx(1.0)
    assert points[0] == (1, 0.0) and points[-1] == (8, 0.0)


def test_words_for_what_changed():
    assert times(8817737, 293405, "smaller", "larger") == "30.1 times smaller"
    assert times(1.0, 2.0, "faster", "slower") == "2 times slower"
    assert times(1.0, 1.001, "faster", "slower") == "unchanged" and times(None, 1.0, "a", "b") == ""
    assert times(1e6, 1, "a", "b") == "1,000,000 times a"
    assert [duration(s) for s in (None, 12.04, 59.97, 568, 7500)] == [
        "not finished",
        "12.0 s",
        "1 min 00 s",
        "9 min 28 s",
        "2 h 05 min",
    ]
