"""The site builds without a warning, from nothing that is not in the repository, and has a page for everything."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from docs import generate, import_graph, parsers
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built strictly; MkDocs' output must hold no warning."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1", "NO_COLOR": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    assert not re.search(r"warn|error", told, re.IGNORECASE), told
    return folder


class Links(HTMLParser):
    """What a page fetches by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ("script", "img", "link") and given.get("rel") != "canonical":
            self.fetched += [value for key in ("src", "href") if (value := given.get(key))]


def test_the_site_builds_without_a_warning(site):
    assert (site / "index.html").is_file()


def test_every_script_has_a_page_with_all_its_flags(site):
    for name, path in parsers.scripts().items():
        page = (site / f"scripts/{path.stem}.html").read_text()
        for action in parsers.parser_of(path)._actions:
            for option in action.option_strings if action.help != argparse.SUPPRESS and action.dest != "help" else ():
                assert f"<code>{option}</code>" in page, (name, option)


def test_every_room_has_a_page_with_all_its_functions(site):
    for room in sorted(path.parent for path in (ROOT / "utils").glob("*/__init__.py")):
        page = (site / f"reference/{room.name}.html").read_text()
        for path in room.rglob("*.py"):
            handed_on = not (path.parent / "__init__.py").is_file()  # a file for somebody's folder, no module of ours
            if path.name not in ("__init__.py", "__main__.py") and not handed_on:
                dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts)
                public = re.findall(r"^(?:def|class) ([a-zA-Z]\w*)", path.read_text(), re.MULTILINE)
                assert not [name for name in public if f'id="{dotted}.{name}"' not in page], path


def test_every_decision_is_in_the_index(site):
    page = (site / "decisions/index.html").read_text()
    names = [path.stem for path in (ROOT / "docs/decisions").glob("[0-9]*.md")]
    assert names and not [name for name in names if f"{name}.html" not in page]


def test_pages_fetch_nothing_from_elsewhere(site):
    for path in site.rglob("*.html"):
        links = Links()
        links.feed(path.read_text())
        assert not [each for each in links.fetched if "//" in each and not each.startswith("data:")], path


def test_the_picture_shows_every_room_and_no_arrow_goes_back(site):
    rooms, edges = import_graph.graph()
    assert not import_graph.backward(edges)
    picture = (site / "import-graph.svg").read_text()
    for room in rooms:
        assert room.replace(".", "/") in picture, room


def test_an_arrow_that_follows_from_others_is_left_out():
    edges = {"a": {"b", "c", "d"}, "b": {"c"}, "c": {"d"}, "d": set()}
    assert import_graph.reduced(edges) == {"a": {"b"}, "b": {"c"}, "c": {"d"}, "d": set()}
    assert import_graph.backward(edges | {"d": {"a"}}) == {("d", "a")}


def test_text_of_a_docstring_reaches_the_page_as_it_stands():
    assert generate.prose("[N,C] of a * b, <name> and x_y") == r"\[N,C\] of a \* b, \<name> and x\_y"
    assert generate.prose("`a*b` and ``c_d``") == "`a*b` and ``c_d``"
