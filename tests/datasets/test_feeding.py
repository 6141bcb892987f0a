"""Batches of pixels: in order, the same in every run, whatever files are broken."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from media.video_fixtures import make_video
from PIL import Image
from training.tiny_run import RecordingReporter
from training.training_fixtures import ordered, pairs, picture, pictures

from cococli.datasets import feeding
from cococli.datasets.feeding import Feeding, StepBatch, feed, fit_in_memory, load, replay
from cococli.errors import VideoError
from cococli.media.clips import ReadRequest, Sampling, Segments, read_clip
from cococli.media.pool import ClipRead, read_videos

MIDDLE = Feeding(Sampling(), 16)


@pytest.fixture(params=["memory", "processes"])
def source(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to read pictures."""
    if request.param == "processes":
        monkeypatch.setattr(feeding, "MEMORY_LIMIT", 0)


def assert_equal(some: Iterator[StepBatch] | list[StepBatch], others: Iterator[StepBatch] | list[StepBatch]) -> None:
    for one, other in zip(some, others, strict=True):
        assert one.step == other.step
        np.testing.assert_array_equal(one.pairs, other.pairs, strict=True)
        np.testing.assert_array_equal(one.ids, other.ids, strict=True)
        np.testing.assert_array_equal(one.pixels, other.pixels, strict=True)


@pytest.mark.usefixtures("source")
def test_a_batch_holds_the_pairs_of_its_step(tmp_path: Path) -> None:
    made = pairs(pictures(tmp_path, 5))
    order = ordered(made, 1, 4)
    plain = Feeding(Sampling(), 16, augment=False)
    for step, batch in enumerate(feed(made, order, range(4), plain)):
        assert batch.step == step
        np.testing.assert_array_equal(batch.pairs, order.batch(step))
        np.testing.assert_array_equal(batch.ids, made.ids[order.batch(step)], strict=True)
        expected = [read_clip(made.files[made.file[pair]], Sampling(), 16)[1] for pair in order.batch(step)]
        np.testing.assert_array_equal(batch.pixels, np.stack(expected), strict=True)
    assert step == 3


@pytest.mark.usefixtures("source")
def test_resumed_run_gets_the_same_batches(tmp_path: Path) -> None:
    made = pairs(pictures(tmp_path, 5))
    order = ordered(made, 1, 3)
    whole = list(feed(made, order, range(8), MIDDLE))
    assert_equal(feed(made, order, range(5, 8), MIDDLE), whole[5:])


def test_memory_and_processes_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = pairs(pictures(tmp_path, 5))
    order = ordered(made, 1, 3)
    kept = list(feed(made, order, range(6), MIDDLE))
    monkeypatch.setattr(feeding, "MEMORY_LIMIT", 0)
    assert_equal(feed(made, order, range(6), MIDDLE), kept)


RUN = """
import sys, zlib
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from training.training_fixtures import ordered, pairs
from cococli.datasets.feeding import Feeding, feed
from cococli.media.clips import Sampling
made = pairs([Path(path) for path in sys.argv[2:]])
for batch in feed(made, ordered(made, 1, 3), range(3), Feeding(Sampling(), 16)):
    print(zlib.crc32(batch.pixels.tobytes()), batch.pairs.tolist())
"""


def test_another_process_gets_the_same(tmp_path: Path) -> None:
    files = pictures(tmp_path, 4)
    command = [sys.executable, "-c", RUN, str(Path(__file__).parents[1]), *map(str, files)]
    assert len({subprocess.check_output(command) for _ in range(2)}) == 1


@pytest.mark.usefixtures("source")
def test_crops_differ_by_pair_and_epoch(tmp_path: Path) -> None:
    made = pairs([picture(tmp_path / "a.png", 0, (200, 200))])
    crops = {pixels.tobytes() for batch in feed(made, ordered(made, 1, 2), range(6), MIDDLE) for pixels in batch.pixels}
    others = {
        pixels.tobytes() for batch in feed(made, ordered(made, 2, 2), range(6), MIDDLE) for pixels in batch.pixels
    }
    assert len(crops) > 9
    assert len(crops | others) > 18


def test_processes_that_train_together_share_each_batch(tmp_path: Path) -> None:
    made = pairs(pictures(tmp_path, 5))
    order = ordered(made, 1, 4)
    whole = feed(made, order, range(4), MIDDLE)
    parts = [feed(made, order, range(4), MIDDLE, part=slice(rank, None, 2)) for rank in range(2)]
    for batch, *shares in zip(whole, *parts, strict=True):
        for rank, share in enumerate(shares):
            np.testing.assert_array_equal(share.pairs, batch.pairs[rank::2])
            np.testing.assert_array_equal(share.pixels, batch.pixels[rank::2])


# Files that cannot be read


