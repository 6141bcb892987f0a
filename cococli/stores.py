"""Files of S3, Google Cloud Storage, Hadoop and other stores, through fsspec.

Credentials and addresses come from the environment of each store, as from AWS_PROFILE and AWS_ENDPOINT_URL.
"""

import errno
import random
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

from .errors import UsageError
from .urls import WEB, public_name, scheme_of

TRIES = 4
_PAUSE = 0.5  # seconds before the second try; twice as long before each further one
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}
_VERSIONS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "updated", "modified", "created")
_TIMES = ("LastModified", "last_modified", "updated", "mtime", "modified", "created")
_HINT = "check the name and the credentials"

T = TypeVar("T")


class RemoteError(Exception):
    """A failed request. The message names neither the file nor secrets.

    Args:
        reason: What went wrong, in lower case.
        retry: Another request may succeed.
        transient: The next run should try again.
        wait: Seconds that the server asks to wait.
    """

    def __init__(self, reason: str, retry: bool = False, transient: bool = False, wait: float | None = None) -> None:
        super().__init__(reason)
        self.reason, self.retry, self.transient, self.wait = reason, retry, transient or retry, wait


class Listed(NamedTuple):
    """A file of a store."""

    url: str
    version: str  # changes when the file does; empty if the store does not tell
    modified: float | None  # seconds since the epoch


