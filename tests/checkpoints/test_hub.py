"""The hub's files: what is found, and downloads that survive every fault of a real server."""

import hashlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import chain, repeat
from pathlib import Path

import pytest
from checkpoints.hub_server import Hub, etag, know_only
from checkpoints.reporters import OnUpdate
from huggingface_hub import constants

from cococli.checkpoints import hub
from cococli.errors import ModelError

WEIGHTS = random.Random(0).randbytes(300_000)
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The only hub there is, with one model."""
    monkeypatch.setattr(hub, "PAUSES", (0.0, 0.0))
    with Hub() as server:
        know_only(server, tmp_path / "hf", monkeypatch)
        server.add("org/coca", {"weights.bin": WEIGHTS, "tiny.json": b"{}"})
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where downloads go when the shared cache is not wanted."""
    return tmp_path / "downloads"


def find(*names: str, revision: str = "main") -> hub.HubFile:
    file = hub.find_file("org/coca", revision, names or ["weights.bin"])
    assert file
    return file


def fetch(folder: Path | None) -> Path:
    return hub.download(find(), folder)


def refused(folder: Path | None) -> ModelError:
    with pytest.raises(ModelError) as caught:
        fetch(folder)
    assert "\n" not in caught.value.message
    return caught.value


def ranges(server: Hub) -> list[str]:
    """From where on bytes were asked for, request by request."""
    return [request.headers.get("range", "") for request in server.downloads]


def partial(folder: Path) -> Path:
    return folder / f"{SHA256}.incomplete"


# What is found


def test_large_file_is_described_by_redirect(server: Hub) -> None:
    commit = server.add("org/coca", {"weights.bin": WEIGHTS})
    url = f"{server.url}/org/coca/resolve/{commit}/weights.bin"
    file = hub.HubFile("org/coca", "main", "weights.bin", commit, 300_000, SHA256, url, None)
    assert hub.find_file("org/coca", "main", ["weights.bin"]) == file
    assert file.sha256 == SHA256
    assert [request.method for request in server.requests] == ["HEAD"]


def test_small_file_without_sha256_is_downloaded(server: Hub, folder: Path) -> None:
    file = find("tiny.json")
    assert (file.size, file.etag, file.sha256) == (2, etag(b"{}"), "")
    assert hub.download(file, folder).read_bytes() == b"{}"


def test_first_existing_name_is_found(server: Hub) -> None:
    assert find("weights.safetensors", "weights.bin", "tiny.json").name == "weights.bin"
    assert hub.find_file("org/coca", "main", ["weights.safetensors"]) is None


def test_revision_is_pinned_to_its_commit(server: Hub, folder: Path) -> None:
    file = find()
    server.add("org/coca", {"weights.bin": WEIGHTS[::-1]})
    assert hub.download(file, folder).read_bytes() == WEIGHTS
    assert find(revision=file.commit).commit == file.commit
    assert find().etag == etag(WEIGHTS[::-1])


@pytest.mark.parametrize(("prefix", "slash"), [("", "/"), ("/hub/mirror", ""), ("/hub/mirror", "/")])
def test_mirror_address_may_have_path_and_slash(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, prefix: str, slash: str
) -> None:
    with Hub(prefix) as server:
        know_only(server, tmp_path / "hf", monkeypatch)
        monkeypatch.setenv("HF_ENDPOINT", server.url + slash)
        server.add("org/coca", {"weights.bin": WEIGHTS})
        assert fetch(folder).read_bytes() == WEIGHTS


def test_invalid_endpoint_is_an_error(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "localhost:8000")
    assert refused(None).message == "HF_ENDPOINT is not a web address: localhost:8000"


@pytest.mark.parametrize("claims", [{"X-Repo-Commit": ""}, {"X-Linked-Size": "?"}, {"X-Linked-ETag": '"../../x"'}])
def test_server_other_than_hub_is_recognized(server: Hub, claims: dict[str, str]) -> None:
    server.claims = claims
    error = refused(None)
    assert error.message == f"{server.url} does not answer as a model hub"
    assert error.hint == "check HF_ENDPOINT and the network's proxy"