@pytest.mark.usefixtures("source")
def test_broken_files_are_replaced_deterministically(tmp_path: Path) -> None:
    files = pictures(tmp_path, 6)
    files[1].write_bytes(b"no picture")
    files[2].unlink()
    files[5].write_bytes(b"")
    made = pairs(files)
    order = ordered(made, 1, 4)
    reporter = RecordingReporter()
    whole = list(feed(made, order, range(7), MIDDLE, reporter))
    assert {f"{files[2]}: no such file", f"{files[5]}: empty file"} < {*reporter.warnings}
    assert len(reporter.warnings) == len({*reporter.warnings}) == 3
    for batch in whole:
        assert batch.pairs.tolist() == [made.readable(pair, {1, 2, 5}) for pair in order.batch(batch.step)]
        np.testing.assert_array_equal(batch.ids, made.ids[batch.pairs])
    assert_equal(feed(made, order, range(4, 7), MIDDLE), whole[4:7])


@pytest.mark.usefixtures("source")
def test_no_readable_file_is_an_error(tmp_path: Path) -> None:
    made = pairs([tmp_path / f"{number}.png" for number in range(7)])
    reporter = RecordingReporter()
    with pytest.raises(VideoError) as caught:
        next(feed(made, ordered(made, 1, 3), range(5), MIDDLE, reporter))
    assert caught.value.message == "none of 7 files can be read"
    assert sorted(reporter.warnings) == [f"{path}: no such file" for path in made.files]


@pytest.mark.usefixtures("source")
def test_one_broken_file_stops_a_strict_run(tmp_path: Path) -> None:
    files = pictures(tmp_path, 3)
    files[1].unlink()
    made = pairs(files)
    with pytest.raises(VideoError) as caught:
        list(feed(made, ordered(made, 1, 2), range(3), replace(MIDDLE, strict=True)))
    assert caught.value.message == f"{files[1]}: no such file"


# Clips


def test_clips_train_by_the_frames_that_captioning_takes(tmp_path: Path) -> None:
    video = make_video(tmp_path / "a.mp4", frames=20)
    made = pairs([video])
    (batch,) = feed(made, ordered(made, 1, 2), range(1), Feeding(Sampling("multi", 4), 16, augment=False))
    _, pixels = read_clip(video, Sampling("multi", 4), 16)
    np.testing.assert_array_equal(batch.pixels, np.stack([pixels, pixels]), strict=True)


def test_among_clips_a_picture_stands_still(tmp_path: Path) -> None:
    made = pairs([make_video(tmp_path / "a.mp4", frames=20), *pictures(tmp_path, 1)])
    (batch,) = feed(made, ordered(made, 1, 4), range(1), Feeding(Sampling("multi", 3), 16))
    assert batch.pixels is not None and batch.pixels.shape == (4, 3, 16, 16, 3)
    for file, frames in zip(made.file[batch.pairs], batch.pixels, strict=True):
        assert (frames == frames[:1]).all() == (file == 1)


def test_pictures_are_always_one_frame(tmp_path: Path) -> None:
    made = pairs(pictures(tmp_path, 2))
    (batch,) = feed(made, ordered(made, 1, 4), range(1), Feeding(Sampling("multi", 3), 16))
    assert batch.pixels is not None and batch.pixels.shape == (4, 1, 16, 16, 3)


# Small pictures in memory


def test_replay_yields_the_events_of_reading(tmp_path: Path) -> None:
    files = [*pictures(tmp_path, 3), tmp_path / "none.png"]
    jobs = [
        (path, ReadRequest(Sampling("multi", 2), Segments("none"), 24, seed))
        for seed in (None, 1, 2)
        for path in reversed(files)
    ]
    kept = load(files, 1, 60.0)
    for ours, theirs in zip(replay(kept, jobs), read_videos(jobs), strict=True):
        if isinstance(ours, ClipRead) and isinstance(theirs, ClipRead):
            np.testing.assert_array_equal(ours.pixels, theirs.pixels)
            ours, theirs = ours._replace(pixels=None), theirs._replace(pixels=None)
        assert ours == theirs


def test_pictures_fit_as_long_as_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [*pictures(tmp_path, 3), tmp_path / "none.png"]
    monkeypatch.setattr(feeding, "MEMORY_LIMIT", 3 * 40 * 30 * 3)
    assert fit_in_memory(files)
    assert not fit_in_memory([*files, picture(tmp_path / "3.png", 3)])


def test_large_pictures_are_not_kept(tmp_path: Path) -> None:
    assert fit_in_memory([picture(tmp_path / "a.png", 0, (256, 256))])
    assert not fit_in_memory([picture(tmp_path / "a.png", 0, (256, 257))])


def test_what_moves_is_not_kept(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (40, 30), (40 * number, 0, 0)) for number in range(2)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], duration=100)
    for moving in (tmp_path / "a.webp", make_video(tmp_path / "a.mp4", frames=1)):
        assert not fit_in_memory([*pictures(tmp_path, 1), moving])
