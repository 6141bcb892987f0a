"""Bundles: what was exported comes in whole, and nothing else does."""

import gzip
import hashlib
import json
import random
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from checkpoints.reporters import OnUpdate
from checkpoints.stored_models import CONFIG, LOCAL, add, fill, weights
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cococli.checkpoints import cache
from cococli.checkpoints.bundle import export_model, import_model
from cococli.checkpoints.store import find_model
from cococli.errors import CocaError, ModelError, UsageError

TESTS = Path(__file__).parents[1]
Parts = dict[str, bytes]  # name and content of each file of a model
FILES = ("manifest.json", "config.json", "model.ckpt")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle of the model `mine`, which is not in the cache any more."""
    add("mine", LOCAL)
    export_model("mine", tmp_path / "mine.tar")
    cache.remove("mine")
    return tmp_path / "mine.tar"


def take(bundle: Path, name: str | None = None, force: bool = False) -> tuple[str, bool]:
    return import_model(bundle, name, force)


def contents(name: str) -> dict[str, bytes]:
    folder = cache.stored(name).folder
    return {file: (folder / file).read_bytes() for file in FILES}


def test_exported_model_is_imported_unchanged(tmp_path: Path) -> None:
    add("mine")
    before = contents("mine")
    export_model("mine", tmp_path / "mine.tar")
    cache.remove("mine")
    assert take(tmp_path / "mine.tar") == ("mine", True)
    assert contents("mine") == before
    assert cache.verify("mine") == []
    assert find_model("mine").config == CONFIG


def test_bundle_is_a_reproducible_plain_tar(bundle: Path, tmp_path: Path) -> None:
    with tarfile.open(bundle) as tar:
        assert [member.name for member in tar] == [f"mine/{file}" for file in FILES]
        assert {(member.mtime, member.uid, member.gid, member.uname, member.mode) for member in tar} == {
            (0, 0, 0, "", 0o644)
        }
        assert all(member.isfile() and not member.pax_headers for member in tar)
    take(bundle)
    export_model("mine", tmp_path / "again.tar")
    assert (tmp_path / "again.tar").read_bytes() == bundle.read_bytes()


def test_longest_name_fits(tmp_path: Path) -> None:
    name = "x" * 150
    add(name)
    export_model(name, tmp_path / "long.tar")
    cache.remove(name)
    assert take(tmp_path / "long.tar") == (name, True)


def test_progress_covers_the_whole_file(bundle: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    import_model(bundle, reporter=OnUpdate(lambda *step: seen.append(step)))
    export_model("mine", bundle, reporter=OnUpdate(lambda *step: seen.append(step)))
    size = bundle.stat().st_size
    for stage in ("importing", "exporting"):
        done = [step[1] for step in seen if step[0] == stage]
        assert done == sorted(done) and size - 2048 < done[-1] <= size
    assert {total for _, _, total in seen} == {size}


def test_imported_model_may_be_renamed(bundle: Path) -> None:
    assert take(bundle, "yours") == ("yours", True)
    assert cache.names() == ["yours"]
    for name in ("../yours", "shapes"):
        with pytest.raises(UsageError, match=name):
            take(bundle, name)


def test_identical_model_is_not_imported_twice(bundle: Path) -> None:
    take(bundle)
    added = cache.stored("mine").added
    assert take(bundle) == ("mine", False)
    assert cache.stored("mine").added == added


def test_another_model_is_replaced_only_by_force(bundle: Path) -> None:
    add("mine", content=weights(seed=1))
    with pytest.raises(UsageError) as caught:
        take(bundle)
    assert caught.value.message == "the cache has another model called mine"
    assert caught.value.hint == "use --force to replace it, or --name"
    assert contents("mine")["model.ckpt"] == weights(seed=1)
    assert take(bundle, force=True) == ("mine", True)
    assert contents("mine")["model.ckpt"] == weights()


def test_damaged_model_is_not_exported(tmp_path: Path) -> None:
    (tmp_path / "mine.tar").write_bytes(b"what stood there")
    (add("mine", content=b"as it was") / "model.ckpt").write_bytes(b"as it is!")
    now, was = (hashlib.sha256(content).hexdigest() for content in (b"as it is!", b"as it was"))
    with pytest.raises(ModelError) as caught:
        export_model("mine", tmp_path / "mine.tar", overwrite=True)
    assert caught.value.message == f"cannot export mine: model.ckpt has the sha256 {now}, not {was}"
    assert caught.value.hint.startswith("coca fetch org/repo@")
    (cache.find("mine").folder / "model.ckpt").unlink()
    with pytest.raises(ModelError, match=r"^the model mine is damaged: model.ckpt is missing\n"):
        export_model("mine", tmp_path / "mine.tar", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.tar"]
    assert (tmp_path / "mine.tar").read_bytes() == b"what stood there"


def test_invalid_exports_are_refused(tmp_path: Path) -> None:
    add("mine", content=b"")
    (tmp_path / "folder.tar").mkdir()
    for name, file, reason in [
        ("mine", tmp_path / "mine.tar.gz", "mine.tar.gz: the name of a bundle must end in .tar"),
        ("mine", tmp_path / "folder.tar", "folder.tar is a folder"),
        ("mine", tmp_path / "none" / "mine.tar", "none/mine.tar: No such file or directory"),
        ("other", tmp_path / "mine.tar", "no model in the cache is called 'other'"),
        ("shapes", tmp_path / "mine.tar", "the model shapes comes with the program and is not in the cache"),
    ]:
        with pytest.raises(CocaError) as caught:
            export_model(name, file)
        assert caught.value.message.endswith(reason)


def tar(*members: bytes) -> bytes:
    return b"".join(members) + bytes(1024)


def member(name: str, content: bytes = b"", **claims: object) -> bytes:
    """A file of a tar, its header claiming whatever it may."""
    info = tarfile.TarInfo(name)
    for key, value in {"size": len(content), **claims}.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512)


def members(parts: Parts, **others: bytes) -> list[bytes]:
    """The files of a bundle, some of them others."""
    changed = {name: others.get(name.partition(".")[0], content) for name, content in parts.items()}
    return [member(f"m/{name}", changed[name]) for name in FILES]


def told(parts: Parts, file: str, size: int | None = None, sha256: str | None = None) -> bytes:
    """The manifest, telling another size or sum of a file."""
    fields = json.loads(parts["manifest.json"])
    facts = fields["files"][file]
    fields["files"][file] = {"size": facts["size"] if size is None else size, "sha256": sha256 or facts["sha256"]}
    return json.dumps(fields).encode()


def with_config(parts: Parts, part: str, key: str, value: object) -> bytes:
    """A bundle that is sound but for what the config says."""
    config = json.loads(parts["config.json"])
    config[part][key] = value
    text = json.dumps(config).encode()
    manifest = told(parts, "config.json", len(text), hashlib.sha256(text).hexdigest())
    return tar(*members(parts, manifest=manifest, config=text))


def with_weights(parts: Parts, content: bytes) -> bytes:
    """A bundle that is sound but for what is in the weights."""
    manifest = told(parts, "model.ckpt", len(content), hashlib.sha256(content).hexdigest())
    return tar(*members(parts, manifest=manifest, model=content))


A, B, C = (f"m/{file}" for file in FILES)
SIZE, SHA256 = len(weights()), hashlib.sha256(weights()).hexdigest()
ATTACKS: dict[str, tuple[Callable[[Parts], bytes], str]] = {
    "nothing": (lambda parts: b"", "it is not a tar"),
    "not a tar": (lambda parts: b"x" * 5000, "it is not a plain tar, or damaged"),
    "compressed": (lambda parts: gzip.compress(random.randbytes(5000)), "it is not a plain tar, or damaged"),
    "an empty tar": (lambda parts: tar(), "it holds no NAME/manifest.json"),
    "a path upwards": (lambda parts: tar(member("../manifest.json")), "it holds '../manifest.json' where NAME/mani"),
    "a path far upwards": (lambda parts: tar(member("../../x")), "it holds '../../x' where NAME/manifest.json belongs"),
    "a path around": (lambda parts: tar(member("m/../manifest.json")), "it holds 'm/../manifest.json' where NAME/"),
    "an absolute path": (lambda parts: tar(member("/m/manifest.json")), "it holds '/m/manifest.json' where NAME/"),
    "a hidden name": (lambda parts: tar(member(".m/manifest.json")), "it holds '.m/manifest.json' where NAME/"),
    "a folder": (lambda parts: tar(member("m", type=tarfile.DIRTYPE)), "it holds 'm', which is a folder"),
    "a symbolic link": (
        lambda parts: tar(member(A, type=tarfile.SYMTYPE, linkname="/etc/passwd")),
        "it holds 'm/manifest.json', which is a link",
    ),
    "a hard link": (
        lambda parts: tar(members(parts)[0], member(B, type=tarfile.LNKTYPE, linkname=A)),
        "it holds 'm/config.json', which is a link",
    ),
    "a device": (lambda parts: tar(member(A, type=tarfile.CHRTYPE)), "it holds 'm/manifest.json', which is a device"),
    "a pipe": (lambda parts: tar(member(A, type=tarfile.FIFOTYPE)), "it holds 'm/manifest.json', which is a pipe"),
    "a sparse file": (
        lambda parts: tar(member(A, type=tarfile.GNUTYPE_SPARSE)),
        "it holds 'm/manifest.json', which is a sparse file",
    ),
    "a pax header": (
        lambda parts: tar(member("p", b"22 path=../../passwd\n", type=tarfile.XHDTYPE), *members(parts)),
        "it holds 'p', which is a pax header",
    ),
    "a long name": (
        lambda parts: tar(member("n", size=1 << 40, type=tarfile.GNUTYPE_LONGNAME)),
        "it holds 'n', which is a long name",
    ),
    "an unknown kind": (
        lambda parts: tar(member(A, type=b"Z")),
        "which is not a plain file",
    ),
    "a huge manifest": (lambda parts: tar(member(A, size=1 << 50)), f"manifest.json cannot have {1 << 50} bytes"),
    "a negative size": (lambda parts: tar(member(A, size=-512)), "manifest.json cannot have -512 bytes"),
    "huge weights": (
        lambda parts: tar(*members(parts, manifest=told(parts, "model.ckpt", 1 << 32))[:2], member(C, size=1 << 32)),
        "it is truncated within model.ckpt",
    ),
    "no config": (lambda parts: tar(*members(parts)[::2]), "it holds 'm/model.ckpt' where m/config.json belongs"),
    "no weights": (lambda parts: tar(*members(parts)[:2]), "it holds no m/model.ckpt"),
    "another order": (lambda parts: tar(*members(parts)[::-1]), "it holds 'm/model.ckpt' where NAME/manifest.json"),
    "a file twice": (
        lambda parts: tar(*members(parts)[:2], *members(parts)[1:]),
        "it holds 'm/config.json' where m/model.ckpt belongs",
    ),
    "one file more": (lambda parts: tar(*members(parts), member("m/used")), "it holds 'm/used' after the model"),
    "files of two models": (
        lambda parts: tar(members(parts)[0], member("n/config.json")),
        "it holds 'n/config.json' where m/config.json belongs",
    ),
    "no manifest in the manifest": (
        lambda parts: tar(*members(parts, manifest=b"{}")),
        "manifest.json is damaged: it lacks 'date'",
    ),
    "weights of another size": (
        lambda parts: tar(*members(parts, manifest=told(parts, "model.ckpt", size=7))),
        f"model.ckpt has {SIZE} bytes, not 7",
    ),
    "a wrong sum": (
        lambda parts: tar(*members(parts, manifest=told(parts, "model.ckpt", sha256="0" * 64))),
        f"model.ckpt has the sha256 {SHA256}, not {'0' * 64}",
    ),
    "no weights in the weights": (
        lambda parts: with_weights(parts, b"\x0a\xff"),
        ".tar: model.ckpt is not a MindSpore checkpoint, or is damaged: it ends within a number",
    ),
    "no config in the config": (
        lambda parts: with_config(parts, "text_cfg", "embed_cls", False),
        ".tar: config.json: text_cfg: `embed_cls` must be true",
    ),
    "the config of another model": (
        lambda parts: with_config(parts, "text_cfg", "context_length", 99),
        ".tar: text.positional_embedding has the shape (",
    ),
    "no end of layers": (
        lambda parts: with_config(parts, "text_cfg", "layers", 10**15),
        "text_cfg.layers = 1000000000000000 is too large",
    ),
    "heads of no width": (
        lambda parts: with_config(parts, "vision_cfg", "head_width", 0),
        "vision_cfg.head_width = 0 is out of range: 1 to 65536",
    ),
}


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    """The files of a model."""
    folder = tmp_path_factory.mktemp("parts")
    fill(folder)
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.mark.parametrize("attack", ATTACKS)
def test_hostile_bundles_are_refused(attack: str, parts: Parts, tmp_path: Path, home: Path) -> None:
    make, reason = ATTACKS[attack]
    (tmp_path / "bad.tar").write_bytes(make(parts))
    with pytest.raises(CocaError) as caught:
        take(tmp_path / "bad.tar")
    assert reason in caught.value.message
    assert "\n" not in caught.value.message
    assert cache.names() == []
    assert [path.name for path in tmp_path.iterdir()] == ["bad.tar"]
    assert not (home / "models").exists() or list((home / "models").iterdir()) == []


@pytest.mark.parametrize("kept", ["half a header", "half a config", "half of the weights", "all but the end"])
def test_truncated_bundle_is_refused(kept: str, bundle: Path) -> None:
    whole = bundle.read_bytes()
    length, reason = {
        "half a header": (256, "it is not a tar"),
        "half a config": (whole.index(b"embed_dim"), "it is truncated within config.json"),
        "half of the weights": (len(whole) // 2, "it is truncated within model.ckpt"),
        "all but the end": (len(whole) - 1024, "it is truncated"),
    }[kept]
    bundle.write_bytes(whole[:length])
    with pytest.raises(ModelError) as caught:
        take(bundle)
    assert caught.value.message == f"cannot import {bundle}: {reason}"
    assert cache.names() == []


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_flipped_bit_is_refused_or_harmless(data: st.DataObject, bundle: Path) -> None:
    """Bits of the padding change nothing, nor do those of the end of a tar. What a manifest tells is in no checksum."""
    whole = bundle.read_bytes()
    near = data.draw(
        st.sampled_from([0, whole.index(b"mine/config.json"), whole.index(b"mine/model.ckpt"), len(whole)])
    )
    at = min(max(near + data.draw(st.integers(-1100, 1100)), 0), len(whole) - 1)
    spoilt = bytearray(whole)
    spoilt[at] ^= 1 << data.draw(st.integers(0, 7))
    file = bundle.with_name("spoilt.tar")
    file.write_bytes(spoilt)
    try:
        name, _ = take(file)
    except CocaError as error:
        assert error.message.startswith(f"cannot import {file}: ")
    else:
        assert all(content in whole for file, content in contents(name).items() if file != "manifest.json")
        cache.remove(name)
    assert cache.names() == []


# Imports or exports (argv[1:]) where no file may grow beyond 100,000 bytes.
FULL = """
import resource, sys
from pathlib import Path
from cococli.checkpoints.bundle import export_model, import_model
from cococli.errors import ModelError

resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    if sys.argv[1] == "import":
        import_model(Path(sys.argv[2]))
    else:
        export_model("mine", Path(sys.argv[2]))
except ModelError as error:
    print(error.message)
"""


@pytest.mark.parametrize("act", ["import", "export"])
def test_full_disk_leaves_nothing_behind(act: str, bundle: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if act == "export":
        take(bundle)
        bundle.unlink()
    monkeypatch.setenv("PYTHONPATH", str(TESTS.parent))
    command = [sys.executable, "-c", FULL, act, bundle]
    run = subprocess.run(command, capture_output=True, text=True, timeout=900)
    doing = "import" if act == "import" else "export mine to"
    assert (run.stdout, run.stderr) == (f"cannot {doing} {bundle}: File too large\n", "")
    assert cache.names() == ([] if act == "import" else ["mine"])
    assert all(not path.name.startswith(".coca-") for path in [*bundle.parent.iterdir(), *(home / "models").iterdir()])


def test_missing_bundle_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        take(tmp_path / "none.tar")
    assert caught.value.message == f"cannot import {tmp_path}/none.tar: No such file or directory"
    with pytest.raises(ModelError) as caught:
        take(tmp_path)
    assert caught.value.message == f"cannot import {tmp_path}: Is a directory"
