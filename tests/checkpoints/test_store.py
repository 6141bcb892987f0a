"""Models found by name and by path, and the bundled one unpacked."""

import hashlib
import json
import lzma
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoints.open_clip_state import SMALL, save, state_dict
from checkpoints.pack_shapes import GRID
from checkpoints.stored_models import CONFIG, HUB, add, add_run

from cococli.catalog import MODELS
from cococli.checkpoints import architecture, ckpt, manifest, store
from cococli.checkpoints.cache import Removed, free
from cococli.checkpoints.convert import to_mindspore
from cococli.checkpoints.store import find_run, find_stored, remove_stored, stored_models
from cococli.errors import ModelError, UsageError
from cococli.files import hash_file

BUNDLED = Path(store.__file__).parent.parent / "assets" / "models" / "shapes"


def converted(folder: Path, name: str = "weights") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    source = save(state_dict(SMALL), folder / f"{name}.bin")
    path = to_mindspore(source, folder / f"{name}.ckpt").path
    source.unlink()
    return path


def test_ckpt_path_is_a_model(tmp_path: Path) -> None:
    path = converted(tmp_path, "mine")
    assert store.find_model(str(path)) == store.ModelFiles("mine", path, SMALL)


def test_two_models_in_one_folder_have_own_configs(tmp_path: Path) -> None:
    one, two = converted(tmp_path, "one"), converted(tmp_path, "two")
    assert store.find_model(str(one)).config == store.find_model(str(two)).config == SMALL
    with pytest.raises(ModelError, match="holds 2 models") as caught:
        store.find_model(str(tmp_path))
    assert str(one) in caught.value.hint


def test_folder_with_one_model_names_it(tmp_path: Path) -> None:
    path = converted(tmp_path / "my model")
    path.with_suffix(".json").rename(path.with_name("open_clip_config.json"))
    assert store.find_model(str(tmp_path / "my model")) == store.ModelFiles("my model", path, SMALL)


def test_cached_model_is_found_by_name(home: Path) -> None:
    folder = add("vit-l-14")
    (add("damaged", content=b"x") / "model.ckpt").unlink()
    (home / "models" / ".coca-half").mkdir()
    (home / "models" / "empty").mkdir()
    assert store.model_names() == ["shapes", "vit-l-14"]
    assert store.find_model("vit-l-14") == store.ModelFiles("vit-l-14", folder / "model.ckpt", CONFIG)


@pytest.mark.parametrize("name", ["org/repo", "org/repo@v1:file"])
def test_hub_model_is_found_by_hub_name(name: str, home: Path) -> None:
    kept = name.replace("/", "--").replace(":", "--")
    add(kept)
    assert store.find_model(name) == store.ModelFiles(kept, home / "models" / kept / "model.ckpt", CONFIG)


def test_identity_changes_with_unusual_preprocessing(home: Path) -> None:
    folder, identities = add(), []
    for entry in (None, {}, {"mean": 0.5}, {"resize_mode": "squash"}):
        (folder / "config.json").write_text(json.dumps({"model_cfg": CONFIG.to_open_clip(), "preprocess_cfg": entry}))
        manifest.record(folder, HUB, "float32", 1)
        identities.append(store.find_model("mine").identity)
    assert identities[0] == identities[1] == hash_file(folder / "model.ckpt")
    assert len(set(identities)) == 3


@pytest.mark.parametrize(("name", "size"), [("vit-l-14-coco", "2.55 GB"), ("vit-b-32", "1.01 GB")])
def test_missing_catalog_model_names_fetch_command(name: str, size: str) -> None:
    with pytest.raises(ModelError) as caught:
        store.find_model(name)
    assert caught.value.exit_code == 3
    assert caught.value.message == f"{name} is not on this machine"
    assert caught.value.hint == f"coca fetch {name} ({size})"


def test_unknown_name_lists_close_ones() -> None:
    with pytest.raises(ModelError, match="'vit-l-15'") as caught:
        store.find_model("vit-l-15")
    assert "vit-l-14" in caught.value.hint