def open_store(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URL, and the path in it.

    Raises:
        UsageError: Its package is missing, or there is none for the scheme.
    """
    scheme = scheme_of(url)
    try:
        import fsspec
    except ImportError:
        raise UsageError(f"{scheme}:// needs fsspec", "pip install 'cococli[remote]'") from None
    try:
        fs, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        package = _PACKAGES.get(scheme, getattr(error, "name", "") or "another package")
        hint = "pip install 'cococli[remote]'" if package == "s3fs" else f"pip install {package}"
        raise UsageError(f"{scheme}:// needs {package}", hint) from None
    except ValueError as error:
        if "not known" in str(error):
            raise UsageError(f"files of {scheme}:// cannot be read", "download them first") from None
        raise UsageError(f"{public_name(url)} is not a valid URL") from None
    except Exception as error:
        raise UsageError(f"cannot use {scheme}://: {str(error).splitlines()[0]}") from None
    return fs, str(path)


@contextmanager
def store_errors() -> Iterator[None]:
    """Describe what fsspec and its packages raise.

    Raises:
        RemoteError: Something failed.
    """
    try:
        yield
    except (RemoteError, UsageError):
        raise
    except FileNotFoundError:
        raise RemoteError("not found (404)") from None
    except PermissionError:
        raise RemoteError("forbidden (403)", transient=True) from None
    except (TimeoutError, ConnectionError) as error:
        raise RemoteError("timed out" if isinstance(error, TimeoutError) else "connection lost", retry=True) from None
    except IsADirectoryError:
        raise RemoteError("a folder, not a file") from None
    except Exception as error:
        kind = type(error).__name__
        if "Credentials" in kind:  # of botocore and google.auth
            raise RemoteError("no credentials found", transient=True) from None
        if "Timeout" in kind:
            raise RemoteError("timed out", retry=True) from None
        detail = str(error).splitlines()[0] if isinstance(error, OSError) and "://" not in str(error) else ""
        raise RemoteError(f"{kind}: {detail}" if detail else kind, retry=True) from None


def retrying(action: Callable[[], T], progress: Callable[[], object] = lambda: None) -> T:
    """Call a function until it succeeds, with growing pauses between tries.

    Args:
        progress: Called before each try.

    Raises:
        RemoteError: The last try failed, or another would not help.
    """
    for attempt in range(TRIES):
        progress()
        try:
            return action()
        except RemoteError as error:
            if not error.retry or attempt == TRIES - 1:
                raise
            pause = _PAUSE * 2**attempt * random.uniform(0.5, 1)
            time.sleep(pause if error.wait is None else error.wait)
    raise AssertionError


def list_files(url: str) -> Iterator[Listed]:
    """List the files below a prefix, or those that a pattern matches.

    Raises:
        UsageError: It cannot be listed, or nothing is there.
    """
    fs, path = open_store(url)
    pattern = _magic_at(path)
    # What the store calls the path may differ from the rest of the URL, as without the host.
    fixed = path if pattern is None else path[: path.rfind("/", 0, pattern) + 1]
    base = url.rstrip("/") if pattern is None else url[: url.rfind("/", 0, _magic_at(url)) + 1].rstrip("/")
    fixed, count = fixed.rstrip("/"), 0
    try:
        for name, info in _found(fs, path, pattern is not None):
            count += 1
            yield Listed(f"{base}/{name[len(fixed) :].lstrip('/')}", _version(info), _modified(info))
    except RemoteError as error:
        raise UsageError(f"cannot list {public_name(url)}: {error.reason}", _HINT) from None
    if not count:
        raise UsageError(f"{public_name(url)} holds no file", _HINT)


def _found(fs: Any, path: str, is_pattern: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what is below a path, or what a pattern matches and what is below that, and what the store tells of each.

    Raises:
        RemoteError: They cannot be listed.
    """
    fs.invalidate_cache()
    if is_pattern:
        for name, info in _retried(lambda: fs.glob(path, detail=True)).items():
            if info.get("type") == "directory":
                yield from _found(fs, name, is_pattern=False)
            else:
                yield name, info
    elif "s3" in fs.protocol:
        yield from _found_in_s3(fs, path)
    else:
        yield from _retried(lambda: fs.find(path, detail=True)).items()
    fs.invalidate_cache()


def _found_in_s3(fs: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the same from S3, page by page: s3fs would keep all pages in memory."""
    bucket, key, _ = fs.split_path(path.rstrip("/"))
    query = {"Bucket": bucket, "Prefix": f"{key}/" if key else "", **fs.req_kw}
    _retried(fs.connect)
    with suppress(AttributeError):  # parsing dates would take half of the time
        fs.session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_parse_time)
    while True:
        page = _retried(lambda: fs.call_s3("list_objects_v2", **query))
        for info in page.get("Contents", ()):
            if not info["Key"].endswith("/"):
                yield f"{bucket}/{info['Key']}", {**info, "size": info["Size"]}
        if not page.get("IsTruncated"):
            return
        query["ContinuationToken"] = page["NextContinuationToken"]


def _parse_time(value: str | float) -> datetime:
    """Parse the times of S3's answers: ISO 8601, seconds since the epoch, or as in headers."""
    try:
        return datetime.fromtimestamp(float(value), UTC)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(str(value))
    except ValueError:
        return parsedate_to_datetime(str(value))


def version_of(url: str) -> str:
    """Return what changes when a file does; empty if there is no file, or the store does not tell."""
    fs, path = open_store(url)
    try:
        with store_errors():
            fs.invalidate_cache()
            return _version(fs.info(path))
    except RemoteError:
        return ""


def read_file(url: str) -> bytes:
    """Return the content of a file.

    Raises:
        OSError: It cannot be read.
    """
    fs, path = open_store(url)
    with _as_os_error():
        return bytes(_retried(lambda: fs.cat_file(path)))


def upload(file: Path, url: str) -> None:
    """Copy a file to a store, where it appears complete or not at all.

    Raises:
        OSError: It cannot be written.
    """
    fs, path = open_store(url)
    with _as_os_error():
        _retried(lambda: fs.put_file(str(file), path))


def remove(url: str) -> None:
    """Remove a file, if there is one.

    Raises:
        OSError: It cannot be removed.
    """
    fs, path = open_store(url)
    with _as_os_error():
        if version_of(url):
            _retried(lambda: fs.rm_file(path))


def check_writable(url: str) -> None:
    """Check that a file can be written, by writing an empty one beside it and removing that.

    Raises:
        UsageError: It cannot, or the package of the store is missing.
    """
    name = public_name(url)
    if scheme_of(url) in WEB:
        raise UsageError(f"cannot write {name}, to a web server", "name a store, as s3://bucket/out.jsonl")
    fs, path = open_store(url)
    probe = f"{path.rpartition('/')[0]}/.coca-{secrets.token_hex(8)}.part"
    try:
        _retried(lambda: fs.pipe_file(probe, b""))
    except RemoteError as error:
        raise UsageError(f"cannot write {name}: {error.reason}", _HINT) from None
    with suppress(Exception):  # some may write, but not delete
        fs.rm_file(probe)


def _retried(action: Callable[[], T]) -> T:
    def attempt() -> T:
        with store_errors():
            return action()

    return retrying(attempt)


@contextmanager
def _as_os_error() -> Iterator[None]:
    try:
        yield
    except RemoteError as error:
        raise OSError(errno.EIO, error.reason) from None


@contextmanager
def open_file(url: str) -> Iterator[tuple[BinaryIO, str]]:
    """Open a file to read parts of it, a few megabytes at a time, and return its version, too; see `Listed`.

    Raises:
        OSError: It cannot be read.
        UsageError: Its package is missing.
    """
    fs, path = open_store(url)
    with _as_os_error(), store_errors():
        info = fs.info(path)
        with fs.open(path, "rb") as file:
            yield file, _version(info)


def is_prefix(url: str) -> bool:
    """Return whether a URL without a suffix stands for a folder of a store, and not for a file.

    Raises:
        UsageError: Its package is missing.
    """
    if scheme_of(url) in WEB:
        return False
    if url.endswith("/"):
        return True
    fs, path = open_store(url)
    try:
        with store_errors():
            return bool(fs.isdir(path))
    except RemoteError:
        return False  # reading it says why


def has_magic(url: str) -> bool:
    """Return whether a URL of a store is a pattern. That of a web server never is."""
    return scheme_of(url) not in WEB and _magic_at(url) is not None


def _magic_at(text: str) -> int | None:
    places = [place for char in "*?[" if (place := text.find(char)) >= 0]
    return min(places, default=None)


def _version(info: dict[str, Any]) -> str:
    version = next((str(info[name]) for name in _VERSIONS if info.get(name)), "")
    return f"{info.get('size')} {version}" if version or info.get("size") is not None else ""


def _modified(info: dict[str, Any]) -> float | None:
    value = next((info[name] for name in _TIMES if info.get(name)), None)
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if isinstance(value, datetime):
        return value.timestamp()
    return float(value) if isinstance(value, int | float) else None
