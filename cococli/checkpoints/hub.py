"""Files on the model hub: find them, and download them so that every interruption can be resumed.

Only the requests for metadata are huggingface_hub's. Of the tests of downloads in `tests/checkpoints/test_hub.py`, its
own `hf_hub_download` (version 2.4, Xet off, explicit endpoint) fails a third:

- It writes in blocks of 10 MB, so that up to 10 MB are lost with the connection or the process; a slow connection that
  breaks more often than that never makes progress, and five breaks end the download.
- It does not compare the SHA-256, so that an altered partial or finished file is accepted.
- It only warns if the disk has too little space, and reports progress to the terminal alone.
- With Xet, downloads do not resume at all, and mirrors are bypassed.
"""

import os
import re
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar
from urllib.parse import unquote
from urllib.request import getproxies, proxy_bypass

from .. import __version__
from ..catalog import MODELS, SUGGESTED
from ..errors import ModelError, UsageError
from ..files import check_space, hash_file, os_reason
from ..reporting import SILENT, Progress, Reporter
from . import hub_cache

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

PAUSES = (1.0, 2.0, 4.0)  # seconds before each retry when the hub fails
MAX_WAIT = 60  # seconds that the hub may ask to wait

_HOSTS = ("huggingface.co", "hf.co", "hf-mirror.com")
_PAGE = re.compile(  # of a model on the hub, or of a file of it
    r"(?!datasets/|spaces/|papers/|docs/|collections/)(?:api/)?(?:models/)?(?P<repository>[\w.-]+/[\w.-]+?)(?:\.git)?/?"
    r"(?:/(?:blob|resolve|raw)/(?P<revision>[^/]+)/(?P<file>.+)|/(?:tree|commit)/(?P<branch>[^/]+).*|/discussions.*)?"
)
_PROXY_AUTHENTICATION = 407  # HTTP status
_TRANSIENT = (408, 429, 500, 502, 503, 504)  # HTTP statuses worth a retry
_SIGN_IN = "set HF_TOKEN or run `hf auth login`"
_RESUMES = "what was downloaded is kept: the same command resumes there"

T = TypeVar("T")


class Unreachable(ModelError):
    """The hub did not answer: the network is closed, HF_HUB_OFFLINE is set, or there were only errors."""


class ProxyError(Unreachable):
    """The proxy in the environment cannot be used."""


@dataclass(frozen=True)
class HubFile:
    """A file in a repository, as described by the hub or, offline, by the shared download cache."""

    repository: str
    revision: str  # requested branch, tag or commit
    name: str  # path inside the repository
    commit: str  # that the revision refers to
    size: int  # bytes
    etag: str  # SHA-256 of a large file, git's hash of a small one
    url: str  # of its content at that commit; empty if only the cached copy is known
    cached: Path | None  # copy in the shared download cache (HF_HOME), made by any program

    @property
    def sha256(self) -> str:
        """SHA-256 of its content, if the hub provides it."""
        return self.etag if re.fullmatch("[0-9a-f]{64}", self.etag) else ""


def find_file(repository: str, revision: str, names: Sequence[str]) -> HubFile | None:
    """Find the first of `names` that a repository has at a revision; None if it has none of them.

    If the hub does not answer, a file in the shared download cache is returned.

    Raises:
        Unreachable: The hub does not answer, and the cache has none of them.
        ModelError: There is no such repository or revision, or this user has no access to it.
    """
    _check_names(repository, revision, *names)
    _silence_library()
    try:
        return next(filter(None, (_on_hub(repository, revision, name) for name in names)), None)
    except Unreachable:
        cached = next(filter(None, (_in_cache(repository, revision, name) for name in names)), None)
        if cached is None:
            raise
        return cached


def list_files(repository: str, revision: str) -> list[str]:
    """Return the names of all files of a repository.

    Raises:
        Unreachable: The hub does not answer.
        ModelError: There is no such repository or revision, or this user has no access to it.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    _silence_library()
    api = HfApi(_endpoint(), library_name="coca", library_version=__version__)
    try:
        return _retry(
            lambda: api.list_repo_files(repository, revision=revision), hint=f"name a file: {repository}:FILE"
        )
    except HfHubHTTPError as error:
        raise _refusal(error, repository, revision) from None


def check_hub(timeout: float) -> str:
    """Return the address of the hub if it answers one request within so many seconds.

    Raises:
        Unreachable: It does not answer.
        ModelError: It refuses access, or is not a hub.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError, RemoteEntryNotFoundError

    _silence_library()
    endpoint, repository = _endpoint(), MODELS[SUGGESTED].repository
    url = hf_hub_url(repository, "open_clip_config.json", endpoint=endpoint)
    hint = "check the network, or use files that were downloaded elsewhere: coca fetch NAME --from FILE"
    try:
        metadata = _retry(lambda: get_hf_file_metadata(url, timeout=timeout, library_name="coca"), hint, once=True)
    except RemoteEntryNotFoundError:
        return endpoint
    except HfHubHTTPError as error:
        raise _refusal(error, repository, "main") from None
    if not metadata.commit_hash:
        raise _not_a_hub(endpoint)
    return endpoint


