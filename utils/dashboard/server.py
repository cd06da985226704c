"""The pages over HTTP: read alone, nothing outside the folder of runs, for this machine unless asked otherwise."""

from __future__ import annotations

import errno
import json
import logging
import mimetypes
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from utils.dashboard import pages
from utils.dashboard.runs import read_runs, spots, stamp
from utils.errors import InputError

log = logging.getLogger(__name__)

SHOWN = (".png", ".jpg", ".svg", ".csv", ".json", ".html", ".txt")  # of a run's files; networks are not given out
FILES = "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'"  # what a file may load: nothing runs
PAGES = f"{FILES}; script-src 'unsafe-inline'; connect-src 'self'"


class Dashboard(ThreadingHTTPServer):
    """Serves a folder of runs until it is closed."""

    daemon_threads = True

    def __init__(self, place: Path, host: str, port: int) -> None:
        self.place = place
        super().__init__((host, port), Page)

    @property
    def address(self) -> str:
        """Where it is to be found."""
        host, port = str(self.server_address[0]), self.server_address[1]
        return f"http://{host}:{port}/"


class Page(BaseHTTPRequestHandler):
    """One request: ``/``, ``/run/NAME``, ``/file/NAME/FILE``, ``/runs.json``."""

    server: Dashboard
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:  # http.server's own name
        """Answer with a page or a file."""
        asked = urlsplit(self.path)
        parts = [unquote(part) for part in asked.path.split("/") if part]
        query = {key: values[0] for key, values in parse_qs(asked.query).items()}
        match parts:
            case []:
                self._page(lambda: pages.index(str(self.server.place), self._runs(), query.get("script", "")), "Runs")
            case ["runs.json"]:
                self._send(json.dumps(_listed(self.server.place)).encode(), "application/json")
            case ["run", name]:
                self._run(name)
            case ["file", name, file]:
                self._file(name, file)
            case _:
                self._missing()

    def _run(self, name: str) -> None:
        found = next((run for run in self._runs() if run.name == name), None)
        if found is None:
            self._missing()
            return
        self._page(lambda: pages.run_page(found), name)

    def _file(self, name: str, file: str) -> None:
        """A picture or a table of a run: one of the names that its folder has, so no path leads elsewhere."""
        known = {run.name: run.folder for run in self._runs()}
        names = {path.name: path for path in known[name].iterdir()} if name in known else {}
        path = names.get(file)
        if path is None or path.suffix not in SHOWN or not path.is_file():
            self._missing()
            return
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        self._send(path.read_bytes(), kind if kind != "text/csv" else "text/plain; charset=utf-8")

    def _page(self, draw: Any, title: str) -> None:
        now = stamp(self.server.place)
        if self.headers.get("If-None-Match") == f'"{now}"':
            self._head(HTTPStatus.NOT_MODIFIED, {"ETag": f'"{now}"'})
            return
        text = pages.page(title, draw(), now)
        self._send(text.encode(), "text/html; charset=utf-8", {"ETag": f'"{now}"'})

    def _missing(self) -> None:
        body = pages.page("Not here", '<h1>Not here</h1><p><a href="/">all runs</a></p>', "").encode()
        self._send(body, "text/html; charset=utf-8", status=HTTPStatus.NOT_FOUND)

    def _send(
        self, body: bytes, kind: str, more: dict[str, str] | None = None, status: HTTPStatus = HTTPStatus.OK
    ) -> None:
        policy = {"Content-Security-Policy": PAGES if kind.startswith("text/html") and more else FILES}
        self._head(status, {"Content-Type": kind, "Content-Length": str(len(body)), **policy, **(more or {})})
        self.wfile.write(body)

    def _head(self, status: HTTPStatus, headers: dict[str, str]) -> None:
        fixed = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
        self.send_response(status)
        for key, value in (fixed | headers).items():
            self.send_header(key, value)
        self.end_headers()

    def _runs(self) -> list[Any]:
        return read_runs(self.server.place)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not news."""
        log.debug(format, *args)


def open_dashboard(place: Path, host: str, port: int) -> Dashboard:
    """A server of a folder; port 0 takes one that is free.

    Raises:
        InputError: there is no such folder, or the address is taken or none.
    """
    if not place.is_dir():
        raise InputError(f"{place}: no such folder; give the one that holds your runs, runs/ by default")
    if not 0 <= port < 2**16:
        raise InputError(f"--port {port}: there are ports up to 65,535; give one of those, or 0 for a free one")
    try:
        return Dashboard(place, host, port)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        remedy = "give another --port, or 0 for a free one" if taken else "give an address of this machine with --host"
        raise InputError(f"{host}:{port}: {error.strerror}; {remedy}") from error


def _listed(place: Path) -> list[dict[str, Any]]:
    """The runs for programs."""
    runs = read_runs(place)
    best = {spot.run: spot.score for spot in spots(runs)}
    return [{"name": run.name, "state": run.state, "started": run.started, "score": best.get(run.name)} for run in runs]
