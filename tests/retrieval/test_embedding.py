"""From paths and texts to vectors, with the bundled model: those of the engine, whatever they are batched with."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cococli
from cococli.checkpoints.store import find_model
from cococli.engines.mindspore import MindSporeEngine
from cococli.errors import UsageError, VideoError
from cococli.journal import Failure
from cococli.media.clips import ReadRequest, Sampling, parse_segments
from cococli.media.compute import Spent
from cococli.reporting import Reporter
from cococli.retrieval.embedding import TEXTS_AT_ONCE, embed_file, embed_texts, embed_videos, read_texts
from cococli.retrieval.entries import Entry

EXAMPLES = Path(__file__).parents[2] / "examples"
MOVES, GROWS, APPEARS = (EXAMPLES / f"{name}.mp4" for name in ("moves", "grows", "appears"))
MULTI = Sampling("multi", 3)
CLOSE = 1e-5  # most that two batches may differ


@pytest.fixture(scope="module")
def engine() -> MindSporeEngine:
    files = find_model("shapes")
    return MindSporeEngine.open(files.weights, files.config)


@pytest.fixture(scope="module")
def coca() -> "cococli.Coca":
    return cococli.load("shapes", frames="multi", num_frames=3, engine="mindspore")


class Stopping(Reporter):
    """Requests a stop at once."""

    stop_requested = True


def read(segments: str = "none", sampling: Sampling = MULTI) -> ReadRequest:
    return ReadRequest(sampling, parse_segments(segments), 64)


def test_videos_and_pictures_get_the_vectors_that_the_library_gives(engine, coca, tmp_path: Path) -> None:
    picture, broken = tmp_path / "red.png", tmp_path / "broken.mp4"
    Image.new("RGB", (80, 60), (200, 30, 30)).save(picture)
    broken.write_bytes(b"this is no video")
    paths, spent = [MOVES, broken, picture, GROWS], Spent()
    moves, failed, red, grows = embed_videos(paths, engine, "joint", read(), 2, spent=spent)
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


def test_every_segment_has_a_vector_of_its_own(engine) -> None:
    (whole,) = embed_videos([APPEARS], engine, "joint", read("2", Sampling()))
    assert [(entry.start, entry.end, entry.segments) for entry in whole.entries] == [(0.0, 2.0, 2), (2.0, 4.0, 2)]
    before, after = whole.vectors
    assert before @ after < 0.99  # something appears
    np.testing.assert_allclose(np.linalg.norm(whole.vectors, axis=1), 1, atol=1e-6)


def test_the_pool_decides(engine) -> None:
    (joint,), (mean,) = (list(embed_videos([APPEARS], engine, pool, read())) for pool in ("joint", "mean"))
    assert np.abs(joint.vectors - mean.vectors).max() > 1e-3
    np.testing.assert_allclose(joint.vectors[0], embed_file(APPEARS, engine, MULTI, "joint"), atol=CLOSE)
    np.testing.assert_allclose(mean.vectors[0], embed_file(APPEARS, engine, MULTI, "mean"), atol=CLOSE)


def test_a_file_that_cannot_be_read_is_told(engine, tmp_path: Path) -> None:
    with pytest.raises(VideoError):
        embed_file(tmp_path / "missing.mp4", engine, MULTI, "joint")


def test_a_run_may_end_early(engine) -> None:
    assert list(embed_videos([MOVES, GROWS], engine, "joint", read(), reporter=Stopping())) == []
    assert list(embed_texts(["a red circle"], engine, stopping=lambda: True)) == []


def test_texts_get_the_vectors_that_the_library_gives(engine, coca) -> None:
    texts = [f"{number} red circles" for number in range(TEXTS_AT_ONCE + 2)]
    embedded = list(embed_texts(texts, engine))
    assert [(place, entry) for place, entry, _ in embedded] == [
        (place, Entry(-1, text=text)) for place, text in enumerate(texts)
    ]
    for place in (0, 1, TEXTS_AT_ONCE - 1, TEXTS_AT_ONCE, TEXTS_AT_ONCE + 1):
        np.testing.assert_allclose(embedded[place][2], [coca.embed_text(texts[place])], atol=CLOSE)


def test_a_text_is_nearest_to_what_it_says(engine, coca) -> None:
    said = coca.caption(MOVES).text
    ((_, _, vector),) = embed_texts([said], engine)
    vectors = np.concatenate([each.vectors for each in embed_videos([GROWS, MOVES], engine, "joint", read())])
    assert (vectors @ vector[0]).argmax() == 1


def test_texts_are_the_lines_of_files_each_once(tmp_path: Path) -> None:
    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    one.write_bytes("\ufeffa cat\r\n\r\n  a dog \n\na cat".encode())
    two.write_text("ein Käfer\na dog\n")
    assert read_texts([one, two]) == ["a cat", "a dog", "ein Käfer"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"\n  \n", "{file}: no text found"),
        (b"", "{file}: no text found"),
        (b"caf\xe9\n", "{file} is no UTF-8 text"),
        (None, "cannot read {file}: No such file or directory"),
    ],
)
def test_files_without_texts_are_told(tmp_path: Path, content: bytes | None, told: str) -> None:
    file = tmp_path / "texts.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_texts([file])
    assert (caught.value.message, caught.value.hint) == (told.format(file=file), "")
