"""Printed commands cut out exactly the frames of a moment, with a real ffmpeg and a real shell."""

import os
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import av
import imageio_ffmpeg
import numpy as np
import pytest
from media.tar_fixtures import write_tar
from media.video_fixtures import CLOSED, OPEN, RATE, X264, make_video, number_of, trim, with_sound

from cococli.errors import VideoError
from cococli.media.discover import discover
from cococli.media.videos import open_video
from cococli.retrieval.cut import cut_command
from cococli.retrieval.index import Entry

UNEVEN = list(accumulate([1, 3, 1, 1, 7] * 12))
LONG = 650  # frames: more than ffmpeg decodes before a moment

KINDS: dict[str, dict[str, Any]] = {
    "bidirectional.mp4": X264,
    "open groups.mkv": {"options": {"x264-params": OPEN}},
    "h265.mp4": {"codec": "libx265", "options": {"x265-params": CLOSED + ":log-level=none"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}},
    "starts late.mp4": {"at": range(125, 185)},
    "starts late.ts": {"at": range(125, 185)},
    "starts hours late.mkv": {"at": range(250_000, 250_060)},
    "starts late.flv": {"at": range(2500, 2560)},
    "h264.mov": X264,
    "uneven.mp4": {"at": UNEVEN},
    "uneven.mkv": {"at": UNEVEN},
    "mpeg2.ts": {"codec": "mpeg2video", "b_frames": 2},
    "mpeg2.mpg": {"codec": "mpeg2video", "b_frames": 2},
    "not seekable.flv": {},
    "not seekable either.h264": {"kind": "h264"},
    "colors.gif": {"codec": "gif", "pixel_format": "rgb8"},
    "long.mp4": {**X264, "frames": LONG},
    "long.mkv": {**X264, "frames": LONG},
    "long.ts": {**X264, "frames": LONG},
}


