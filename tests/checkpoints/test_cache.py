"""Models in the cache: whole or not there, whatever ends a process."""

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from checkpoints.reporters import OnUpdate
from checkpoints.stored_models import COMMIT, HUB, LOCAL, add, add_run, fill

from cococli import files
from cococli.checkpoints import cache, manifest
from cococli.checkpoints.store import default_model, find_model, stored_models
from cococli.errors import ModelError, UsageError
from cococli.reporting import Reporter

TESTS = Path(__file__).parents[1]

# Adds argv[1] with the content argv[2]; says where, and goes on when a line comes, or fails when there is none.
ADDING = """
import sys
from checkpoints.stored_models import HUB, fill
from cococli.checkpoints import cache
from cococli.reporting import Reporter

class Printing(Reporter):
    def note(self, text):
        print("waiting", flush=True)

with cache.adding(sys.argv[1], Printing()) as folder:
    fill(folder, HUB, sys.argv[2].encode())
    print(folder, flush=True)
    sys.stdin.readline() or sys.exit("no line")
"""


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator:
    """Start processes that add a model."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), str(TESTS.parent)]))
    runs = []

    def start(name: str, content: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", ADDING, name, content]
        run = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        runs.append(run)
        return run

    yield start
    for run in runs:
        run.kill()
        run.communicate()


def said(run: "subprocess.Popen[str]") -> str:
    """The next line of a process."""
    assert run.stdout
    return run.stdout.readline().strip()


class OnNote(Reporter):
    def __init__(self, call: Callable[[str], object]) -> None:
        self._call = call

    def note(self, text: str) -> None:
        self._call(text)


def content(name: str) -> bytes:
    return (cache.find(name).folder / "model.ckpt").read_bytes()


def inside(home: Path) -> list[str]:
    return sorted(path.name for path in (home / "models").iterdir())


def test_added_model_is_listed(home: Path) -> None:
    folder = add("mine", content=b"12 bytes of.")
    assert folder == home / "models" / "mine"
    (model,) = cache.models()
    assert model == cache.stored("mine")
    assert (model.name, model.folder, model.used, model.problem) == ("mine", folder, None, "")
    assert model.manifest == manifest.read(folder)
    assert model.size == sum(path.stat().st_size for path in folder.iterdir())
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "manifest.json", "model.ckpt"]


def test_empty_cache_lists_nothing(home: Path) -> None:
    assert (cache.models(), cache.names(), cache.newest(), cache.prune()) == ([], [], None, [])
    assert [path.name for path in home.iterdir()] == ["bundled"]


@pytest.mark.parametrize("swaps", [True, False], ids=["swapped", "renamed"])
def test_added_model_replaces_earlier_one(home: Path, swaps: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not swaps:
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    add("mine", content=b"old")
    cache.mark_used("mine")
    add("mine", content=b"new")
    assert content("mine") == b"new"
    assert inside(home) == ["mine"]
    assert cache.stored("mine").used is None


def test_model_stays_available_while_it_is_replaced(home: Path) -> None:
    weights = add("mine", content=b"old") / "model.ckpt"
    missed, over = [], threading.Event()

    def watch() -> None:
        while not over.is_set():
            missed.extend([] if weights.exists() else ["gone"])

    watching = threading.Thread(target=watch)
    watching.start()
    for _ in range(20):
        add("mine", content=b"new")
    over.set()
    watching.join()
    assert missed == []


@pytest.mark.parametrize("before", [[], ["mine"]], ids=["nothing there", "a model there"])
def test_failed_adding_keeps_earlier_model(home: Path, before: list[str]) -> None:
    for name in before:
        add(name, content=b"old")
    with pytest.raises(ZeroDivisionError), cache.adding("mine") as folder:
        fill(folder)
        raise ZeroDivisionError
    assert inside(home) == before
    assert [content(name) for name in before] == [b"old" for _ in before]


def test_incomplete_model_is_not_added(home: Path) -> None:
    with pytest.raises(ModelError, match=r"^manifest.json is missing$"), cache.adding("mine"):
        pass
    with pytest.raises(ModelError, match=r"^model.ckpt has 1 bytes, not 3$"), cache.adding("mine") as folder:
        fill(folder, content=b"old")
        (folder / "model.ckpt").write_bytes(b"o")
    assert inside(home) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_adding_leaves_nothing(home: Path, start, number: signal.Signals) -> None:
    add("mine", content=b"old")
    run = start("mine", "new")
    assert Path(said(run)).is_dir()
    run.send_signal(number)
    assert run.wait(timeout=900) != 0
    assert inside(home) == ["mine"]
    assert content("mine") == b"old"


def killed(*runs: "subprocess.Popen[str]") -> list[Path]:
    """What processes leave that are killed as they add a model."""
    folders = [Path(said(run)) for run in runs]
    for run in runs:
        run.kill()
        run.wait()
    return folders


def test_leftovers_of_killed_processes_are_removed(home: Path, start) -> None:
    left, other = killed(start("mine", "half"), start("other", "half"))
    assert (left / "model.ckpt").exists() and (other / "model.ckpt").exists()
    assert cache.models() == []
    add("mine", content=b"new")
    assert inside(home) == ["mine"]
    assert content("mine") == b"new"


def test_prune_spares_living_processes(home: Path, start) -> None:
    run = start("other", "whole")
    living = said(run)
    (left,) = killed(start("mine", "half"))
    size = sum(path.stat().st_size for path in left.iterdir())
    for name in ("mine", "other"):
        (home / "downloads" / name).mkdir(parents=True)
        (home / "downloads" / name / "abc.incomplete").write_bytes(b"part")
    assert cache.prune() == [cache.Removed(left, size), cache.Removed(home / "downloads" / "mine", 4)]
    assert Path(living).is_dir()
    run.communicate("go on\n", timeout=900)
    assert cache.names() == ["other"]
    assert cache.prune() == [cache.Removed(home / "downloads" / "other", 4)]
    assert cache.prune() == []


def test_unfinished_download_is_kept(home: Path) -> None:
    (home / "downloads" / "mine").mkdir(parents=True)
    add("mine", content=b"")
    add("other", content=b"")
    assert (home / "downloads" / "mine").is_dir()


def test_prune_removes_models_unpacked_by_other_versions(home: Path) -> None:
    weights = find_model("shapes").weights
    old = home / "bundled" / "0123456789abcdef" / "shapes.ckpt"
    old.parent.mkdir()
    old.write_bytes(b"old")
    part = weights.with_name(".coca-0123456789abcdef.part")
    part.write_bytes(b"half")
    assert cache.prune() == [cache.Removed(old.parent, 3), cache.Removed(part, 4)]
    assert [path.name for path in weights.parent.iterdir()] == ["shapes.ckpt"]


def test_second_process_waits_for_the_first(home: Path, start) -> None:
    first = start("mine", "first")
    assert said(first) == str(home / "models" / ".coca-mine")
    second, other = start("mine", "second"), start("other", "other")
    assert said(second) == "waiting"
    assert said(other) == str(home / "models" / ".coca-other")
    first.communicate("go on\n", timeout=900)
    assert said(second) == str(home / "models" / ".coca-mine")
    assert content("mine") == b"first"
    second.communicate("go on\n", timeout=900)
    other.communicate("go on\n", timeout=900)
    assert (content("mine"), content("other")) == (b"second", b"other")
    assert (first.returncode, second.returncode, other.returncode) == (0, 0, 0)


def test_lock_holder_may_add_the_model() -> None:
    with cache.locked("mine", OnNote(pytest.fail)):
        add("mine", content=b"one")
        add("other", content=b"two")
    assert cache.names() == ["mine", "other"]


def test_nested_adding_works() -> None:
    with cache.adding("mine") as folder:
        fill(folder, content=b"one")
        add("other", content=b"two")
    assert (content("mine"), content("other")) == (b"one", b"two")


def test_threads_wait_for_each_other() -> None:
    waited = threading.Event()

    def second() -> None:
        with cache.locked("mine", OnNote(lambda _: waited.set())):
            order.append("second")

    order: list[str] = []
    thread = threading.Thread(target=second)
    with cache.locked("mine"):
        thread.start()
        assert waited.wait(timeout=900)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "-v", "b~", "a b", "é", "a\n", "a\0", "x" * 151])
def test_invalid_names_are_refused(name: str, home: Path) -> None:
    for use in (cache.find, cache.remove, add):
        with pytest.raises(UsageError) as caught:
            use(name)
        assert caught.value.message == f"{name!r} is not a valid model name"
    assert [path.name for path in home.iterdir()] == ["bundled"]


@pytest.mark.parametrize("name", ["a", "_", "vit-l-14", "org--repo@v1.0--file.bin", "x" * 150])
def test_valid_names_are_accepted(name: str) -> None:
    add(name, content=b"")
    assert cache.names() == [name]


def test_bundled_model_is_not_in_the_cache() -> None:
    with pytest.raises(UsageError, match="the model shapes comes with the program and is not in the cache"):
        add("shapes")


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("org/repo", "org--repo"),
        ("org/repo@rev:file", "org--repo@rev--file"),
        ("org/repo@refs/pr/1:a/b.bin", "org--repo@refs--pr--1--a--b.bin"),
        ("vit-l-14", "vit-l-14"),
    ],
)
def test_hub_names_become_plain_names(name: str, kept: str) -> None:
    assert cache.slug(name) == kept


def test_missing_name_lists_close_ones() -> None:
    add("vit-l-14", content=b"")
    with pytest.raises(ModelError, match="no model in the cache is called 'vit-l14'") as caught:
        cache.find("vit-l14")
    assert caught.value.hint == "close: vit-l-14"
    with pytest.raises(ModelError) as caught:
        cache.remove("something-else")
    assert caught.value.hint == "coca models lists them"


def cut(folder: Path) -> str:
    (folder / "model.ckpt").write_bytes(b"12 bytes of.")
    return "model.ckpt has 12 bytes, not 20"


def lose_config(folder: Path) -> str:
    (folder / "config.json").unlink()
    return "config.json is missing"


def spoil_manifest(folder: Path) -> str:
    (folder / "manifest.json").write_text("{}")
    return "manifest.json is damaged: it lacks 'date'"


MENDED = {
    "of the hub": ("mine", HUB, f"coca fetch org/repo@{COMMIT}:open_clip_pytorch_model.bin --name mine --force"),
    "of a file": ("mine", LOCAL, "coca fetch '/data/my model.bin' --name mine --force"),
    "of the catalog": (
        "vit-l-14",
        manifest.Origin("laion/CoCa-ViT-L-14-laion2B-s13B-b90k", COMMIT, "a.bin", "0" * 64, 1),
        "coca fetch vit-l-14 --force",
    ),
    "a file by a name of the catalog": ("vit-l-14", LOCAL, "coca fetch '/data/my model.bin' --name vit-l-14 --force"),
}


@pytest.mark.parametrize("damage", [cut, lose_config])
@pytest.mark.parametrize("case", MENDED)
def test_damaged_model_is_refused_with_remedy(case: str, damage) -> None:
    name, source, command = MENDED[case]
    problem = damage(add(name, source, b"20 bytes of weights."))
    for use in (cache.stored, find_model):
        with pytest.raises(ModelError) as caught:
            use(name)
        assert caught.value.message == f"the model {name} is damaged: {problem}"
        assert caught.value.hint == command
    (model,) = cache.models()
    assert model.problem == problem
    assert cache.newest() is None


@pytest.mark.parametrize("name", ["mine", "vit-l-14"])
def test_damaged_manifest_is_refused_with_remedy(name: str) -> None:
    problem = spoil_manifest(add(name, content=b""))
    with pytest.raises(ModelError) as caught:
        cache.stored(name)
    assert caught.value.message == f"the model {name} is damaged: {problem}"
    hint = "coca fetch vit-l-14 --force" if name == "vit-l-14" else "coca fetch FILE --name mine --force"
    assert caught.value.hint == hint
    assert cache.verify(name) == [problem]


def test_missing_manifest_is_refused_with_remedy(home: Path) -> None:
    folder = home / "models" / "hand-made"
    folder.mkdir(parents=True)
    for file, weights in ((None, "FILE"), ("my model.ckpt", f"'{folder / 'my model.ckpt'}'")):
        if file:
            (folder / file).touch()
        with pytest.raises(ModelError) as caught:
            find_model("hand-made")
        assert caught.value.message == "the model hand-made is damaged: manifest.json is missing"
        assert caught.value.hint == f"coca fetch {weights} --name hand-made"


def test_verification_reads_every_byte() -> None:
    folder = add("mine", content=b"as it was")
    seen = []
    assert cache.verify("mine", OnUpdate(lambda *step: seen.append(step))) == []
    assert seen[-1][0] == "verifying mine" and seen[-1][1] == seen[-1][2]
    (folder / "model.ckpt").write_bytes(b"as it is!")
    cache.stored("mine")  # to a quick look it is whole
    was, now = (hashlib.sha256(content).hexdigest() for content in (b"as it was", b"as it is!"))
    assert cache.verify("mine") == [f"model.ckpt has the sha256 {now}, not {was}"]


def test_newest_model_is_the_one_added_last() -> None:
    for name, time in (("first", 100), ("last", 300), ("second", 200)):
        os.utime(add(name, content=b"") / "manifest.json", (time, time))
    cache.mark_used("first")
    assert cache.newest() == "last"
    cache.remove("last")
    assert cache.newest() == "second"


def test_found_model_is_marked_as_used() -> None:
    add("mine")
    assert cache.stored("mine").used is None
    find_model("mine")
    used = cache.stored("mine").used
    assert used
    os.utime(cache.find("mine").folder / "used", (100, 100))
    find_model("mine")
    assert cache.stored("mine").used >= used


def test_damaged_model_can_be_removed(home: Path) -> None:
    removed = cache.remove("mine") if cut(add("mine", content=b"20 bytes of weights.")) else None
    assert removed and removed.path == home / "models" / "mine" and removed.size > 12
    assert inside(home) == []


def test_removing_a_link_keeps_its_target(home: Path, tmp_path: Path) -> None:
    add("mine", content=b"")
    (home / "models" / "mine").rename(tmp_path / "elsewhere")
    (home / "models" / "mine").symlink_to(tmp_path / "elsewhere")
    assert cache.stored("mine").name == "mine"
    cache.remove("mine")
    assert inside(home) == []
    assert (tmp_path / "elsewhere" / "model.ckpt").exists()


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache with a model that may not be written to, not by root either."""
    home = Path(tempfile.mkdtemp())
    monkeypatch.setenv("COCA_HOME", str(home))
    add("mine")
    for folder in (home, *(path for path in home.rglob("*") if path.is_dir())):
        folder.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    yield home
    if root:
        os.seteuid(0)
    for folder in (home, home / "models", home / "models" / "mine", home / "locks"):
        folder.chmod(0o755)
    shutil.rmtree(home)


