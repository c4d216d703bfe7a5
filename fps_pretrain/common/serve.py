"""A run folder in a browser while its program runs: ``--serve PORT``, to this machine alone.

Pages, pictures, tables and logs are shown, not what a run resumes from, its configuration or its secrets.
"""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Annotated, BinaryIO
from urllib.parse import quote, unquote

from annotated_types import Ge, Le

from fps_pretrain.common.errors import UserError

Port = Annotated[int, Ge(0), Le(65535)]

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".png": "image/png",
    ".csv": "text/plain; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
    ".json": "application/json",
    ".jsonl": "text/plain; charset=utf-8",
}
"""What is shown."""

SECONDS = 10
"""Pause after which a page of an unfinished run loads again."""

RELOAD = f'<meta http-equiv="refresh" content="{SECONDS}">'
"""What such a page has in its head."""

PAGES = ("index.html", "training.html")
"""Pages that are shown in place of a list of their folder's files."""


@contextmanager
def serving(folder: Path, port: int | None) -> Iterator[None]:
    """Serve ``folder`` on 127.0.0.1 until the block is left, and say on stderr where; nothing without a port.

    Args:
        folder: what is shown; it may be made later.
        port: the port, or 0 for a free one.

    Raises:
        UserError: the port is taken, or reserved for the system.
    """
    if port is None:
        yield
        return
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), type("Handler", (_Handler,), {"folder": folder}))
    except OSError as error:
        raise UserError(f"--serve {port}: {error.strerror or error}; 0 takes a free port") from error
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
    print(f"{folder} is shown at http://127.0.0.1:{server.server_port}/ while this program runs", file=sys.stderr)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    folder: Path
    timeout = 30

    def log_message(self, *_: object) -> None:
        """Requests are no part of the program's log."""

    def do_GET(self) -> None:
        """Send a file, or the list of a folder's files."""
        assert isinstance(self.server, ThreadingHTTPServer)
        port = self.server.server_port
        # Another site's page may reach this port under a name of its own (DNS rebinding).
        if self.headers.get("Host") not in (f"127.0.0.1:{port}", f"localhost:{port}"):
            self.send_error(403)
            return
        path = self._find(unquote(self.path.partition("?")[0]))
        if path is None:
            self.send_error(404)
        elif path.is_dir() or not path.exists():
            self._send(BytesIO(self._list(path).encode("utf-8", "backslashreplace")), TYPES[".html"])
        else:
            with path.open("rb") as file:
                self._send(file, TYPES[path.suffix])

    do_HEAD = do_GET

    def _find(self, asked: str) -> Path | None:
        """The file or folder that is asked for, if it lies in the folder, links followed, and may be shown."""
        parts = asked.split("/")
        if any(part.startswith(".") for part in parts) or "\0" in asked:
            return None
        root = self.folder.resolve()
        path = root.joinpath(*filter(None, parts)).resolve()
        folder = asked.endswith("/") and (path.is_dir() or path == root)
        if folder:
            path = next((path / name for name in PAGES if (path / name).is_file()), path).resolve()
        shown = path.suffix in TYPES if path.is_file() else folder  # a page may be a link
        return path if shown and path.is_relative_to(root) else None

    def _send(self, content: BinaryIO, kind: str) -> None:
        length = content.seek(0, 2)
        content.seek(0)
        self.send_response(200)
        headers = {"Content-Type": kind, "Content-Length": str(length), "Cache-Control": "no-store"}
        for name, value in (headers | {"X-Content-Type-Options": "nosniff"}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            shutil.copyfileobj(content, self.wfile)

    def _list(self, folder: Path) -> str:
        """A page with a folder's pictures, and links to all else that it shows; it loads itself again."""
        found = sorted(path for path in folder.iterdir() if path.name[0] != ".") if folder.is_dir() else []
        links = [_link(path.name + "/" * path.is_dir()) for path in found if path.is_dir() or path.suffix in TYPES]
        names = [path.name for path in found if path.suffix == ".png"]
        pictures = [f'<img src="{quote(name)}" alt="{escape(name)}">' for name in names]
        title = escape(folder.name)
        return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">{RELOAD}<title>{title}</title><style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 1.5rem auto; padding: 0 1rem; }}
li, h1 {{ overflow-wrap: anywhere; }}
img {{ max-width: 100%; background: #fff; }}
</style></head><body><h1>{title}</h1>
<ul>{"".join(links) or "<li>nothing yet</li>"}</ul>
{"".join(pictures)}
</body></html>
"""


def _link(name: str) -> str:
    return f'<li><a href="{quote(name)}">{escape(name)}</a></li>'
