"""Files from phones, cameras, recorders and attackers, as the commands read them."""

import json
import os
import shutil
import socket
import struct
import subprocess
import tarfile
from pathlib import Path

import av
import numpy as np
import pytest
from media.test_pictures import TILED, gif_of
from media.video_fixtures import RATE, X264, damage, make_video, with_sound
from PIL import Image

EXAMPLES = Path(__file__).parents[2] / "examples"

SDP = """v=0
o=- 0 0 IN IP4 127.0.0.1
s=x
c=IN IP4 127.0.0.1
t=0 0
m=video 41000 RTP/AVP 96
a=rtpmap:96 H264/90000
"""
DASH = """<?xml version="1.0"?>
<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT2S"><Period><AdaptationSet>
<Representation id="1" bandwidth="1000" mimeType="video/mp4"><BaseURL>{url}</BaseURL></Representation>
</AdaptationSet></Period></MPD>
"""


@pytest.fixture(autouse=True)
def bundled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COCA_MODEL", "shapes")
    monkeypatch.setenv("COCA_ENGINE", "torch")


def captioned(coca, *arguments: object, **options: object) -> tuple[dict[str, dict], str]:
    """The records by the names of their files, and what was told."""
    run = coca("caption", *arguments, **options)
    records = [json.loads(line) for line in run.stdout.splitlines()]
    return {Path(record["video"]).name: record for record in records}, run.stderr


def test_pictures_are_captioned_as_people_see_them(coca, tmp_path: Path) -> None:
    (tmp_path / "phone.HEIC").write_bytes(TILED.read_bytes())
    with av.open(str(EXAMPLES / "grows.mp4")) as video:
        *_, last = video.decode(video=0)
    whole = last.to_image()
    whole.save(tmp_path / "cut.jpg", quality=95)
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:-2])
    gray = np.asarray(whole.convert("L"), np.float32)
    Image.fromarray(gray / 255).save(tmp_path / "float.tif")
    disc = Image.new("RGBA", whole.size, (255, 0, 0, 0))
    disc.save(tmp_path / "invisible.png")
    Image.new("RGB", whole.size, "white").save(tmp_path / "white.png")
    for name in ("b.NEF", "c.svg", "d.nef", "notes.txt"):
        (tmp_path / name).write_text("x")
    records, told = captioned(coca, tmp_path)
    assert records["phone.HEIC"]["caption"] == "a large yellow triangle on a pink background"
    assert records["cut.jpg"]["caption"] == "a large white circle on a black background"
    assert "white circle" in records["float.tif"]["caption"]
    assert records["invisible.png"]["caption"] == records["white.png"]["caption"]
    assert {record["end"] for record in records.values()} == {0.0}
    assert "skipped 2 .nef, 1 .svg files: convert them to JPEG, PNG or MP4 first" in told
    assert "notes.txt" not in told


def test_heic_is_named_where_its_package_is_missing(coca, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of that name that Python cannot find: `None` in sys.modules."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import importlib.util as util\n"
        "find = util.find_spec\n"
        "util.find_spec = lambda name, package=None: None if name == 'pillow_heif' else find(name, package)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"), prepend=os.pathsep)
    (tmp_path / "pictures").mkdir()
    shutil.copy(TILED, tmp_path / "pictures" / "a.heic")
    run = coca("caption", tmp_path / "pictures")
    assert run.returncode == 2
    assert "hint: skipped 1 .heic file: pip install pillow-heif\n" in run.stderr
    records, _ = captioned(coca, tmp_path / "pictures" / "a.heic")
    assert records["a.heic"]["error"] == "not a HEIC picture that can be read: pip install pillow-heif"


