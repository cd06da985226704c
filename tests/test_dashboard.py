"""The pages of runs: their numbers are the records', they follow a run that goes on, and give out nothing else."""

from __future__ import annotations

import dataclasses
import html
import json
import os
import re
import shutil
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

import cv2
import numpy as np
import pytest

from darkspike import dashboard as command
from tests.reporting.browser import FOUND, browser
from tests.reporting.test_report_html import CONTRAST, HOSTILE, LAYOUT
from utils.dashboard import pages
from utils.dashboard.runs import read_runs, spots, stamp
from utils.dashboard.server import open_dashboard
from utils.detection.task import DetectionTask
from utils.errors import InputError
from utils.reporting.html.scatter import Dots, front_chart
from utils.reporting.record import finish_record, start_record, write_record
from utils.reporting.results import write_rows

needs_browser = pytest.mark.skipif(FOUND is None, reason="no Chromium here")
SCORES = {"train": 0.9, "slim_prune-half": 0.85, "slim_prune-most": 0.7, "quantize": 0.88}
SIZES = {"train": 8_817_737, "slim_prune-half": 3_100_000, "slim_prune-most": 900_000, "quantize": 3_200_000}


def epochs(count):
    return [
        {"epoch": i, "total": 9 / i, "box": 3 / i, "map50": 0.9 * i / count, "map": 0.5 * i / count, "precision": 0.8,
         "recall": i / count, "images_per_second": 200 + i, "seconds": None}
        for i in range(1, count + 1)
    ]  # fmt: skip


