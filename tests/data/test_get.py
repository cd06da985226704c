"""Downloads, against a server in this process; no test reaches the internet."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urlparse

import cv2
import numpy as np
import pytest

from data import get
from tests.conftest import ROOT
from tests.data.test_unpack import packed
from tests.detection.test_voc import annotation
from utils.data.download import download
from utils.data.manifest import KEYS, read_list
from utils.detection.labels import read_labels
from utils.detection.open_data import read_manifest
from utils.errors import InputError

CONTENT = np.random.default_rng(0).bytes(300_000)


@dataclass
class Server:
    """What it serves, how it misbehaves, and what it was asked."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    cut_after: list[int] = field(default_factory=list)  # bytes, an answer each; then whole ones
    ranges: bool = True
    asked: list[str | None] = field(default_factory=list)  # the Range header of each request

    def url(self, name: str) -> str:
        return f"{self.address}/{name}"


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = state.files.get(self.path.lstrip("/"))
            wanted = self.headers.get("Range")
            state.asked.append(wanted)
            if content is None:
                return self.send_error(404)
            tag = f'"{hashlib.md5(content).hexdigest()}"'
            begin = 0
            if state.ranges and wanted and self.headers.get("If-Range", tag) == tag:
                begin = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])  # type: ignore[index]
                if begin >= len(content):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(content)}")
                    self.send_header("Content-Length", "0")
                    return self.end_headers()
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
            else:
                self.send_response(200)
            self.send_header("ETag", tag)
            self.send_header("Content-Length", str(len(content) - begin))
            self.end_headers()
            most = state.cut_after.pop(0) if state.cut_after else len(content)
            self.wfile.write(content[begin : begin + most])
            return None

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.address = f"http://127.0.0.1:{listening.server_port}"
    thread = Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield state
    listening.shutdown()
    listening.server_close()
    thread.join()


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def test_file_arrives_whole_and_is_checked(server, tmp_path):
    server.files["a.bin"] = CONTENT
    md5 = f"md5:{hashlib.md5(CONTENT).hexdigest()}"
    for digest in (sha256(CONTENT), md5, ""):
        path = download(
            server.url("a.bin"), tmp_path / (digest[:3] or "none") / "a.bin", size=len(CONTENT), digest=digest
        )
        assert path.read_bytes() == CONTENT and list(path.parent.iterdir()) == [path]
    asked = len(server.asked)
    download(server.url("a.bin"), tmp_path / "sha/a.bin", digest=sha256(CONTENT))
    assert len(server.asked) == asked == 3  # what is there is not fetched again


def test_connection_that_is_cut_goes_on_where_it_was(server, tmp_path):
    server.files["a.bin"], server.cut_after = CONTENT, [1000, 70_000, 5]
    path = download(server.url("a.bin"), tmp_path / "a.bin", digest=sha256(CONTENT))
    assert path.read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1000-", "bytes=71000-", "bytes=71005-"]


def test_next_run_goes_on_where_the_last_one_was_cut(server, tmp_path):
    server.files["a.bin"], server.cut_after = CONTENT, [200_000, 0, 0, 0]
    with pytest.raises(
        InputError, match=r"a\.bin: no connection .*; 200,000 bytes are kept; run this again"
    ) as message:
        download(server.url("a.bin"), tmp_path / "a.bin")
    assert "\n" not in str(message.value) and not (tmp_path / "a.bin").exists()
    server.asked.clear()
    path = download(server.url("a.bin"), tmp_path / "a.bin", digest=sha256(CONTENT))
    assert path.read_bytes() == CONTENT and server.asked == ["bytes=200000-"]
    assert list(tmp_path.iterdir()) == [path]


def test_part_that_was_whole_already_is_not_fetched_again(server, tmp_path):
    server.files["a.bin"] = CONTENT
    (tmp_path / "a.bin.part").write_bytes(CONTENT)
    assert download(server.url("a.bin"), tmp_path / "a.bin", digest=sha256(CONTENT)).read_bytes() == CONTENT
    assert server.asked == [f"bytes={len(CONTENT)}-"]


