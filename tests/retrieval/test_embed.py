"""Embeddings with the bundled model, and the files that they are written to."""

import json
import os
import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy_engine import NumpyEngine
from PIL import Image
from pyarrow import parquet

import cococli
from cococli.catalog import BUNDLED, MODELS, CocaConfig, TextConfig
from cococli.checkpoints.store import find_model
from cococli.engines.torch import TorchEngine
from cococli.errors import CocaError, ModelError, UsageError, VideoError
from cococli.journal import Failure
from cococli.media.clips import ReadRequest, Sampling, parse_segments
from cococli.media.compute import Spent
from cococli.options import ModelOptions
from cococli.reporting import Reporter
from cococli.requests import EmbedRequest
from cococli.retrieval.embed import (
    TEXTS_AT_ONCE,
    Outputs,
    embed,
    embed_file,
    embed_texts,
    embed_videos,
    embedding_computer,
    parse_outputs,
    read_texts,
)
from cococli.retrieval.index import About, Entry, Index
from cococli.retrieval.vector_files import SUFFIXES, Embedding, write_vectors

EXAMPLES = Path(__file__).parents[2] / "examples"
MOVES, GROWS, APPEARS = (EXAMPLES / f"{name}.mp4" for name in ("moves", "grows", "appears"))
MULTI = Sampling("multi", 3)
KEY = "a48222b208673e70"  # of a file of those bytes and options, which existing indexes have
CLOSE = 1e-5  # most that two batches may differ


UNDECODABLE = b"caf\xe9.mp4".decode("utf-8", "surrogateescape")
ENTRIES = [
    Entry(4, "a.mp4", 0.0, 2.0, (1.0,), 2, "ein Käfer"),
    Entry(0, "a.mp4", 2.0, 3.5, (2.75,), 2),
    Entry(2, UNDECODABLE, end=1.0, frames=(0.5,)),
    Entry(1, text="a \u2028 dog"),
]
WRITTEN = ["a.mp4", "a.mp4", "caf\\udce9.mp4", ""]  # an undecodable byte as JSON spells it, where only UTF-8 goes
ABOUT = About("shapes", "sha256 of its weights", "multi", 4, "mean")
FACTS = {"model": "shapes", "identity": "sha256 of its weights", "frames": "multi", "num_frames": 4, "pool": "mean"}
VECTORS = np.random.default_rng(0).normal(size=(4, 7)).astype(np.float32) ** 9  # of every magnitude


@pytest.fixture(scope="module")
def engine() -> TorchEngine:
    files = find_model("shapes")
    return TorchEngine.open(files.weights, files.config)


@pytest.fixture(scope="module")
def coca() -> "cococli.Coca":
    return cococli.load("shapes", frames="multi", num_frames=3, engine="torch", precision="fp32")


class Stopping(Reporter):
    """Requests a stop at once."""

    stop_requested = True


def read(segments: str = "none", sampling: Sampling = MULTI) -> ReadRequest:
    return ReadRequest(sampling, parse_segments(segments), 64)


def test_videos_match_the_python_api(engine, coca, tmp_path: Path) -> None:
    picture, broken = tmp_path / "red.png", tmp_path / "broken.mp4"
    Image.new("RGB", (80, 60), (200, 30, 30)).save(picture)
    broken.write_bytes(b"this is not a video")
    paths, spent = [MOVES, broken, picture, GROWS], Spent()
    moves, failed, red, grows = embed_videos(paths, embedding_computer("joint", engine), read(), spent=spent)
    for embedded, path in ((moves, MOVES), (red, picture), (grows, GROWS)):
        np.testing.assert_allclose(embedded.vectors, [coca.embed(path)], atol=CLOSE)
        assert embedded.vectors.dtype == np.float32
    assert [each.index for each in (moves, failed, red, grows)] == [0, 1, 2, 3]
    (entry,) = moves.entries
    assert isinstance(entry, Entry)
    assert (entry.row, entry.video, entry.start, entry.end, entry.segments) == (-1, str(MOVES), 0.0, 4.0, 1)
    assert len(entry.frames) == 3
    assert red.entries == [Entry(-1, str(picture), frames=(0.0,))]
    (failure,) = failed.entries
    assert isinstance(failure, Failure) and failure.video == str(broken) and failure.error
    assert len(failed.vectors) == 0
    assert spent.clips == 3


