"""Many videos through readers and batches."""

import os
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

from cococli.captioning.job import Result, caption_videos, merge_segments
from cococli.captioning.records import Outcome, Record
from cococli.engines.sizes import Sizes
from cococli.errors import CocaError
from cococli.journal import Failure
from cococli.media.clips import ReadRequest, Sampling, Segments
from cococli.media.compute import Spent, compute_videos
from cococli.reporting import Reporter


def read(frames: int = 1, segments: float = 0) -> ReadRequest:
    sampling = Sampling("multi", frames) if frames > 1 else Sampling("middle")
    cut = Segments("seconds", segments) if segments else Segments()
    return ReadRequest(sampling, cut, image_size=32)


def flat(results: Iterable[Result]) -> list[Outcome]:
    return [outcome for result in results for outcome in result.outcomes]


def percents(outcomes: Iterable[Outcome]) -> list[int | None]:
    return [int(o.caption.split()[0]) if isinstance(o, Record) else None for o in outcomes]


def near(found: list[int | None], made: list[int | None]) -> bool:
    """Equal, but for what lossy video coding does to a shade."""
    return len(found) == len(made) and all(
        a == b or (a is not None and b is not None and abs(a - b) <= 1) for a, b in zip(found, made, strict=True)
    )


class Stopping(Reporter):
    """Requests a stop under a condition."""

    def __init__(self, condition: Callable[[], bool]) -> None:
        self.condition = condition

    @property
    def stop_requested(self) -> bool:
        return self.condition()


def readers() -> int:
    """Processes that read videos."""
    mine = ["pgrep", "-c", "-P", str(os.getpid()), "-f", "cococli.media.worker"]
    return int(subprocess.run(mine, capture_output=True, text=True).stdout)


def test_records_come_in_the_order_given(video, captioner) -> None:
    shades = [90, 10, 50, 30, 70]
    paths = [video(f"{shade}.mp4", shade) for shade in shades]
    results = list(caption_videos(paths, captioner, read(frames=4), Sizes(2, 2)))
    assert [result.index for result in results] == [0, 1, 2, 3, 4]
    records = flat(results)
    assert [record.video for record in records] == [str(path) for path in paths]
    assert near(percents(records), shades)
    assert all(len(record.frames) == 4 and record.model == "brightness" for record in records)
    assert [clips for clips, _ in captioner.batches] == [2, 2, 1]


def test_segments_of_several_videos_share_batches(video, captioner) -> None:
    paths = [video("a.mp4", 20), video("b.mp4", 80)]
    results = list(caption_videos(paths, captioner, read(segments=0.25), Sizes(3, 3)))
    assert [len(result.outcomes) for result in results] == [4, 4]
    assert [(record.start, record.end) for record in results[1].outcomes] == [(i / 4, i / 4 + 0.25) for i in range(4)]
    assert {record.segments for record in flat(results)} == {4}
    assert near(percents(flat(results)), [20] * 4 + [80] * 4)
    assert [clips for clips, _ in captioner.batches] == [3, 3, 2]


def test_consecutive_segments_are_merged_on_request(video, captioner) -> None:
    (result,) = caption_videos([video("a.mp4", 20)], captioner, read(segments=0.25), merge=1.5)
    (record,) = result.outcomes
    assert (record.start, record.end, record.segments, len(record.frames)) == (0.0, 1.0, 1, 4)
    assert result.embeddings.shape == (1, 4)


def test_bad_file_fails_alone_with_a_reason(video, captioner, tmp_path: Path) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"this is no video")
    outcomes = flat(caption_videos([video("a.mp4", 20), bad, video("b.mp4", 80)], captioner, read()))
    assert [type(outcome) for outcome in outcomes] == [Record, Failure, Record]
    assert outcomes[1].video == str(bad)
    assert outcomes[1].error and "\n" not in outcomes[1].error


