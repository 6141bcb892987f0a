"""The server of `coca review`: one page for one user, on this machine only."""

import asyncio
import json
import math
import mimetypes
import re
import secrets
import shlex
import socket
import tempfile
import threading
import webbrowser
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .. import interrupts
from ..captioning.records import Record
from ..errors import CocaError, UsageError, VideoError
from ..files import find_member, open_binary
from ..parsing import parse_json, validate
from ..report.map import place
from ..report.page import render
from ..retrieval.index import Entry
from ..retrieval.search import Found, Part, Query, Searcher
from .edits import Conflict, Review, Verdict
from .export import Form, export
from .frames import encode_frames
from .guard import HOST, Guard

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

LARGEST_PICTURE = 64 << 20  # bytes of a dropped file
LARGEST_BODY = 1 << 20  # bytes of a request
POLL = 0.3  # seconds between looks at the files of a review
HITS = 200  # results of a search
_TYPES = {".m4v": "video/mp4", ".mkv": "video/x-matroska", **dict.fromkeys((".ts", ".mts", ".m2ts"), "video/mp2t")}


T = TypeVar("T")


@dataclass(frozen=True)
class Edited:
    """Body of a request that edits a record."""

    version: int
    correction: str | None = None
    verdict: Verdict | None = None


@dataclass(frozen=True)
class Wanted:
    """Body of a search for a sentence."""

    query: str


@dataclass(frozen=True)
class Exported:
    """Body of a request to export."""

    form: Form