def parse_address(name: str) -> str:
    """Turn a pasted address of the hub or its mirror, or open_clip's `hf-hub:` form, into `ORG/REPO[@REVISION][:FILE]`.

    Other names are returned unchanged, apart from the case of letters in a repository of the catalog.

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
    """Spell a repository of the catalog as the hub does; return other names unchanged."""
    repository = re.split("[@:]", name)[0]
    known = {model.repository.lower(): model.repository for model in MODELS.values()}
    return known.get(repository.lower(), repository) + name[len(repository) :]


def download(file: HubFile, folder: Path | None, reporter: Reporter = SILENT) -> Path:
    """Download a file completely, resuming what an earlier attempt left, and verify it.

    Args:
        file: Result of `find_file`. An intact copy in the shared cache is used in place, whatever the folder.
        folder: Destination folder; None for the shared download cache, where any program finds the file.

    Raises:
        Unreachable: The hub stopped answering; what was downloaded is kept.
        ModelError: The content is not what the hub promised, access is refused, or the file cannot be written.
    """
    if file.cached and _is_intact(file, file.cached, reporter):
        return file.cached
    if not file.url:
        raise Unreachable(f"{file.cached} is damaged, and the hub cannot be reached for another copy", "go online")
    _silence_library()
    try:
        return _download(file, folder, reporter)
    except OSError as error:
        home = "COCA_HOME" if folder else "HF_HOME"
        raise ModelError(
            f"cannot write {error.filename or file.name}: {os_reason(error)}",
            f"make room, or set {home} to another folder; what was downloaded is kept",
        ) from None


def missing_bytes(file: HubFile, folder: Path) -> int:
    """Return how much of a file a download into a folder would still receive."""
    if file.cached:
        return 0
    return file.size - min(file.size, max(0, _size(folder / file.name), _size(_partial(file, folder))))


def _partial(file: HubFile, folder: Path) -> Path:
    return folder / f"{file.etag}.incomplete"


def _check_names(repository: str, *paths: str) -> None:
    """Refuse names that could lead out of the folders named after them."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError:
        raise ModelError(f"{repository!r} is not a valid repository name", "write it as ORGANIZATION/NAME") from None
    for path in paths:
        if path.startswith("/") or ".." in path.split("/"):
            raise ModelError(f"{path!r} is not a valid path in {repository}")


def _silence_library() -> None:
    """Turn off telemetry and messages of huggingface_hub."""
    from huggingface_hub import constants
    from huggingface_hub.utils import logging

    # With telemetry it first downloads a list of programs to report.
    constants.HF_HUB_DISABLE_TELEMETRY = True
    logging.set_verbosity_error()


def _endpoint() -> str:
    """Return the address of the hub or its mirror, read now: huggingface_hub reads it only when imported."""
    endpoint = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    if not endpoint.startswith(("http://", "https://")):
        raise ModelError(f"HF_ENDPOINT is not a web address: {endpoint}", "it must start with https://")
    return endpoint