def test_folder_of_bad_files_ends(captioner, tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.mp4" for i in range(40)]
    outcomes = flat(caption_videos(paths, captioner, read(), Sizes(2, 2)))
    assert outcomes == [Failure(str(path), "no such file") for path in paths]
    assert captioner.batches == []


def test_pictures_between_videos_keep_their_order(video, picture, captioner) -> None:
    paths, shades = [], []
    for i in range(6):
        shades += [10 + 5 * i, 50 + 5 * i]
        paths += [video(f"{i}.mp4", shades[-2]), picture(f"{i}.png", shades[-1])]
    assert near(percents(flat(caption_videos(paths, captioner, read(frames=4), Sizes(3, 3)))), shades)
    assert sorted(captioner.batches) == [(3, 1), (3, 1), (3, 4), (3, 4)]


def test_captions_of_little_similarity_are_marked(picture, captioner) -> None:
    for least, weak in ((0.2, False), (0.3, True)):
        (record,) = flat(caption_videos([picture("a.png", 50)], captioner, read(), min_score=least))
        assert record.weak is weak  # the captioner says 0.25


def test_stop_request_returns_what_is_finished(picture, captioner) -> None:
    paths = [picture(f"{i}.png", i) for i in range(40)]
    reporter = Stopping(lambda: len(captioner.batches) == 2)
    results = list(caption_videos(paths, captioner, read(), Sizes(4, 4), reporter))
    assert [result.index for result in results] == list(range(8))
    assert readers() == 0


def test_it_tells_where_the_time_went(video, captioner) -> None:
    spent = Spent()
    list(caption_videos([video("a.mp4", 20), video("b.mp4", 20)], captioner, read(), spent=spent))
    assert spent.clips == 2
    assert spent.waiting > 0 < spent.computing


def test_readers_end_with_the_iterator(picture, captioner) -> None:
    results = caption_videos([picture("a.png", 50)] * 100, captioner, read(), Sizes(2, 2))
    next(results)
    assert readers() > 0
    results.close()
    assert readers() == 0


@pytest.mark.parametrize("trouble", [RuntimeError, KeyboardInterrupt])
def test_the_readers_stop_when_the_engine_fails(picture, captioner, monkeypatch, trouble: type[BaseException]) -> None:
    def fail(pixels, places) -> None:
        raise trouble

    monkeypatch.setattr(captioner, "caption_batch", fail)
    with pytest.raises(trouble):
        list(caption_videos([picture("a.png", 50)] * 100, captioner, read()))
    assert readers() == 0


def test_no_videos_are_no_records(captioner) -> None:
    assert list(caption_videos([], captioner, read())) == []


class Slow:
    """Computes a clip in three goes."""

    def __init__(self, captioner) -> None:
        self.captioner = captioner
        self.left: dict = {}

    queued = 0

    @property
    def busy(self) -> bool:
        return bool(self.left)

    def submit(self, keys, pixels, seeds) -> None:
        values = self.captioner.caption_batch(pixels, seeds)
        self.left |= {key: (3, value) for key, value in zip(keys, values, strict=True)}

    def step(self) -> dict:
        self.left = {key: (left - 1, value) for key, (left, value) in self.left.items()}
        done = {key: value for key, (left, value) in self.left.items() if not left}
        self.left = {key: item for key, item in self.left.items() if key not in done}
        return done


@pytest.mark.parametrize("stops", [False, True])
def test_what_takes_several_goes_is_finished(picture, captioner, stops: bool) -> None:
    paths = [picture(f"{i}.png", i) for i in range(11)]
    slow = Slow(captioner)
    found = compute_videos(paths, slow, read(), 2, Stopping(lambda: stops and len(captioner.batches) == 2))
    assert [video.values[0].text for video in found] == [f"{i} percent" for i in range(4 if stops else 11)]
    assert not slow.left
    assert readers() == 0


class Notes(Reporter):
    """Keeps notes."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")])
def test_batch_too_large_is_halved(picture, captioner, monkeypatch, error: Exception) -> None:
    whole = captioner.caption_batch

    def caption_batch(pixels, seeds) -> list:
        if len(pixels) > 3:
            raise error
        return whole(pixels, seeds)

    monkeypatch.setattr(captioner, "caption_batch", caption_batch)
    notes = Notes()
    paths = [picture(f"{i}.png", i) for i in range(40)]
    outcomes = flat(caption_videos(paths, captioner, read(), Sizes(16, 16), notes))
    assert percents(outcomes) == list(range(40))
    assert notes.texts == ["not enough memory: continuing with at most 8 clips at once"]
    assert {clips for clips, _ in captioner.batches} == {2}


def test_single_clip_too_large_is_an_error(picture, captioner, monkeypatch) -> None:
    def caption_batch(pixels, seeds) -> None:
        raise MemoryError

    monkeypatch.setattr(captioner, "caption_batch", caption_batch)
    with pytest.raises(CocaError, match="not enough memory for a single clip"):
        list(caption_videos([picture("a.png", 50)] * 4, captioner, read()))
    assert readers() == 0


APART = np.eye(4, dtype=np.float32)


def records_of(*captions: str, similarities: tuple[float, ...] = (0.2, 0.2, 0.2, 0.2)) -> list[Record]:
    return [
        Record("a.mp4", 2.0 * i, 2.0 * i + 2, caption, -0.5, similarity, (2.0 * i + 1,), "m")
        for i, (caption, similarity) in enumerate(zip(captions, similarities, strict=False))
    ]


def test_segments_with_the_same_caption_are_merged() -> None:
    merged, embeddings = merge_segments(records_of("a cat", "A  cat", "a dog", "a cat"), APART, 0.9)
    assert [(record.start, record.end, record.caption) for record in merged] == [
        (0.0, 4.0, "a cat"),
        (4.0, 6.0, "a dog"),
        (6.0, 8.0, "a cat"),
    ]
    assert merged[0].frames == (1.0, 3.0)
    np.testing.assert_allclose(embeddings, [[0.5**0.5, 0.5**0.5, 0, 0], APART[2], APART[3]], atol=1e-6)


def test_similar_segments_keep_the_best_caption() -> None:
    close = np.array([[1, 0], [0.8, 0.6], [0.28, 0.96]], np.float32)
    merged, _ = merge_segments(
        records_of("a cat", "a kitten", "a cat asleep", similarities=(0.1, 0.3, 0.2)), close, 0.79
    )
    assert [(record.start, record.end, record.caption) for record in merged] == [(0.0, 6.0, "a kitten")]
    assert len(merge_segments(records_of("a cat", "a kitten", "a cat asleep"), close, 0.81)[0]) == 3


def test_different_segments_are_not_merged() -> None:
    merged, embeddings = merge_segments(records_of("a cat", "a dog"), APART[:2], 0.9)
    assert merged == records_of("a cat", "a dog")
    assert (embeddings == APART[:2]).all()
    assert merge_segments([], np.zeros((0, 4), np.float32), 0.9)[0] == []
