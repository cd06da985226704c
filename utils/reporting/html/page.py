"""A whole page that carries its style with it, in the report's dress."""

from __future__ import annotations

from pathlib import Path

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
{body}
</body>
</html>
"""


def whole_page(title: str, body: str, more_style: str = "") -> str:
    """The page; ``title`` and ``body`` are HTML already, ``more_style`` is CSS that comes behind the report's."""
    style = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
    return PAGE.format(title=title, style=style + more_style, body=body)