def _on_hub(repository: str, revision: str, name: str) -> HubFile | None:
    """Query the hub for a file; None if the repository lacks it."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError, RemoteEntryNotFoundError

    endpoint = _endpoint()
    url = hf_hub_url(repository, name, revision=revision, endpoint=endpoint)
    try:
        metadata = _retry(
            lambda: get_hf_file_metadata(url, library_name="coca", library_version=__version__),
            hint=f"check the network, or download {name} from {endpoint}/{repository}",
        )
    except RemoteEntryNotFoundError:
        return None
    except HfHubHTTPError as error:
        raise _refusal(error, repository, revision) from None
    except OSError as error:
        raise ModelError(f"cannot read {error.filename}: {os_reason(error)}", "set HF_HOME to another folder") from None
    commit, etag, size = metadata.commit_hash or "", metadata.etag or "", metadata.size
    # Both become file names.
    are_names = re.fullmatch(r"[\w-]+ [\w-]+", f"{commit} {etag}", re.ASCII)
    if not are_names or size is None or size < 0:
        raise _not_a_hub(endpoint)
    # By commit, as the revision may move on. Not `metadata.location`, which expires before slow downloads end.
    url = hf_hub_url(repository, name, revision=commit, endpoint=endpoint)
    copies = hub_cache.possible_copies(repository, commit, name, etag)
    cached = next((path for path in copies if _size(path) == size), None)
    return HubFile(repository, revision, name, commit, size, etag, url, cached)


def _in_cache(repository: str, revision: str, name: str) -> HubFile | None:
    found = hub_cache.find_file(repository, revision, name)
    if found is None:
        return None
    return HubFile(repository, revision, name, found.commit, _size(found.path), found.etag, "", found.path)


def _size(path: Path) -> int:
    """Return the bytes of a file; -1 if it does not exist."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _retry(attempt: Callable[[], T], hint: str, once: bool = False) -> T:
    """Retry a request, with pauses, while the hub fails in ways that may pass.

    Raises:
        Unreachable: It still fails.
        ModelError: Its answer cannot be read.
    """
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    _check_proxies()
    for pause in (*(() if once else PAUSES), None):
        requested = 0
        try:
            return attempt()
        except OfflineModeIsEnabled:
            raise Unreachable("HF_HUB_OFFLINE is set", "unset it to download") from None
        except HfHubHTTPError as error:
            if error.response.status_code == _PROXY_AUTHENTICATION:
                raise _proxy_error(str(_PROXY_AUTHENTICATION)) from None
            if error.response.status_code not in _TRANSIENT:
                raise
            reason = f"it answers {error.response.status_code} {error.response.reason_phrase}"
            wait = error.response.headers.get("Retry-After", "")
            requested = int(wait) if re.fullmatch("[0-9]{1,9}", wait) else 0
        except (httpx2.RequestError, httpx2.InvalidURL, ConnectionError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            if isinstance(error, httpx2.ProxyError):
                raise _proxy_error(reason) from None
        except (ValueError, LookupError, TypeError, AttributeError):
            # huggingface_hub takes answers apart without checking them.
            raise _not_a_hub(_endpoint()) from None
        if requested > MAX_WAIT:
            reason += f" and asks to wait {requested} s"
            break
        if pause is None:
            break
        time.sleep(max(pause, requested))
    if _proxy():
        raise _proxy_error(reason)
    raise Unreachable(f"cannot download from {_endpoint()}: {reason}", hint)


def _check_proxies() -> None:
    """Open the session that all requests share, which reads proxies from the environment.

    Raises:
        ProxyError: One of them cannot be used.
    """
    import httpx2
    from huggingface_hub import get_session

    try:
        get_session()
    except ImportError:
        problem = "a SOCKS proxy is set, which needs the package socksio"
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
    """Return the variable that sets the proxy, and the address without its password; None without a proxy."""
    scheme, _, rest = _endpoint().partition("://")
    proxies = getproxies()
    name = next((name for name in (scheme, "all") if proxies.get(name)), None)
    if name is None or proxy_bypass(rest.partition("/")[0]):
        return None
    return _variable(name), _masked(proxies[name])


def _variable(name: str) -> str:
    """Return the environment variable that sets the proxy of a scheme."""
    variables = (f"{name}_proxy", f"{name.upper()}_PROXY")
    return next((variable for variable in variables if os.environ.get(variable)), "the system's proxy")


def _masked(address: str) -> str:
    """Strip user name and password from an address."""
    return re.sub("^([^/@]*//)?[^/]*@", r"\1", address)


def _proxy_error(reason: str) -> ProxyError:
    """Return the error for a hub that cannot be reached through the proxy."""
    variable, address = _proxy() or ("the system's proxy", "")
    if str(_PROXY_AUTHENTICATION) in reason:
        host = address.rpartition("//")[2]
        hint = f"add them: {variable}=http://USER:PASSWORD@{host}"
        return ProxyError(f"the proxy {address} ({variable}) asks for a user name and password (407)", hint)
    hint = f"check that it is running, set {variable} to another one, or unset it"
    return ProxyError(f"cannot reach {_endpoint()} through the proxy {address} ({variable}): {reason}", hint)


def _not_a_hub(endpoint: str) -> ModelError:
    return ModelError(f"{endpoint} does not answer as a model hub", "check HF_ENDPOINT and the network's proxy")


def _refusal(error: "HfHubHTTPError", repository: str, revision: str) -> ModelError:
    """Return the error for a file that the hub refuses."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    page, status = f"{_endpoint()}/{repository}", error.response.status_code
    if isinstance(error, GatedRepoError):
        return ModelError(
            f"{repository} is gated: it needs permission to download", f"request access at {page}, then {_SIGN_IN}"
        )
    if isinstance(error, RepositoryNotFoundError):
        return ModelError(
            f"{repository} is not on the hub, or it is private", f"check the spelling; if it is private, {_SIGN_IN}"
        )
    if isinstance(error, RevisionNotFoundError):
        return ModelError(f"{repository} has no revision {revision!r}", f"its branches and tags: {page}/tree/main")
    if status in (401, 403):
        return ModelError(f"the hub denies this user access to {repository} ({status})", _SIGN_IN)
    return ModelError(f"the hub answers {status} {error.response.reason_phrase} for {repository}", f"see {page}")


def _download(file: HubFile, folder: Path | None, reporter: Reporter) -> Path:
    """Download a file, or wait while another process does and use its result."""
    from filelock import Timeout
    from huggingface_hub.utils import WeakFileLock

    if folder:
        target, lock = folder / file.name, folder / f"{file.etag}.lock"
    else:
        # In the shared cache, other programs use these names and locks, too.
        target, lock = hub_cache.blob_and_lock(file.repository, file.etag)
    part = _partial(file, folder or target.parent)
    for parent in (target.parent, part.parent, lock.parent):
        parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(WeakFileLock(lock, timeout=1))
        except Timeout:
            reporter.note(f"waiting for another process that downloads {file.name}")
            stack.enter_context(WeakFileLock(lock))
        if not (file.sha256 and _is_intact(file, target, reporter)):
            _complete(file, part, reporter)
            part.replace(target)
        if folder:
            return target
        return hub_cache.add_file(file.repository, file.revision, file.commit, file.name, file.etag)


def _complete(file: HubFile, part: Path, reporter: Reporter) -> None:
    """Download the rest of a partial file, as long as bytes arrive, and verify all of it."""
    from huggingface_hub.errors import HfHubHTTPError

    with part.open("ab") as out, reporter.progress("downloading", file.size, unit="bytes") as progress:
        if out.tell() > file.size:
            _empty(out)
        check_space(part.parent, file.size - out.tell())
        while (before := out.tell()) < file.size:
            try:
                _retry(lambda: _receive(file, out, progress), _RESUMES)
            except Unreachable:
                if out.tell() <= before:
                    raise
            except HfHubHTTPError as error:
                if error.response.status_code == 416:
                    raise _wrong_size(file, f"only {out.tell()}") from None
                raise _refusal(error, file.repository, file.revision) from None
        out.flush()
        os.fsync(out.fileno())
    if file.sha256 and (found := _hash(part, reporter)) != file.sha256:
        part.unlink()
        raise ModelError(
            f"{file.name} was damaged in transfer: its sha256 is {found}, not {file.sha256}",
            "download it again; if that does not help, a proxy or mirror alters it",
        )


def _receive(file: HubFile, out: BinaryIO, progress: Progress) -> None:
    """Request the missing bytes once, and append those that arrive."""
    from huggingface_hub import constants, get_session, hf_raise_for_status
    from huggingface_hub.utils import build_hf_headers

    headers = build_hf_headers(library_name="coca", library_version=__version__)
    # A range of compressed bytes would be useless.
    headers["Accept-Encoding"] = "identity"
    if have := out.tell():
        headers["Range"] = f"bytes={have}-"
    progress.update(have)
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with get_session().stream("GET", file.url, headers=headers, follow_redirects=True, timeout=timeout) as response:
        hf_raise_for_status(response)
        # A server that ignores ranges starts over.
        if response.status_code != 206:
            _empty(out)
        for chunk in response.iter_bytes():
            if out.tell() + len(chunk) > file.size:
                raise _wrong_size(file, "more")
            out.write(chunk)
            progress.update(out.tell())
    if out.tell() < file.size:
        raise ConnectionError(f"it ended {file.name} after {out.tell()} of {file.size} bytes")


def _empty(file: BinaryIO) -> None:
    file.truncate(0)
    file.seek(0)


def _wrong_size(file: HubFile, sent: str) -> ModelError:
    return ModelError(
        f"the hub promised {file.size} bytes of {file.name}, but sends {sent}", "try again later, or without a mirror"
    )


def _is_intact(file: HubFile, path: Path, reporter: Reporter) -> bool:
    try:
        return _size(path) == file.size and (not file.sha256 or _hash(path, reporter) == file.sha256)
    except OSError:
        # The file may be another user's.
        return False


def _hash(path: Path, reporter: Reporter) -> str:
    with reporter.progress("checking", _size(path), unit="bytes") as progress:
        return hash_file(path, progress)