@pytest.mark.parametrize(
    ("repository", "revision", "name"),
    [
        ("a/b/c", "main", "a"),
        ("../a", "main", "a"),
        ("a/b", "../main", "a"),
        ("a/b", "main", "a/../../b"),
        ("a", "b", "/a"),
    ],
)
def test_names_leading_out_of_folders_are_refused(server: Hub, repository: str, revision: str, name: str) -> None:
    with pytest.raises(ModelError, match="is not a valid"):
        hub.find_file(repository, revision, [name])
    assert server.requests == []


# What is refused


def test_token_is_sent_to_hub_only(server: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.token = "hf_secret"
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert fetch(folder).read_bytes() == WEIGHTS
    assert ["authorization" in request.headers for request in server.requests] == [True, True, False]


def test_private_repository_asks_for_token(server: Hub) -> None:
    server.token = "hf_secret"
    error = refused(None)
    assert error.message == "org/coca is not on the hub, or it is private"
    assert error.hint == "check the spelling; if it is private, set HF_TOKEN or run `hf auth login`"


def test_unknown_repository_is_an_error(server: Hub) -> None:
    with pytest.raises(ModelError, match=r"^org/none is not on the hub, or it is private\n"):
        hub.find_file("org/none", "main", ["weights.bin"])


def test_gated_repository_names_its_page(server: Hub) -> None:
    server.gated = True
    error = refused(None)
    assert error.message == "org/coca is gated: it needs permission to download"
    assert error.hint == f"request access at {server.url}/org/coca, then set HF_TOKEN or run `hf auth login`"


def test_unknown_revision_is_an_error(server: Hub) -> None:
    with pytest.raises(ModelError, match=r"^org/coca has no revision 'v2'\n") as caught:
        find(revision="v2")
    assert caught.value.hint == f"its branches and tags: {server.url}/org/coca/tree/main"


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "the hub denies this user access to org/coca (401)"),
        (403, "the hub denies this user access to org/coca (403)"),
        (404, "the hub answers 404 Not Found for org/coca"),
    ],
)
@pytest.mark.parametrize("before", [0, 1])
def test_other_refusals_show_their_status(server: Hub, status: int, message: str, before: int) -> None:
    file = find()
    server.failures = iter([(status, {})])
    with pytest.raises(ModelError) as caught:
        find() if before else hub.download(file, None)
    assert caught.value.message == message


# What passes


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_failing_hub_is_retried(server: Hub, folder: Path, status: int) -> None:
    server.failures = repeat((status, {}), 2)
    file = find()
    server.failures = repeat((status, {}), 2)
    assert hub.download(file, folder).read_bytes() == WEIGHTS


@pytest.mark.parametrize("answer", [(200, b"{"), (200, b"\x80"), (200, b'[{"type": "file"}]'), (404, b"\x80")])
def test_unreadable_answers_are_not_of_a_hub(server: Hub, answer: tuple[int, bytes]) -> None:
    status, body = answer
    server.failures = iter([(status, {"Content-Type": "application/json"}, body)])
    with pytest.raises(ModelError, match="does not answer as a model hub"):
        hub.list_files("org/repo", "main")