def test_every_segment_has_its_own_vector(engine) -> None:
    (whole,) = embed_videos([APPEARS], embedding_computer("joint", engine), read("2", Sampling()))
    assert [(entry.start, entry.end, entry.segments) for entry in whole.entries] == [(0.0, 2.0, 2), (2.0, 4.0, 2)]
    before, after = whole.vectors
    assert before @ after < 0.99  # something appears
    np.testing.assert_allclose(np.linalg.norm(whole.vectors, axis=1), 1, atol=1e-6)


def test_pool_changes_vectors(engine) -> None:
    (joint,), (mean,) = (
        list(embed_videos([APPEARS], embedding_computer(pool, engine), read())) for pool in ("joint", "mean")
    )
    assert np.abs(joint.vectors - mean.vectors).max() > 1e-3
    np.testing.assert_allclose(joint.vectors[0], embed_file(APPEARS, engine, MULTI, "joint"), atol=CLOSE)
    np.testing.assert_allclose(mean.vectors[0], embed_file(APPEARS, engine, MULTI, "mean"), atol=CLOSE)


def test_unreadable_file_raises(engine, tmp_path: Path) -> None:
    with pytest.raises(VideoError):
        embed_file(tmp_path / "missing.mp4", engine, MULTI, "joint")


def test_stop_request_ends_embedding(engine) -> None:
    assert list(embed_videos([MOVES, GROWS], embedding_computer("joint", engine), read(), reporter=Stopping())) == []
    assert list(embed_texts(["a red circle"], engine, Stopping())) == []


def test_texts_match_the_python_api(engine, coca) -> None:
    texts = [f"{number} red circles" for number in range(TEXTS_AT_ONCE + 2)]
    embedded = list(embed_texts(texts, engine))
    assert [(place, entry) for place, entry, _ in embedded] == [
        (place, Entry(-1, text=text)) for place, text in enumerate(texts)
    ]
    for place in (0, 1, TEXTS_AT_ONCE - 1, TEXTS_AT_ONCE, TEXTS_AT_ONCE + 1):
        np.testing.assert_allclose(embedded[place][2], [coca.embed_text(texts[place])], atol=CLOSE)


def test_other_vocabularies_embed_only_pictures() -> None:
    text = TextConfig(vocab_size=300)
    engine = NumpyEngine(CocaConfig(text=text, decoder=text), {})
    assert list(embed_texts([], engine)) == []
    with pytest.raises(ModelError, match="300 tokens"):
        list(embed_texts(["a dog"], engine))


def test_caption_is_nearest_to_its_video(engine, coca) -> None:
    said = coca.caption(MOVES).text
    ((_, _, vector),) = embed_texts([said], engine)
    vectors = np.concatenate(
        [each.vectors for each in embed_videos([GROWS, MOVES], embedding_computer("joint", engine), read())]
    )
    assert (vectors @ vector[0]).argmax() == 1


def test_texts_are_distinct_lines(tmp_path: Path) -> None:
    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    one.write_bytes("\ufeffa cat\r\n\r\n  a dog \n\na cat".encode())
    two.write_text("ein Käfer\na dog\n")
    assert read_texts([one, two]) == ["a cat", "a dog", "ein Käfer"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\n  \n", "{file}: no text found"),
        (b"", "{file}: no text found"),
        (b"caf\xe9\n", "{file} is not UTF-8 text"),
        (None, "cannot read {file}: No such file or directory"),
    ],
)
def test_files_without_texts_are_refused(tmp_path: Path, content: bytes | None, expected: str) -> None:
    file = tmp_path / "texts.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_texts([file])
    assert (caught.value.message, caught.value.hint) == (expected.format(file=file), "")


# A run


