"""Moments that match a query, in a small real index made with the bundled model."""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from cococli.checkpoints.store import find_model
from cococli.engines.mindspore import MindSporeEngine
from cococli.errors import CocaError, UsageError
from cococli.journal import Task, text_name
from cococli.media.clips import ReadRequest, Sampling, parse_segments
from cococli.retrieval import approximate
from cococli.retrieval.embed import embed_texts, embed_videos
from cococli.retrieval.index import About, Index, check_model, open_index
from cococli.retrieval.query import Part, Query
from cococli.retrieval.search import Found, Searcher

EXAMPLES = Path(__file__).parents[2] / "examples"
MOVES, GROWS, CHANGES = (EXAMPLES / f"{name}.mp4" for name in ("moves", "grows", "changes"))
YELLOW = "a large yellow circle on a black background"
TEXTS = [YELLOW, "a small red triangle on a pink background", "a white square beside a blue square"]
READ = ReadRequest(Sampling(), parse_segments("2"), 64)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder without videos, so that their paths are absolute."""
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))


@pytest.fixture(scope="module")
def engine() -> MindSporeEngine:
    files = find_model("shapes")
    return MindSporeEngine.open(files.weights, files.config)


@pytest.fixture(scope="module")
def draw() -> ModuleType:
    """examples/draw.py"""
    sys.path.insert(0, str(EXAMPLES))
    try:
        import draw
    finally:
        sys.path.remove(str(EXAMPLES))
    return draw


@pytest.fixture(scope="module")
def pictures(draw: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Large circles on black, by color."""
    folder = tmp_path_factory.mktemp("pictures")
    for color in ("yellow", "white", "blue"):
        circle = draw.Shape("large", color, "circle", 30, 32)
        Image.fromarray(draw.picture("black", circle)).save(folder / f"{color}.png")
    return {path.stem: path for path in folder.iterdir()}