@pytest.mark.parametrize("ffmpeg", ["bundled", "installed"])
def test_late_pictures_keep_the_clock_of_their_file(coca, tmp_path: Path, ffmpeg: str) -> None:
    import imageio_ffmpeg

    program = imageio_ffmpeg.get_ffmpeg_exe() if ffmpeg == "bundled" else shutil.which("ffmpeg")
    if program is None:
        pytest.skip("ffmpeg is not installed")
    silent = make_video(tmp_path / "silent.mp4", at=range(5 * RATE, 5 * RATE + 60), **X264)
    late = with_sound(silent, tmp_path / "late.mp4")
    run = coca("caption", late, "--embed", "index", "-o", "a.srt", "-o", "a.jsonl", cwd=tmp_path)
    assert run.returncode == 0
    (record,) = map(json.loads, (tmp_path / "a.jsonl").read_text().splitlines())
    assert (record["start"], record["end"]) == pytest.approx((5.0, 7.4), abs=0.01)
    assert record["frames"] == pytest.approx([6.2], abs=0.05)
    assert (tmp_path / "a.srt").read_text().splitlines()[1].startswith("00:00:05,0")

    (cut,) = coca("search", "a circle", "index", "--cut", cwd=tmp_path).stdout.splitlines()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ffmpeg").symlink_to(program)
    environment = {**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    subprocess.run(["bash"], input=cut.encode(), cwd=tmp_path, env=environment, capture_output=True, check=True)
    (file,) = tmp_path.glob("late_*.mp4")
    with av.open(str(file)) as video:
        assert len(list(video.decode(video=0))) == 60


def test_failing_decoders_are_noted(coca, tmp_path: Path) -> None:
    path = damage(make_video(tmp_path / "a.mp4", frames=200))
    records, stderr = captioned(coca, path, "--frames", "multi")
    assert records["a.mp4"]["status"] == "ok"
    assert stderr.count(f"{path}: decord failed; decoding with PyAV instead\n") == 1


def test_files_start_no_program_and_open_nothing_else(coca, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    ghostscript = tmp_path / "bin" / "gs"
    ghostscript.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin", prepend=os.pathsep)
    other = make_video(tmp_path / "other.ts", frames=10)
    files = tmp_path / "files"
    files.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/a.ts"
        playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:2.4,\n{}\n#EXT-X-ENDLIST\n"
        (files / "eps.png").write_text(
            "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\n(x) print\n"
        )
        (files / "sdp.mp4").write_text(SDP)
        (files / "hls-url.mp4").write_text(playlist.format(url))
        (files / "hls-file.mp4").write_text(playlist.format(other))
        (files / "hls.jpg").write_text(playlist.format(url))
        (files / "concat.mp4").write_text(f"ffconcat version 1.0\nfile {other}\n")
        (files / "dash.mp4").write_text(DASH.format(url=url))
        (files / "imf.mp4").write_text(f"<?xml version='1.0'?><!DOCTYPE x SYSTEM '{url}'><x/>")
        (files / "svg.png").write_text(f"<svg xmlns='http://www.w3.org/2000/svg'><image href='{url}'/></svg>")
        (files / "graph.mp4").write_text(f"movie={other}")
        records, _ = captioned(coca, files, "--timeout", 20)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert len(records) == 10
    assert {record["status"] for record in records.values()} == {"error"}
    assert all(record["error"].startswith("not a video") for record in records.values())
    assert not (tmp_path / "started").exists()


def test_archives_and_bombs_are_refused(coca, tmp_path: Path) -> None:
    picture = tmp_path / "in.jpg"
    Image.new("RGB", (64, 64), "red").save(picture)
    files = tmp_path / "files"
    files.mkdir()
    with tarfile.open(files / "tar.jpg", "w") as archive:
        archive.add(picture, "in.jpg")
    (files / "wide.gif").write_bytes(gif_of(20_000, 8_000, 3_000))
    (files / "long.gif").write_bytes(gif_of(3_000, 3_000, 3_000))
    (files / "bitmap.bmp").write_bytes(
        b"BM" + struct.pack("<IIIIIIHHI", 54, 0, 54, 40, 30_000, 30_000, 1, 24, 0) + bytes(20)
    )
    records, _ = captioned(coca, files, "--frames", "multi")
    errors = {name: record.get("error") for name, record in records.items()}
    assert errors["tar.jpg"] == "a tar archive, not a video or picture: unpack it first"
    assert errors["wide.gif"] == "more than 100,000,000 pixels"
    assert errors["long.gif"] == "more than 8,589,934,592 pixels"
    assert errors["bitmap.bmp"] == "more than 268,435,456 pixels"


def test_slow_pictures_are_given_up(coca, tmp_path: Path) -> None:
    (tmp_path / "slow.gif").write_bytes(gif_of(9_000, 9_000, 100))
    records, _ = captioned(coca, tmp_path, "--frames", "multi", "--timeout", 3)
    assert records["slow.gif"]["error"] == "gave up after 3 s"
