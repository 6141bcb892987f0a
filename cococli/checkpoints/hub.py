"""Files of the model hub: find them, and download them so that any interruption can be continued."""

import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar
from urllib.parse import unquote
from urllib.request import getproxies, proxy_bypass

from .. import __version__
from ..catalog import MODELS
from ..errors import ModelError, UsageError
from ..files import write_atomically
from .writing import Progress

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

PAUSES = (1.0, 2.0, 4.0)  # seconds before each new try when the hub fails
PATIENCE = 60  # seconds that the hub may ask to wait for

_HOSTS = ("huggingface.co", "hf.co", "hf-mirror.com")
_PAGE = re.compile(  # of a model on the hub, or of a file of it
    r"(?!datasets/|spaces/|papers/|docs/|collections/)(?:api/)?(?:models/)?(?P<repository>[\w.-]+/[\w.-]+?)(?:\.git)?/?"
    r"(?:/(?:blob|resolve|raw)/(?P<revision>[^/]+)/(?P<file>.+)|/(?:tree|commit)/(?P<branch>[^/]+).*|/discussions.*)?"
)
_PROXY_AUTHENTICATION = 407  # HTTP status
_PASSING = (408, 429, 500, 502, 503, 504)  # answers that another try may better
_SIGN_IN = "set HF_TOKEN or run `hf auth login`"
_CONTINUED = "what came is kept: the same command goes on from there"

Result = TypeVar("Result")


class Unreachable(ModelError):
    """The hub did not answer: the network is closed, HF_HUB_OFFLINE is set, or there were only errors."""


class ProxyError(Unreachable):
    """The proxy that the environment names cannot be used."""


@dataclass(frozen=True)
class HubFile:
    """A file in a repository of the hub, as the hub or, offline, the shared download cache describes it."""

    repository: str
    revision: str  # as asked for: a branch, a tag or a commit
    name: str  # path inside the repository
    commit: str  # what the revision stands for
    size: int  # bytes
    etag: str  # sha256 of a large file, git's hash of a small one
    url: str  # of its bytes at that commit; empty when only the cached copy is known
    cached: Path | None  # a copy in the shared download cache (HF_HOME), made by this or any other program

    @property
    def sha256(self) -> str:
        """What its bytes must hash to, if the hub says so."""
        return self.etag if re.fullmatch("[0-9a-f]{64}", self.etag) else ""


def find_file(repository: str, revision: str, names: Sequence[str]) -> HubFile | None:
    """The first of `names` that a repository has at a revision; None when it has none of them.

    When the hub does not answer, the shared download cache does, if it has one of them.

    Raises:
        Unreachable: neither the hub nor the cache answers.
        ModelError: there is no such repository or revision, or it is not open to this user.
    """
    _check_names(repository, revision, *names)
    _be_quiet()
    try:
        return next(filter(None, (_on_hub(repository, revision, name) for name in names)), None)
    except Unreachable:
        cached = next(filter(None, (_in_cache(repository, revision, name) for name in names)), None)
        if cached is None:
            raise
        return cached


def unpasted(name: str) -> str:
    """Turn a pasted address of the hub or its mirror, or open_clip's `hf-hub:` form, into `ORG/REPO[@REVISION][:FILE]`.

    Other names are returned as they are, but for the case of letters in a repository of the catalog.

    Raises:
        UsageError: It is the address of something else on the hub.
    """
    name = name.strip()
    if prefix := re.match("hf-hub:|hf://", name):
        return _known_spelling(name[prefix.end() :].strip("/"))
    mirror = re.sub("^https?://", "", os.environ.get("HF_ENDPOINT", "")).rstrip("/")
    hosts = "|".join(re.escape(host) for host in (*_HOSTS, mirror) if host)
    page = rf"(?:https?://)?(?:www\.)?(?:{hosts})(?:/(?P<path>[^?#]*))?(?:[?#].*)?"
    address = re.fullmatch(page, name, re.IGNORECASE)
    if address is None:
        return _known_spelling(name)
    found = _PAGE.fullmatch(address["path"] or "")
    if found is None:
        raise UsageError(f"{name} is not the address of a model", "name it as ORG/REPO")
    revision, file = unquote(found["revision"] or found["branch"] or "main"), unquote(found["file"] or "")
    at = "" if revision == "main" else f"@{revision}"
    return _known_spelling(found["repository"]) + at + (f":{file}" if file else "")


def _known_spelling(name: str) -> str:
    """A repository of the catalog spelt as the hub does, or the name as it is."""
    repository = re.split("[@:]", name)[0]
    known = {model.repository.lower(): model.repository for model in MODELS.values()}
    return known.get(repository.lower(), repository) + name[len(repository) :]


