"""Videos are read side by side in processes that may hang, crash and die."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from io import FileIO
from itertools import count, repeat
from pathlib import Path

import numpy as np
import pytest
from media.video_fixtures import Notes, damage, make_sound, make_video, numbered
from PIL import Image

from cococli.errors import VideoError, is_transient
from cococli.media import pool
from cococli.media.clips import ReadRequest, Sampling, Segments, read_clips
from cococli.media.pool import ClipRead, Event, Job, VideoFailed, read_videos
from cococli.media.videos import open_video

WHOLE = ReadRequest(Sampling(), Segments("none"), 40)
PIECES = ReadRequest(Sampling("multi", 2), Segments("seconds", 0.04), 40)  # a clip for every frame

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes by /proc")


def children(parent: int | None = None) -> set[int]:
    """Processes that this one, or another, has started and not yet buried."""
    found = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it ended meanwhile
            if int(status.read_text().rpartition(")")[2].split()[1]) == (parent or os.getpid()):
                found.add(int(status.parent.name))
    return found


@pytest.fixture(autouse=True)
def no_process_is_left_behind() -> Iterator[None]:
    before = children()
    yield
    assert children() == before


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More clips than the queue and the socket hold, so its reader waits until they are taken."""
    return make_video(tmp_path_factory.mktemp("video") / "long.mp4", frames=300)


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(tmp_path_factory.mktemp("video") / "short.mp4", frames=1)


def each(paths: Iterable[Path], request: ReadRequest) -> Iterator[Job]:
    return zip(paths, repeat(request))


def outlines(events: Iterator[Event]) -> list[tuple]:
    """What happened to which video, without the pixels."""
    return [event[:2] if not isinstance(event, ClipRead) else (event.video, event.clip.start) for event in events]


