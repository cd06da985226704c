"""The lock files are of these requirements, and every package in them has a hash."""

from __future__ import annotations

import re

import pytest

from tests.conftest import ROOT

PINNED = re.compile(r"^([A-Za-z0-9_.-]+)==([^\s;#\\]+)", re.MULTILINE)
HASHLESS = {"torch"}  # docs/decisions/015-torch-has-no-hash.md


def pinned(name: str) -> dict[str, str]:
    """Package -> version, of a requirements file and those that it names."""
    text = (ROOT / name).read_text()
    found = {plain(package): version for package, version in PINNED.findall(text)}
    for other in re.findall(r"^-r (\S+)", text, re.MULTILINE):
        found |= pinned(other)
    return found


def plain(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


@pytest.mark.parametrize("name", ["requirements", "requirements-dev", "requirements-clients", "requirements-hardware"])
def test_the_lock_has_every_requirement_in_its_version_with_a_hash(name):
    text = (ROOT / f"{name}.lock").read_text()
    locked = {plain(package): version for package, version in PINNED.findall(text)}
    wanted = pinned(f"{name}.txt")
    assert wanted.keys() - locked.keys() == HASHLESS & wanted.keys()
    assert {package: locked[package] for package in wanted.keys() - HASHLESS} == {
        package: version for package, version in wanted.items() if package not in HASHLESS
    }
    for entry in re.split(r"\n(?=[a-z0-9])", re.sub(r"^ *#.*\n?", "", text, flags=re.MULTILINE).strip()):
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry[:60]


@pytest.mark.parametrize("name", ["requirements", "requirements-dev"])
def test_the_lock_leaves_to_torch_what_its_build_brings(name):
    locked = [package for package, _ in PINNED.findall((ROOT / f"{name}.lock").read_text())]
    assert locked and not [package for package in locked if re.match(r"nvidia-|cuda-|triton$", package)]


def test_the_makefile_installs_by_hash():
    text = (ROOT / "Makefile").read_text()
    for name in ("requirements.lock", "requirements-dev.lock", "requirements-clients.lock"):
        assert f"pip install --quiet --no-deps --require-hashes -r {name}" in text