class ReviewServer:
    """Serves the page of a review, or of the hits of a search."""

    def __init__(
        self,
        review: Review,
        port: int = 0,
        searcher: Searcher | None = None,
        found: Sequence[Found] | None = None,
        query: str = "",
    ) -> None:
        """Listen, without answering yet.

        Args:
            port: 0 for a free one.
            searcher: Answers queries.
            found: Hits that the page shows first.
            query: What they were found by.

        Raises:
            UsageError: The port is taken.
        """
        self.review, self.searcher = review, searcher
        self.first = None if found is None else {"query": query, "hits": self._hits(found)}
        self.socket = _listen(port)
        self.port: int = self.socket.getsockname()[1]
        self.token = secrets.token_urlsafe(24)
        self.url = f"http://{HOST}:{self.port}/{self.token}/"
        self.stopping: Callable[[], bool] = lambda: False
        self._searching, self._decoding = threading.Lock(), threading.Lock()

    def run(self, open_browser: bool = True) -> None:
        """Serve until Ctrl-C."""
        import uvicorn

        guard = self.app()
        config = uvicorn.Config(
            guard, lifespan="off", ws="none", log_level="critical", access_log=False, timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        self.stopping = lambda: server.should_exit
        if open_browser:
            guard.invitation = secrets.token_urlsafe(24)
            _open_browser(f"http://{HOST}:{self.port}/{guard.invitation}")
        with suppress(KeyboardInterrupt):  # uvicorn raises it once it has closed the connections
            server.run(sockets=[self.socket])
        interrupts.forget()

    def app(self) -> Guard:
        """Return the application, whose every path begins with the token."""
        from starlette.applications import Starlette
        from starlette.routing import Mount, Route

        routes = [
            Route("/", self._page),
            Route("/records", self._records),
            Route("/records/{id}", self._edit, methods=["PUT"]),
            Route("/events", self._events),
            Route("/media/{id}", self._media),
            Route("/frames/{id}/{number:int}", self._frame),
            Route("/search", self._search, methods=["POST"]),
            Route("/map", self._map),
            Route("/export", self._export, methods=["POST"]),
        ]
        mount = Mount(f"/{self.token}", routes=routes)
        app = Starlette(routes=[mount], exception_handlers={CocaError: _report})
        return Guard(app, self.token, self.port)

    def _page(self, request: "Request") -> "Response":
        review = self.review
        searched, editable = self.searcher is not None, review.path is not None
        facts = {"editable": editable, "search": searched, "map": searched and editable, "first": self.first}
        title = str(review.path or (self.first and self.first["query"]))
        # Its own policy stands in the page.
        headers = {"content-security-policy": "frame-ancestors 'none'"}
        return _response(render([], title, server=facts), media_type="text/html", headers=headers)

    def _records(self, request: "Request") -> "Response":
        """Send the records that changed after a stamp."""
        self.review.refresh()
        return _json(self._changes(_stamp(request)))

    async def _events(self, request: "Request") -> "Response":
        """Send changed records as they come, after the stamp of the last that the page has."""
        from starlette.concurrency import run_in_threadpool
        from starlette.responses import StreamingResponse

        async def stream(stamp: int) -> AsyncIterator[str]:
            while not self.stopping() and not await request.is_disconnected():
                try:
                    newest = await run_in_threadpool(self.review.refresh)
                except CocaError as error:
                    yield f"event: problem\ndata: {json.dumps(error.message)}\n\n"
                    newest = stamp
                if newest != stamp:
                    changes = await run_in_threadpool(self._changes, stamp)
                    stamp = changes["stamp"]
                    yield f"id: {stamp}\ndata: {json.dumps(changes)}\n\n"
                await asyncio.sleep(POLL)

        return StreamingResponse(stream(_stamp(request)), media_type="text/event-stream")

    async def _edit(self, request: "Request") -> "Response":
        from starlette.concurrency import run_in_threadpool

        fields, id = await _body(request, Edited), request.path_params["id"]
        try:
            await run_in_threadpool(self.review.edit, id, fields.version, fields.correction, fields.verdict)
        except KeyError:
            return _json({"error": "no such record"}, 404)
        except Conflict:
            return _json({"error": "edited meanwhile", "record": self._state(id)}, 409)
        return _json({"record": self._state(id)})

    def _media(self, request: "Request") -> "Response":
        """Send the file of a record, or the range of it that a player asks for."""
        from starlette.responses import FileResponse

        path = self._path(request.path_params["id"])
        if not path:
            return _json({"error": "no such file"}, 404)
        if find_member(path):
            with open_binary(path) as file:
                return _response(file.read(), media_type=_media_type(path))
        return FileResponse(path, media_type=_media_type(path), headers={"cache-control": "no-cache"})

    def _frame(self, request: "Request") -> "Response":
        """Send a frame that the model saw."""
        record = self.review.records.get(request.path_params["id"])
        number = request.path_params["number"]
        if not isinstance(record, Record) or number >= len(record.frames):
            return _json({"error": "no such frame"}, 404)
        try:
            with self._decoding:
                frame = encode_frames(record.video, record.frames)[number]
        except VideoError as error:
            return _json({"error": error.message}, 404)
        return _response(frame, media_type="image/jpeg", headers={"cache-control": "max-age=600"})

    async def _search(self, request: "Request") -> "Response":
        """Return the records that match a sentence, or the file in the body."""
        from starlette.concurrency import run_in_threadpool

        if not self.searcher:
            return _json({"error": "coca review --index INDEX makes the page search"}, 404)
        if request.headers.get("content-type", "").startswith("application/json"):
            fields = await _body(request, Wanted)
            if not fields.query.strip():
                return _json({"error": "the query is empty"}, 400)
            return _json({"hits": await run_in_threadpool(self._find, fields.query)})
        with tempfile.NamedTemporaryFile(prefix="coca-") as file:
            size = 0
            async for chunk in request.stream():
                size += len(chunk)
                if size > LARGEST_PICTURE:
                    return _json({"error": f"the file is larger than {LARGEST_PICTURE >> 20} MB"}, 413)
                file.write(chunk)
            file.flush()
            return _json({"hits": await run_in_threadpool(self._find, Path(file.name))})

    def _map(self, request: "Request") -> "Response":
        """Send a map of the records that the index holds."""
        if not self.searcher:
            return _json({"error": "coca review --index INDEX makes a map"}, 404)
        review = self.review
        return _json(place([review.state(id) for id in review.since(0)["records"]], self.searcher.index.folder))

    def _find(self, what: str | Path) -> list[dict[str, Any]]:
        assert self.searcher
        with self._searching:
            return self._hits(self.searcher.search(Query((Part(what),)), HITS))

    def _hits(self, found: Sequence[Found]) -> list[dict[str, Any]]:
        """Return records and scores of hits, best first. A record may stand for several moments of its video."""
        hits: dict[str, float] = {}
        for one in found:
            if id := self._match(one.entry):
                hits.setdefault(id, round(one.score, 4))
        return [{"id": id, "score": score} for id, score in hits.items()]

    def _match(self, entry: Entry) -> str | None:
        """Return the record that shows a moment of the index: the same, or the one that most of it lies in."""
        if not entry.video:
            return None
        if not self.review.path:
            return self.review.add(_record(entry))
        return self.review.find(entry.video, entry.start, entry.end)

    async def _export(self, request: "Request") -> "Response":
        from starlette.concurrency import run_in_threadpool

        fields = await _body(request, Exported)
        path = self.review.path
        if not path:
            return _json({"error": "there is nothing to export"}, 404)
        suffix = "/" if fields.form == "folder" else f".{fields.form}"
        destination = f"{path.with_name(path.stem)}.reviewed{suffix}"
        count = await run_in_threadpool(export, self.review, destination)
        command = f"coca finetune --data {shlex.quote(destination)}"
        return _json({"path": destination, "count": count, "command": command})

    def _changes(self, stamp: int) -> dict[str, Any]:
        changes = self.review.since(stamp)
        return {**changes, "records": [self._state(id) for id in changes["records"]]}

    def _state(self, id: str) -> dict[str, Any]:
        """Return what the page knows of a record, with the addresses of its frames and of its file if that exists."""
        state = self.review.state(id)
        exists = self._path(id) is not None
        frames = enumerate(state.get("frames", ()) if exists else ())
        thumbnails = [{"time": time, "src": f"frames/{id}/{number}"} for number, time in frames]
        return {**state, "thumbnails": thumbnails, "media": f"media/{id}" if exists else None}

    def _path(self, id: str) -> Path | None:
        """Return the file of a record, if it exists."""
        if outcome := self.review.records.get(id):
            with suppress(OSError, ValueError):
                path = Path(outcome.video)
                if path.is_file() or find_member(path):
                    return path
        return None


def _record(entry: Entry) -> Record:
    scores = (math.nan, math.nan)
    return Record(entry.video, entry.start, entry.end, entry.text, *scores, entry.frames, "", entry.segments)


def _listen(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except OSError as error:
        listener.close()
        raise UsageError(f"--port {port}: {error.strerror}", "without --port a free one is used") from None
    listener.listen()
    return listener


def _open_browser(url: str) -> None:
    """Open a browser in a window; those in a terminal would take it over."""
    with suppress(webbrowser.Error):
        browser = webbrowser.get()
        if type(browser) is not webbrowser.GenericBrowser:
            browser.open(url)


def _media_type(path: Path) -> str:
    """Return a type with which a browser shows nothing but pictures and videos."""
    suffix = path.suffix.lower()
    kind = _TYPES.get(suffix) or mimetypes.guess_type(f"x{suffix}")[0] or ""
    return kind if kind.startswith(("image/", "video/")) and "svg" not in kind else "application/octet-stream"


def _stamp(request: "Request") -> int:
    """Return the stamp of the newest change that the page has."""
    after = request.headers.get("last-event-id") or request.query_params.get("after", "0")
    return int(after) if re.fullmatch("[0-9]{1,18}", after) else 0


async def _body(request: "Request", kind: type[T]) -> T:
    """Read the JSON of a request.

    Raises:
        UsageError: It is too long, or something else.
    """
    content = b""
    async for chunk in request.stream():
        content += chunk
        if len(content) > LARGEST_BODY:
            raise UsageError("the request is too long")
    try:
        return validate(parse_json(content), kind, "request")
    except ValueError as error:
        raise UsageError(f"the request is not JSON: {error}") from None


def _json(content: object, status: int = 200) -> "Response":
    # In ASCII, as a path may hold lone surrogates.
    return _response(json.dumps(content), status, media_type="application/json")


def _report(request: "Request", error: Exception) -> "Response":
    return _json({"error": str(error)}, 400)


def _response(content: str | bytes, status: int = 200, **options: Any) -> "Response":
    from starlette.responses import Response

    return Response(content, status, **options)