@pytest.fixture(scope="module")
def made(engine: MindSporeEngine, pictures: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example clips, cut in two each, the pictures, and texts."""
    folder = tmp_path_factory.mktemp("made") / "index"
    fill(folder, engine, [*sorted(EXAMPLES.glob("*.mp4")), *pictures.values()], TEXTS)
    return folder


@pytest.fixture
def index(made: Path, tmp_path: Path) -> Index:
    shutil.copytree(made, tmp_path / "index")
    return Index(tmp_path / "index")


def fill(folder: Path, engine: MindSporeEngine, paths: Sequence[Path], texts: Sequence[str] = ()) -> None:
    tasks = [Task(str(path), "") for path in paths] + [Task(text_name(text), "") for text in texts]
    with open_index(folder, About("shapes", "same"), engine.config.embed_dim, tasks) as writer:
        for embedded in embed_videos(paths, engine, "joint", READ, 4):
            writer.append(tasks[embedded.index], embedded.entries, embedded.vectors)
        for place, entry, vector in embed_texts(texts, engine):
            writer.append(tasks[len(paths) + place], [entry], vector)


def text(what: str, weight: float = 1.0) -> Query:
    return Query((Part(what, weight),))


def names(found: list[Found]) -> list[str]:
    return [Path(one.entry.video).stem for one in found]


def test_a_sentence_finds_what_it_says_and_scores_are_cosines(engine, index: Index) -> None:
    found = Searcher(index, engine).search(text(YELLOW), count=100)
    assert set(names(found[:3])) == {"yellow", "moves"}
    assert len(found) == 5 * 2 + 3  # no texts
    ((_, _, (vector,)),) = embed_texts([YELLOW], engine)
    cosines = [index.vectors[one.entry.row] @ vector for one in found]
    np.testing.assert_allclose([one.score for one in found], cosines, atol=1e-6)
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)


def test_a_picture_and_a_video_find_themselves(engine, index: Index, pictures: dict[str, Path]) -> None:
    searcher = Searcher(index, engine)
    (same,) = searcher.search(Query((Part(pictures["blue"]),)), count=1)
    assert (same.entry.video, same.entry.end) == (str(pictures["blue"]), 0.0)
    assert same.score == pytest.approx(1, abs=1e-5)
    (moment, *_) = searcher.search(Query((Part(GROWS),)), count=3)
    assert (moment.entry.video, moment.entry.start) == (str(GROWS), 2.0)  # its middle frame looks like its second half


def test_a_query_is_pooled_as_its_index_was(engine, tmp_path: Path) -> None:
    about = About("shapes", "same", "multi", 3, "mean")
    request = ReadRequest(Sampling("multi", 3), parse_segments("none"), 64)
    task = Task(str(CHANGES), "")
    with open_index(tmp_path / "index", about, engine.config.embed_dim, [task]) as writer:
        for embedded in embed_videos([CHANGES], engine, "mean", request):
            writer.append(task, embedded.entries, embedded.vectors)
    (found,) = Searcher(Index(tmp_path / "index"), engine).search(Query((Part(CHANGES),)))
    assert found.score == pytest.approx(1, abs=1e-5)


def test_parts_are_added_by_their_weights(engine, index: Index, pictures: dict[str, Path]) -> None:
    parts = (Part(YELLOW, 2.0), Part(pictures["white"]), Part(MOVES, -0.5))
    found = Searcher(index, engine).search(Query(parts), count=100)
    ((_, _, (sentence,)),) = embed_texts([YELLOW], engine)
    white, moves = (searched(index, engine, path) for path in (pictures["white"], MOVES))
    wanted = 2 * sentence + white - 0.5 * moves
    wanted /= np.linalg.norm(wanted)
    expected = [index.vectors[one.entry.row] @ wanted for one in found]
    np.testing.assert_allclose([one.score for one in found], expected, atol=1e-5)


def searched(index: Index, engine: MindSporeEngine, path: Path) -> np.ndarray:
    """The vector of a whole file."""
    reading = ReadRequest(Sampling(), parse_segments("none"), 64)
    (embedded,) = embed_videos([path], engine, index.about.pool, reading)
    return embedded.vectors[0]


def test_what_is_excluded_is_left_out(engine, index: Index, pictures: dict[str, Path]) -> None:
    searcher = Searcher(index, engine)
    circle = Part("a large white circle on a black background")
    assert {"grows", "white", "moves", "yellow"} <= set(names(searcher.search(Query((circle,)), count=7)))
    left = names(searcher.search(Query((circle,), (Part(pictures["yellow"]),)), count=100))
    assert "white" in left and not {"moves", "yellow"} & set(left)


def test_few_of_each_video_and_only_what_matches_well(engine, index: Index) -> None:
    searcher = Searcher(index, engine)
    once = names(searcher.search(text(YELLOW), count=100, per_video=1))
    assert sorted(once) == sorted({*once}) and len(once) == 8
    everything = searcher.search(text(YELLOW), count=100)
    limit = everything[4].score
    assert searcher.search(text(YELLOW), min_score=limit) == everything[:5]
    assert searcher.search(text(YELLOW), count=2) == everything[:2]
    assert searcher.search(text(YELLOW), min_score=1.1) == []


def test_texts_are_found_among_texts(engine, index: Index) -> None:
    searcher = Searcher(index, engine, "texts")
    assert [one.entry.text for one in searcher.search(Query((Part(MOVES),)), count=1)] == [YELLOW]
    assert len(searcher.search(text("a dog"), count=100)) == len(TEXTS)


def test_an_index_of_one_kind_needs_no_choice(engine, tmp_path: Path) -> None:
    fill(tmp_path / "texts", engine, [], TEXTS)
    found = Searcher(Index(tmp_path / "texts"), engine).search(text(YELLOW))
    assert found[0].entry.text == YELLOW and len(found) == 3
    with pytest.raises(UsageError) as caught:
        Searcher(Index(tmp_path / "texts"), engine, "videos")
    assert (caught.value.message, caught.value.hint) == (f"{tmp_path}/texts holds no videos", "coca embed adds to it")
    fill(tmp_path / "empty", engine, [])
    with pytest.raises(UsageError) as caught:
        Searcher(Index(tmp_path / "empty"), engine)
    assert caught.value.message == f"{tmp_path}/empty holds no videos"


@pytest.mark.parametrize("kind", ["videos", "texts"])
def test_approximate_is_exact_where_there_is_little(engine, index: Index, kind) -> None:
    steps: list[tuple[int, int]] = []
    graph = Searcher(index, engine, kind, approximate=True, progress=lambda *step: steps.append(step))
    exact = Searcher(index, engine, kind)
    query = Query((Part(YELLOW), Part(MOVES, 0.5)), (Part("a green square"),))
    for limits in ({"count": 4}, {"count": 100}, {"per_video": 1}, {"min_score": 0.2}):
        assert graph.search(query, **limits) == exact.search(query, **limits)
    assert steps == [(16, 16)]
    assert (index.folder / approximate.NAME).exists()


def test_an_open_index_may_grow(engine, index: Index, pictures: dict[str, Path], tmp_path: Path) -> None:
    searchers = [Searcher(index, engine), Searcher(index, engine, approximate=True)]
    before = searchers[0].search(text(YELLOW), count=100)
    copy = tmp_path / "copy.png"
    copy.write_bytes(pictures["yellow"].read_bytes())
    fill(index.folder, engine, [copy])
    for searcher in searchers:
        assert searcher.search(text(YELLOW), count=100) == before
    later = Index(index.folder)
    for searcher in (Searcher(later, engine), Searcher(later, engine, approximate=True)):
        found = searcher.search(Query((Part(copy),)), count=2)
        assert {one.entry.video for one in found} == {str(copy), str(pictures["yellow"])}


def test_queries_that_come_to_nothing_are_refused(engine, index: Index, tmp_path: Path) -> None:
    searcher = Searcher(index, engine)
    for query in (text("a dog", 0.0), Query((Part("a dog"), Part("a dog", -1.0)))):
        with pytest.raises(UsageError) as caught:
            searcher.search(query)
        assert caught.value.message == "these queries cancel each other out"
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"this is no video")
    for query in (Query((Part(broken),)), Query((Part("a dog"),), (Part(broken),))):
        with pytest.raises(CocaError) as caught:
            searcher.search(query)
        assert (
            caught.value.message == f"cannot look for {broken}: not a video: invalid data found when processing input"
        )


def test_vectors_of_other_weights_are_refused(index: Index) -> None:
    with pytest.raises(UsageError) as caught:
        check_model(index.folder, index.about, About("shapes", "other"))
    assert caught.value.message == f"{index.folder} holds vectors of another shapes than the one that is here"
    assert caught.value.hint == "vectors of two models cannot be compared: name another folder"
