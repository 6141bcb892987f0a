"""Copies of remote files on this machine, each for as long as it is read."""

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO

from .. import __version__
from ..errors import CocaError, VideoError
from ..files import find_member, temporary_folder
from ..settings import debugging
from ..stores import RemoteError, open_store, retrying, store_errors
from ..urls import WEB, RemotePath, scheme_of
from .frames import reason, report_progress

CONNECT, IDLE = 10.0, 30.0  # seconds until a web server must have answered, and between parts of its answer
_PAGES = ("text/html", "application/xhtml", "mpegurl", "dash+xml")  # web pages and playlists
_RETRIED = (408, 425, 429)
_REFUSED = (401, 403)  # a URL that was signed again may be accepted
_SUFFIX = re.compile(r"\.\w{1,8}", re.ASCII)


class _WebPage(Exception):
    """A web server sent a page or a playlist instead of a file."""


@contextmanager
def local_copy(path: Path) -> Iterator[Path]:
    """Provide a file on this machine for the block: a remote one is downloaded, another is itself.

    A member of a remote tar (`files.member_path`) is downloaded alone, the video of a web page by yt-dlp.
    The copy is in the system's folder for temporary files, and removed after the block, or by a later process.

    Raises:
        VideoError: Why it cannot be downloaded, without its URL.
    """
    if not isinstance(path, RemotePath):
        yield path
        return
    with temporary_folder() as folder:
        suffix = path.suffix if _SUFFIX.fullmatch(path.suffix) else ""
        try:
            copy = _download(path, folder, folder / f"file{suffix}")
        except RemoteError as error:
            raise VideoError(error.reason, transient=error.transient) from None
        except CocaError as error:
            raise VideoError("; ".join(filter(None, (error.message, error.hint)))) from None
        except OSError as error:  # of the folder, as when the disk is full
            raise VideoError(reason(error), transient=True) from None
        except Exception as error:  # its text may hold the URL
            if debugging():
                raise
            raise VideoError(f"unexpected: {type(error).__name__}") from None
        yield copy


def _download(path: RemotePath, folder: Path, target: Path) -> Path:
    member = find_member(path)
    source = member.container if member else path
    assert isinstance(source, RemotePath)
    url, span = source.url, (member.offset, member.offset + member.size) if member else None
    if scheme_of(url) not in WEB:
        _from_store(url, target, span)
        return target
    with target.open("w+b") as file:
        download = _WebDownload(url, file, span)
        try:
            retrying(download.go_on, report_progress)
            return target
        except _WebPage:
            return _from_page(path, folder)


def _from_store(url: str, target: Path, span: tuple[int, int] | None) -> None:
    fs, key = open_store(url)
    from fsspec.callbacks import Callback

    class Heartbeat(Callback):
        def relative_update(self, inc: int = 1) -> None:
            report_progress(inc)

    def fetch() -> None:
        with store_errors():
            if span:
                target.write_bytes(fs.cat_file(key, start=span[0], end=span[1]))
            else:
                fs.get_file(key, str(target), callback=Heartbeat())
                if target.is_dir():
                    raise IsADirectoryError

    retrying(fetch, report_progress)