def download(file: HubFile, folder: Path | None, progress: Progress) -> Path:
    """Download a file, whole and verified, continuing what an earlier try left.

    Args:
        file: What `find_file` found. A good copy in the shared cache is used where it is, whatever the folder.
        folder: Where to put it under its name; None for the shared download cache, where any program finds it.
        progress: Called as bytes come (`download`) and as they are hashed (`check`).

    Raises:
        Unreachable: the hub went away; what came is kept.
        ModelError: the bytes are not those the hub promised, it refuses them, or they cannot be written.
    """
    if file.cached and _is_right(file, file.cached, progress):
        return file.cached
    if not file.url:
        raise Unreachable(f"{file.cached} is damaged, and the hub cannot be asked for another", "go online")
    _be_quiet()
    try:
        return _in_turn(file, folder, progress)
    except OSError as error:
        home = "COCA_HOME" if folder else "HF_HOME"
        raise ModelError(
            f"cannot write {error.filename or file.name}: {error.strerror}",
            f"make room, or set {home} to another folder; what came is kept",
        ) from None


def _check_names(repository: str, *paths: str) -> None:
    """Refuse what could lead out of the folders that are named after it."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError:
        raise ModelError(f"no repository can be called {repository!r}", "write it as ORGANIZATION/NAME") from None
    for path in paths:
        if path.startswith("/") or ".." in path.split("/"):
            raise ModelError(f"{repository} cannot have {path!r}")


def _be_quiet() -> None:
    """Tell the hub nothing that it was not asked for, and the terminal neither."""
    from huggingface_hub import constants
    from huggingface_hub.utils import logging

    constants.HF_HUB_DISABLE_TELEMETRY = True  # else it first asks for a list of programs to report
    logging.set_verbosity_error()


def _endpoint() -> str:
    """Address of the hub or of its mirror, read now: huggingface_hub reads it once, when it is imported."""
    endpoint = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    if not endpoint.startswith(("http://", "https://")):
        raise ModelError(f"HF_ENDPOINT is no web address: {endpoint}", "it starts with https://")
    return endpoint


def _on_hub(repository: str, revision: str, name: str) -> HubFile | None:
    """What the hub says of a file; None when the repository lacks it."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError, RemoteEntryNotFoundError

    endpoint = _endpoint()
    url = hf_hub_url(repository, name, revision=revision, endpoint=endpoint)
    try:
        answer = _patiently(
            lambda: get_hf_file_metadata(url, library_name="coca", library_version=__version__),
            hint=f"check the network, or get {name} by hand from {endpoint}/{repository}",
        )
    except RemoteEntryNotFoundError:
        return None
    except HfHubHTTPError as error:
        raise _refusal(error, repository, revision) from None
    except OSError as error:  # of the token's file
        raise ModelError(f"cannot read {error.filename}: {error.strerror}", "set HF_HOME to another folder") from None
    commit, etag, size = answer.commit_hash or "", answer.etag or "", answer.size
    are_names = re.fullmatch(r"[\w-]+ [\w-]+", f"{commit} {etag}", re.ASCII)  # they become names of files
    if not are_names or size is None or size < 0:
        raise ModelError(f"{endpoint} does not answer as a model hub", "check HF_ENDPOINT and the network's proxy")
    # By commit, lest the revision moves on. Not `answer.location`: it is signed, and expires before slow downloads end.
    url = hf_hub_url(repository, name, revision=commit, endpoint=endpoint)
    storage = _storage(repository)
    copies = (storage / "snapshots" / commit / name, storage / "blobs" / etag)
    cached = next((path for path in copies if _size(path) == size), None)
    return HubFile(repository, revision, name, commit, size, etag, url, cached)


def _in_cache(repository: str, revision: str, name: str) -> HubFile | None:
    """What the shared download cache knows of a file."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, name, revision=revision)
    if not isinstance(found, str):
        return None
    path = Path(found)  # <repository>/snapshots/<commit>/<name>, a link to <repository>/blobs/<etag>
    commit = path.parents[name.count("/")].name
    etag = path.readlink().name if path.is_symlink() else ""
    return HubFile(repository, revision, name, commit, _size(path), etag, "", path)


def _storage(repository: str) -> Path:
    """Folder of a repository in the shared download cache."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type="model")