def test_retry_after_is_respected(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(hub.time, "sleep", slept.append)
    monkeypatch.setattr(hub, "PAUSES", (1.0, 2.0, 4.0))
    server.failures = iter([(429, {"Retry-After": "7"}), (503, {"Retry-After": "0"}), (500, {"Retry-After": "\xb2"})])
    find()
    assert slept == [7.0, 2.0, 4.0]


def test_long_retry_after_is_not_waited_for(server: Hub) -> None:
    server.failures = iter([(429, {"Retry-After": "3600"})])
    assert refused(None).message.endswith("it answers 429 Too Many Requests and asks to wait 3600 s")
    assert len(server.requests) == 1


def test_permanently_failing_hub_is_unreachable(server: Hub) -> None:
    server.failures = repeat((503, {}))
    error = refused(None)
    assert isinstance(error, hub.Unreachable)
    assert error.message == f"cannot download from {server.url}: it answers 503 Service Unavailable"
    assert error.hint == f"check the network, or download weights.bin from {server.url}/org/coca"
    assert len(server.requests) == 3


def test_closed_network_is_unreachable(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    error = refused(None)
    assert isinstance(error, hub.Unreachable)
    assert error.message == "cannot download from http://127.0.0.1:9: [Errno 111] Connection refused"


# What is continued


def test_cut_connection_is_resumed(server: Hub, folder: Path) -> None:
    server.cuts = iter([100_000])
    assert fetch(folder).read_bytes() == WEIGHTS
    assert ranges(server) == ["", "bytes=100000-"]


def test_connection_may_be_cut_many_times(server: Hub, folder: Path) -> None:
    server.cuts = repeat(20_000)
    assert fetch(folder).read_bytes() == WEIGHTS
    assert ranges(server) == ["", *(f"bytes={start}-" for start in range(20_000, 300_000, 20_000))]


def test_partial_download_is_kept_and_resumed(server: Hub, folder: Path) -> None:
    server.cuts = chain([100_000], repeat(0))
    error = refused(folder)
    assert isinstance(error, hub.Unreachable)
    assert error.message.startswith(f"cannot download from {server.url}: ")
    assert error.hint == "what was downloaded is kept: the same command resumes there"
    assert partial(folder).read_bytes() == WEIGHTS[:100_000]
    server.cuts = iter([])
    assert fetch(folder).read_bytes() == WEIGHTS
    assert ranges(server)[-1] == "bytes=100000-"
    assert not partial(folder).exists()


def test_server_without_ranges_starts_again(server: Hub, folder: Path) -> None:
    server.ranges, server.cuts = False, iter([100_000])
    assert fetch(folder).read_bytes() == WEIGHTS
    assert ranges(server) == ["", "bytes=100000-"]


def test_server_without_ranges_is_eventually_given_up(server: Hub, folder: Path) -> None:
    server.ranges, server.cuts = False, repeat(100_000)
    assert isinstance(refused(folder), hub.Unreachable)
    assert partial(folder).read_bytes() == WEIGHTS[:100_000]


def test_slow_download_is_waited_for(server: Hub, folder: Path) -> None:
    server.piece, server.pause = 10_000, 0.01
    assert fetch(folder).read_bytes() == WEIGHTS


def test_stalled_connection_is_cut_and_resumed(server: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 3)
    server.piece, server.pause = 200_000, 600.0
    assert fetch(folder).read_bytes() == WEIGHTS
    assert ranges(server) == ["", "bytes=200000-"]


def test_partial_file_of_another_revision_is_ignored(server: Hub, folder: Path) -> None:
    server.cuts = chain([100_000], repeat(0))
    refused(folder)
    server.cuts = iter([])
    server.add("org/coca", {"weights.bin": WEIGHTS[::-1]})
    assert fetch(folder).read_bytes() == WEIGHTS[::-1]
    assert ranges(server)[-1] == ""


def test_overlong_partial_file_is_discarded(server: Hub, folder: Path) -> None:
    folder.mkdir()
    partial(folder).write_bytes(WEIGHTS + b"more")
    assert fetch(folder).read_bytes() == WEIGHTS
    assert ranges(server) == [""]


def test_complete_partial_file_is_not_downloaded_again(server: Hub, folder: Path) -> None:
    folder.mkdir()
    partial(folder).write_bytes(WEIGHTS)
    assert fetch(folder).read_bytes() == WEIGHTS
    assert ranges(server) == []


# What is wrong


@pytest.mark.parametrize(("promised", "sent"), [(300_001, "only 300000"), (299_999, "more")])
def test_wrong_size_is_an_error(server: Hub, folder: Path, promised: int, sent: str) -> None:
    server.claims = {"X-Linked-Size": str(promised)}
    error = refused(folder)
    assert error.message == f"the hub promised {promised} bytes of weights.bin, but sends {sent}"
    assert error.hint == "try again later, or without a mirror"
    assert sorted(path.suffix for path in folder.iterdir()) == [".incomplete", ".lock"]


def test_wrong_content_is_removed(server: Hub, folder: Path) -> None:
    server.claims = {"X-Linked-ETag": f'"{"a" * 64}"'}
    error = refused(folder)
    assert error.message == f"weights.bin was damaged in transfer: its sha256 is {SHA256}, not {'a' * 64}"
    assert error.hint == "download it again; if that does not help, a proxy or mirror alters it"
    assert [path.suffix for path in folder.iterdir()] == [".lock"]


def test_altered_partial_file_is_replaced(server: Hub, folder: Path) -> None:
    folder.mkdir()
    partial(folder).write_bytes(b"x" * 1000)
    assert "damaged in transfer" in refused(folder).message
    assert fetch(folder).read_bytes() == WEIGHTS


def test_finished_file_is_verified_before_use(server: Hub, folder: Path) -> None:
    path = fetch(folder)
    assert fetch(folder) == path
    assert len(server.downloads) == 1
    path.write_bytes(b"x" * len(WEIGHTS))
    assert fetch(folder).read_bytes() == WEIGHTS
    assert len(server.downloads) == 2


def test_progress_covers_download_and_check(server: Hub, folder: Path) -> None:
    server.cuts = iter([100_000])
    seen: list[tuple[str, int, int]] = []
    hub.download(find(), folder, OnUpdate(lambda *step: seen.append(step)))
    assert [stage for stage, _, _ in seen] == sorted((stage for stage, _, _ in seen), key="downloading checking".index)
    assert [step for step in seen if step[1] in (0, 300_000)] == [
        ("downloading", 0, 300_000),
        ("downloading", 300_000, 300_000),
        ("checking", 300_000, 300_000),
    ]
    assert [done for stage, done, _ in seen if stage == "downloading"] == sorted(
        done for stage, done, _ in seen if stage == "downloading"
    )


# What other processes do

# Downloads into the folder argv[1], or into the shared cache. The actions of argv[2] happen once bytes came.
DOWNLOAD = """
import os, resource, sys
from contextlib import contextmanager
from pathlib import Path
from cococli.checkpoints import hub
from cococli.errors import ModelError
from cococli.reporting import Reporter

hub.PAUSES = (0.0,)
class Acting(Reporter):
    @contextmanager
    def progress(self, *_, **__):
        yield self

    def update(self, done):
        if done:
            exec(sys.argv[2])

try:
    file = hub.find_file("org/coca", "main", ["weights.bin"])
    print(hub.download(file, Path(sys.argv[1]) if sys.argv[1] else None, Acting()))
except ModelError as error:
    print(f"{error.message}; {error.hint}")
    sys.exit(error.exit_code)
"""


def start(folder: Path | None, action: str = "", before: tuple[str, ...] = (), **env: str) -> subprocess.Popen[str]:
    command = [*before, sys.executable, "-c", DOWNLOAD, str(folder or ""), action]
    return subprocess.Popen(command, env=os.environ | env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def end(process: subprocess.Popen[str], status: int = 0) -> str:
    out, err = process.communicate(timeout=900)
    assert (process.returncode, err) == (status, ""), out + err
    return out.rstrip("\n")


@pytest.mark.parametrize("shared", [True, False])
def test_killed_download_resumes_in_next_process(server: Hub, tmp_path: Path, folder: Path, shared: bool) -> None:
    part = partial(tmp_path / "hf/hub/models--org--coca/blobs" if shared else folder)
    server.piece, server.pause = 100_000, 5.0
    process = start(None if shared else folder)
    while process.poll() is None and not (part.exists() and part.stat().st_size):
        time.sleep(0.01)
    process.kill()
    process.communicate()
    left = part.stat().st_size
    server.pause = 0.0
    assert Path(end(start(None if shared else folder))).read_bytes() == WEIGHTS
    assert ranges(server) == ["", f"bytes={left}-"]
    assert not part.exists()


def test_ctrl_c_keeps_partial_file(server: Hub, folder: Path) -> None:
    process = start(folder, "os.kill(os.getpid(), 2)")
    process.communicate(timeout=900)
    assert process.returncode == -signal.SIGINT
    left = partial(folder).read_bytes()
    assert left
    assert WEIGHTS.startswith(left)


@pytest.mark.parametrize("shared", [True, False])
def test_two_processes_at_once_download_once(server: Hub, folder: Path, shared: bool) -> None:
    server.piece, server.pause = 10_000, 0.03  # slower than a process starts
    paths = [end(process) for process in [start(None if shared else folder) for _ in range(2)]]
    assert paths[0] == paths[1]
    assert Path(paths[0]).read_bytes() == WEIGHTS
    assert ranges(server) == [""]


def test_mirror_is_never_bypassed(server: Hub, folder: Path) -> None:
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
    assert end(start(folder, no_proxy="127.0.0.1,localhost", **nowhere)) == str(folder / "weights.bin")
    assert [request.method for request in server.requests] == ["HEAD", "GET", "GET"]
    assert all("torch" not in request.headers["user-agent"] for request in server.requests)


def test_closed_proxy_is_named(server: Hub, folder: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        closed = f"socks5://127.0.0.1:{unused.getsockname()[1]}"
    out = end(start(folder, no_proxy="", ALL_PROXY=closed.replace("//", "//me:secret@")), status=3)
    assert f"through the proxy {closed} (ALL_PROXY): [Errno 111] Connection refused" in out
    assert "secret" not in out


def test_warnings_of_hub_are_not_printed(server: Hub, folder: Path) -> None:
    server.claims = {"X-HF-Warning": "rate; slow down"}
    assert end(start(folder)) == str(folder / "weights.bin")


# The shared download cache

HF_HUB_DOWNLOAD = "import sys, huggingface_hub; print(huggingface_hub.hf_hub_download(*sys.argv[1:]))"


def other_program(*arguments: str, **env: str) -> Path:
    command = [sys.executable, "-c", HF_HUB_DOWNLOAD, *arguments]
    run = subprocess.run(command, env=os.environ | env, capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, run.stderr
    return Path(run.stdout.rstrip("\n"))


def test_other_programs_find_downloads_even_offline(server: Hub) -> None:
    path = fetch(None)
    assert path.read_bytes() == WEIGHTS
    assert other_program("org/coca", "weights.bin", HF_HUB_OFFLINE="1") == path
    assert other_program("org/coca", "weights.bin", HF_HUB_DISABLE_XET="1") == path
    assert len(server.downloads) == 1


@pytest.mark.parametrize("shared", [True, False])
def test_downloads_of_other_programs_are_used_in_place(server: Hub, folder: Path, shared: bool) -> None:
    path = other_program("org/coca", "weights.bin", HF_HUB_DISABLE_XET="1")
    assert find().cached == path
    assert fetch(None if shared else folder) == path
    assert len(server.downloads) == 1


@pytest.mark.parametrize("shared", [True, False])
def test_unchanged_content_is_not_downloaded_again(server: Hub, folder: Path, shared: bool) -> None:
    fetch(None)
    server.add("org/coca", {"weights.bin": WEIGHTS, "README.md": b"new"})
    assert fetch(None if shared else folder).read_bytes() == WEIGHTS
    assert len(server.downloads) == 1


def test_damaged_cached_copy_is_replaced(server: Hub) -> None:
    path = fetch(None)
    for damage in (b"x" * len(WEIGHTS), b"x"):
        path.write_bytes(damage)
        assert fetch(None) == path
        assert path.read_bytes() == WEIGHTS
    assert len(server.downloads) == 3


def test_cache_without_links_holds_the_file(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "symlink_to", no_links)
    path = fetch(None)
    assert path.read_bytes() == WEIGHTS
    assert find().cached == path
    assert other_program("org/coca", "weights.bin", HF_HUB_OFFLINE="1") == path


def test_cached_copy_is_used_offline(server: Hub) -> None:
    path = other_program("org/coca", "weights.bin", HF_HUB_DISABLE_XET="1")
    asked = len(server.requests)
    assert end(start(None, HF_HUB_OFFLINE="1")) == str(path)
    assert len(server.requests) == asked


@pytest.mark.parametrize("offline", [True, False])
def test_cached_copy_is_used_without_hub(server: Hub, monkeypatch: pytest.MonkeyPatch, offline: bool) -> None:
    path, online = fetch(None), find()
    if offline:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    else:
        server.failures = repeat((503, {}))
    file = find("weights.safetensors", "weights.bin")
    assert file == hub.HubFile("org/coca", "main", "weights.bin", online.commit, 300_000, SHA256, "", path)
    assert hub.download(file, None) == path
    path.write_bytes(b"x" * len(WEIGHTS))
    error = refused(None)
    assert isinstance(error, hub.Unreachable)
    assert error.message == f"{path} is damaged, and the hub cannot be reached for another copy"


def test_offline_without_copy_is_unreachable(server: Hub) -> None:
    error = end(start(None, HF_HUB_OFFLINE="1"), ModelError.exit_code)
    assert error == "HF_HUB_OFFLINE is set; unset it to download"
    assert server.requests == []


# Disks


def test_file_larger_than_disk_is_not_started(server: Hub, folder: Path) -> None:
    server.claims = {"X-Linked-Size": str(1 << 60)}
    error = refused(folder)
    assert error.message.startswith("cannot write weights.bin: it needs 1152921504.61 GB, but only ")
    assert error.message.endswith(f"B is free in {folder}")
    assert server.downloads == []


def test_filled_disk_keeps_partial_file(server: Hub, folder: Path) -> None:
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"
    server.piece, server.pause = 10_000, 0.01
    assert end(start(folder, limit), ModelError.exit_code) == (
        "cannot write weights.bin: File too large; make room, or set COCA_HOME to another folder; "
        "what was downloaded is kept"
    )
    assert partial(folder).read_bytes() == WEIGHTS[:100_000]
    assert fetch(folder).read_bytes() == WEIGHTS
    assert ranges(server) == ["", "bytes=100000-"]


def on_a_disk(folder: Path, options: str) -> tuple[str, ...]:
    """What to put before a command to give it a small disk of its own."""
    mount = f'mount -t tmpfs -o {options} tmpfs "{folder}" && exec "$@"'
    before = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh")
    folder.mkdir()
    if not shutil.which("unshare") or subprocess.run([*before, "true"], capture_output=True).returncode:
        pytest.skip("no disks can be mounted here")
    return before


def test_filled_real_disk_is_an_error(server: Hub, folder: Path) -> None:
    server.piece, server.pause = 10_000, 0.01
    other = f"Path({str(folder / 'other')!r})"
    fill = f"{other}.exists() or {other}.write_bytes(bytes(150_000))"
    error = end(start(folder, fill, on_a_disk(folder, "size=400k")), ModelError.exit_code)
    assert error.startswith("cannot write weights.bin: No space left on device; make room")


@pytest.mark.parametrize("shared", [True, False])
def test_read_only_disk_is_an_error(server: Hub, tmp_path: Path, folder: Path, shared: bool) -> None:
    home = tmp_path / "hf" if shared else folder
    error = end(start(None if shared else folder, "", on_a_disk(home, "ro")), ModelError.exit_code)
    assert error.startswith(f"cannot write {home}/")
    assert f": Read-only file system; make room, or set {'HF' if shared else 'COCA'}_HOME to another" in error
    assert server.downloads == []


def test_folder_at_a_file_is_an_error(server: Hub, tmp_path: Path, folder: Path) -> None:
    folder.write_text("")
    assert refused(folder).message == f"cannot write {folder}: File exists"
    (tmp_path / "hf").write_text("")
    assert refused(None).message == f"cannot read {tmp_path}/hf/token: Not a directory"


def test_huggingface_hub_is_imported_lazily() -> None:
    code = "import json, sys; from cococli.checkpoints import hub; print(json.dumps(list(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not {"huggingface_hub", "httpx2", "torch"} & set(json.loads(run.stdout))
