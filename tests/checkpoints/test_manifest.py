"""What is recorded of a model, and whether its files are as recorded."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from checkpoints.stored_models import HUB, LOCAL, fill

import cococli
from cococli.checkpoints import manifest
from cococli.checkpoints.manifest import FileFacts, Manifest
from cococli.errors import ModelError
from cococli.reporting import Progress


class Seen(Progress):
    def __init__(self) -> None:
        self.seen: list[int] = []

    def update(self, done: int, total: int | None = None, detail: str = "") -> None:
        self.seen.append(done)


CONTENT = b"no weights, but what says so?"


@pytest.fixture
def recorded(tmp_path: Path) -> Manifest:
    fill(tmp_path, HUB, CONTENT)
    return manifest.read(tmp_path)


def test_manifest_records_sizes_and_hashes(recorded: Manifest, tmp_path: Path) -> None:
    assert recorded.source == HUB
    assert recorded.files["model.ckpt"] == FileFacts(len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
    assert recorded.files["config.json"].size == (tmp_path / "config.json").stat().st_size
    assert recorded.program == cococli.__version__
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", recorded.date)


def test_manifest_is_read_as_written(recorded: Manifest) -> None:
    assert Manifest.from_json(recorded.to_json()) == recorded


def test_origin_has_short_and_full_form() -> None:
    assert str(HUB) == "org/repo@0123456"
    assert HUB.address == f"org/repo@{HUB.revision}:open_clip_pytorch_model.bin"
    assert str(LOCAL) == LOCAL.address == "/data/my model.bin"


def changed(recorded: Manifest, *keys: str, to: Any) -> str:
    """The JSON of a manifest with one value changed."""
    fields = json.loads(recorded.to_json())
    place = fields
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = to
    return json.dumps(fields)


DAMAGED = {
    "an unknown field": (["new"], 1),
    "a source that is none": (["source"], None),
    "a source with more": (["source", "new"], 1),
    "a number for a path": (["source", "file"], 1),
    "no files": (["files"], {}),
    "files as a list": (["files"], []),
    "another file": (["files", "../config.json"], {"size": 1, "sha256": "0" * 64}),
    "a negative size": (["files", "model.ckpt", "size"], -1),
    "true for a size": (["files", "model.ckpt", "size"], True),
    "half a byte": (["source", "size"], 0.5),
    "a short sha256": (["files", "model.ckpt", "sha256"], "0" * 63),
    "a sha256 of other letters": (["source", "sha256"], "Z" * 64),
    "an unknown dtype": (["dtype"], "int8"),
    "a list for a dtype": (["dtype"], []),
    "no parameters": (["parameters"], 0),
    "no program": (["program"], None),
    "a date of nowhere": (["date"], "2026-01-01T00:00:00"),
    "a date of elsewhere": (["date"], "2026-01-01T00:00:00+01:00"),
    "no date": (["date"], "yesterday"),
    "a number for a date": (["date"], 5),
    "more parameters than there can be": (["parameters"], 10**400),
    "a size that overflows": (["source", "size"], 10**400),
    "no source": (["source"], None),
    "nothing of a file": (["files", "model.ckpt"], []),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_invalid_manifest_is_damaged(recorded: Manifest, case: str) -> None:
    keys, value = DAMAGED[case]
    with pytest.raises(ModelError, match=r"^manifest.json is damaged: "):
        Manifest.from_json(changed(recorded, *keys, to=value))


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, b"{}", b'{"size": 1}'])
def test_other_content_is_a_damaged_manifest(text: bytes) -> None:
    with pytest.raises(ModelError, match=r"^manifest.json is damaged: "):
        Manifest.from_json(text)


def test_missing_manifest_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"^manifest.json is missing$"):
        manifest.read(tmp_path)


def test_check_finds_missing_and_truncated_files(recorded: Manifest, tmp_path: Path) -> None:
    manifest.check(tmp_path, recorded)
    (tmp_path / "model.ckpt").write_bytes(CONTENT[:12])
    with pytest.raises(ModelError, match=rf"^model.ckpt has 12 bytes, not {len(CONTENT)}$"):
        manifest.check(tmp_path, recorded)
    (tmp_path / "model.ckpt").unlink()
    with pytest.raises(ModelError, match=r"^model.ckpt is missing$"):
        manifest.check(tmp_path, recorded)


def test_verification_names_every_changed_file(recorded: Manifest, tmp_path: Path) -> None:
    progress = Seen()
    assert manifest.verify(tmp_path, recorded, progress) == []
    total = sum(facts.size for facts in recorded.files.values())
    assert progress.seen == sorted(progress.seen) and progress.seen[-1] == total
    (tmp_path / "config.json").unlink()
    spoilt = CONTENT.replace(b"no", b"on")
    (tmp_path / "model.ckpt").write_bytes(spoilt)
    was, now = (hashlib.sha256(content).hexdigest() for content in (CONTENT, spoilt))
    assert manifest.verify(tmp_path, recorded, Progress()) == [
        "config.json is missing",
        f"model.ckpt has the sha256 {now}, not {was}",
    ]
    (tmp_path / "model.ckpt").write_bytes(b"")
    assert manifest.verify(tmp_path, recorded, Progress())[1] == f"model.ckpt has 0 bytes, not {len(CONTENT)}"