def test_events_arrive_in_order(long: Path, short: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    Image.fromarray(numbered(7)).save(tmp_path / "a.png")
    make_sound(tmp_path / "a.m4a")
    paths = [long, short, tmp_path / "a.png", tmp_path / "none.mp4", tmp_path / "a.m4a", short]
    expected = [
        *[(0, pytest.approx(0.04 * piece)) for piece in range(300)],
        (0, 300),
        *[(1, 0.0), (1, 1)],
        *[(2, 0.0), (2, 1)],
        (3, "no such file"),
        (4, "no video stream"),
        *[(5, 0.0), (5, 1)],
    ]
    assert outlines(read_videos(each(paths, PIECES))) == expected
    assert outlines(read_videos(each(paths, PIECES), processes=1, prefetch=1)) == expected
    assert capfd.readouterr() == ("", "")


def test_clips_equal_those_read_in_process(long: Path):
    theirs = [event for event in read_videos(each([long], PIECES)) if isinstance(event, ClipRead)]
    for event, (clip, pixels) in zip(theirs, read_clips(long, PIECES), strict=True):
        assert event.clip == clip
        np.testing.assert_array_equal(event.pixels, pixels)


def test_requests_may_differ_per_video(long: Path):
    seeds = [None, 1, 2]
    requests = [ReadRequest(Sampling(), Segments("none"), 40 + place, seed) for place, seed in enumerate(seeds)]
    events = read_videos((long, request) for request in requests)
    theirs = [event.pixels for event in events if isinstance(event, ClipRead)]
    for pixels, request in zip(theirs, requests, strict=True):
        ((_, ours),) = read_clips(long, request)
        np.testing.assert_array_equal(pixels, ours)


def test_notes_are_reported_once_per_file(long: Path, tmp_path: Path):
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(long.read_bytes())
    damage(damaged)
    notes = Notes()
    assert outlines(read_videos(each([damaged, long, damaged], PIECES), reporter=notes))[-1] == (2, 300)
    assert notes.texts == [f"{damaged}: decord failed; decoding with PyAV instead"]


def test_no_videos_yield_no_events():
    assert list(read_videos(each([], WHOLE))) == []


def test_paths_are_taken_as_they_are_needed(short: Path):
    taken: list[int] = []
    with_trace = (taken.append(number) or short for number in count())
    events = read_videos(each(with_trace, WHOLE), prefetch=5)
    seen = [next(events).video for _ in range(20)]
    events.close()
    assert seen == [place for place in range(10) for _ in range(2)]
    assert len(taken) == 14


# Trouble


class FailingDisk(FileIO):
    """A file of which only so many blocks can be read."""

    def __init__(self, path: Path, blocks: int) -> None:
        super().__init__(path)
        self.left = blocks

    def read(self, size: int = -1) -> bytes:
        self.left -= 1
        if self.left < 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().read(min(size, 1000))


@pytest.mark.parametrize("blocks", [0, 3, 9])
def test_failing_disks_are_not_taken_for_ends(long: Path, blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cococli.media.videos.open_file", lambda path: FailingDisk(path, blocks))
    with pytest.raises(VideoError, match="input/output error") as caught:
        open_video(long)
    assert is_transient(caught.value)


def test_files_that_are_damaged_fail_for_good(long: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.mp4").write_bytes(long.read_bytes()[:5_000])
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    paths = [tmp_path / "cut.mp4", tmp_path / "picture.png", tmp_path / "none.mp4"]
    failures = [event for event in read_videos(each(paths, WHOLE)) if isinstance(event, VideoFailed)]
    assert [failure.transient for failure in failures] == [False, False, False]


@pytest.mark.parametrize(
    ("blow", "message"),
    [
        (signal.SIGSTOP, "gave up after 4 s"),
        (signal.SIGSEGV, "the decoder crashed (SIGSEGV)"),
        (signal.SIGABRT, "the decoder crashed (SIGABRT)"),
        (signal.SIGKILL, "the decoder was killed, probably for lack of memory"),
    ],
    ids=lambda value: value.name if isinstance(value, signal.Signals) else "",
)
def test_crashing_videos_fail_alone(long: Path, short: Path, blow: signal.Signals, message: str):
    before = children()
    # A process that is stopped is given up soon; others may take as long as a loaded machine needs.
    request = replace(PIECES, timeout=4 if blow == signal.SIGSTOP else 900)
    events = read_videos(each([long, short, short], request), processes=1)
    next(events)
    (process,) = children() - before
    os.kill(process, blow)
    *clips, failure, _, _, _, _ = received = outlines(events)
    assert failure == (0, message)
    assert all(place == 0 for place, _ in clips)
    assert received[-4:] == [(1, 0.0), (1, 1), (2, 0.0), (2, 1)]


def test_ctrl_c_and_kill_are_for_the_parent(long: Path):
    before = children()
    events = read_videos(each([long], PIECES), processes=1)
    next(events)
    (process,) = children() - before
    assert os.getpgid(process) != os.getpgid(0)
    os.kill(process, signal.SIGINT)
    os.kill(process, signal.SIGTERM)
    assert outlines(events)[-1] == (0, 300)


def test_a_process_is_replaced_before_leaks_add_up(short: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pool, "MAX_FILES", 2)
    before = children()
    seen = {frozenset(children() - before) for _ in read_videos(each([short] * 6, WHOLE), processes=1, prefetch=1)}
    assert len(set().union(*seen)) >= 3
    assert {len(processes) for processes in seen} <= {0, 1}


def test_a_process_can_take_only_so_much_memory(long: Path):
    before = children()
    events = read_videos(each([long], PIECES), processes=1)
    next(events)
    (process,) = children() - before
    limits = Path(f"/proc/{process}/limits").read_text()
    assert ["Max", "data", "size", "1900000000", "1900000000", "bytes"] in map(str.split, limits.splitlines())
    events.close()


def test_working_folder_modules_are_not_imported(short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("av", "numpy", "queue"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('not me')")
    monkeypatch.chdir(tmp_path)
    assert outlines(read_videos(each([short], WHOLE))) == [(0, 0.0), (0, 1)]


# The end


def test_closing_ends_everything_while_readers_wait_and_read(long: Path):
    events = read_videos(each([long] * 10, PIECES), processes=3)
    next(events)
    events.close()
    with pytest.raises(StopIteration):
        next(events)


def test_an_exception_where_events_are_used_ends_everything(long: Path):
    def use() -> None:
        for event in read_videos(each([long] * 4, PIECES)):
            raise RuntimeError(f"cannot use {event.video}")

    with pytest.raises(RuntimeError, match="cannot use 0"):
        use()


def test_a_list_of_paths_that_breaks_ends_everything(short: Path):
    def broken() -> Iterator[Path]:
        yield short
        raise OSError("the list is gone")

    with pytest.raises(OSError, match="the list is gone"):
        list(read_videos(each(broken(), WHOLE)))


PARENT = """
import sys, time
from pathlib import Path
from cococli.media.clips import ReadRequest, Sampling, Segments
from cococli.media.pool import read_videos

events = read_videos([(Path(sys.argv[1]), ReadRequest(Sampling(), Segments("seconds", 0.04), 40))] * 4)
for _ in range(310):  # into the second video, so that both processes run
    next(events)
print("reading", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("killed", [True, False], ids=["is killed", "forgets to close"])
def test_processes_end_with_a_parent_that(long: Path, killed: bool):
    command = [sys.executable, "-c", PARENT, str(long)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as parent:
        assert parent.stdout and parent.stdout.readline() == b"reading\n"
        processes = children(parent.pid)
        if killed:
            parent.kill()
        _, complaints = parent.communicate(b"\n", timeout=900)
    assert len(processes) == 2
    assert complaints == b""
    assert parent.returncode == (-signal.SIGKILL if killed else 0)
    for process in processes:
        wait_for_the_end_of(process)


def wait_for_the_end_of(process: int) -> None:
    while True:
        try:
            if Path(f"/proc/{process}/stat").read_text().split()[2] == "Z":  # dead, and its new parent is slow
                return
        except (FileNotFoundError, ProcessLookupError):
            return
        time.sleep(0.1)
