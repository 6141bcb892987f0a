"""Training runs as models."""

from pathlib import Path

import pytest
from checkpoints.stored_models import CONFIG, add_run

from cococli.checkpoints import store
from cococli.checkpoints.cache import Removed
from cococli.checkpoints.locks import free
from cococli.checkpoints.runs import find_run, remove_run, runs
from cococli.errors import ModelError, UsageError


def make_best(run: Path, step: int) -> None:
    (run / "best").mkdir()
    for name in ("model.ckpt", "config.json"):
        (run / "best" / name).hardlink_to(run / "checkpoints" / str(step) / name)


def test_a_run_is_found_by_its_best_model_or_its_newest_checkpoint() -> None:
    folder = add_run("mine", 9, 100)
    newest = store.find_model("run:mine")
    assert newest == store.ModelFiles("run:mine", folder / "checkpoints" / "100" / "model.ckpt", CONFIG)
    make_best(folder, 9)
    best = store.find_model("run:mine")
    assert best == store.ModelFiles("run:mine", folder / "best" / "model.ckpt", CONFIG)
    assert best.identity != newest.identity
    assert best.identity == store.find_model("run:mine@9").identity


def test_a_run_gives_the_model_of_a_step() -> None:
    folder = add_run("mine", 9, 100)
    assert store.find_model("run:mine@9").weights == folder / "checkpoints" / "9" / "model.ckpt"
    assert store.find_model("run:mine@9").name == "run:mine@9"
    for step in ("10", "", "x", "../9", "²"):
        with pytest.raises(ModelError) as caught:
            store.find_model(f"run:mine@{step}")
        assert caught.value.message == f"the run mine has no checkpoint of step {step!r}"
        assert caught.value.hint == "it has those of: 9, 100"


def test_a_run_that_is_not_there_lists_close_ones(home: Path) -> None:
    add_run("mine", 1)
    add_run("empty")
    for name, message, hint in (
        ("run:mime", "there is no run 'mime'", "close: run:mine"),
        ("run:x", "there is no run 'x'", "coca models shows what is there"),
        ("run:empty", "the run empty has no checkpoint yet", f"see how far it is: {home}/runs/empty"),
    ):
        with pytest.raises(ModelError) as caught:
            store.find_model(name)
        assert (caught.value.message, caught.value.hint) == (message, hint)
    with pytest.raises(UsageError, match=r"'\.\./mine' cannot be the name of a run"):
        store.find_model("run:../mine")


def test_runs_with_a_model_are_listed_each_byte_once() -> None:
    assert runs() == []
    folder = add_run("mine", 1)
    add_run("empty")
    (run,) = runs()
    assert (run.name, run.folder, run.manifest, run.used, run.problem) == ("run:mine", folder, None, None, "")
    make_best(folder, 1)
    assert [again.size for again in runs()] == [run.size]
    assert run.size == sum(path.stat().st_size for path in (folder / "checkpoints" / "1").iterdir())
    assert store.model_names() == ["shapes", "run:mine"]
    store.find_model("run:mine")
    assert find_run("run:mine").used is not None


def test_a_run_is_removed_unless_it_is_under_way(home: Path) -> None:
    folder = add_run("mine", 1)
    with free("run:mine"), pytest.raises(UsageError, match="the run mine is under way"):
        remove_run("run:mine")
    assert folder.exists()
    size = find_run("run:mine").size
    assert remove_run("run:mine") == Removed(folder, size)
    assert list((home / "runs").iterdir()) == []
    with pytest.raises(ModelError, match="there is no run 'mine'"):
        remove_run("run:mine")