class _WebDownload:
    """A download that goes on where the last try stopped, if the server can and the file has not changed."""

    def __init__(self, url: str, file: BinaryIO, span: tuple[int, int] | None) -> None:
        self.url, self.file, self.span = url, file, span
        self.tag = ""  # identifies the file's content

    def go_on(self) -> None:
        """Make one try.

        Raises:
            RemoteError: It failed.
            _WebPage: The server sent a page.
        """
        import httpx2

        try:
            self._request()
        except httpx2.TimeoutException:
            raise RemoteError("timed out", retry=True) from None
        except (httpx2.UnsupportedProtocol, httpx2.InvalidURL, ValueError):
            raise RemoteError("not a valid URL") from None
        except httpx2.TooManyRedirects:
            raise RemoteError("too many redirects") from None
        except httpx2.ConnectError as error:
            if _is_unknown_host(error):
                raise RemoteError("no such host", transient=True) from None
            raise RemoteError("cannot connect", retry=True) from None
        except httpx2.HTTPError:
            raise RemoteError("connection lost", retry=True) from None

    def _request(self) -> None:
        done = self.file.tell() if self.tag else 0
        headers = {}
        if self.span or done:
            start, end = self.span or (0, None)
            headers["Range"] = f"bytes={start + done}-{'' if end is None else end - 1}"
        if done:
            headers["If-Range"] = self.tag
        with _client().stream("GET", self.url, headers=headers) as response:
            _check_status(response)
            kind = response.headers.get("content-type", "").lower()
            partial = response.status_code == HTTPStatus.PARTIAL_CONTENT
            if self.span and not partial:
                raise RemoteError("this server cannot send a part of a file")
            self.file.seek(done if partial else 0)
            self.file.truncate()
            tag = response.headers.get("etag", "")
            self.tag = "" if tag.startswith("W/") else tag or response.headers.get("last-modified", "")
            is_page = any(page in kind for page in _PAGES)
            for chunk in response.iter_raw():
                if is_page and chunk.lstrip()[:1] in (b"<", b"#"):
                    raise _WebPage
                is_page = False
                self.file.write(chunk)
                report_progress(len(chunk))
        self.file.flush()


@cache
def _client() -> Any:
    import httpx2

    headers = {"User-Agent": f"coca/{__version__}", "Accept": "*/*", "Accept-Encoding": "identity"}
    return httpx2.Client(headers=headers, follow_redirects=True, timeout=httpx2.Timeout(IDLE, connect=CONNECT))


def _check_status(response: Any) -> None:
    status = response.status_code
    if status < 300:
        return
    try:
        phrase = HTTPStatus(status).phrase.lower()
    except ValueError:
        phrase = "refused"
    retry = status >= 500 or status in _RETRIED
    wait = response.headers.get("retry-after", "")
    seconds = min(float(wait), IDLE) if wait.isdecimal() else None
    raise RemoteError(f"{phrase} ({status})", retry, status in _REFUSED, seconds)


def _is_unknown_host(error: BaseException | None) -> bool:
    while error:
        if isinstance(error, socket.gaierror):
            return error.errno in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))
        error = error.__cause__ or error.__context__
    return False


def _from_page(path: RemotePath, folder: Path) -> Path:
    """Download the video of a web page, about as large as models need it.

    Raises:
        RemoteError: There is none, or several.
    """
    try:
        import yt_dlp
    except ImportError:
        raise RemoteError("a web page; for videos of web sites: pip install 'cococli[web]'") from None
    options = {
        "outtmpl": str(folder / "video.%(ext)s"),
        "format": "bv*/b",
        "format_sort": ["res:480"],
        "noplaylist": True,
        "extract_flat": "in_playlist",
        "progress_hooks": [lambda _: report_progress()],
        "socket_timeout": IDLE,
        "logger": _Quiet(),
        "noprogress": True,
        "cachedir": False,
        "fixup": "never",
    }
    try:
        with yt_dlp.YoutubeDL(options) as downloader:
            found = downloader.extract_info(path.url)
    except yt_dlp.utils.DownloadError as error:
        cause = error.exc_info[1] if error.exc_info else None
        if isinstance(cause, yt_dlp.utils.UnsupportedError):
            raise RemoteError("a web page without a video that yt-dlp finds") from None
        text = re.sub(r"\x1b\[[0-9;]*m|^ERROR: |\S+://\S+", "", str(error).splitlines()[0]).strip()
        is_network = isinstance(getattr(cause, "cause", None) or cause, yt_dlp.networking.exceptions.RequestError)
        raise RemoteError(f"yt-dlp: {text}", transient=is_network) from None
    files = [file for file in folder.glob("video.*") if file.suffix != ".part"]
    if (found or {}).get("_type") == "playlist" or not files:
        raise RemoteError("a page with several videos: name each by its own URL")
    return files[0]


class _Quiet:
    """A logger that drops what yt-dlp prints: its errors are raised, too, and may hold URLs."""

    def debug(self, text: str) -> None:
        report_progress()

    info = warning = error = debug