def test_unconverted_weights_name_convert_command(tmp_path: Path) -> None:
    source = save(state_dict(SMALL), tmp_path / "open clip.bin")
    for path in (source, tmp_path):
        with pytest.raises(ModelError) as caught:
            store.find_model(str(path))
        assert caught.value.hint == f"coca convert '{source}'"


def test_model_without_config_is_refused(tmp_path: Path) -> None:
    path = converted(tmp_path)
    path.with_suffix(".json").unlink()
    with pytest.raises(ModelError, match="has no config beside it"):
        store.find_model(str(path))


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 5000, "~nobody-here/a", "a\nb", "/nowhere/a.ckpt", "../models"])
def test_unknown_names_are_refused_on_one_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError) as caught:
        store.find_model(name)
    assert "\n" not in caught.value.message


def test_listing_names_imports_nothing_heavy() -> None:
    code = "import sys; from cococli.checkpoints import store; store.model_names(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"numpy", "torch", "mindspore", "safetensors"} & set(loaded)


def test_bundled_model_has_pinned_hash() -> None:
    packed = (BUNDLED / "shapes.ckpt.xz").read_bytes()
    assert len(packed) < 3_000_000
    sums = (hashlib.sha256(packed).hexdigest(), hashlib.sha256(lzma.decompress(packed)).hexdigest())
    unpacked = "6d196cc4ae54ea57f138b0656e211df6ac2ebbac4bacd786e5ce040f90c25c6e"
    assert sums == ("cf11f358ee66467b0ba10be4a12d7e78db5da87a7db1be71aa0fe978a87e604c", unpacked)
    assert MODELS["shapes"].sha256 == {"shapes.ckpt": unpacked}  # which tells whose folder in the cache is whose


def test_bundled_model_is_complete_and_on_its_grid() -> None:
    model = store.find_model("shapes")
    weights = ckpt.read(model.weights)
    architecture.check(model.config, {name: array.shape for name, array in weights.items()})
    for name, array in weights.items():
        if step := GRID.get(name.split(".")[0]):
            assert not (array % step).any(), name


def test_bundled_model_is_unpacked_once(home: Path) -> None:
    shutil.rmtree(home / "bundled")
    first = store.find_model("shapes").weights
    stamp = first.stat().st_mtime_ns
    assert first.is_relative_to(home / "bundled")
    assert store.find_model("shapes").weights == first
    assert first.stat().st_mtime_ns == stamp


def test_truncated_unpacked_model_is_unpacked_again() -> None:
    weights = store.find_model("shapes").weights
    whole = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(whole[:1000])
    assert store.find_model("shapes").weights == weights
    assert weights.read_bytes() == whole


def test_damaged_package_names_reinstall_command(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(home / "bundled")
    shutil.copytree(BUNDLED, tmp_path / "shapes")
    packed = (BUNDLED / "shapes.ckpt.xz").read_bytes()
    for spoilt in (b"", packed[:1000], packed[:1000] + b"x" + packed[1001:]):
        (tmp_path / "shapes" / "shapes.ckpt.xz").write_bytes(spoilt)
        monkeypatch.setattr(store, "_ASSETS", tmp_path)
        with pytest.raises(ModelError) as caught:
            store.find_model("shapes")
        assert caught.value.message == "the bundled model shapes is damaged"
        assert caught.value.hint == "pip install --force-reinstall cococli"


def test_concurrent_unpacking_gives_complete_models(home: Path) -> None:
    shutil.rmtree(home / "bundled")
    code = "from cococli.checkpoints import store; print(store.find_model('shapes').weights)"
    runs = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    paths = {run.communicate(timeout=900)[0].strip() for run in runs}
    (path,) = paths
    assert hashlib.sha256(Path(path).read_bytes()).hexdigest().startswith("6d196cc4")
    assert [file.name for file in Path(path).parent.iterdir()] == ["shapes.ckpt"]


def test_unwritable_cache_falls_back_to_temporary_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "file").write_text("")
    monkeypatch.setenv("COCA_HOME", str(home / "file"))  # root may write to any folder, but not into a file
    weights = store.find_model("shapes").weights
    assert len(ckpt.read(weights)) == len(architecture.parameters(store.find_model("shapes").config))
    assert store.find_model("shapes").weights == weights


