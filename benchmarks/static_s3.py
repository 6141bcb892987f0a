"""A server of S3's protocol for benchmarks, which takes little of the processor: it lists keys and sends files.

    python benchmarks/static_s3.py --keys 100000 [--folder clips/]

The bucket `numbered` has keys that are in no memory. The bucket `files` has the files of a folder.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

PAGE = 1000  # keys
TIME = "2026-01-01T00:00:00.000Z"
DATE = "Thu, 01 Jan 2026 00:00:00 GMT"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    keys: tuple[str, ...] = ()  # of the folder
    folder = Path()
    count = 0

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        bucket, _, key = unquote(url.path).lstrip("/").partition("/")
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if not key:
            self.answer(200, self.listing(bucket, query), {"Content-Type": "application/xml"})
        elif bucket == "files" and (path := self.folder / key).is_file():
            self.send_file(path)
        else:
            self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")

    do_HEAD = do_GET

    def listing(self, bucket: str, query: dict[str, str]) -> bytes:
        prefix, start = query.get("prefix", ""), int(query.get("continuation-token", 0))
        size = min(int(query.get("max-keys", PAGE)), PAGE)
        if bucket == "files":
            found = [key for key in self.keys if key.startswith(prefix)]
            page, is_truncated = found[start : start + size], start + size < len(found)
        else:
            page = [
                f"2024/{number // PAGE:06}/{number:012}.mp4" for number in range(start, min(start + size, self.count))
            ]
            is_truncated = start + size < self.count
        token = f"<NextContinuationToken>{start + size}</NextContinuationToken>" if is_truncated else ""
        contents = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>{TIME}</LastModified>"
            f'<ETag>"{md5(key.encode()).hexdigest()}"</ETag><Size>1000</Size></Contents>'
            for key in page
        )
        return (
            f"<ListBucketResult><Name>{bucket}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(page)}</KeyCount>"
            f"<IsTruncated>{str(is_truncated).lower()}</IsTruncated>{token}{contents}</ListBucketResult>"
        ).encode()

    def send_file(self, path: Path) -> None:
        size, headers = path.stat().st_size, {"ETag": f'"{path.stat().st_mtime_ns:x}"', "Accept-Ranges": "bytes"}
        start, end, status = 0, size, 200
        if wanted := self.headers.get("Range"):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, end, status = int(first), min(int(last) + 1 if last else size, size), 206
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        with path.open("rb") as file:
            file.seek(start)
            self.answer(status, file.read(end - start), headers)

    def answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), "Last-Modified": DATE, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def s3_server(keys: int = 0, folder: Path = Path()) -> Iterator[None]:
    """Start the server in a separate process, and set the environment of its clients."""
    words = [sys.executable, __file__, "--keys", str(keys), "--folder", str(folder)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        os.environ |= {
            "AWS_ENDPOINT_URL": server.stdout.readline().strip(),
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        try:
            yield
        finally:
            server.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path())
    given = parser.parse_args()
    Handler.count, Handler.folder = given.keys, given.folder
    if given.folder != Path():
        paths = (path.relative_to(given.folder) for path in given.folder.rglob("*") if path.is_file())
        Handler.keys = tuple(sorted(map(str, paths)))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