class Collecting(Reporter):
    """Keeps what is reported."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.records: list[Embedding] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warning(self, text: str) -> None:
        self.warnings.append(text)

    def record(self, record: object) -> None:
        assert isinstance(record, Embedding)
        self.records.append(record)


def test_run_resumes_and_reports_embeddings(engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    former = {"shapes.ckpt": "fbe2d2d7692ecac33a968490e5788b10cb9162b47aeed06991c08f5fb459444e"}
    monkeypatch.setitem(MODELS, BUNDLED, replace(MODELS[BUNDLED], sha256=former))
    for name in ("a", "b"):
        (tmp_path / f"{name}.mp4").write_bytes(MOVES.read_bytes())
        os.utime(tmp_path / f"{name}.mp4", ns=(10**18, 10**18))
    (tmp_path / "broken.mp4").write_bytes(b"this is not a video")
    (tmp_path / "texts.txt").write_text("a red circle\n")
    options = {
        "output": (f"{tmp_path}/index/", "-"),
        "texts": (tmp_path / "texts.txt",),
        "segments": "2",
        "model": ModelOptions(model="shapes"),
    }
    first, second = Collecting(), Collecting()
    summary = embed(EmbedRequest((str(tmp_path / "a.mp4"),), **options), first, engine)
    assert (summary.total, summary.failures, summary.exit_code) == (2, [], 0)
    assert [(each.entry.start, each.entry.text, each.model) for each in first.records] == [
        (0.0, "", "shapes"),
        (2.0, "", "shapes"),
        (0.0, "a red circle", "shapes"),
    ]
    summary = embed(EmbedRequest((str(tmp_path),), **options), second, engine)
    assert (summary.total, len(summary.failures), summary.exit_code) == (4, 1, 1)
    assert second.notes[0] == "2 of 4 inputs already embedded (use --overwrite to redo them)"
    assert second.warnings[0].startswith(f"{tmp_path}/broken.mp4: ")
    np.testing.assert_array_equal(second.records[0].vector, first.records[0].vector)
    assert len(second.records) == len(Index(tmp_path / "index").rows) == 5
    lines = map(json.loads, (tmp_path / "index" / "entries.jsonl").open())
    keys = {(line.get("video") or line["text"]): line["key"] for line in lines if line["status"] == "ok"}
    assert keys == {"../a.mp4": KEY, "a red circle": "text", "../b.mp4": KEY}


# Outputs


@pytest.mark.parametrize("name", ["index/", "index", "v1.0/", "new.npz/", "deep/er/"])
def test_folder_is_an_index(tmp_path: Path, name: str) -> None:
    assert parse_outputs([f"{tmp_path}/{name}"], "m") == Outputs(tmp_path / name, (), False)


def test_existing_folder_needs_no_slash(tmp_path: Path) -> None:
    (tmp_path / "v1.0").mkdir()
    assert parse_outputs([f"{tmp_path}/v1.0"], "m").index == tmp_path / "v1.0"


def test_outputs_may_be_combined(tmp_path: Path) -> None:
    names = [tmp_path / "a.npz", tmp_path / "b.JSONL", tmp_path / "c.parquet"]
    assert parse_outputs([*map(str, names), "-", f"{tmp_path}/index/"], "m") == Outputs(
        tmp_path / "index", tuple(names), True
    )


def test_files_resume_from_a_cached_index(tmp_path: Path, home: Path) -> None:
    def index(model: str, *names: str) -> Path | None:
        return parse_outputs([str(tmp_path / name) for name in names], model).index

    first = index("m", "a.npz")
    assert first and first.parent == home / "journals"
    assert index("m", "a.npz") == first
    assert len({first, index("other", "a.npz"), index("m", "b.npz"), index("m", "a.npz", "b.npz")}) == 4


def test_stdout_alone_has_no_index() -> None:
    assert parse_outputs(["-"], "m") == Outputs(None, (), True)


def test_impossible_outputs_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    def refused(*outputs: str) -> tuple[str, str]:
        with pytest.raises(UsageError) as caught:
            parse_outputs(outputs, "m")
        return caught.value.message, caught.value.hint

    assert refused() == ("no output given", "name a folder for an index, as in -o index/")
    assert refused("one/", "two/") == ("-o names two folders: one and two", "one run fills one index")
    assert refused("out.csv") == (
        "cannot tell the format of out.csv",
        "end its name in .npz, .jsonl, .parquet, .lance, or in / for an index",
    )
    for parent in ("missing", "file"):
        path = tmp_path / parent / "out.npz"
        assert refused(str(path)) == (
            f"cannot write {path}: {path.parent} is not a writable folder",
            "",
        )


@pytest.fixture(params=["float32", "float16"])
def vectors(request: pytest.FixtureRequest) -> np.ndarray:
    return VECTORS.clip(-1, 1).astype(request.param)


def test_npz_holds_arrays_of_equal_length(tmp_path: Path, vectors: np.ndarray) -> None:
    write_vectors(tmp_path / "out.npz", ENTRIES, vectors, ABOUT)
    with np.load(tmp_path / "out.npz", allow_pickle=False) as read:
        np.testing.assert_array_equal(read["vectors"], vectors, strict=True)
        columns = {name: read[name].tolist() for name in read.files if name != "vectors"}
    assert columns == {
        "video": WRITTEN,
        "start": [0.0, 2.0, 0.0, 0.0],
        "end": [2.0, 3.5, 1.0, 0.0],
        "text": ["ein Käfer", "", "", "a \u2028 dog"],
        **FACTS,
    }


def test_parquet_holds_a_row_per_entry(tmp_path: Path, vectors: np.ndarray) -> None:
    write_vectors(tmp_path / "out.PARQUET", ENTRIES, vectors, ABOUT)
    table = parquet.read_table(tmp_path / "out.PARQUET")
    assert table.column_names == ["video", "start", "end", "text", "model", "vector"]
    assert set(table["model"].to_pylist()) == {"shapes"}
    assert json.loads(table.schema.metadata[b"coca"]) == FACTS
    read = np.array([row.as_py() for row in table["vector"]], vectors.dtype)
    np.testing.assert_array_equal(read, vectors, strict=True)
    assert table["video"].to_pylist() == WRITTEN
    assert table["text"].to_pylist() == [entry.text for entry in ENTRIES]
    assert table["end"].to_pylist() == [2.0, 3.5, 1.0, 0.0]


def test_jsonl_holds_exact_numbers(tmp_path: Path, vectors: np.ndarray) -> None:
    write_vectors(tmp_path / "out.jsonl", ENTRIES, vectors, ABOUT)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("ascii").splitlines()]
    read = np.array([line.pop("vector") for line in lines], vectors.dtype)
    np.testing.assert_array_equal(read, vectors, strict=True)
    assert {line.pop("model") for line in lines} == {"shapes"}
    assert lines == [
        {"video": "a.mp4", "start": 0.0, "end": 2.0, "segments": 2, "caption": "ein Käfer", "frames": [1.0]},
        {"video": "a.mp4", "start": 2.0, "end": 3.5, "segments": 2, "frames": [2.75]},
        {"video": UNDECODABLE, "start": 0.0, "end": 1.0, "frames": [0.5]},
        {"text": "a \u2028 dog"},
    ]


@given(arrays.arrays(np.float32, 5, elements=st.floats(-1, 1, width=32)))
def test_every_float_is_written_exactly(vector: np.ndarray) -> None:
    line = Embedding(Entry(0, text="a dog"), vector, "shapes").to_json()
    np.testing.assert_array_equal(np.array(json.loads(line)["vector"], np.float32), vector)


@pytest.mark.parametrize("suffix", [suffix for suffix in SUFFIXES if suffix != ".lance"])
def test_empty_files_are_valid(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    write_vectors(path, [], VECTORS[:0], ABOUT)
    shapes: dict[str, Callable[[], object]] = {
        ".npz": lambda: np.load(path)["vectors"].shape,
        ".parquet": lambda: (parquet.read_table(path).num_rows, 7),
        ".jsonl": lambda: (len(path.read_text()), 7),
    }
    assert shapes[suffix]() == (0, 7)


@pytest.mark.parametrize("suffix", [suffix for suffix in SUFFIXES if suffix != ".lance"])
def test_full_disk_keeps_the_existing_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    path.write_text("mine")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(CocaError) as caught:
            write_vectors(path, ENTRIES, VECTORS, ABOUT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.message.startswith(f"cannot write {path}: ") and "\n" not in caught.value.message
    assert "File too large" in caught.value.message
    assert (path.read_text(), list(tmp_path.iterdir())) == ("mine", [path])


def test_links_stay_links(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link = tmp_path / "out.jsonl"
    link.symlink_to(tmp_path / "there" / "out.jsonl")
    write_vectors(link, ENTRIES, VECTORS, ABOUT)
    assert link.is_symlink()
    assert len((tmp_path / "there" / "out.jsonl").read_text().splitlines()) == 4
