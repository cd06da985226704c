"""Pages that are made when the site is built, so that none of them can say what the code does not.

A hook of MkDocs. It makes a page of every script's flags from its parser, the reference of every room from the tree of
files, the index of decisions from their titles, and the picture of the rooms from their imports. In ``nav:`` of
mkdocs.yml a text ``generated/scripts`` stands for the pages of that name.

  python3 docs/generate.py            writes the generated pages to build/docs, to be looked at
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(HERE)]  # the hook is loaded from its path, not from a package

import import_graph  # noqa: E402
import parsers  # noqa: E402

from utils.darknet import words  # noqa: E402

PLACES = {"scripts": "scripts", "reference": "reference", "decisions": "decisions"}
PLAIN = {int: "whole number", float: "number", str: "text", Path: "path"}
SHARED = "Shared by all scripts"


def pages() -> dict[str, str]:
    """Every generated file by its place under docs/."""
    return {
        **script_pages(),
        **reference_pages(),
        "reference/darknet-words.md": words_page(),
        "decisions/index.md": decisions_index(),
        "import-graph.svg": import_graph.draw(*import_graph.graph()),
    }


def script_pages() -> dict[str, str]:
    """A page a script, one for the other commands, and their index."""
    made: dict[str, str] = {}
    rows = []
    known = {name: parsers.parser_of(path) for name, path in parsers.scripts().items()}
    shared = _shared(known.values())
    for name, path in parsers.scripts().items():
        parser = known[name]
        made[f"scripts/{path.stem}.md"] = (
            f"# {name}\n\n{describe(parser.description or '')}\n{flag_tables(parser, shared=shared)}"
        )
        rows.append(f"| [{name}]({path.stem}.md) | {first_sentence(parser.description or '')} |")
    others = []
    for name, path in parsers.commands().items():
        if path.parent == ROOT or path.parent == HERE:
            continue
        parser = parsers.parser_of(path)
        others.append(f"## python3 {name}\n\n{describe(parser.description or '')}\n{flag_tables(parser, level=3)}")
    made["scripts/others.md"] = "# Other commands\n\nFlags as their parsers have them.\n\n" + "\n".join(others)
    table = "\n".join(["| script | does |", "|---|---|", *rows])
    made["scripts/index.md"] = (
        "# The scripts\n\nEvery script works without arguments, on the sample set and the newest network that it fits. "
        "These pages are\nmade from the scripts' own parsers, so they say what `--help` says.\n\n"
        f"{table}\n\n[Other commands](others.md): data sets, cfg surgery, benchmarks.\n"
    )
    return made


def describe(doc: str) -> str:
    """A command's docstring as Markdown: what is indented are commands, the rest is prose."""
    out: list[str] = []
    for part in re.split(r"\n\s*\n", doc.strip("\n")):
        lines = part.splitlines()
        if any(re.match(r"\s*(python3|torchrun) ", line) for line in lines):
            out.append("\n".join(["```text", *(line.removeprefix("  ") for line in lines), "```"]))
        else:
            out.append(prose(part))
    return "\n\n".join(out) + "\n"


def prose(text: str) -> str:
    """Text of a docstring so that Markdown shows every character of it."""
    pieces = re.split(r"(``[^`]+``|`[^`]+`)", text)
    return "".join(piece if piece.startswith("`") else re.sub(r"([\\*_<\[\]|])", r"\\\1", piece) for piece in pieces)


def flag_tables(parser: argparse.ArgumentParser, level: int = 2, shared: frozenset[str] = frozenset()) -> str:
    """The flags as tables: a command's own first, then those whose names are in ``shared``."""
    hashes, text = "#" * level, ""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                text += f"\n{hashes} {name}\n\n{_table(inner, _shown(inner))}"
            return text
    own = [action for action in _shown(parser) if not shared.intersection(action.option_strings)]
    common = [action for action in _shown(parser) if action not in own]
    text += f"\n{hashes} Flags\n\n{_table(parser, own)}" if own else ""
    return text + (f"\n{hashes} {SHARED}\n\n{_table(parser, common)}" if common else "")


def _shared(found: Iterable[argparse.ArgumentParser]) -> frozenset[str]:
    """The flags that all of these have."""
    names = [{name for action in parser._actions for name in action.option_strings} for parser in found]
    return frozenset(set.intersection(*names))