def test_bundled_config_has_open_clips_format() -> None:
    assert "vision_cfg" in json.loads((BUNDLED / "shapes.json").read_text())


def test_unreadable_folder_is_not_called_empty(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    converted(tmp_path / "model")
    (tmp_path / "model").chmod(0o311)
    request.getfixturevalue("as_nobody")
    with pytest.raises(ModelError, match=f"^cannot open '{tmp_path}/model': Permission denied"):
        store.find_model(str(tmp_path / "model"))


# Training runs


def make_best(run: Path, step: int) -> None:
    (run / "best").mkdir()
    for name in ("model.ckpt", "config.json"):
        (run / "best" / name).hardlink_to(run / "checkpoints" / str(step) / name)


def test_run_gives_best_or_newest_model() -> None:
    folder = add_run("mine", 9, 100)
    newest = store.find_model("run:mine")
    assert newest == store.ModelFiles("run:mine", folder / "checkpoints" / "100" / "model.ckpt", CONFIG)
    make_best(folder, 9)
    best = store.find_model("run:mine")
    assert best == store.ModelFiles("run:mine", folder / "best" / "model.ckpt", CONFIG)
    assert best.identity != newest.identity
    assert best.identity == store.find_model("run:mine@9").identity


def test_run_gives_model_of_a_step() -> None:
    folder = add_run("mine", 9, 100)
    assert store.find_model("run:mine@9").weights == folder / "checkpoints" / "9" / "model.ckpt"
    assert store.find_model("run:mine@9").name == "run:mine@9"
    for step in ("10", "", "x", "../9", "²"):
        with pytest.raises(ModelError) as caught:
            store.find_model(f"run:mine@{step}")
        assert caught.value.message == f"the run mine has no checkpoint of step {step!r}"
        assert caught.value.hint == "it has steps 9, 100"


def test_missing_run_lists_close_ones(home: Path) -> None:
    add_run("mine", 1)
    add_run("empty")
    for name, message, hint in (
        ("run:mime", "there is no run 'mime'", "close: run:mine"),
        ("run:x", "there is no run 'x'", "coca models lists them"),
        ("run:empty", "the run empty has no checkpoint yet", f"its folder: {home}/runs/empty"),
    ):
        with pytest.raises(ModelError) as caught:
            store.find_model(name)
        assert (caught.value.message, caught.value.hint) == (message, hint)
    with pytest.raises(UsageError, match=r"'\.\./mine' is not a valid run name"):
        store.find_model("run:../mine")


def test_listed_runs_count_hard_links_once() -> None:
    assert stored_models() == []
    folder = add_run("mine", 1)
    add_run("empty")
    (run,) = stored_models()
    assert (run.name, run.folder, run.manifest, run.used, run.problem) == ("run:mine", folder, None, None, "")
    make_best(folder, 1)
    assert [again.size for again in stored_models()] == [run.size]
    assert run.size == sum(path.stat().st_size for path in (folder / "checkpoints" / "1").iterdir())
    assert store.model_names() == ["shapes", "run:mine"]
    store.find_model("run:mine")
    assert find_run("run:mine").used is not None


def test_run_in_progress_is_not_removed(home: Path) -> None:
    folder = add_run("mine", 1)
    with free("run:mine"), pytest.raises(UsageError, match="the run mine is in progress"):
        remove_stored([find_stored("run:mine")])
    assert folder.exists()
    size = find_run("run:mine").size
    assert remove_stored([find_stored("run:mine")]) == [Removed(folder, size)]
    assert list((home / "runs").iterdir()) == []
    with pytest.raises(ModelError, match="there is no run 'mine'"):
        find_stored("run:mine")
