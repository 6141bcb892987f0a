"""From the hub, or a file, into the cache: all or nothing, once, and with no more on the disk than is needed."""

import io
import math
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints.hub_server import Hub, know_only
from checkpoints.open_clip_state import SMALL, save, state_dict
from checkpoints.reporters import OnUpdate
from safetensors.torch import save as safetensors_bytes

from cococli.catalog import CLIP, MODELS, UNSUPPORTED
from cococli.checkpoints import architecture, cache, ckpt, fetch, hub, store
from cococli.checkpoints.convert import to_mindspore
from cococli.checkpoints.fetch import ModelSource, find_source
from cococli.checkpoints.fetch_options import FetchRequest
from cococli.errors import CocaError, ModelError, UsageError

TINY = Path(__file__).parents[1] / "data" / "goldens" / "tiny"
WEIGHTS = (TINY / "open_clip_pytorch_model.bin").read_bytes()
CONFIG = (TINY / "config.json").read_bytes()
REPOSITORY = "org/coca"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The only hub there is, with one model."""
    monkeypatch.setattr(hub, "PAUSES", (0.0,))
    with Hub() as server:
        know_only(server, tmp_path / "hf", monkeypatch)
        server.add(REPOSITORY, {"open_clip_pytorch_model.bin": WEIGHTS, "open_clip_config.json": CONFIG})
        yield server


def find(model: object, **options: Any) -> ModelSource:
    return find_source(FetchRequest(str(model), **options))


def source(**changes: Any) -> ModelSource:
    return replace(find(REPOSITORY), **changes)


def weights_of(name: str) -> dict[str, np.ndarray]:
    return ckpt.read(store.find_model(name).weights)


def test_hub_model_is_added_to_cache(server: Hub, home: Path, tmp_path: Path) -> None:
    stages: list[str] = []
    fetched = fetch.fetch_source(source(), reporter=OnUpdate(lambda stage, done, total: stages.append(stage)))
    assert (fetched.name, fetched.added) == ("org--coca", True)
    assert list(dict.fromkeys(stages)) == ["downloading", "checking", "converting", "verifying", "hashing"]
    by_hand = to_mindspore(TINY / "open_clip_pytorch_model.bin", tmp_path / "model.ckpt").path
    assert (fetched.folder / "model.ckpt").read_bytes() == by_hand.read_bytes()
    assert sorted(path.name for path in fetched.folder.iterdir()) == ["config.json", "manifest.json", "model.ckpt"]
    assert cache.verify("org--coca") == []
    assert fetched.manifest.source.repository == REPOSITORY
    assert fetched.manifest.source.size == len(WEIGHTS)
    assert store.find_model(REPOSITORY).name == "org--coca"
    assert not (home / "downloads" / "org--coca").exists()
    assert not (tmp_path / "hf" / "hub").exists()


def test_download_left_by_killed_run_is_removed(server: Hub, home: Path) -> None:
    fetch.fetch_source(source())
    left = home / "downloads" / "org--coca" / "weights"
    left.parent.mkdir()
    left.write_bytes(b"killed between adding the model and removing this")
    assert not fetch.fetch_source(source()).added
    assert not left.parent.exists()


def test_safetensors_are_preferred(server: Hub) -> None:
    state = {name: torch.zeros_like(tensor) for name, tensor in torch.load(io.BytesIO(WEIGHTS)).items()}
    files = {"open_clip_pytorch_model.bin": WEIGHTS, "open_clip_config.json": CONFIG}
    server.add(REPOSITORY, files | {"open_clip_pytorch_model.safetensors": safetensors_bytes(state)})
    assert fetch.fetch_source(source()).manifest.source.file == "open_clip_pytorch_model.safetensors"
    assert not any(array.any() for array in weights_of("org--coca").values())


def test_revision_and_file_can_be_named(server: Hub) -> None:
    commit = server.add(REPOSITORY, {"epoch_3.pt": WEIGHTS, "open_clip_config.json": CONFIG}, revision="v2")
    fetched = fetch.fetch_source(find(f"{REPOSITORY}@v2:epoch_3.pt"))
    assert fetched.name == "org--coca@v2--epoch_3.pt"
    assert (fetched.manifest.source.revision, fetched.manifest.source.file) == (commit, "epoch_3.pt")


def test_only_weights_are_found_by_any_name(server: Hub) -> None:
    files = {"README.md": b"CoCa", "mobileclip2_coca.pt": WEIGHTS, "config.json": CONFIG, "optimizer.pt": WEIGHTS}
    server.add("org/other", files)
    fetched = fetch.fetch_source(find("org/other"))
    assert fetched.manifest.source.file == "mobileclip2_coca.pt"
    assert store.find_model("org/other").config == store.find_model(fetched.name).config
    server.add("org/two", files | {"second.pt": WEIGHTS})
    with pytest.raises(ModelError, match="has no") as caught:
        fetch.fetch_source(find("org/two"))
    assert caught.value.message.endswith("but mobileclip2_coca.pt, second.pt")
    assert caught.value.hint == "name one of its files: coca fetch org/two:FILE"


def test_foreign_config_beside_weights_is_skipped(server: Hub) -> None:
    weights = safetensors_bytes(state_dict(SMALL))
    server.add("org/other", {"model.safetensors": weights, "config.json": b'{"model_type": "coca"}'})
    assert fetch.fetch_source(find("org/other")).manifest.parameters
    assert store.find_model("org/other").config == SMALL


def test_present_model_is_fetched_again_only_by_force(server: Hub) -> None:
    first = fetch.fetch_source(source())
    again = fetch.fetch_source(source())
    assert (again.added, again.manifest) == (False, first.manifest)
    assert len(server.downloads) == 2  # the weights and their config
    assert fetch.fetch_source(source(), force=True).added


def test_damaged_model_is_fetched_again(server: Hub) -> None:
    fetched = fetch.fetch_source(source())
    os.truncate(fetched.folder / "model.ckpt", 1000)
    with pytest.raises(ModelError, match=r"the model org--coca is damaged: model\.ckpt has 1000 bytes, not"):
        store.find_model("org--coca")
    assert fetch.fetch_source(source()).added
    assert weights_of("org--coca")


def test_half_precision_takes_half_the_disk(server: Hub) -> None:
    single = fetch.fetch_source(source())
    half = fetch.fetch_source(source(name="half"), dtype="float16")
    assert half.manifest.files["model.ckpt"].size < 0.55 * single.manifest.files["model.ckpt"].size
    assert {array.dtype for array in weights_of("half").values()} == {np.dtype("<f2")}
    reporter = OnUpdate()
    fetch.fetch_source(source(name="half"), reporter=reporter)
    assert reporter.notes == ["it is stored as float16; --force stores it as float32"]


def test_kept_download_is_reused_by_next_fetch(server: Hub, tmp_path: Path) -> None:
    fetch.fetch_source(source(), keep_download=True)
    (kept,) = (tmp_path / "hf" / "hub").glob("models--org--coca/snapshots/*/open_clip_pytorch_model.bin")
    assert kept.read_bytes() == WEIGHTS
    before = len(server.downloads)
    assert fetch.fetch_source(source(), force=True).added
    assert not [made for made in server.downloads[before:] if made.path.endswith(".bin") and made.method == "GET"]
    assert kept.exists()


def test_interrupted_download_resumes_at_next_fetch(server: Hub, home: Path) -> None:
    server.cuts = iter([0, 100_000, *[0] * 9])
    with pytest.raises(hub.Unreachable):
        fetch.fetch_source(source(config=replace(SMALL, preprocess_cfg=CLIP)))
    assert cache.names() == []
    assert [path.stat().st_size for path in (home / "downloads").rglob("*.incomplete")] == [100_000]
    server.cuts = iter(())
    assert fetch.fetch_source(source()).added
    assert "bytes=100000-" in [made.headers.get("range") for made in server.downloads]


def test_resumed_download_needs_room_for_the_rest(server: Hub, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = architecture.load_config(TINY / "config.json")
    tiny = source(config=replace(config, preprocess_cfg=CLIP))
    server.cuts = iter([0, 100_000, *[0] * 9])
    with pytest.raises(hub.Unreachable):
        fetch.fetch_source(tiny)
    server.cuts = iter(())
    weights = 4 * sum(map(math.prod, architecture.parameters(config).values()))
    disk = shutil.disk_usage(home)._replace(free=weights + len(WEIGHTS) - 100_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: disk)
    assert fetch.fetch_source(tiny).added


def test_invalid_checkpoint_leaves_nothing(server: Hub, home: Path) -> None:
    server.add(REPOSITORY, {"open_clip_pytorch_model.bin": b"no weights at all", "open_clip_config.json": CONFIG})
    with pytest.raises(ModelError, match="truncated or not a checkpoint"):
        fetch.fetch_source(source())
    assert [path.name for path in (home / "models").iterdir()] == []


def test_repository_without_weights_asks_for_file(server: Hub) -> None:
    server.add(REPOSITORY, {"README.md": b"about this model"})
    with pytest.raises(ModelError, match=r"org/coca has no open_clip_model\.safetensors, ") as caught:
        fetch.fetch_source(source())
    assert caught.value.hint == "name one of its files: coca fetch org/coca:FILE"


def test_pinned_sha256_is_enforced(server: Hub) -> None:
    pinned = source(name="known", sha256={"open_clip_pytorch_model.bin": "0" * 64})
    with pytest.raises(ModelError, match="is not the file known as known") as caught:
        fetch.fetch_source(pinned)
    assert caught.value.hint == "to use it anyway: coca fetch org/coca"
    assert server.downloads == []


def test_unreachable_hub_explains_manual_download(server: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelError) as caught:
        fetch.fetch_source(find("vit-b-32"))
    page = "https://huggingface.co/laion/CoCa-ViT-B-32-laion2B-s13B-b90k"
    command = "coca fetch vit-b-32 --from FILE"
    assert caught.value.hint == f"download open_clip_pytorch_model.bin from {page} by other means, then: {command}"
    by_hand = tmp_path / "downloaded.bin"
    by_hand.write_bytes(WEIGHTS)
    with pytest.raises(ModelError, match=re.escape(f"{by_hand}: ")):  # its shapes are not those of vit-b-32
        fetch.fetch_source(find("vit-b-32", source=by_hand))


def test_local_file_uses_config_beside_it(home: Path, tmp_path: Path) -> None:
    path = save(state_dict(SMALL), tmp_path / "My model.safetensors")
    fetched = fetch.fetch_source(find(path))
    assert fetched.name == "My-model"
    assert fetched.manifest.source.file == str(path)
    assert store.find_model("My-model").config == SMALL
    again = to_mindspore(path, tmp_path / "again.ckpt").path
    assert fetch.fetch_source(find(again, name="from-ckpt")).added
    assert weights_of("from-ckpt").keys() == weights_of("My-model").keys()


def test_another_model_is_not_replaced_without_force(tmp_path: Path) -> None:
    one, two = (save(state_dict(SMALL, seed), tmp_path / f"{seed}.safetensors") for seed in (1, 2))
    fetch.fetch_source(find(one, name="mine"))
    with pytest.raises(UsageError, match="the cache has another model called mine, from "):
        fetch.fetch_source(find(two, name="mine"))
    fetch.fetch_source(find(two, name="mine"), force=True)
    assert weights_of("mine")["visual.proj"].flat[0] == state_dict(SMALL, 2)["visual.proj"].flatten()[0]


def test_model_larger_than_disk_is_refused_before_download(server: Hub) -> None:
    text = replace(SMALL.text, width=1 << 16, vocab_size=1 << 24)
    decoder = replace(SMALL.decoder, width=1 << 16, vocab_size=1 << 24)
    huge = replace(SMALL, embed_dim=1 << 16, text=text, decoder=decoder)
    with pytest.raises(ModelError, match=r"cannot store org--coca in .*: it needs \d{4}\.\d\d GB, but only ") as caught:
        fetch.fetch_source(source(config=huge))
    assert caught.value.hint == "make room, use --half, or set COCA_HOME to a folder on another disk"
    assert server.downloads == []


def test_read_only_cache_is_an_error(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_nobody: None
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0o500)
    monkeypatch.setenv("COCA_HOME", str(closed))
    with pytest.raises(ModelError, match=f"cannot write to {closed}: Permission denied") as caught:
        fetch.fetch_source(source())
    assert caught.value.hint == "set COCA_HOME to another folder"


def test_last_fetched_model_is_the_newest(server: Hub) -> None:
    fetch.fetch_source(source(name="b"))
    fetch.fetch_source(source(name="a"))
    assert cache.newest() == "a"


WRONG = {
    "vit-l-15": "close: vit-l-14, vit-l-14-coco, vit-b-32",
    "my-model": "coca models available lists all; or name ORG/REPO, or a file",
    "https://huggingface.co/datasets/org/coca": "name it as ORG/REPO",
    "shapes": "",
}


@pytest.mark.parametrize("model", WRONG)
def test_unknown_models_are_refused_with_hints(model: str) -> None:
    with pytest.raises(UsageError) as caught:
        find(model)
    assert caught.value.hint == WRONG[model]


@pytest.mark.parametrize("path", ["./missing.bin", "/no/such.safetensors", "~/nothing.pt"])
def test_missing_file_is_an_error(path: str) -> None:
    with pytest.raises(CocaError, match="No such file or directory"):
        fetch.fetch_source(find(path))


OPEN_CLIP = {
    "coca_ViT-L-14/mscoco_finetuned_laion2B-s13B-b90k": "vit-l-14-coco",
    "coca_ViT-B-32/mscoco_finetuned_laion2b_s13b_b90k": "vit-b-32-coco",
    "coca_ViT-L-14:laion2b_s13b_b90k": "vit-l-14",
    "mscoco_finetuned_laion2B-s13B-b90k": "vit-l-14-coco",
    "laion2b_s13b_b90k": "vit-l-14",
    "mobileclip2_coca_dfn2b_s13b_docci_s12m_context77": "mobileclip2-coca-docci",
}


@pytest.mark.parametrize("model", OPEN_CLIP)
def test_names_of_open_clip_are_resolved(model: str) -> None:
    assert find(model).name == OPEN_CLIP[model]


def test_other_names_of_apple_are_repositories() -> None:
    name = "mobileclip2_coca_dfn2b_s13b_docci_s12m_context256"
    assert (find(name).repository, find(name).config) == (f"apple/{name}", None)
    assert find(f"hf-hub:apple/{name}").repository == f"apple/{name}"


@pytest.mark.parametrize("model", ["coca_base", "coca_roberta-ViT-B-32", "coca_base/tag"])
def test_models_without_pooler_are_explained_alike(model: str) -> None:
    for attempt in (find, store.find_model, architecture.load_config):
        with pytest.raises(ModelError) as caught:
            attempt(model)
        assert caught.value.message == UNSUPPORTED


def test_catalog_names_set_repository_and_config() -> None:
    for name, known in MODELS.items():
        if not known.bundled:
            asked = find(name)
            assert (asked.name, asked.repository, asked.config) == (name, known.repository, known.config)