def test_read_only_cache_can_be_read(read_only: Path) -> None:
    assert find_model("mine").weights == read_only / "models" / "mine" / "model.ckpt"
    assert cache.verify("mine") == []
    assert cache.newest() == "mine"
    assert cache.stored("mine").used is None
    assert cache.prune() == []


def test_writing_to_read_only_cache_is_an_error(read_only: Path) -> None:
    for act in (add, cache.remove):
        for name in ("mine",) if act is cache.remove else ("mine", "other"):
            with pytest.raises(ModelError) as caught:
                act(name)
            assert caught.value.message == f"cannot write to {read_only}: Permission denied"
            assert caught.value.hint == "set COCA_HOME to another folder"
    assert cache.names() == ["mine"]


def test_cache_at_a_file_is_an_error(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "file").touch()
    monkeypatch.setenv("COCA_HOME", str(home / "file"))
    assert cache.prune() == []
    for read in (cache.models, cache.newest, default_model):
        with pytest.raises(ModelError, match=re.escape(f"cannot read {home}/file/models: Not a directory")):
            read()
    with pytest.raises(ModelError, match=re.escape(f"cannot write to {home}/file: Not a directory")):
        add("mine")


@pytest.mark.parametrize("closed", ["models", "runs", "runs/better/checkpoints"])
def test_unreadable_cache_is_not_reported_as_empty(tmp_path: Path, closed: str, monkeypatch, request) -> None:
    monkeypatch.setenv("COCA_HOME", str(tmp_path))
    add("mine", content=b"")
    add_run("better", 1)
    (tmp_path / closed).chmod(0)
    request.getfixturevalue("as_nobody")
    reads = [stored_models, lambda: find_model("run:better")]
    if closed == "models":
        reads = [stored_models, default_model, lambda: find_model("mine"), lambda: find_model("vit-l-14")]
    for read in reads:
        with pytest.raises(ModelError, match=f"^cannot read {tmp_path / closed}.*: Permission denied"):
            read()
