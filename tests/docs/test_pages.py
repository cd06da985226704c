"""What the pages beside the site say of this repository is there."""

from __future__ import annotations

import re

import pytest

from tests.conftest import ROOT

BESIDE = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES = [*BESIDE, *sorted((ROOT / "docs").rglob("*.md"))]
MACHINE = re.compile(r"(?<![\w.])/(?:work|home|root|tmp|usr)/|\.\./shared|file://")


@pytest.mark.parametrize("page", BESIDE, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert not [link for link in links if not (ROOT / link).exists()]


@pytest.mark.parametrize("page", [ROOT / "CONTRIBUTING.md", ROOT / "docs/architecture.md"], ids=lambda page: page.name)
def test_files_that_are_named_exist(page):
    named = re.findall(r"`((?:utils|tests|docs|benchmarks|pipeline)/[\w./-]*)`", page.read_text())
    assert named
    assert not [path for path in named if not (ROOT / path).exists()]


def test_the_first_page_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_names_a_place_on_some_machine(page):
    assert not MACHINE.findall(page.read_text())


def test_versions_agree():
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    newest = re.search(r"^## ([\d.]+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert version and cited and newest
    assert version[1] == cited[1] == newest[1]
