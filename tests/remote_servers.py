"""A web server and an S3 server on this machine, for tests of remote files."""

import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

EXAMPLES = Path(__file__).parents[1] / "examples"
PAGE = b"<!DOCTYPE html><title>A film</title><video src='/files/moves.mp4'></video>"
TOKEN = "hidden-key-1"


class WebServer(ThreadingHTTPServer):
    """Serves the example clips, and fails in the ways that its paths name.

    Attributes:
        requests: How often each path was requested.
        ranges: The ranges that were requested.
        hold: While it is not set, `/slow/` does not answer.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: Counter[str] = Counter()
        self.ranges: list[str] = []
        self.hold = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, address: object) -> None:
        """Print nothing about clients that have left."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WebServer

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        self.server.requests[parts.path] += 1
        first = self.server.requests[parts.path] == 1
        kind, _, name = parts.path.strip("/").partition("/")
        if kind == "watch":
            self.answer(200, PAGE, "text/html")
        elif kind == "slow" and not self.server.hold.wait(60):
            self.close_connection = True
        elif kind == "busy" and first:
            self.answer(503, b"", wait="0")
        elif kind == "down":
            self.answer(500, b"", wait="0")
        elif kind == "signed" and TOKEN not in parse_qs(parts.query).get("X-Amz-Signature", []):
            self.answer(403, b"")
        elif not (EXAMPLES / name).is_file():
            self.answer(404, b"")
        else:
            self.send_file((EXAMPLES / name).read_bytes(), cut=kind == "cut" and first)

    def send_file(self, content: bytes, cut: bool) -> None:
        start, status = 0, 200
        if wanted := self.headers.get("Range"):
            self.server.ranges.append(wanted)
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, status = int(first), 206
            content = content[: int(last) + 1] if last else content
        content = content[start:]
        self.answer(status, content, "video/mp4", sent=len(content) // 2 if cut else len(content))

    def answer(self, status: int, content: bytes, kind: str = "", wait: str = "", sent: int | None = None) -> None:
        self.send_response(status)
        headers = {"Content-Length": str(len(content)), "Content-Type": kind, "Retry-After": wait, "ETag": '"1"'}
        for name, value in headers.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[:sent])
        self.close_connection = sent != len(content) and sent is not None

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


@contextmanager
def web_server() -> Iterator[WebServer]:
    with WebServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.hold.set()
        server.shutdown()
        thread.join()


class S3:
    """An S3 server with a bucket, and the environment that leads to it."""

    def __init__(self, url: str) -> None:
        import boto3

        self.environment = {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
        }
        self.client: Any = boto3.client(
            "s3", endpoint_url=url, aws_access_key_id="test", aws_secret_access_key="test", region_name="us-east-1"
        )
        self.client.create_bucket(Bucket="bucket")
        for clip in sorted(EXAMPLES.glob("*.mp4")):
            self.client.upload_file(str(clip), "bucket", f"videos/{clip.name}")

    def read(self, key: str) -> bytes:
        content: bytes = self.client.get_object(Bucket="bucket", Key=key)["Body"].read()
        return content

    def keys(self, prefix: str) -> list[str]:
        found = self.client.list_objects_v2(Bucket="bucket", Prefix=prefix)
        return [entry["Key"] for entry in found.get("Contents", ())]


@contextmanager
def s3_server() -> Iterator[S3]:
    import requests
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    requests.post(f"{url}/moto-api/reset").raise_for_status()  # what an earlier server of this process holds
    yield S3(url)
    server.stop()
