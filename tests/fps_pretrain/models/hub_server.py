"""As much of the Hugging Face hub as its client asks for when it downloads from a repository and commits to one."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

Files = dict[str, bytes]


class Hub:
    """Repositories by name, the files of their branches, and what was asked for."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, Files]] = {}
        self.private: set[str] = set()
        self.asked: list[str] = []
        self.tokens: set[str | None] = set()
        self.refuses: int | None = None

    def find(self, repo: str, revision: str) -> tuple[Files | None, str]:
        """The files of a revision, or None and what there is not."""
        if repo not in self.repos:
            return None, "RepoNotFound"
        for branch, files in self.repos[repo].items():
            if revision in (branch, sha_of(files)):
                return files, ""
        return None, "RevisionNotFound"


def sha_of(files: Files) -> str:
    return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


class Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def _send(self, status: int, body: bytes = b"{}", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), Content_Type="application/json")

    def _answers(self, repo: str, revision: str) -> Files | None:
        files, absent = self.hub.find(repo, revision)
        if files is None:
            self._send(404, X_Error_Code=absent)
        return files

    def do_GET(self) -> None:
        path = self._begin()
        if path is None:
            return
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path):
            if (files := self._answers(found[1], found[2] or "main")) is not None:
                siblings = [{"rfilename": name} for name in files]
                about = {"id": found[1], "sha": sha_of(files), "private": found[1] in self.hub.private}
                self._json({**about, "siblings": siblings})
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            if (files := self._answers(found[1], found[2])) is not None:
                if found[3] not in files:
                    return self._send(404, X_Error_Code="EntryNotFound", X_Repo_Commit=sha_of(files))
                content = files[found[3]]
                etag = f'"{hashlib.sha1(content).hexdigest()}"'
                self._send(200, content, ETag=etag, X_Repo_Commit=sha_of(files))
        else:
            self._send(404)

    do_HEAD = do_GET

    def _begin(self) -> str | None:
        path = self.path.partition("?")[0]
        self.hub.asked.append(f"{self.command} {path}")
        self.hub.tokens.add(self.headers.get("Authorization"))
        if self.hub.refuses is not None:
            self._send(self.hub.refuses)
            return None
        return path

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self._begin()
        if path is None:
            return
        lines = [json.loads(line) for line in body.splitlines()]
        if path == "/api/repos/create":
            name = (
                f"{lines[0]['organization']}/{lines[0]['name']}" if lines[0].get("organization") else lines[0]["name"]
            )
            url = {"url": f"http://{self.headers['Host']}/{name}"}
            if name in self.hub.repos:
                return self._send(409, json.dumps(url).encode())
            self.hub.repos[name] = {"main": {}}
            self.hub.private |= {name} if lines[0].get("private") or lines[0].get("visibility") == "private" else set()
            self._json(url)
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/branch/([^/]+)", path):
            if found[2] in self.hub.repos[found[1]]:
                return self._send(409)
            self.hub.repos[found[1]][found[2]] = dict(self.hub.repos[found[1]]["main"])
            self._json({})
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif re.fullmatch(r"/api/models/[^/]+/[^/]+/preupload/[^/]+", path):
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in lines[0]["files"]
            ]
            self._json({"files": files})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/([^/]+)", path):
            files = self.hub.repos[found[1]][found[2]]
            new = [line["value"] for line in lines if line["key"] == "file"]
            files |= {file["path"]: base64.b64decode(file["content"]) for file in new}
            sha = sha_of(files)
            url = f"http://{self.headers['Host']}/{found[1]}/commit/{sha}"
            self._json({"success": True, "commitOid": sha, "commitUrl": url})
        else:
            self._send(404)
        return None


@contextmanager
def serving(hub: Hub) -> Iterator[str]:
    """The address at which ``hub`` answers."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def point_to(monkeypatch: pytest.MonkeyPatch, address: str, cache: Path, *, offline: bool = False) -> None:
    """What HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE do before huggingface_hub is imported."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
