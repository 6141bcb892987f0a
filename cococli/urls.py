"""Paths of remote files: URLs of web servers and stores, named without the secrets in their queries."""

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus, urlsplit

from .errors import UsageError

WEB = ("http", "https")

_URL = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
_JOINED = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+):/(?!/)")  # of two slashes, pathlib keeps one

# Parameters of signed URLs (AWS, Google, Azure, Alibaba, Tencent, Akamai, CloudFront) and the usual names of secrets
_SECRET = re.compile(
    r".*(?:signature|token|secret|passw|credential|auth(?!or)|session|jwt|hmac).*"
    r"|(?:.*[-_])?l?sig|(?:.*[-_])?(?:api|access|account|private)?[-_]?key(?:[-_]?pair)?(?:[-_]?id)?"
    r"|awsaccesskeyid|ossaccesskeyid|googleaccessid|expires?|policy|pwd|pass|x-(?:amz|goog|oss|obs|cos|tos|ms)-.*"
    r"|q-(?:sign|ak|key|header|url).*|hdn(?:ts|ea|tl)",
    re.IGNORECASE,
)
_COMPANIONS = {  # parameters that a signature covers, and their signature
    "sig": frozenset(("sv", "st", "se", "sr", "sp", "spr", "sip", "ss", "srt", "skoid", "sktid", "skt", "ske")),
    "hm": frozenset(("ex", "is", "hm")),
}


def is_url(name: str) -> bool:
    """Return whether a name is a URL, and no file has that very name."""
    return _URL.match(name) is not None and not os.path.lexists(name)


def scheme_of(url: str) -> str:
    """Return the scheme of a URL in lower case, such as `s3`."""
    return url.partition("://")[0].lower()


def public_name(url: str) -> str:
    """Return a URL without passwords, signatures and tokens, and for web servers without its fragment.

    It stays the same when a URL is signed again.
    """
    if not any(char in url for char in "?#@"):
        return url
    scheme, _, rest = url.partition("://")
    is_web = scheme.lower() in WEB
    if is_web:
        rest = rest.partition("#")[0]
    host, slash, path = rest.partition("/")
    user, at, place = host.rpartition("@")
    if at and (is_web or ":" in user):
        host = place if is_web else f"{user.partition(':')[0]}@{place}"
    path, mark, query = f"{host}{slash}{path}".partition("?")
    pairs = query.split("&")
    names = {unquote_plus(pair.partition("=")[0]).lower() for pair in pairs}
    hidden = set().union(*(companions for name, companions in _COMPANIONS.items() if name in names))
    kept = [pair for pair in pairs if not _is_secret(pair, hidden)]
    return f"{scheme}://{path}{mark if kept else ''}{'&'.join(kept)}"


def _is_secret(pair: str, hidden: set[str]) -> bool:
    name = unquote_plus(pair.partition("=")[0]).lower()
    return name in hidden or _SECRET.fullmatch(name) is not None


class RemotePath(type(Path())):  # type: ignore[misc]
    """A remote file, wherever a path is expected. `remote_path` makes one.

    Its text is its public name. What reads it needs `local_copy` of `media.remote`.

    Attributes:
        url: The whole URL, secrets included; never to be shown.
        version: Changes when the file does; empty if unknown.
    """

    __slots__ = ("_public", "_url", "_version")

    @property
    def url(self) -> str:
        return getattr(self, "_url", "") or str(self)

    @property
    def version(self) -> str:
        return getattr(self, "_version", "")

    @property
    def suffix(self) -> str:
        """Suffix of the file, without the query of its URL."""
        path = urlsplit(str(self)).path if scheme_of(str(self)) in WEB else str(self)
        return os.path.splitext(path)[1]  # noqa: PTH122 - not the suffix of this path

    def __str__(self) -> str:
        try:
            return self._public
        except AttributeError:  # made of another by pathlib
            return _JOINED.sub(r"\1://", super().__str__())

    def __fspath__(self) -> str:
        return str(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return remote_path, (self.url, self.version, str(self))


def remote_path(url: str, version: str = "", name: str = "") -> RemotePath:
    """Return the path of a remote file.

    Args:
        version: Changes when the file does.
        name: Its public name, if it is not that of the URL.
    """
    name = name or public_name(url)
    path = RemotePath(name)
    path._public = name
    path._url = "" if url == name else url
    path._version = version
    return path


def path_of(name: str) -> Path:
    """Return the path of a file, remote or not.

    Raises:
        UsageError: The name is empty, which `Path` would take for the working folder.
    """
    if not name:
        raise UsageError("a path is empty", "is a variable in it unset? . is the working folder")
    return remote_path(name) if is_url(name) else Path(name)


def place_of(name: str) -> str:
    """Return what identifies a file from any working folder: its absolute path, or the public name of a URL."""
    return public_name(name) if is_url(name) else str(Path(name).absolute())
