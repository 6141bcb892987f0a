"""The OpenVINO engine."""

import json
import logging
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from engines.cases import EngineCases, Weights, assert_close
from goldens import GOLDENS, captions_of, golden_arrays, golden_runs, golden_weights, options_of
from searches import search

from cococli.catalog import CocaConfig
from cococli.checkpoints import ckpt
from cococli.engines import openvino_graphs
from cococli.engines.base import top_k_scores
from cococli.engines.openvino import OpenVinoEngine
from cococli.errors import ModelError
from cococli.reporting import Progress


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return one folder for all engines of this module, as graphs do not depend on weights."""
    folder = tmp_path_factory.mktemp("compiled")
    TestOpenVino.cache = folder
    yield folder


class TestOpenVino(EngineCases):
    cache: Path

    @classmethod
    def make(cls, config: CocaConfig, weights: Weights) -> OpenVinoEngine:
        return OpenVinoEngine(config, weights, "fp32", cls.cache, Progress())


class Log(Progress):
    """Collects descriptions."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def describe(self, text: str) -> None:
        self.texts.append(text)


@pytest.fixture(scope="module", params=["bf16", "int8"])
def low_precision(request: pytest.FixtureRequest, cache: Path) -> tuple[OpenVinoEngine, float]:
    """Return an engine of lower precision, and the cosine that its embeddings must reach."""
    engine = OpenVinoEngine(*golden_weights("shapes"), request.param, cache, Progress())
    return engine, {"bf16": 0.999, "int8": 0.99}[request.param]


def test_building_graphs_keeps_the_root_logger(tmp_path, caplog):
    openvino_graphs.build(golden_weights("tiny")[0], tmp_path, Progress())
    logging.getLogger("other").warning("still shown")
    assert caplog.messages == ["still shown"]


def test_low_precision_embeddings_are_close_to_float32(low_precision):
    engine, least = low_precision
    oracle = golden_arrays("shapes")
    pixels = oracle["pixels"]
    images = engine.encode_clips(pixels[:, None]).embedding
    clips = engine.encode_clips(pixels.reshape(2, 3, *pixels.shape[1:])).embedding
    texts = engine.encode_texts(oracle["text_ids"].astype(np.int32))
    for ours, theirs in ((images, "image_latent"), (clips, "clip_latent"), (texts, "text_latent")):
        assert (ours * oracle[theirs]).sum(-1).min() >= least


def test_low_precision_captions_equal_float32(low_precision):
    engine, _ = low_precision
    tokens = engine.encode_clips(golden_arrays("shapes")["pixels"][:, None]).tokens
    run = golden_runs("shapes", "beam")[0]
    found = search(engine, tokens, options_of("beam", run["args"]))
    assert [list(caption.ids) for caption in found] == captions_of(run, engine.config)


def test_low_precision_log_sum_is_exact(low_precision):
    engine, _ = low_precision
    state = engine.begin(1, 2, 6, top_k=5)
    engine.admit(state, 0, golden_arrays("shapes")["image_tokens"][0])
    ids, parents = np.array([[engine.config.sot_id] * 2], np.int32), np.array([[0, 1]], np.int32)
    scores = engine.step(state, np.array([0]), ids, parents)
    wanted = top_k_scores(scores.lookup(slice(None), slice(None)), 5)
    np.testing.assert_array_equal(scores.ids, wanted.ids)
    assert_close(scores.log_sum, wanted.log_sum, 1e-4)


def test_float_graphs_contain_no_weights(tmp_path):
    config, weights = golden_weights("tiny")
    engine = OpenVinoEngine(config, weights, "fp32", tmp_path, Progress())
    assert all(engine._weights[name] is array for name, array in weights.items())
    graphs = next(path for path in tmp_path.iterdir() if path.is_dir())
    assert sorted(path.name for path in graphs.glob("*.xml")) == [
        f"{name}.xml" for name in ("CrossKeysValues", "DecodeStep", "Pooler", "TextTower", "VisionTower")
    ]
    assert sum(path.stat().st_size for path in graphs.glob("*.bin")) < 1000


def test_graphs_are_built_once(tmp_path):
    config, weights = golden_weights("tiny")
    progress = Log()
    for precision in ("fp32", "bf16", "int8", "int8", "fp32"):
        OpenVinoEngine(config, weights, precision, tmp_path, progress)
    parts = (
        "the vision tower",
        "the pooler",
        "the text tower",
        "the cross-attention keys and values",
        "the decoder",
    )
    assert progress.texts == [
        *(f"compiling {part} for OpenVINO (only once)" for part in parts),
        *(f"quantizing {part} to int8 (only once)" for part in parts),
    ]


