"""Archives, good, malicious and damaged."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from utils.data.unpack import unpack
from utils.errors import InputError

CONTENT = np.random.default_rng(0).bytes(300_000)


def packed(path: Path, members: dict[str, bytes]) -> Path:
    """A zip, or a tar compressed as its name says."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return path
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


KINDS = ["a.zip", "a.tar", "a.tar.gz"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_packed_comes_out(tmp_path, kind):
    members = {"one.txt": b"1", "deep/er/two.bin": CONTENT[:5000], "deep/empty": b""}
    archive = packed(tmp_path / kind, members)
    assert unpack(archive, tmp_path / "out") == 3
    found = {str(p.relative_to(tmp_path / "out")): p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert found == members | {f".{kind}.unpacked": b""}
    assert unpack(archive, tmp_path / "out") == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name", ["../evil.txt", "/tmp/evil.txt", "good/../../evil.txt", "..\\evil.txt", "C:\\evil.txt"]
)
def test_name_that_leads_out_of_the_folder_is_refused_before_anything_is_written(tmp_path, kind, name):
    archive = packed(tmp_path / kind, {"good.txt": b"good", name: b"evil"})
    with pytest.raises(InputError, match=r"leads out of .*; do not trust this archive"):
        unpack(archive, tmp_path / "out/deep")
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {kind}


def test_links_are_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        link = tarfile.TarInfo("good")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        tar.addfile(link)
    link_in_zip = zipfile.ZipInfo("good")
    link_in_zip.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link_in_zip, "/etc")
    for kind in ("a.tar", "a.zip"):
        with pytest.raises(InputError, match=r"holds a link .*good"):
            unpack(tmp_path / kind, tmp_path / "out")


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_archive_is_one_line(tmp_path, kind):
    archive = packed(tmp_path / kind, {"one.bin": CONTENT})
    archive.write_bytes(archive.read_bytes()[:100_000])
    with pytest.raises(InputError, match=r"damaged .*; delete it and run this again"):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / f"out/.{kind}.unpacked").exists() and not list((tmp_path / "out").rglob("*.tmp"))


def test_unpacking_that_was_cut_goes_on_and_leaves_whole_files_alone(tmp_path):
    archive = packed(tmp_path / "a.tar", {"one": b"first", "two": b"second"})
    (tmp_path / "out").mkdir()
    (tmp_path / "out/one").write_bytes(b"FIRST")  # of the right length: it is there
    (tmp_path / "out/two").write_bytes(b"sec")
    assert unpack(archive, tmp_path / "out") == 1
    assert (tmp_path / "out/one").read_bytes() == b"FIRST" and (tmp_path / "out/two").read_bytes() == b"second"
