"""Batches of pixels: in order, the same in every run, whatever files are broken."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from media.video_fixtures import make_video
from training.training_fixtures import ordered, pairs, picture, pictures

from cococli.errors import VideoError
from cococli.media.clips import read_clip
from cococli.media.sampling import Sampling
from cococli.training import memory
from cococli.training.feeding import Feeding, StepBatch, feed, stop

MIDDLE = Feeding(Sampling(), 16)


@pytest.fixture(params=["memory", "processes"])
def source(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to read pictures."""
    if request.param == "processes":
        monkeypatch.setattr(memory, "ROOM", 0)


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
    feeding = Feeding(Sampling(), 16, augment=False)
    for step, batch in enumerate(feed(made, order, range(4), feeding)):
        assert batch.step == step
        np.testing.assert_array_equal(batch.pairs, order.batch(step))
        np.testing.assert_array_equal(batch.ids, made.ids[order.batch(step)], strict=True)
        expected = [read_clip(made.files[made.file[pair]], Sampling(), 16)[1] for pair in order.batch(step)]
        np.testing.assert_array_equal(batch.pixels, np.stack(expected), strict=True)
    assert step == 3


@pytest.mark.usefixtures("source")
def test_a_run_that_is_resumed_gets_the_same_batches(tmp_path: Path) -> None:
    made = pairs(pictures(tmp_path, 5))
    order = ordered(made, 1, 3)
    whole = list(feed(made, order, range(8), MIDDLE))
    assert_equal(feed(made, order, range(5, 8), MIDDLE), whole[5:])


def test_memory_and_processes_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = pairs(pictures(tmp_path, 5))
    order = ordered(made, 1, 3)
    kept = list(feed(made, order, range(6), MIDDLE))
    monkeypatch.setattr(memory, "ROOM", 0)
    assert_equal(feed(made, order, range(6), MIDDLE), kept)


RUN = """
import sys, zlib
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from training.training_fixtures import ordered, pairs
from cococli.training.feeding import Feeding, feed
from cococli.media.sampling import Sampling
made = pairs([Path(path) for path in sys.argv[2:]])
for batch in feed(made, ordered(made, 1, 3), range(3), Feeding(Sampling(), 16)):
    print(zlib.crc32(batch.pixels.tobytes()), batch.pairs.tolist())
"""


def test_another_process_gets_the_same(tmp_path: Path) -> None:
    files = pictures(tmp_path, 4)
    command = [sys.executable, "-c", RUN, str(Path(__file__).parents[1]), *map(str, files)]
    assert len({subprocess.check_output(command) for _ in range(2)}) == 1


@pytest.mark.usefixtures("source")
def test_every_pair_is_cropped_in_its_own_way_each_time(tmp_path: Path) -> None:
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
def test_the_next_file_stands_for_a_broken_one_in_every_run(tmp_path: Path) -> None:
    files = pictures(tmp_path, 6)
    files[1].write_bytes(b"no picture")
    files[2].unlink()
    files[5].write_bytes(b"")
    made = pairs(files)
    order = ordered(made, 1, 4)
    told: list[tuple[Path, str]] = []
    whole = list(feed(made, order, range(7), MIDDLE, lambda *failure: told.append(failure)))
    assert dict(told)[files[2]] == "no such file"
    assert dict(told)[files[5]] == "empty file"
    assert len(told) == len(dict(told)) == 3
    for batch in whole:
        assert batch.pairs.tolist() == [made.readable(pair, {1, 2, 5}) for pair in order.batch(batch.step)]
        np.testing.assert_array_equal(batch.ids, made.ids[batch.pairs])
    assert_equal(feed(made, order, range(4, 7), MIDDLE), whole[4:7])


@pytest.mark.usefixtures("source")
def test_nothing_to_read_is_an_error_and_not_an_endless_search(tmp_path: Path) -> None:
    made = pairs([tmp_path / f"{number}.png" for number in range(7)])
    told: list[Path] = []
    with pytest.raises(VideoError) as caught:
        next(feed(made, ordered(made, 1, 3), range(5), MIDDLE, lambda path, why: told.append(path)))
    assert caught.value.message == "none of 7 files can be read"
    assert sorted(told) == list(made.files)


@pytest.mark.usefixtures("source")
def test_one_broken_file_stops_a_strict_run(tmp_path: Path) -> None:
    files = pictures(tmp_path, 3)
    files[1].unlink()
    made = pairs(files)
    with pytest.raises(VideoError) as caught:
        list(feed(made, ordered(made, 1, 2), range(3), MIDDLE, stop))
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
    assert batch.pixels is not None and batch.pixels.shape == (4, 3, 3, 16, 16)
    for file, frames in zip(made.file[batch.pairs], batch.pixels, strict=True):
        assert (frames == frames[:1]).all() == (file == 1)


def test_pictures_alone_are_one_frame_however_frames_are_chosen(tmp_path: Path) -> None:
    made = pairs(pictures(tmp_path, 2))
    (batch,) = feed(made, ordered(made, 1, 4), range(1), Feeding(Sampling("multi", 3), 16))
    assert batch.pixels is not None and batch.pixels.shape == (4, 1, 3, 16, 16)
