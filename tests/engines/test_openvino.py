"""The OpenVINO engine: what every engine must give, and what is its own."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from decoding.goldens import golden_runs
from decoding.test_search_goldens import options_of, up_to_eot
from engines.cases import GOLDENS, EngineCases, Weights, assert_close, load, oracle_of

from cococli.catalog import CocaConfig
from cococli.checkpoints import ckpt
from cococli.decoding.search import search
from cococli.engines import compiled
from cococli.engines.openvino import OpenVinoEngine
from cococli.engines.scores import few_best
from cococli.errors import ModelError


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One folder for all engines of this module, as graphs are the same for all weights."""
    folder = tmp_path_factory.mktemp("compiled")
    TestOpenVino.cache = folder
    yield folder


class TestOpenVino(EngineCases):
    cache: Path

    @classmethod
    def make(cls, config: CocaConfig, weights: Weights) -> OpenVinoEngine:
        return OpenVinoEngine(config, weights, "fp32", cls.cache, print)


@pytest.fixture(scope="module", params=["bf16", "int8"])
def rounding(request: pytest.FixtureRequest, cache: Path) -> tuple[OpenVinoEngine, float]:
    """An engine of fewer digits, and the cosine that its embeddings must reach."""
    engine = OpenVinoEngine(*load("shapes"), request.param, cache, print)
    return engine, {"bf16": 0.999, "int8": 0.99}[request.param]


def test_fewer_digits_embed_as_float32_does(rounding):
    engine, least = rounding
    oracle = oracle_of("shapes")
    pixels = oracle["pixels"]
    images = engine.encode_clips(pixels[:, None]).embedding
    clips = engine.encode_clips(pixels.reshape(2, 3, *pixels.shape[1:])).embedding
    texts = engine.encode_texts(oracle["text_ids"].astype(np.int32))
    for ours, theirs in ((images, "image_latent"), (clips, "clip_latent"), (texts, "text_latent")):
        assert (ours * oracle[theirs]).sum(-1).min() >= least


def test_fewer_digits_say_what_float32_says(rounding):
    engine, _ = rounding
    tokens = engine.encode_clips(oracle_of("shapes")["pixels"][:, None]).tokens
    run = golden_runs("shapes", "beam")[0]
    found = search(engine, tokens, options_of("beam", run["args"]))
    assert [list(caption.ids) for caption in found] == [up_to_eot(ids, engine.config.eot_id) for ids in run["tokens"]]


def test_fewer_digits_sum_probabilities_as_exactly_as_float32(rounding):
    engine, _ = rounding
    state = engine.begin(1, 2, 6, few=5)
    engine.admit(state, 0, oracle_of("shapes")["image_tokens"][0])
    ids, parents = np.array([[engine.config.sot_id] * 2], np.int32), np.array([[0, 1]], np.int32)
    scores = engine.step(state, np.array([0]), ids, parents)
    wanted = few_best(scores.every(), 5)
    np.testing.assert_array_equal(scores.ids, wanted.ids)
    assert_close(scores.log_sum, wanted.log_sum, 1e-4)


def test_float_weights_stay_in_the_checkpoint(tmp_path):
    config, weights = load("tiny")
    engine = OpenVinoEngine(config, weights, "fp32", tmp_path, print)
    assert all(engine._weights[name] is array for name, array in weights.items())
    graphs = next(path for path in tmp_path.iterdir() if path.is_dir())
    assert sorted(path.name for path in graphs.glob("*.xml")) == [
        f"{name}.xml" for name in ("Looks", "Pooler", "Step", "Texts", "Vision")
    ]
    assert sum(path.stat().st_size for path in graphs.glob("*.bin")) < 1000