def test_each_architecture_has_its_own_graphs(tmp_path):
    for name in ("tiny", "shapes"):
        openvino_graphs.build(golden_weights(name)[0], tmp_path, Progress())
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 2


KEY = """
import sys
from cococli.engines import openvino_graphs
if sys.argv[1:]:
    openvino_graphs.version = lambda library: sys.argv[2] if library == sys.argv[1] else ""
print(openvino_graphs._key())
"""


def test_graph_keys_follow_code_and_library_versions(tmp_path):
    package = tmp_path / "cococli"
    shutil.copytree(
        Path(openvino_graphs.__file__).parents[1], package, ignore=shutil.ignore_patterns("assets", "__pycache__")
    )

    def key(*version: str) -> str:
        command = [sys.executable, "-c", KEY, *version]
        return subprocess.run(
            command, capture_output=True, text=True, check=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": ""}
        ).stdout

    keys = [key(), key("openvino", "1"), key("torch", "1"), key("nncf", "1"), key("torch", "2")]
    for changed in ("engines/openvino_graphs.py", "model/torch_network.py"):
        with (package / changed).open("a") as file:
            file.write("# another line")
        keys.append(key())
    assert len(set(keys)) == len(keys)
    (package / "engines" / "torch.py").touch()
    assert key() == keys[-1]


def test_only_outdated_graphs_are_removed(tmp_path):
    config, weights = golden_weights("tiny")
    old = ["openvino-2026.4.1-v2-0123abcd", "openvino-2026.4.1-v2-0123abcd-int8", "openvino-0", ".coca-0123.part"]
    for name in (*old, "index"):
        (tmp_path / name).mkdir()
    (tmp_path / "openvino-2026.4.1-v2-0123abcd.lock").touch()
    new = openvino_graphs.build(config, tmp_path, Progress())
    int8 = openvino_graphs.quantize(new, weights, Progress())
    assert {*tmp_path.iterdir()} == {new, int8, tmp_path / "index", tmp_path / "openvino.lock"}
    (new / "kept").touch()
    assert openvino_graphs.build(config, tmp_path, Progress()) == new
    assert (new / "kept").exists()


def test_failed_builds_leave_no_partial_graphs(tmp_path):
    config = golden_weights("tiny")[0]

    class Interrupted(Progress):
        def describe(self, text: str) -> None:
            if "decoder" in text:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        openvino_graphs.build(config, tmp_path, Interrupted())
    assert [path.name for path in tmp_path.iterdir()] == ["openvino.lock"]
    (tmp_path / ".coca-0123456789abcdef.part").mkdir()
    (tmp_path / ".coca-0123456789abcdef.part" / "left.xml").write_text("<half")
    made = openvino_graphs.build(config, tmp_path, Progress())
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == [made]
    assert not (made / "left.xml").exists()


def test_concurrent_builds_compile_once(tmp_path):
    config, progress = golden_weights("tiny")[0], Log()
    made: list[Path] = []
    threads = [
        threading.Thread(target=lambda: made.append(openvino_graphs.build(config, tmp_path, progress))) for _ in "ab"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made[0] == made[1]
    assert len([text for text in progress.texts if text.startswith("compiling")]) == 5


def test_read_only_cache_is_reported(tmp_path, as_nobody):
    tmp_path.chmod(0o500)
    with pytest.raises(ModelError, match="cannot write to"):
        openvino_graphs.build(golden_weights("tiny")[0], tmp_path / "cache", Progress())


def test_existing_graphs_load_without_torch(tmp_path):
    config, weights = golden_weights("tiny")
    wanted = OpenVinoEngine(config, weights, "fp32", tmp_path, Progress()).encode_texts(np.array([[298, 7, 299]]))
    with (tmp_path / "tiny.ckpt").open("wb") as file:
        for name, array in weights.items():
            ckpt.write(file, name, array.shape, [array])
    script = f"""
import json, sys
from pathlib import Path
import numpy as np
from cococli.checkpoints.architecture import load_config
from cococli.engines.openvino import OpenVinoEngine
folder = Path({str(tmp_path)!r})
config = load_config(Path({str(GOLDENS / "tiny" / "config.json")!r}))
engine = OpenVinoEngine.open(folder / "tiny.ckpt", config, "fp32", folder, None)
engine.encode_clips(np.zeros((1, 1, 3, 32, 32), np.float32))
texts = engine.encode_texts(np.array([[298, 7, 299]]))
heavy = [name for name in ("torch", "nncf", "mindspore", "openvino_telemetry") if sys.modules.get(name)]
print(json.dumps([texts.tolist(), heavy]))
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    texts, loaded = json.loads(run.stdout)
    assert loaded == []
    assert_close(np.array(texts, np.float32), wanted, 1e-6)
