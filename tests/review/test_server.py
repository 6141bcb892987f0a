"""The server of a review: what it answers, and to whom."""

import html
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn
from starlette.testclient import TestClient

from cococli.captioning.records import Record
from cococli.review.edits import Review, id_of
from cococli.review.server import ReviewServer

EXAMPLES = Path(__file__).parents[2] / "examples"
VIDEO = EXAMPLES / "moves.mp4"
RECORD = Record(str(VIDEO), 0.0, 4.0, "a dog", -0.5, 0.25, (1.0, 2.0), "shapes")
ID = id_of(RECORD)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ReviewServer]:
    path = tmp_path / "out.jsonl"
    gone = Record("gone.mp4", 0.0, 4.0, "a dog", -0.5, 0.25, (1.0,), "shapes")
    path.write_text(f"{RECORD.to_json()}\n{gone.to_json()}\n")
    server = ReviewServer(Review(path))
    yield server
    server.socket.close()


@pytest.fixture
def client(server: ReviewServer) -> TestClient:
    return TestClient(server.app(), base_url=server.url)


def test_records_frames_and_page(server: ReviewServer, client: TestClient) -> None:
    page = client.get("")
    assert page.status_code == 200 and "<h1" in page.text
    assert (
        "default-src 'none'" in html.unescape(page.text)
        and "frame-ancestors 'none'" in page.headers["content-security-policy"]
    )
    answer = client.get("records").json()
    first = answer["records"][0]
    assert (first["caption"], first["id"], first["version"]) == ("a dog", ID, 0)
    assert client.get(f"records?after={answer['stamp']}").json()["records"] == []
    frame = client.get(first["thumbnails"][1]["src"])
    assert frame.headers["content-type"] == "image/jpeg" and frame.content.startswith(b"\xff\xd8")
    assert client.get(f"frames/{ID}/2").status_code == 404
    gone = answer["records"][1]
    assert (gone["thumbnails"], gone["media"]) == ([], None)
    assert client.get(f"frames/{gone['id']}/0").json() == {"error": "no such file"}
    assert client.get(f"media/{gone['id']}").status_code == 404


def test_ranges_of_videos(client: TestClient) -> None:
    content = VIDEO.read_bytes()
    whole = client.get(f"media/{ID}")
    assert (whole.content, whole.headers["content-type"]) == (content, "video/mp4")
    part = client.get(f"media/{ID}", headers={"range": "bytes=100-199"})
    assert (part.status_code, part.content) == (206, content[100:200])
    assert part.headers["content-range"] == f"bytes 100-199/{len(content)}"
    assert client.get(f"media/{ID}", headers={"range": f"bytes={len(content)}-"}).status_code == 416


@pytest.mark.parametrize(
    ("suffix", "expected"),
    [
        (".mkv", "video/x-matroska"),
        (".ts", "video/mp2t"),
        (".svg", "application/octet-stream"),
        (".html", "application/octet-stream"),
    ],
)
def test_media_types_run_no_script(tmp_path: Path, suffix: str, expected: str) -> None:
    video = tmp_path / f"video{suffix}"
    video.write_text("<script>alert(1)</script>")
    path = tmp_path / "out.jsonl"
    path.write_text(Record(str(video), 0.0, 1.0, "a", 0.0, 0.0, (), "shapes").to_json() + "\n")
    server = ReviewServer(Review(path))
    response = TestClient(server.app(), base_url=server.url).get(f"media/{next(iter(server.review.records))}")
    server.socket.close()
    assert response.headers["content-type"] == expected
    assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("id", ["..%2f..%2fetc%2fpasswd", "%2fetc%2fpasswd", "out.jsonl", str(VIDEO)])
def test_files_outside_of_review_are_not_read(client: TestClient, id: str) -> None:
    for kind in ("media/{}", "frames/{}/0"):
        assert client.get(kind.format(id)).status_code == 404


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "evil.example:{port}"},
        {"host": "127.0.0.1"},
        {"host": "127.0.0.1:1"},
        {"host": "127.0.0.1:{port}.evil.example"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"origin": "https://127.0.0.1:{port}"},
    ],
    ids=str,
)
def test_foreign_hosts_and_origins_are_refused(
    server: ReviewServer, client: TestClient, headers: dict[str, str]
) -> None:
    headers = {name: value.format(port=server.port) for name, value in headers.items()}
    body = {"version": 0, "correction": "a cat"}
    assert client.get("records", headers=headers).status_code == 403
    assert client.put(f"records/{ID}", json=body, headers=headers).status_code == 403
    assert not server.review.edits_path.exists()