def test_every_float_precision_shares_the_graphs_and_int8_is_made_once(tmp_path):
    config, weights = load("tiny")
    told: list[str] = []
    for precision in ("fp32", "bf16", "int8", "int8", "fp32"):
        OpenVinoEngine(config, weights, precision, tmp_path, told.append)
    towers = ("the vision tower", "the pooler", "the text tower", "the decoder's looks", "the decoder")
    assert told == [
        *(f"compiling {tower} for OpenVINO, once" for tower in towers),
        *(f"rounding {tower} to int8, once" for tower in towers),
    ]


def test_another_architecture_has_graphs_of_its_own(tmp_path):
    for name in ("tiny", "shapes"):
        compiled.graphs(load(name)[0], tmp_path, print)
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 2


KEY = """
import sys
from cococli.engines import compiled
if sys.argv[1:]:
    compiled.version = lambda library: sys.argv[2] if library == sys.argv[1] else ""
print(compiled._key())
"""


def test_graph_keys_follow_code_and_library_versions(tmp_path):
    package = tmp_path / "cococli"
    shutil.copytree(Path(compiled.__file__).parents[1], package, ignore=shutil.ignore_patterns("assets", "__pycache__"))

    def key(*version: str) -> str:
        command = [sys.executable, "-c", KEY, *version]
        return subprocess.run(
            command, capture_output=True, text=True, check=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": ""}
        ).stdout

    keys = [key(), key("openvino", "1"), key("torch", "1"), key("nncf", "1"), key("torch", "2")]
    for changed in ("engines/compiled.py", "model/torch_network.py"):
        with (package / changed).open("a") as file:
            file.write("# another line")
        keys.append(key())
    assert len(set(keys)) == len(keys)
    (package / "engines" / "torch.py").touch()
    assert key() == keys[-1]


def test_outdated_graphs_are_removed_and_nothing_else(tmp_path):
    config, weights = load("tiny")
    old = ["openvino-2026.4.1-v2-0123abcd", "openvino-2026.4.1-v2-0123abcd-int8", "openvino-0", ".coca-0123.part"]
    for name in (*old, "index"):
        (tmp_path / name).mkdir()
    (tmp_path / "openvino-2026.4.1-v2-0123abcd.lock").touch()
    new = compiled.graphs(config, tmp_path, print)
    int8 = compiled.in_int8(new, weights, print)
    assert {*tmp_path.iterdir()} == {new, int8, tmp_path / "index", tmp_path / "openvino.lock"}
    (new / "kept").touch()
    assert compiled.graphs(config, tmp_path, print) == new
    assert (new / "kept").exists()


def test_what_fails_or_was_killed_leaves_nothing_half_made(tmp_path):
    config = load("tiny")[0]

    def fail(doing: str) -> None:
        if "decoder" in doing:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compiled.graphs(config, tmp_path, fail)
    assert [path.name for path in tmp_path.iterdir()] == ["openvino.lock"]
    (tmp_path / ".coca-0123456789abcdef.part").mkdir()
    (tmp_path / ".coca-0123456789abcdef.part" / "left.xml").write_text("<half")
    made = compiled.graphs(config, tmp_path, print)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == [made]
    assert not (made / "left.xml").exists()


def test_two_at_once_make_it_once(tmp_path):
    config, told = load("tiny")[0], []
    made: list[Path] = []
    threads = [
        threading.Thread(target=lambda: made.append(compiled.graphs(config, tmp_path, told.append))) for _ in "ab"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made[0] == made[1]
    assert len([doing for doing in told if doing.startswith("compiling")]) == 5


def test_a_folder_that_is_closed_is_told(tmp_path, as_nobody):
    tmp_path.chmod(0o500)
    with pytest.raises(ModelError, match="cannot write to"):
        compiled.graphs(load("tiny")[0], tmp_path / "cache", print)


def test_an_engine_whose_graphs_are_there_loads_no_torch(tmp_path):
    config, weights = load("tiny")
    wanted = OpenVinoEngine(config, weights, "fp32", tmp_path, print).encode_texts(np.array([[298, 7, 299]]))
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
engine = OpenVinoEngine.open(folder / "tiny.ckpt", config, "fp32", folder, None, [].append)
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
