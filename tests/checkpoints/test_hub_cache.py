"""The layout of Hugging Face's shared download cache, compared with what huggingface_hub itself writes."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from checkpoints.hub_server import Hub, etag, know_only
from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

from cococli.checkpoints import hub_cache

WEIGHTS = bytes(range(256)) * 10
ETAG = etag(WEIGHTS)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with Hub() as server:
        know_only(server, tmp_path / "hf", monkeypatch)
        yield server


@pytest.mark.parametrize("name", ["weights.bin", "folder/weights.bin"])
def test_layout_is_that_of_huggingface_hub(server: Hub, name: str) -> None:
    commit = server.add("org/coca", {name: WEIGHTS})
    path = Path(hf_hub_download("org/coca", name, endpoint=server.url))
    assert hub_cache.possible_copies("org/coca", commit, name, ETAG) == (path, path.resolve())
    blob, lock = hub_cache.blob_and_lock("org/coca", ETAG)
    assert blob == path.resolve()
    assert lock.exists()
    assert hub_cache.find_file("org/coca", "main", name) == (path, commit, ETAG)


def test_added_file_is_found_by_huggingface_hub(server: Hub) -> None:
    commit = "0123456789" * 4
    blob, _ = hub_cache.blob_and_lock("org/coca", ETAG)
    blob.parent.mkdir(parents=True)
    blob.write_bytes(WEIGHTS)
    path = hub_cache.add_file("org/coca", "v1", commit, "weights.bin", ETAG)
    assert path.read_bytes() == WEIGHTS
    for revision in ("v1", commit):
        assert try_to_load_from_cache("org/coca", "weights.bin", revision=revision) == str(path)
    assert hub_cache.find_file("org/coca", "main", "weights.bin") is None
