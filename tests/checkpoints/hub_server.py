"""A model hub on this machine: a real HTTP server with the Hugging Face hub's protocol, and faults to switch on."""

import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import pytest

LARGE = 10  # bytes from which a file has its sha256 for an etag, and its bytes come from another host


class Request(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]  # names in lower case


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes = b""


class Hub:
    """Serves what was added to it, from `with Hub() as hub` on. Faults are attributes, and may change at any time."""

    def __init__(self, prefix: str = "") -> None:
        self.requests: list[Request] = []
        self.token = ""  # that must be shown
        self.gated = False
        self.ranges = True  # answered, or ignored
        self.claims: dict[str, str] = {}  # headers of files that say something else than the truth; "" leaves one out
        self.failures: Iterator[tuple[Any, ...]] = iter(())  # next answers: status, headers, and perhaps a body
        self.cuts: Iterator[int] = iter(())  # bytes after which the next contents break off
        self.piece, self.pause = 1 << 20, 0.0  # bytes sent at a time, and seconds between them
        self._files: dict[str, dict[str, dict[str, bytes]]] = {}  # repository -> commit or branch -> name -> content
        self._commits: dict[tuple[str, str], str] = {}  # repository and commit or branch -> commit
        self._prefix = prefix
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that is killed hangs up
        self.url = f"http://127.0.0.1:{self._server.server_port}{prefix}"
        self._storage = f"http://localhost:{self._server.server_port}/storage"  # to a client, another host

    def add(self, repository: str, files: Mapping[str, bytes], revision: str = "main") -> str:
        """Commit these files, all that a repository has at a revision; returns the commit."""
        commit = hashlib.sha1(repr([(name, etag(content)) for name, content in files.items()]).encode()).hexdigest()
        for name in (commit, revision):
            self._files.setdefault(repository, {})[name] = dict(files)
            self._commits[repository, name] = commit
        return commit

    @property
    def downloads(self) -> list[Request]:
        """The requests for bytes of large files."""
        return [request for request in self.requests if request.path.startswith("/storage/")]

    def __enter__(self) -> "Hub":
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request: Request) -> Answer:
        self.requests.append(request)
        if failure := next(self.failures, None):
            return Answer(*failure)
        if stored := re.fullmatch("/storage/([^/]+/[^/]+)/([^/]+)/(.+)", request.path):
            return self._stored(request.headers, *map(unquote, stored.groups()))
        if file := re.fullmatch(f"{self._prefix}/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", request.path):
            return self._resolved(request.headers, *map(unquote, file.groups()))
        if listed := re.fullmatch(rf"{self._prefix}/api/models/([^/]+/[^/]+)/tree/([^/?]+)\?.*", request.path):
            return self._listed(*map(unquote, listed.groups()))
        return Answer(404, {})

    def _resolved(self, headers: dict[str, str], repository: str, revision: str, name: str) -> Answer:
        if self.token and headers.get("authorization") != f"Bearer {self.token}":
            return Answer(401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Invalid username or password."})
        if repository not in self._files:
            return Answer(404, {"X-Error-Code": "RepoNotFound"})
        if self.gated:
            return Answer(403, {"X-Error-Code": "GatedRepo"})
        if revision not in self._files[repository]:
            return Answer(404, {"X-Error-Code": "RevisionNotFound"})
        if name not in self._files[repository][revision]:
            return Answer(404, {"X-Error-Code": "EntryNotFound"})
        commit, content = self._commits[repository, revision], self._files[repository][revision][name]
        about = {"X-Repo-Commit": commit, "ETag": f'"{etag(content)}"'}
        if len(content) < LARGE:
            return Answer(200, about | self.claims, content)
        about |= {
            "Location": f"{self._storage}/{repository}/{commit}/{name}",
            "X-Linked-ETag": f'"{etag(content)}"',
            "X-Linked-Size": str(len(content)),
            "X-Xet-Hash": etag(b"xet" + content),
            "Link": f'<https://huggingface.co/api/models/{repository}/xet-read-token/{commit}>; rel="xet-auth"',
        }
        return Answer(302, about | self.claims)

    def _listed(self, repository: str, revision: str) -> Answer:
        files = self._files[repository][revision].items()
        entries = [{"type": "file", "path": name, "size": len(it), "oid": etag(it)} for name, it in files]
        return Answer(200, {"Content-Type": "application/json"}, json.dumps(entries).encode())

    def _stored(self, headers: dict[str, str], repository: str, commit: str, name: str) -> Answer:
        if "authorization" in headers:
            return Answer(400, {})  # as storage does that is shown a token besides its signature
        content = self._files[repository][commit][name]
        wanted = re.fullmatch(r"bytes=(\d+)-", headers.get("range", "")) if self.ranges else None
        if not wanted:
            return Answer(200, {}, content)
        start, size = int(wanted[1]), len(content)
        if start >= size:
            return Answer(416, {"Content-Range": f"bytes */{size}"})
        return Answer(206, {"Content-Range": f"bytes {start}-{size - 1}/{size}"}, content[start:])


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.hub.answer(Request(self.command, self.path, headers))
        self.send_response(answer.status)
        for name, value in ({"Content-Length": str(len(answer.body))} | answer.headers).items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command == "GET" and answer.body:
            self._send(answer.body, min(next(self.hub.cuts, len(answer.body)), len(answer.body)))

    do_HEAD = do_GET

    def _send(self, body: bytes, end: int) -> None:
        for start in range(0, end, self.hub.piece):
            if start:
                time.sleep(self.hub.pause)
            self.wfile.write(body[start : min(start + self.hub.piece, end)])
        self.close_connection = end < len(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def etag(content: bytes) -> str:
    """The hub's name for a content: its sha256 when it is large, else git's hash."""
    if len(content) >= LARGE:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def know_only(hub: Hub, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process, and those that it starts, know no other hub, an own HF_HOME, no token and no proxy."""
    import huggingface_hub
    from huggingface_hub import constants

    for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))]:
        monkeypatch.delenv(name)
    for name, value in {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "no_proxy": "*"}.items():
        monkeypatch.setenv(name, value)
    # What it read when it was imported:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    huggingface_hub.close_session()  # it keeps the proxies of when it was opened