def write_run(place, name, *, finished=True, rows=0):
    folder = place / name
    folder.mkdir(parents=True)
    script = name.partition("-")[0]
    record = start_record(folder, script=script, args={}, seed=3, task=DetectionTask())
    if rows:
        write_rows(folder / "results.csv", epochs(rows))
        cv2.imwrite(str(folder / "results.png"), np.full((60, 90, 3), 200, np.uint8))
    if finished:
        row = {"map50": SCORES.get(name, 0.5), "map": 0.4, "bytes": SIZES.get(name, 5_000_000), "params": 2_000_000}
        finish_record(record, metrics={"before": row | {"map50": 0.9}, "after": row} if "prune" in name else row)
    return folder


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Runs of four scripts, one of them under way, one without a readable record, one with a hostile name."""
    runs = tmp_path_factory.mktemp("dashboard") / "runs"
    for name in SCORES:
        write_run(runs, name, rows=9 if name == "train" else 0)
    write_run(runs, "train-2", finished=False, rows=4)
    (runs / "broken").mkdir()
    (runs / "broken/record.json").write_text("{")
    folder = write_run(runs, "test-hostile", finished=False)
    write_record(dataclasses.replace(read_runs(runs)[0].record, folder=folder, script=HOSTILE, command=HOSTILE, started=1.0))  # fmt: skip
    return runs


@pytest.fixture
def place(written, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(written, tmp_path / "runs", copy_function=shutil.copyfile)


@contextmanager
def served(place):
    with open_dashboard(place, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server.address
        server.shutdown()


def get(address, **headers):
    with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=20) as answer:
        return answer.read().decode(errors="replace"), answer.headers


def refused(address):
    with pytest.raises(urllib.error.HTTPError) as error:
        get(address)
    return error.value.code


def test_every_run_is_there_with_its_state_and_its_number(place):
    shown = {run.name: run for run in read_runs(place)}
    assert {name: run.state for name, run in shown.items()} == {
        **dict.fromkeys(SCORES, "finished"),
        "train-2": "live",
        "broken": "broken",
        "test-hostile": "live",
    }
    text = pages.index("runs", list(shown.values()))
    for name, score in SCORES.items():
        card = re.search(rf'<a class="run" href="run/{name}">(.*?)</a>', text)[1]
        assert f"<b>{score:.4f}</b>" in card and "finished" in card
    assert "7 runs in <code>runs</code>, 2 running" in text
    assert "not a run record" in text and "<b>0.9000</b>" in re.search(r"run/train-2.*?</a>", text)[0]


def test_a_run_that_is_silent_for_minutes_is_not_called_running(place):
    for path in [*(place / "train-2").iterdir()]:
        os.utime(path, (time.time() - 900,) * 2)
    (run,) = [run for run in read_runs(place) if run.name == "train-2"]
    assert run.state == "cut" and "last wrote 15 min ago" in pages.index("runs", [run])


def test_the_front_is_of_every_network_that_was_measured(place):
    found = {(spot.run, spot.moment): (spot.size, spot.score) for spot in spots(read_runs(place))}
    assert found[("slim_prune-half", "after")] == (3_100_000, 0.85) and found[("train", "")] == (8_817_737, 0.9)
    assert len(found) == 6, "both moments of the two that cut"
    text = pages.worth(read_runs(place))
    members = re.findall(r'<th scope="row"><a href="run/([\w-]+)">', text)
    assert members == ["slim_prune-most"], "its network before the cut has the same size here and scores as high"


def test_a_chart_of_the_front_draws_what_nothing_beats():
    dots = Dots("a", [(10, 0.5), (100, 0.9), (50, 0.4)], ["x", "<y>", "z"], ["run/x", "run/y", 'run/"z'], 3)
    text = front_chart("t", [dots], "bytes", "mAP")
    assert re.findall(r' r="([\d.]+)"', text) == ["5", "5", "3.5"]
    assert "&lt;y&gt;: 0.9 at 100" in text and "run/&quot;z" in text and "<y>" not in text
    assert text.count('<path class="line l3" d="M') == 1
    path = re.search(r'<path class="line l3" d="([^"]+)"', text)[1]
    assert re.sub(r"[\d. ]+", "", path) == "MHVH"


def test_a_page_of_a_run_shows_its_numbers_curves_and_pictures(place):
    with served(place) as address:
        text, headers = get(f"{address}run/train")
        picture, about = get(f"{address}file/train/results.png")
    assert 'value="0.9" data-stage="" data-name="map50"' in text and 'data-name="bytes"' in text
    assert text.count("<svg") == 3 and "Last 8 of 9 epochs" in text
    assert 'src="../file/train/results.png?' in text and about["Content-Type"] == "image/png" and "PNG" in picture
    assert "script-src 'unsafe-inline'" in headers["Content-Security-Policy"]
    assert "script-src" not in about["Content-Security-Policy"]


def test_a_page_is_sent_again_only_when_something_changed(place):
    with served(place) as address:
        _, headers = get(address)
        assert refused_304(address, headers["ETag"])
        write_rows(place / "train-2/results.csv", epochs(5))
        text, again = get(f"{address}run/train-2", **{"If-None-Match": headers["ETag"]})
    assert again["ETag"] != headers["ETag"] and "Last 5 of 5 epochs" in text


def refused_304(address, etag):
    with pytest.raises(urllib.error.HTTPError) as error:
        get(address, **{"If-None-Match": etag})
    return error.value.code == 304


def test_the_stamp_moves_with_files_and_with_their_age(place, monkeypatch):
    first = stamp(place)
    assert stamp(place) == first
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 60)
    assert stamp(place) != first, "ages on the page are older"
    monkeypatch.setattr(time, "time", lambda: now + 9e3)
    assert stamp(place) == stamp(place)


@pytest.mark.parametrize(
    "path",
    [
        "run/gone", "file/train/gone.png", "file/gone/results.png", "file/train/..%2Frecord.json", "elsewhere",
        "file/..%2F/secret.txt", "file/train/..%2F..%2Fsecret.txt", "file/train/net.pt", "run/..", "file/train/deep/results.png",
    ],
)  # fmt: skip
def test_nothing_outside_a_runs_folder_is_given_out(place, path):
    (place.parent / "secret.txt").write_text("secret")
    (place / "train/net.pt").write_bytes(b"weights")
    with served(place) as address:
        assert refused(address + path) == 404


def test_names_are_shown_not_obeyed(place):
    with served(place) as address:
        for page in ("", "run/test-hostile"):
            text, _ = get(address + page)
            assert html.escape(HOSTILE) in text.replace("</span> <span>", " ") and not re.search(
                r"<b\b[^>]*onclick", text
            )


def test_the_runs_of_one_script_can_be_chosen_and_read_by_programs(place):
    with served(place) as address:
        text, _ = get(f"{address}?script=slim_prune")
        listed = json.loads(get(f"{address}runs.json")[0])
    assert set(re.findall(r'class="run" href="run/([\w-]+)"', text)) == {"slim_prune-half", "slim_prune-most"}
    assert {row["name"]: row["score"] for row in listed if row["score"]} == SCORES
    assert {row["state"] for row in listed} == {"finished", "live", "broken"}


def test_an_empty_folder_says_what_to_do_and_a_missing_one_is_refused(tmp_path, capsys):
    with served(tmp_path) as address:
        assert "No run is here yet" in get(address)[0]
    assert command.main([str(tmp_path / "gone")]) == 2
    assert re.fullmatch(r"dashboard: .*gone: no such folder; give the one that holds .*\n", capsys.readouterr().err)


def test_an_address_that_is_taken_or_none_is_told(tmp_path):
    with open_dashboard(tmp_path, "127.0.0.1", 0) as server:
        port = server.server_address[1]
        with pytest.raises(InputError, match=rf"127\.0\.0\.1:{port}: .*; give another --port, or 0 for a free one"):
            open_dashboard(tmp_path, "127.0.0.1", port)
    with pytest.raises(InputError, match=r"192\.0\.2\.1:0: .*; give an address of this machine with --host"):
        open_dashboard(tmp_path, "192.0.2.1", 0)


@needs_browser
def test_in_a_browser_nothing_is_cut_off_and_a_run_is_followed(place, tmp_path):
    with browser(tmp_path / "profile") as tab, served(place) as address:
        for path in ("", "run/train", "run/slim_prune-half"):
            for width, dark in ((1280, False), (390, True)):
                tab.open_address(address + path, width, dark=dark)
                tab.value(
                    "Promise.all([...document.images].map(each => { each.loading = 'eager'; return each.decode(); }))"
                )
                assert tab.value(LAYOUT.replace("SMALLEST", "10.5")) == [], (path, width)
                assert tab.value(CONTRAST) == [], (path, width)
        assert tab.complaints == []
        tab.open_address(f"{address}run/train-2", 1280)
        assert "Last 4 of 4 epochs" in tab.value("document.body.textContent")
        tab.value("document.querySelector('details').open = true; scrollTo(0, 300); refresh.name")
        place_on = tab.value("scrollY")
        write_rows(place / "train-2/results.csv", epochs(6))
        tab.value("refresh()")
        assert "Last 6 of 6 epochs" in tab.value("document.body.textContent")
        assert tab.value("scrollY") == place_on and tab.value("location.pathname") == "/run/train-2"