def _size(path: Path) -> int:
    """Bytes of a file; -1 when there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _patiently(attempt: Callable[[], Result], hint: str) -> Result:
    """Try again after a pause while the hub fails in ways that may pass."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    _check_proxies()
    for pause in (*PAUSES, None):
        asked = 0
        try:
            return attempt()
        except OfflineModeIsEnabled:
            raise Unreachable("HF_HUB_OFFLINE is set", "unset it to download") from None
        except HfHubHTTPError as error:
            if error.response.status_code == _PROXY_AUTHENTICATION:
                raise _proxy_error(str(_PROXY_AUTHENTICATION)) from None
            if error.response.status_code not in _PASSING:
                raise
            reason = f"it answers {error.response.status_code} {error.response.reason_phrase}"
            wait = error.response.headers.get("Retry-After", "")
            asked = int(wait) if wait.isdigit() else 0
        except (httpx2.RequestError, httpx2.InvalidURL, ConnectionError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            if isinstance(error, httpx2.ProxyError):
                raise _proxy_error(reason) from None
        if asked > PATIENCE:
            reason += f" and asks to wait {asked} s"
            break
        if pause is None:
            break
        time.sleep(max(pause, asked))
    if _proxy():
        raise _proxy_error(reason)
    raise Unreachable(f"cannot download from {_endpoint()}: {reason}", hint)


def _check_proxies() -> None:
    """Open the session that all requests share, which reads the proxies of the environment.

    Raises:
        ProxyError: One of them cannot be used.
    """
    import httpx2
    from huggingface_hub import get_session

    try:
        get_session()
    except ImportError:
        problem = "a SOCKS proxy is set, which takes the package socksio"
        raise ProxyError(problem, "pip install socksio, or unset ALL_PROXY, HTTPS_PROXY and HTTP_PROXY") from None
    except (ValueError, httpx2.InvalidURL):
        for name, address in getproxies().items():
            try:
                httpx2.Client(proxy=address if "://" in address else f"http://{address}", trust_env=False).close()
            except (ValueError, httpx2.InvalidURL):
                hint = "write it as http://HOST:PORT or socks5://HOST:PORT, or unset it"
                raise ProxyError(f"{_variable(name)} is not the address of a proxy: {_masked(address)}", hint) from None
        raise


def _proxy() -> tuple[str, str] | None:
    """The variable that names the proxy to the hub, and the address without its password; None: there is no proxy."""
    scheme, _, rest = _endpoint().partition("://")
    proxies = getproxies()
    name = next((name for name in (scheme, "all") if proxies.get(name)), None)
    if name is None or proxy_bypass(rest.partition("/")[0]):
        return None
    return _variable(name), _masked(proxies[name])


def _variable(name: str) -> str:
    """The environment variable that names the proxy of a scheme."""
    variables = (f"{name}_proxy", f"{name.upper()}_PROXY")
    return next((variable for variable in variables if os.environ.get(variable)), "the system's proxy")


def _masked(address: str) -> str:
    """An address without a name and password."""
    return re.sub("^([^/@]*//)?[^/]*@", r"\1", address)


def _proxy_error(reason: str) -> ProxyError:
    """Why the hub cannot be reached through the proxy, and what to do about it."""
    variable, address = _proxy() or ("the system's proxy", "")
    if str(_PROXY_AUTHENTICATION) in reason:
        host = address.rpartition("//")[2]
        hint = f"put them into it: {variable}=http://USER:PASSWORD@{host}"
        return ProxyError(f"the proxy {address} ({variable}) asks for a user name and password (407)", hint)
    hint = f"check that it runs, set {variable} to another one, or unset it"
    return ProxyError(f"cannot reach {_endpoint()} through the proxy {address} ({variable}): {reason}", hint)


def _refusal(error: "HfHubHTTPError", repository: str, revision: str) -> ModelError:
    """Why the hub does not give a file, and what to do about it."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    page, status = f"{_endpoint()}/{repository}", error.response.status_code
    if isinstance(error, GatedRepoError):
        return ModelError(f"{repository} is gated: not everybody may download it", f"ask at {page}, then {_SIGN_IN}")
    if isinstance(error, RepositoryNotFoundError):
        return ModelError(
            f"{repository} is not on the hub, or it is private", f"check the spelling; if it is private, {_SIGN_IN}"
        )
    if isinstance(error, RevisionNotFoundError):
        return ModelError(f"{repository} has no revision {revision!r}", f"its branches and tags: {page}/tree/main")
    if status in (401, 403):
        return ModelError(f"the hub does not give {repository} to this user ({status})", _SIGN_IN)
    return ModelError(f"the hub answers {status} {error.response.reason_phrase} for {repository}", f"look at {page}")


def _in_turn(file: HubFile, folder: Path | None, progress: Progress) -> Path:
    """Download a file unless another process does it already; then see it do so, and take what it made."""
    from filelock import Timeout
    from huggingface_hub.utils import WeakFileLock

    storage = _storage(file.repository)
    if folder:
        target, locks = folder / file.name, folder
    else:  # with the names and locks that the cache's other users know
        target, locks = storage / "blobs" / file.etag, storage.parent / ".locks" / storage.name
    part = (folder or target.parent) / f"{file.etag}.incomplete"
    for needed in (target.parent, part.parent, locks):
        needed.mkdir(parents=True, exist_ok=True)
    while True:
        try:
            with WeakFileLock(locks / f"{file.etag}.lock", timeout=1):
                if not (file.sha256 and _is_right(file, target, progress)):
                    _complete(file, part, progress)
                    part.replace(target)
                return target if folder else _entered(file, target)
        except Timeout:
            progress("download", max(0, _size(part)), file.size)


def _complete(file: HubFile, part: Path, progress: Progress) -> None:
    """Bring a partial file to its full size, as long as bytes come, and check them."""
    from huggingface_hub.errors import HfHubHTTPError

    with part.open("ab") as out:
        if out.tell() > file.size:
            _empty(out)
        _check_space(file, part.parent, file.size - out.tell())
        while (before := out.tell()) < file.size:
            try:
                _patiently(lambda: _receive(file, out, progress), _CONTINUED)
            except Unreachable:
                if out.tell() <= before:
                    raise
            except HfHubHTTPError as error:
                if error.response.status_code == 416:  # range not satisfiable
                    raise _wrong_size(file, f"only {out.tell()}") from None
                raise _refusal(error, file.repository, file.revision) from None
        out.flush()
        os.fsync(out.fileno())
    if file.sha256 and (found := _sha256(part, progress)) != file.sha256:
        part.unlink()
        raise ModelError(
            f"{file.name} came damaged: its sha256 is {found}, not {file.sha256}",
            "download it again; if that does not help, a proxy or mirror alters it",
        )


def _receive(file: HubFile, out: BinaryIO, progress: Progress) -> None:
    """Ask once for what is missing, and append what comes.

    Plain HTTP: Xet cannot continue, and goes round a mirror. huggingface_hub's own `http_get` holds back up to 10 MB,
    which are lost with the connection or the process.
    """
    from huggingface_hub import constants, get_session, hf_raise_for_status
    from huggingface_hub.utils import build_hf_headers

    headers = build_hf_headers(library_name="coca", library_version=__version__)
    headers["Accept-Encoding"] = "identity"  # a range of compressed bytes is of no use
    if have := out.tell():
        headers["Range"] = f"bytes={have}-"
    progress("download", have, file.size)
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with get_session().stream("GET", file.url, headers=headers, follow_redirects=True, timeout=timeout) as answer:
        hf_raise_for_status(answer)
        if answer.status_code != 206:  # it starts at the beginning, whatever was asked for
            _empty(out)
        for chunk in answer.iter_bytes():
            if out.tell() + len(chunk) > file.size:
                raise _wrong_size(file, "more")
            out.write(chunk)
            progress("download", out.tell(), file.size)
    if out.tell() < file.size:
        raise ConnectionError(f"it ended {file.name} after {out.tell()} of {file.size} bytes")


def _empty(file: BinaryIO) -> None:
    file.truncate(0)
    file.seek(0)


def _check_space(file: HubFile, folder: Path, missing: int) -> None:
    if (free := shutil.disk_usage(folder).free) < missing:
        raise ModelError(f"{file.name} takes {missing / 1e9:.2f} GB, but {free / 1e9:.2f} GB are free in {folder}")


def _wrong_size(file: HubFile, sent: str) -> ModelError:
    return ModelError(
        f"the hub promised {file.size} bytes of {file.name}, but sends {sent}", "try again later, or without a mirror"
    )


def _is_right(file: HubFile, path: Path, progress: Progress) -> bool:
    try:
        return _size(path) == file.size and (not file.sha256 or _sha256(path, progress) == file.sha256)
    except OSError:  # another user's, and closed to this one
        return False


def _sha256(path: Path, progress: Progress) -> str:
    digest, done, total = hashlib.sha256(), 0, _size(path)
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
            done += len(part)
            progress("check", done, total)
    return digest.hexdigest()


def _entered(file: HubFile, blob: Path) -> Path:
    """Enter a blob into the shared cache as every program looks it up: by revision, then by commit and name.

    `hf_hub_download` would ask the hub once more for that, and download again if the revision has moved on meanwhile.
    """
    storage = blob.parent.parent
    link = storage / "snapshots" / file.commit / file.name
    link.parent.mkdir(parents=True, exist_ok=True)
    if not (link.exists() and link.samefile(blob)):
        link.unlink(missing_ok=True)
        try:
            link.symlink_to(os.path.relpath(blob, link.parent))
        except OSError:  # a file system without links, where the cache holds the file itself
            blob.replace(link)
    if file.revision != file.commit:
        ref = storage / "refs" / file.revision
        ref.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(ref) as (out,):
            out.write(file.commit.encode())
    return link