FFMPEGS = {"bundled": imageio_ffmpeg.get_ffmpeg_exe(), "installed": shutil.which("ffmpeg")}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that makes a video of one of the `KINDS`, once for both programs."""
    folder = tmp_path_factory.mktemp("videos")
    return cache(lambda name: make_video(folder / name, **KINDS[name]))


@pytest.fixture(params=FFMPEGS)
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Callable[[str], Path]:
    """Return a function that runs a command in an empty folder, and returns the file that it writes."""
    ffmpeg = FFMPEGS[request.param] or pytest.skip("ffmpeg is not installed")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ffmpeg").symlink_to(ffmpeg)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)

    def run(command: str) -> Path:
        folder = tmp_path / "cuts" / str(len(list(tmp_path.glob("cuts/*"))))
        folder.mkdir(parents=True)
        subprocess.run(["bash"], input=os.fsencode(command), cwd=folder, capture_output=True, check=True, timeout=900)
        (file,) = folder.iterdir()
        return file

    return run


@cache
def content(path: Path) -> tuple[list[int], np.ndarray]:
    """Return the numbers and timestamps of the frames."""
    video = open_video(path)
    return [number_of(frame.pixels) for frame in video.frames(range(len(video.starts)))], video.starts


def check(path: Path, shell: Callable[[str], Path]) -> None:
    """Cut at frames, between frames, and single frames."""
    numbers, starts = content(path)
    ends = np.append(starts, open_video(path).end)
    third, last, between = len(starts) // 3, len(starts), (ends[:-1] + ends[1:]) / 2
    for start, end in [
        (starts[0], ends[third]),
        (ends[third], ends[2 * third]),
        (ends[2 * third], ends[last]),
        (between[5], between[20]),
        (ends[-3], ends[-2]),
    ]:
        inside = (starts >= start) & (starts < end)
        cut, times = content(shell(cut_command(Entry(0, str(path), round(start, 3), round(end, 3)))))
        assert cut == [number for number, wanted in zip(numbers, inside, strict=True) if wanted]
        np.testing.assert_allclose(times - times[0], starts[inside] - starts[inside][0], atol=0.0011)


@pytest.mark.parametrize("name", KINDS)
def test_cut_holds_exactly_the_frames_of_its_moment(videos, shell, name: str) -> None:
    check(videos(name), shell)


@pytest.mark.parametrize("name", ["sound.mp4", "sound.mkv", "sound.ts"])
def test_sound_may_begin_before_the_picture(tmp_path: Path, shell, name: str) -> None:
    silent = make_video(tmp_path / "silent.mp4", at=range(12, 72), **X264)
    check(with_sound(silent, tmp_path / name), shell)


def test_frames_hidden_by_edit_lists_stay_hidden(tmp_path: Path, shell) -> None:
    check(trim(make_video(tmp_path / "whole.mp4", **X264), tmp_path / "trimmed.mp4", 5), shell)


def test_rounded_times_select_the_same_frames(tmp_path: Path, shell) -> None:
    ticks = [3 * number for number in range(60)]
    path = tmp_path / "thirds.mp4"
    with av.open(str(make_video(tmp_path / "even.mp4", at=ticks, **X264))) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        stream.time_base = old.streams.video[0].time_base / 9  # a frame lasts 1/75 s
        for packet in old.demux(old.streams.video[0]):
            if packet.size:
                packet.time_base = packet.time_base / 9
                packet.stream = stream
                new.mux(packet)
    assert np.diff(open_video(path).starts) == pytest.approx(3 / RATE / 9)
    check(path, shell)


@pytest.mark.parametrize(
    "name",
    [
        'it\'s "two"  words.mp4',
        "-i.mp4",
        "12:30 $HOME `x` \\n *.mp4",
        "100%03d.mp4",
        "two\nlines\r.mp4",
        "stray \udcff byte's \x1b[2J \\ and ü.mp4",
        "käfer 🐞.mp4",
        "long" * 60 + ".mp4",
    ],
)
def test_any_name_survives_the_shell(tmp_path: Path, shell, name: str) -> None:
    make_video(tmp_path / "plain.mp4").rename(tmp_path / name)
    command = cut_command(Entry(0, f"{tmp_path}/{name}", 0.4, 0.8))
    assert command.isprintable()
    file = shell(command)
    assert file.name == f"{os.fsdecode(os.fsencode(name)[:-4][:200])}_0.40-0.80.mp4"
    assert content(file)[0] == list(range(10, 20))


def test_videos_in_tars_are_cut_in_place(tmp_path: Path, shell) -> None:
    video = make_video(tmp_path / "a.mp4", **X264)
    tar = write_tar(tmp_path / "b, c.tar", [("0.txt", b"text"), ("1.mp4", video.read_bytes()), ("2.txt", b"text")])
    (inside,) = discover([str(tar)])[0]
    numbers, starts = content(video)
    cut, _ = content(shell(cut_command(Entry(0, str(inside), starts[10], starts[20]))))
    assert cut == numbers[10:20]


@pytest.mark.parametrize("name", ["-i.mp4", "12:30.mp4"])
def test_bare_names_are_neither_options_nor_protocols(
    tmp_path: Path, shell, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    make_video(tmp_path / "plain.mp4").rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    command = cut_command(Entry(0, name, 0.4, 0.8))
    assert content(shell(f"cp {tmp_path}/*.mp4 . && {command} && rm ./{name}"))[0] == list(range(10, 20))


def test_piped_commands_do_not_consume_each_other(tmp_path: Path, shell) -> None:
    path = make_video(tmp_path / "v.mp4")
    first, second = (cut_command(Entry(0, str(path), start, start + 0.4)) for start in (0.0, 0.4))
    assert content(shell(f"{first}\n{second} && rm v_0.00-0.40.mp4\n"))[0] == list(range(10, 20))


def test_command_is_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_video(tmp_path / "a dog.mp4", frames=LONG)
    monkeypatch.chdir(tmp_path)
    assert cut_command(Entry(0, "a dog.mp4", 24.0, 25.5)) == (
        "ffmpeg -nostdin -protocol_whitelist file -f mov -seek_timestamp 1 -ss 3.999500 -i './a dog.mp4' "
        "-ss 20.000000 -t 1.500000 -fps_mode vfr -enc_time_base:v 1/90000 -c:v libx264 -crf 18 -c:a aac "
        "'./a dog_24.00-25.50.mp4'"
    )


def test_missing_video_is_reported(tmp_path: Path) -> None:
    with pytest.raises(VideoError) as caught:
        cut_command(Entry(0, str(tmp_path / "gone.mp4"), 0.0, 1.0))
    assert caught.value.message == "no such file"


def test_videos_of_equal_names_get_different_files(tmp_path: Path) -> None:
    videos = [make_video(tmp_path / folder / "a.mp4") for folder in ("one", "two") if not (tmp_path / folder).mkdir()]
    taken: set[str] = set()
    commands = [cut_command(Entry(0, str(video), 0.0, 1.0), taken) for video in videos]
    assert [command.split()[-1] for command in commands] == ["./a_0.00-1.00.mp4", "./a_0.00-1.00_2.mp4"]