def _shown(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    hidden = (argparse._HelpAction,)
    return [each for each in parser._actions if not isinstance(each, hidden) and each.help != argparse.SUPPRESS]


def _table(parser: argparse.ArgumentParser, actions: list[argparse.Action]) -> str:
    rows = ["| flag | takes | says |", "|---|---|---|"]
    formatter = parser._get_formatter()
    for action in actions:
        name = ", ".join(f"`{option}`" for option in action.option_strings) or f"`{action.dest}`"
        says = formatter._expand_help(action) if action.help else _default(action)
        rows.append(f"| {name} | {takes(action)} | {prose(' '.join(says.split()))} |")
    return "\n".join(rows) + "\n"


def _default(action: argparse.Action) -> str:
    shown = action.default not in (None, argparse.SUPPRESS, False)
    value = " ".join(map(str, action.default)) if isinstance(action.default, list | tuple) else action.default
    return f"(default: {value})" if shown and value != "" else ""


def takes(action: argparse.Action) -> str:
    """What a flag wants, in words."""
    if action.nargs == 0:
        return ""
    if action.choices is not None:
        what = ", ".join(f"`{choice}`" for choice in action.choices)
    elif action.type in PLAIN or action.type is None:
        what = PLAIN.get(action.type, "text")  # type: ignore[arg-type]
    else:
        what = prose(first_sentence(getattr(action.type, "__doc__", None) or "text").rstrip("."))
        what = what if what[1:2].isupper() else what[0].lower() + what[1:]
    if action.nargs in ("+", "*"):
        return f"{what}, one or more" if action.nargs == "+" else f"{what}, any number"
    return f"{what}, or nothing" if action.nargs == "?" else what


def first_sentence(doc: str) -> str:
    """The first sentence of a docstring, on one line."""
    text = " ".join(doc.strip().partition("\n\n")[0].split())
    return re.split(r"(?<=\.)\s", text)[0]


def reference_pages() -> dict[str, str]:
    """A page a room, one for what stands beside them, and one for the library's face."""
    made = {
        "reference/darkspike.md": "# import darkspike as ds\n\n::: darkspike\n    options:\n      show_root_heading: "
        "false\n      show_root_toc_entry: false\n      heading_level: 2\n"
    }
    made["reference/models.md"] = _module_page("models.py", [ROOT / "models.py"])
    for room in sorted({path.parent for path in (ROOT / "utils").glob("*/__init__.py")}):
        folders = {path.parent for path in room.rglob("__init__.py")}  # others hold what is handed on as files
        modules = [path for path in sorted(room.rglob("*.py")) if path.parent in folders]
        files = [path for path in modules if path.name not in ("__main__.py", "__init__.py")]
        made[f"reference/{room.name}.md"] = _module_page(f"utils/{room.name}", files, room / "__init__.py")
    beside = [path for path in sorted((ROOT / "utils").glob("*.py")) if path.name != "__init__.py"]
    made["reference/utils.md"] = _module_page("utils/*.py", beside)
    return made


def _module_page(title: str, files: list[Path], room: Path | None = None) -> str:
    says = ast.get_docstring(ast.parse(room.read_text(encoding="utf-8"))) if room else ""
    text = f"# {title}\n\n{prose(says or '')}\n\n"
    for path in files:
        dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        text += f"## {path.relative_to(ROOT).as_posix()}\n\n::: {dotted}\n\n"
    return text


def words_page() -> str:
    """Darknet's own words, section by section, from the table that the parser reads."""
    parts = [
        "# Words of Darknet's own\n\nKeys of a cfg that steer Darknet's training or display and change no inference. "
        "They are known by name, kept and\nwritten again; train.py names those that it does not follow. It follows "
        + ", ".join(f"`{word}`" for word in words.FOLLOWED)
        + ":\na frozen front, the epochs where `--epochs` does not say them, and the restarts of `policy=sgdr`.\n"
    ]
    for section, own in {"any section": words.ANYWHERE, **words.SECTIONS}.items():
        rows = [f"| `{word}` | {prose(says)} |" for word, says in own.items()]
        title = section if section == "any section" else f"[{section}]"
        if rows:
            parts.append("\n".join([f"## {prose(title)}", "", "| word | says in Darknet |", "|---|---|", *rows, ""]))
    refused = [
        f"| `{kind}` | `{key}` | `{idle}` | {prose(does)} |"
        for kind, keys in words.REFUSED.items()
        for key, (idle, does) in keys.items()
    ]
    parts.append(
        "\n".join(
            [
                "## Refused",
                "",
                "What would change the network and is not computed here is refused by name.",
                "",
                "| section | key | may say | otherwise it |",
                "|---|---|---|---|",
                *refused,
                "",
            ]
        )
    )
    return "\n".join(parts)


def decisions_index() -> str:
    """The decisions by number, with their titles."""
    rows = [f"- [{title_of(path)}]({path.name})" for path in sorted((HERE / "decisions").glob("[0-9]*.md"))]
    return (
        "# Decisions\n\nWhy things are as they are: what was measured, what was taken, what was tried instead.\n\n"
        + "\n".join(rows)
        + "\n"
    )


def title_of(path: Path) -> str:
    """The heading of a page."""
    return path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ").strip()


def nav_of(place: str, made: dict[str, str]) -> list[Any]:
    """The pages of a folder, as ``nav:`` has them: its index first."""
    found = [page for page in made if page.startswith(f"{place}/") and page.endswith(".md")]
    if place == "decisions":
        found += [f"decisions/{path.name}" for path in sorted((HERE / "decisions").glob("[0-9]*.md"))]
    first = ("index.md", "darkspike.md", "models.md", "utils.md")
    last = ("others.md", "darknet-words.md")

    def key(page: str) -> tuple[int, str]:
        name = page.rpartition("/")[2]
        return (first.index(name) if name in first else 9 if name in last else 8, page)

    return sorted(found, key=key)


_made: dict[str, str] = {}


def on_config(config: Any) -> Any:
    """MkDocs calls this first: make the pages, and put them into ``nav:`` where it says ``generated/…``."""
    _made.clear()
    _made.update(pages())
    config.nav = [_filled(item) for item in config.nav]
    return config


def _filled(item: Any) -> Any:
    if isinstance(item, dict):
        return {key: _filled(value) for key, value in item.items()}
    if isinstance(item, list):
        return [_filled(each) for each in item]
    return nav_of(item.removeprefix("generated/"), _made) if item.startswith("generated/") else item


def on_files(files: Any, config: Any) -> Any:
    """MkDocs calls this when it has listed docs/: add what was made."""
    from mkdocs.structure.files import File

    for place, content in _made.items():
        files.append(File.generated(config, place, content=content))
    return files


def main() -> None:
    """Write the pages to a folder."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--out", type=Path, default=ROOT / "build" / "docs", help="where to (default: build/docs)")
    args = flags.parse_args()
    for place, content in pages().items():
        path = args.out / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
