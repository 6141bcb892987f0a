"""Many videos through readers and batches."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cococli.captioning.pipeline import READERS, caption_videos
from cococli.captioning.records import Failure, Record
from cococli.video.sampling import Sampling

MIDDLE = Sampling("middle")
MULTI = Sampling("multi", 4)


def readers() -> int:
    return sum(thread.name.startswith("reader") for thread in threading.enumerate())


def percents(outcomes: Iterator[Record | Failure]) -> list[int | None]:
    return [int(o.caption.split()[0]) if isinstance(o, Record) else None for o in outcomes]


def near(found: list[int | None], made: list[int | None]) -> bool:
    """Equal, but for what lossy video coding does to a shade."""
    return len(found) == len(made) and all(
        a == b or (a is not None and b is not None and abs(a - b) <= 1) for a, b in zip(found, made, strict=True)
    )


def test_every_video_has_its_own_record_in_the_order_given(video, captioner) -> None:
    shades = [90, 10, 50, 30, 70]
    paths = [video(f"{shade}.mp4", shade) for shade in shades]
    records = list(caption_videos(paths, captioner, MULTI, batch_size=2))
    assert [record.video for record in records] == [str(path) for path in paths]
    assert near(percents(iter(records)), shades)
    assert all(len(record.frames) == 4 and record.model == "brightness" for record in records)
    assert [clips for clips, _ in captioner.batches] == [2, 2, 1]


def test_a_bad_file_fails_alone_and_says_why(video, captioner, tmp_path: Path) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"this is no video")
    outcomes = list(caption_videos([video("a.mp4", 20), bad, video("b.mp4", 80)], captioner, MIDDLE))
    assert [type(outcome) for outcome in outcomes] == [Record, Failure, Record]
    assert outcomes[1].video == str(bad)
    assert outcomes[1].error and "\n" not in outcomes[1].error


def test_a_folder_of_bad_files_only_still_ends(captioner, tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.mp4" for i in range(40)]
    outcomes = list(caption_videos(paths, captioner, MIDDLE, batch_size=2))
    assert [outcome.video for outcome in outcomes] == [str(path) for path in paths]
    assert captioner.batches == []


def test_what_nobody_foresaw_fails_that_video_alone(video, captioner, monkeypatch: pytest.MonkeyPatch) -> None:
    from cococli.captioning import pipeline

    good, cursed = video("good.mp4", 40), video("cursed.mp4", 40)
    read_clip = pipeline.read_clip

    def read(path: Path, *rest):
        if path == cursed:
            raise ZeroDivisionError("frame rate 0/0")
        return read_clip(path, *rest)

    monkeypatch.setattr(pipeline, "read_clip", read)
    failure, record = caption_videos([cursed, good], captioner, MIDDLE)
    assert failure == Failure(str(cursed), "unexpected: ZeroDivisionError: frame rate 0/0")
    assert isinstance(record, Record)


def test_pictures_between_videos_keep_their_place_and_share_batches(video, picture, captioner) -> None:
    paths, shades = [], []
    for i in range(6):
        shades += [10 + 5 * i, 50 + 5 * i]
        paths += [video(f"{i}.mp4", shades[-2]), picture(f"{i}.png", shades[-1])]
    assert near(percents(caption_videos(paths, captioner, MULTI, batch_size=3)), shades)
    assert sorted(captioner.batches) == [(3, 1), (3, 1), (3, 4), (3, 4)]


def test_no_more_is_read_than_two_batches_and_the_readers_hands(picture, captioner, monkeypatch) -> None:
    from cococli.captioning import pipeline

    read, read_clip = [], pipeline.read_clip

    def counted(path: Path, *rest):
        read.append(path)
        return read_clip(path, *rest)

    monkeypatch.setattr(pipeline, "read_clip", counted)
    records = caption_videos([picture("a.png", 50)] * 100, captioner, MIDDLE, batch_size=2)
    for done in range(1, 11):
        next(records)
        assert len(read) <= done + 2 * 2 + READERS
    records.close()


def test_the_readers_stop_when_nobody_wants_more(picture, captioner) -> None:
    records = caption_videos([picture("a.png", 50)] * 100, captioner, MIDDLE, batch_size=2)
    next(records)
    assert readers() > 0
    records.close()
    assert readers() == 0


@pytest.mark.parametrize("trouble", [RuntimeError, KeyboardInterrupt])
def test_the_readers_stop_when_the_engine_fails(picture, captioner, monkeypatch, trouble: type[BaseException]) -> None:
    def fail(pixels, places) -> None:
        raise trouble

    monkeypatch.setattr(captioner, "caption_batch", fail)
    with pytest.raises(trouble):
        list(caption_videos([picture("a.png", 50)] * 100, captioner, MIDDLE))
    assert readers() == 0


def test_no_videos_are_no_records(captioner) -> None:
    assert list(caption_videos([], captioner, MIDDLE)) == []