def test_requests_without_token_are_refused(server: ReviewServer, client: TestClient) -> None:
    origin = f"http://127.0.0.1:{server.port}"
    for token in ("", "/", f"/{server.token[:-1]}", f"/{server.token}x", "/x", f"//{server.token}"):
        for path in ("/", "/records", f"/media/{ID}"):
            assert client.get(origin + token + path).status_code == 403
        assert client.put(f"{origin}{token}/records/{ID}", json={"version": 0, "correction": "x"}).status_code == 403
    assert not server.review.edits_path.exists()
    response = client.get(origin)
    assert response.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"


def test_invitation_leads_to_page_once(server: ReviewServer) -> None:
    guard = server.app()
    client = TestClient(guard, base_url=f"http://127.0.0.1:{server.port}", follow_redirects=False)
    guard.invitation = "welcome"
    assert client.get("/welcome", headers={"host": "evil.example"}).status_code == 403
    assert client.get("/welcome").headers["location"] == f"/{server.token}/"
    assert [client.get(path).status_code for path in ("/welcome", "/")] == [403, 403]


def test_edits_conflicts_and_wrong_requests(server: ReviewServer, client: TestClient) -> None:
    origin = {"origin": f"http://127.0.0.1:{server.port}"}
    edited = client.put(
        f"records/{ID}", json={"version": 0, "correction": "a cat", "verdict": "accepted"}, headers=origin
    )
    assert edited.status_code == 200
    assert (edited.json()["record"]["caption"], edited.json()["record"]["version"]) == ("a cat", 1)
    late = client.put(f"records/{ID}", json={"version": 0, "correction": "a cow"})
    assert (late.status_code, late.json()["record"]["caption"]) == (409, "a cat")
    for body in (b"{", b"[]", b'{"version": "x"}', b'{"version": 1, "verdict": "maybe"}', b'{"version": 1e999}'):
        assert client.put(f"records/{ID}", content=body).status_code == 400
    assert client.put("records/x", json={"version": 0}).status_code == 404
    assert client.put(f"records/{ID}", content=b" " * (2 << 20)).status_code == 400
    assert client.post("search", json={"query": "a dog"}).status_code == 404  # there is no index
    assert client.get("map").status_code == 404
    export = client.post("export", json={"form": "csv"}).json()
    assert export["count"] == 1 and Path(export["path"]).read_text() == f"path,caption\n{VIDEO},a cat\n"
    assert client.post("export", json={"form": "/etc/passwd"}).status_code == 400


@pytest.fixture
def running(server: ReviewServer) -> Iterator[ReviewServer]:
    """A server with real connections."""
    config = uvicorn.Config(server.app(), lifespan="off", ws="none", log_level="critical", timeout_graceful_shutdown=1)
    served = uvicorn.Server(config)
    server.stopping = lambda: served.should_exit
    thread = threading.Thread(target=served.run, kwargs={"sockets": [server.socket]})
    thread.start()
    yield server
    served.should_exit = True
    thread.join()


def test_events_tell_of_new_records_and_edits(running: ReviewServer) -> None:
    events: Any
    path = running.review.path
    assert path
    with httpx2.stream("GET", f"{running.url}events?after={running.review.stamp}", timeout=30) as events:
        lines = events.iter_lines()

        def next_event() -> dict[str, Any]:
            return json.loads(next(line for line in lines if line.startswith("data: ")).removeprefix("data: "))

        with path.open("a") as file:
            file.write(Record("new.mp4", 0.0, 4.0, "a new dog", -0.5, 0.25, (), "shapes").to_json() + "\n")
        assert [record["caption"] for record in next_event()["records"]] == ["a new dog"]
        Review(path).edit(ID, 0, "a cat", None)
        assert [record["caption"] for record in next_event()["records"]] == ["a cat"]
        with path.open("a") as file:
            file.write("damaged\n")
        assert next(line for line in lines if line.startswith("event: ")) == "event: problem"


def test_names_of_any_bytes_are_served(tmp_path: Path) -> None:
    name = os.fsdecode(b"<img src=x onerror=alert(1)> \xff\n.mp4")
    (tmp_path / name).write_bytes(VIDEO.read_bytes())
    record = Record(str(tmp_path / name), 0.0, 4.0, "</script><script>alert(1)", -0.5, 0.25, (1.0,), "shapes")
    path = tmp_path / "out.jsonl"
    path.write_bytes(record.to_json().encode() + b"\n")
    server = ReviewServer(Review(path))
    client = TestClient(server.app(), base_url=server.url)
    (found,) = client.get("records").json()["records"]
    assert found["video"] == str(tmp_path / name)
    assert client.get(found["media"]).content == VIDEO.read_bytes()
    assert client.get(found["thumbnails"][0]["src"]).status_code == 200
    client.put(f"records/{found['id']}", json={"version": 0, "verdict": "accepted"})
    assert client.post("export", json={"form": "folder"}).json()["count"] == 1
    server.socket.close()
