"""Search in a small index of real videos, pictures and texts."""

import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from cococli.checkpoints.store import find_model
from cococli.engines.torch import TorchEngine
from cococli.errors import CocaError, UsageError
from cococli.journal import Task, text_name
from cococli.media.clips import ReadRequest, Sampling, parse_segments
from cococli.options import EngineOptions
from cococli.reporting import Progress, Reporter
from cococli.requests import SearchRequest
from cococli.retrieval.embed import embed_texts, embed_videos, embedding_computer
from cococli.retrieval.index import About, Index, open_index
from cococli.retrieval.nearest import GRAPH
from cococli.retrieval.search import Found, Part, Query, Searcher, open_searcher, parse_query, search

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
def engine() -> TorchEngine:
    files = find_model("shapes")
    return TorchEngine.open(files.weights, files.config)


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
def made(engine: TorchEngine, pictures: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of the example clips in two segments each, the pictures and texts."""
    folder = tmp_path_factory.mktemp("made") / "index"
    fill(folder, engine, [*sorted(EXAMPLES.glob("*.mp4")), *pictures.values()], TEXTS)
    return folder


@pytest.fixture
def index(made: Path, tmp_path: Path) -> Index:
    shutil.copytree(made, tmp_path / "index")
    return Index(tmp_path / "index")


def fill(folder: Path, engine: TorchEngine, paths: Sequence[Path], texts: Sequence[str] = ()) -> None:
    tasks = [Task(str(path), "") for path in paths] + [Task(text_name(text), "") for text in texts]
    with open_index(folder, About("shapes", "same"), engine.config.embed_dim, tasks) as writer:
        for embedded in embed_videos(paths, embedding_computer("joint", engine), READ):
            writer.append(tasks[embedded.index], embedded.entries, embedded.vectors)
        for i, entry, vector in embed_texts(texts, engine):
            writer.append(tasks[len(paths) + i], [entry], vector)


def text(what: str, weight: float = 1.0) -> Query:
    return Query((Part(what, weight),))


def names(found: list[Found]) -> list[str]:
    return [Path(one.entry.video).stem for one in found]


def test_scores_are_cosines_to_the_query(engine, index: Index) -> None:
    found = Searcher(index, engine).search(text(YELLOW), count=100)
    assert set(names(found[:3])) == {"yellow", "moves"}
    assert len(found) == 5 * 2 + 3  # no texts
    ((_, _, (vector,)),) = embed_texts([YELLOW], engine)
    cosines = [index.vectors[one.entry.row] @ vector for one in found]
    np.testing.assert_allclose([one.score for one in found], cosines, atol=1e-6)
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)


def test_pictures_and_videos_find_themselves(engine, index: Index, pictures: dict[str, Path]) -> None:
    searcher = Searcher(index, engine)
    (same,) = searcher.search(Query((Part(pictures["blue"]),)), count=1)
    assert (same.entry.video, same.entry.end) == (str(pictures["blue"]), 0.0)
    assert same.score == pytest.approx(1, abs=1e-5)
    (moment, *_) = searcher.search(Query((Part(GROWS),)), count=3)
    assert (moment.entry.video, moment.entry.start) == (str(GROWS), 2.0)  # its middle frame looks like its second half


def test_query_is_pooled_like_its_index(engine, tmp_path: Path) -> None:
    about = About("shapes", "same", "multi", 3, "mean")
    request = ReadRequest(Sampling("multi", 3), parse_segments("none"), 64)
    task = Task(str(CHANGES), "")
    with open_index(tmp_path / "index", about, engine.config.embed_dim, [task]) as writer:
        for embedded in embed_videos([CHANGES], embedding_computer("mean", engine), request):
            writer.append(task, embedded.entries, embedded.vectors)
    (found,) = Searcher(Index(tmp_path / "index"), engine).search(Query((Part(CHANGES),)))
    assert found.score == pytest.approx(1, abs=1e-5)


def test_parts_are_weighted(engine, index: Index, pictures: dict[str, Path]) -> None:
    parts = (Part(YELLOW, 2.0), Part(pictures["white"]), Part(MOVES, -0.5))
    found = Searcher(index, engine).search(Query(parts), count=100)
    ((_, _, (sentence,)),) = embed_texts([YELLOW], engine)
    white, moves = (searched(index, engine, path) for path in (pictures["white"], MOVES))
    wanted = 2 * sentence + white - 0.5 * moves
    wanted /= np.linalg.norm(wanted)
    expected = [index.vectors[one.entry.row] @ wanted for one in found]
    np.testing.assert_allclose([one.score for one in found], expected, atol=1e-5)


def searched(index: Index, engine: TorchEngine, path: Path) -> np.ndarray:
    """Embed a file without segments."""
    reading = ReadRequest(Sampling(), parse_segments("none"), 64)
    (embedded,) = embed_videos([path], embedding_computer(index.about.pool, engine), reading)
    return embedded.vectors[0]


def test_exclusions_remove_what_they_match_better(engine, index: Index, pictures: dict[str, Path]) -> None:
    searcher = Searcher(index, engine)
    circle = Part("a large white circle on a black background")
    assert {"grows", "white", "moves", "yellow"} <= set(names(searcher.search(Query((circle,)), count=7)))
    left = names(searcher.search(Query((circle,), (Part(pictures["yellow"]),)), count=100))
    assert "white" in left and not {"moves", "yellow"} & set(left)


def test_limits_per_video_and_by_score(engine, index: Index) -> None:
    searcher = Searcher(index, engine)
    once = names(searcher.search(text(YELLOW), count=100, per_video=1))
    assert sorted(once) == sorted({*once}) and len(once) == 8
    everything = searcher.search(text(YELLOW), count=100)
    limit = everything[4].score
    assert searcher.search(text(YELLOW), min_score=limit) == everything[:5]
    assert searcher.search(text(YELLOW), count=2) == everything[:2]
    assert searcher.search(text(YELLOW), min_score=1.1) == []


def test_texts_are_searched_on_request(engine, index: Index) -> None:
    searcher = Searcher(index, engine, "texts")
    assert [one.entry.text for one in searcher.search(Query((Part(MOVES),)), count=1)] == [YELLOW]
    assert len(searcher.search(text("a dog"), count=100)) == len(TEXTS)


def test_index_of_texts_is_searched_by_default(engine, tmp_path: Path) -> None:
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
def test_small_graphs_match_exact_search(engine, index: Index, kind) -> None:
    graph = Searcher(index, engine, kind, approximate=True)
    exact = Searcher(index, engine, kind)
    query = Query((Part(YELLOW), Part(MOVES, 0.5)), (Part("a green square"),))
    for limits in ({"count": 4}, {"count": 100}, {"per_video": 1}, {"min_score": 0.2}):
        assert graph.search(query, **limits) == exact.search(query, **limits)
    assert (index.folder / GRAPH).exists()


def test_open_searchers_see_added_entries(engine, index: Index, pictures: dict[str, Path], tmp_path: Path) -> None:
    searchers = [Searcher(index, engine), Searcher(index, engine, approximate=True)]
    copy = tmp_path / "copy.png"
    copy.write_bytes(pictures["yellow"].read_bytes())
    fill(index.folder, engine, [copy])
    for searcher in searchers:
        found = searcher.search(Query((Part(copy),)), count=2)
        assert {one.entry.video for one in found} == {str(copy), str(pictures["yellow"])}


def test_open_searchers_refuse_another_model(engine, index: Index) -> None:
    searcher = Searcher(index, engine)
    with open_index(index.folder, About("shapes", "retrained"), 96, [], overwrite=True):
        pass
    with pytest.raises(UsageError, match="holds vectors of another model named shapes"):
        searcher.search(text(YELLOW))


def test_impossible_queries_are_refused(engine, index: Index, tmp_path: Path) -> None:
    searcher = Searcher(index, engine)
    for query in (text("a dog", 0.0), Query((Part("a dog"), Part("a dog", -1.0)))):
        with pytest.raises(UsageError) as caught:
            searcher.search(query)
        assert caught.value.message == "these queries cancel each other out"
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"this is not a video")
    for query in (Query((Part(broken),)), Query((Part("a dog"),), (Part(broken),))):
        with pytest.raises(CocaError) as caught:
            searcher.search(query)
        assert (
            caught.value.message == f"cannot search for {broken}: not a video: invalid data found when processing input"
        )


class Collecting(Reporter):
    """Keeps what is reported."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.stages: list[str] = []

    def warning(self, text: str) -> None:
        self.warnings.append(text)

    @contextmanager
    def progress(self, description: str, total: int | None = None, **options: object) -> Iterator[Progress]:
        self.stages.append(description)
        yield Progress()


@pytest.fixture
def request_(made: Path, tmp_path: Path) -> SearchRequest:
    """A request for an index that the bundled model made."""
    shutil.copytree(made, tmp_path / "index")
    about = tmp_path / "index" / "index.json"
    about.write_text(about.read_text().replace('"same"', f'"{find_model("shapes").identity}"'))
    compute = EngineOptions(engine="torch", precision="fp32")
    return SearchRequest(query=(f"{YELLOW}^2", str(MOVES)), index=tmp_path / "index", count=3, compute=compute)


def test_request_is_searched_in_one_call(request_: SearchRequest) -> None:
    reporter = Collecting()
    found = search(replace(request_, exclude=("a triangle",), per_video=1, approximate=True), reporter)
    assert {*names(found)[:2]} == {"moves", "yellow"} and len(found) == 3
    assert list(found[0].fields())[:4] == ["score", "video", "start", "end"]
    assert reporter.stages == ["reading the index", "loading shapes", "building the graph"]
    assert reporter.warnings == []


def test_missing_and_moved_files_are_reported(engine, request_: SearchRequest, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    moved.mkdir()
    (moved / "moves.mp4").touch()
    entries = request_.index / "entries.jsonl"
    entries.write_text(entries.read_text().replace("examples/moves", "gone/moves").replace("yellow.png", "gone.png"))
    query = parse_query([YELLOW])
    for root, missing, advice in (
        (None, 3, "--root FOLDER says where they were moved"),
        (moved, 1, f"they are not in {moved} either"),
    ):
        reporter = Collecting()
        found = open_searcher(replace(request_, root=root), reporter, engine).search(query, count=3)
        assert [one.missing for one in found].count(True) == missing
        (warning,) = reporter.warnings
        assert warning.startswith(f"{min(missing, 2)} of 2 files are missing") and warning.endswith(advice)


def test_index_of_another_model_is_refused(index: Index) -> None:
    with pytest.raises(UsageError) as caught:
        open_searcher(SearchRequest(index=index.folder))
    assert caught.value.message == f"{index.folder} holds vectors of another model named shapes"
    assert caught.value.hint == "vectors of two models cannot be compared: name another folder"
