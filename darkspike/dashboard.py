"""Look at runs in a browser while they go: curves, tables, pictures, and which networks are worth having.

python3 -m darkspike.dashboard
python3 -m darkspike.dashboard runs/ --port 8080
python3 -m darkspike.dashboard runs/ --host 0.0.0.0

Pages read alone: nothing is written, and nothing outside the folder is shown. They are for this machine; --host 0.0.0.0
lets a phone in the same network read them too, and everybody else there. A page looks every three seconds whether
something changed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from utils.cli import OneLineParser, whole
from utils.dashboard.server import open_dashboard
from utils.endings import Terminated, ended, say


def parser() -> argparse.ArgumentParser:
    """The command line."""
    flags = OneLineParser(
        prog="dashboard", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    flags.add_argument("place", nargs="?", default="runs", help="the folder that holds the runs (default: runs)")
    flags.add_argument("--port", type=whole, default=8080, help="0: a free one (default: 8080)")
    flags.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: this machine alone)")
    return flags


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until Ctrl-C."""
    given = parser().parse_args(arguments)
    return ended(lambda: serve(Path(given.place), given.host, given.port), "dashboard", left="the pages are gone")


def serve(place: Path, host: str, port: int) -> int:
    """Serve; Ctrl-C is the way to end it, and no fault."""
    with open_dashboard(place, host, port) as server:
        say(f"{server.address}  shows {place}; Ctrl-C ends it")
        sys.stdout.flush()
        try:
            server.serve_forever()
        except Terminated:
            raise
        except KeyboardInterrupt:
            return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