@pytest.mark.parametrize("ranges", [True, False])
def test_another_version_or_a_server_without_ranges_begins_anew(server, tmp_path, ranges):
    server.files["a.bin"], server.cut_after = b"old" * 50_000, [90_000, 0, 0, 0]
    with pytest.raises(InputError):
        download(server.url("a.bin"), tmp_path / "a.bin")
    server.files["a.bin"], server.ranges = CONTENT, ranges
    assert download(server.url("a.bin"), tmp_path / "a.bin", digest=sha256(CONTENT)).read_bytes() == CONTENT


def test_wrong_checksum_is_put_aside_and_fetched_anew(server, tmp_path):
    server.files["a.bin"] = CONTENT[:-1] + b"x"
    with pytest.raises(
        InputError, match=r"its sha256 is \w{64}, published is \w{64}; it was put aside as a\.bin\.wrong"
    ):
        download(server.url("a.bin"), tmp_path / "a.bin", digest=sha256(CONTENT))
    assert not (tmp_path / "a.bin").exists() and (tmp_path / "a.bin.wrong").is_file()
    server.files["a.bin"] = CONTENT
    assert download(server.url("a.bin"), tmp_path / "a.bin", digest=sha256(CONTENT)).read_bytes() == CONTENT


def test_other_length_than_published_is_told_before_it_is_fetched(server, tmp_path):
    server.files["a.bin"] = CONTENT
    with pytest.raises(InputError, match=r"300,000 bytes, published are 300,001; the set has changed"):
        download(server.url("a.bin"), tmp_path / "a.bin", size=len(CONTENT) + 1)
    assert not list(tmp_path.iterdir())


def test_missing_file_offline_and_full_disk_are_one_line(server, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"404 .*; the set may have moved"):
        download(server.url("b.bin"), tmp_path / "b.bin")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{free.getsockname()[1]}/a.bin"
        with pytest.raises(
            InputError, match=r"no connection .*refused.*; run this again when you are online"
        ) as message:
            download(closed, tmp_path / "a.bin")
    assert "\n" not in str(message.value)
    server.files["a.bin"] = CONTENT
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(InputError, match=r"a\.bin needs 0\.0 GB, 0\.0 GB are free; make room or choose another --dir"):
        download(server.url("a.bin"), tmp_path / "a.bin")
    assert not list(tmp_path.glob("*.part"))


@pytest.fixture
def small_voc(server, tmp_path, monkeypatch) -> Path:
    """VOC as it is published, with one image a part; get.py is in a folder of its own."""
    picture = cv2.imencode(".jpg", np.full((60, 100, 3), 90, np.uint8))[1].tobytes()
    archives = []
    for year, split, stem in (
        ("2007", "trainval", "000005"),
        ("2007", "test", "000001"),
        ("2012", "trainval", "2008_1"),
    ):
        top = f"VOCdevkit/VOC{year}"
        boxes = [("dog", 20, 12, 70, 42), ("person", 0, 0, 50, 30, 1)]
        members = {
            f"{top}/JPEGImages/{stem}.jpg": picture,
            f"{top}/Annotations/{stem}.xml": annotation(f"{stem}.jpg", boxes).encode(),
            f"{top}/ImageSets/Main/{split}.txt": f"{stem}\n".encode(),
        }
        path = packed(tmp_path / f"VOC{split}{year}.tar", members)
        server.files[path.name] = path.read_bytes()
        archives.append(get.Archive(server.url(path.name), path.stat().st_size, sha256(path.read_bytes())))
    home = tmp_path / "data"
    home.mkdir()
    for name in ("voc.data", "voc.names"):
        shutil.copy(ROOT / "data" / name, home / name)
    monkeypatch.setattr(get, "DATA", home)
    monkeypatch.setitem(get.SOURCES, "voc", get.Source("home", tuple(archives), get.read_voc))
    return home


@pytest.mark.parametrize("elsewhere", [True, False])
def test_get_py_leaves_a_set_that_is_ready_to_train_on(small_voc, tmp_path, capsys, elsewhere):
    words = ["voc", "--dir", str(tmp_path / "disk")] if elsewhere else ["voc"]
    assert get.main(words) == 0
    assert "3 images (2 train, 1 val), 3 boxes, 3 marked difficult (skipped)" in capsys.readouterr().out
    manifest = read_manifest(small_voc / "voc.data")
    train, valid = read_list(manifest.train), read_list(manifest.valid)
    assert [path.name for path in train] == ["000005.jpg", "2008_1.jpg"] and [path.name for path in valid] == [
        "000001.jpg"
    ]
    assert all(path.is_relative_to(tmp_path / "disk" if elsewhere else small_voc / "voc") for path in train + valid)
    rows = read_labels(manifest.labels / "000005.txt", manifest.classes)
    np.testing.assert_allclose(rows, [[manifest.names.index("dog"), 0.45, 0.45, 0.5, 0.5]], atol=1e-6)
    assert get.main(words) == 0 and "was there already" in capsys.readouterr().out


def test_classes_of_coco_are_known_by_their_places_because_darknet_calls_some_otherwise(server, tmp_path, monkeypatch):
    home = tmp_path / "data"
    home.mkdir()
    for name in ("coco2017.data", "coco.names"):
        shutil.copy(ROOT / "data" / name, home / name)
    names = (home / "coco.names").read_text().splitlines()
    theirs = {"motorbike": "motorcycle", "aeroplane": "airplane", "sofa": "couch", "tvmonitor": "tv"}
    categories = [{"id": 2 * i + 1, "name": theirs.get(name, name)} for i, name in enumerate(names)]
    image = cv2.imencode(".jpg", np.full((60, 100, 3), 90, np.uint8))[1].tobytes()
    members = {}
    for split in ("train2017", "val2017"):
        row = {"id": 1, "file_name": f"{split}.jpg", "width": 100, "height": 60}
        boxes = [{"id": i, "image_id": 1, "category_id": 2 * i + 1, "bbox": [20, 12, 50, 30]} for i in range(80)]
        values = {"images": [row], "annotations": boxes, "categories": categories}
        members[f"annotations/instances_{split}.json"] = json.dumps(values).encode()
        members[f"{split}/{split}.jpg"] = image
    server.files["all.zip"] = packed(tmp_path / "all.zip", members).read_bytes()
    monkeypatch.setattr(get, "DATA", home)
    archive = get.Archive(server.url("all.zip"))
    monkeypatch.setitem(get.SOURCES, "coco2017", get.Source("home", (archive,), get.read_coco("2017")))
    assert get.main(["coco2017"]) == 0
    manifest = read_manifest(home / "coco2017.data")
    for split in ("train2017", "val2017"):
        assert read_labels(manifest.labels / f"{split}.txt", 80)[:, 0].tolist() == list(range(80))


def test_get_py_that_was_cut_goes_on(small_voc, server, capsys):
    server.cut_after = [3000, 0, 0, 0]
    assert get.main(["voc"]) == 2
    message = capsys.readouterr().err
    assert (
        message.startswith("get.py: http://127")
        and "3,000 bytes are kept" in message
        and len(message.splitlines()) == 1
    )
    server.asked.clear()
    assert get.main(["voc"]) == 0 and server.asked == ["bytes=3000-", None, None]


@pytest.mark.parametrize("name", [name for name, source in get.SOURCES.items() if source.by_hand])
def test_set_that_a_person_must_fetch_says_where(name, tmp_path, monkeypatch, capsys):
    assert get.main([name, "--dir", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert get.SOURCES[name].home in message and "by hand" in message and len(message.splitlines()) == 1


@pytest.mark.parametrize("name", get.SOURCES)
def test_every_set_has_its_data_file_and_names(name):
    keys = dict(
        re.fullmatch(r"(\w+) = (.+)", line).groups()  # type: ignore[union-attr]
        for line in (ROOT / f"data/{name}.data").read_text().splitlines()
        if not line.startswith("#")
    )
    assert set(keys) <= set(KEYS)
    names = (ROOT / "data" / keys["names"]).read_text().splitlines()
    assert len(names) == len(set(names)) == int(keys["classes"])
    assert (keys["train"], keys["valid"], keys["labels"]) == (f"{name}/train.txt", f"{name}/val.txt", f"{name}/labels")


def test_addresses_are_official_and_digests_well_formed():
    for source in get.SOURCES.values():
        assert bool(source.archives) != bool(source.by_hand) and (source.read or not source.archives)
        for archive in source.archives:
            assert urlparse(archive.url).hostname in ("images.cocodataset.org", "host.robots.ox.ac.uk")
            assert re.fullmatch(r"sha256:[0-9a-f]{64}|md5:[0-9a-f]{32}", archive.digest)
