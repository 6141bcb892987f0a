"""Thumbnails show the frames at the times of records."""

import base64
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from media.video_fixtures import make_video
from PIL import Image

from cococli.report.thumbnails import add_thumbnails
from cococli.reporting import Reporter


def shade(thumbnail: dict[str, Any]) -> float:
    image = Image.open(BytesIO(base64.b64decode(thumbnail["src"].partition(",")[2])))
    return float(np.asarray(image.convert("L")).mean())


def record(video: Path, *times: float) -> dict[str, Any]:
    return {"video": str(video), "frames": times, "status": "ok"}


def test_thumbnails_show_frames_of_rounded_times(tmp_path: Path) -> None:
    shades = [np.full((200, 1000, 3), 20 * number, np.uint8) for number in range(12)]
    video = make_video(tmp_path / "a.mkv", frames=shades)
    times = [round(number / 25, 3) for number in range(12)]
    first, second, missing = add_thumbnails(
        [record(video, *times[4:7], times[6]), record(video, *times[:9]), record(tmp_path / "none.mp4", 0.0)]
    )
    assert [one["time"] for one in first["thumbnails"]] == times[4:7]
    assert np.allclose([shade(one) for one in first["thumbnails"]], [80, 100, 120], atol=6)
    assert [one["time"] for one in second["thumbnails"]] == [times[number] for number in (1, 3, 5, 7)]
    assert [one["id"] for one in (first, second, missing)] == [0, 1, 2]
    assert missing["thumbnails"] == []


def test_request_to_stop_leaves_placeholders(tmp_path: Path) -> None:
    class Impatient(Reporter):
        stop_requested = True

    for name in "abc":
        Image.new("RGB", (80, 60), "teal").save(tmp_path / f"{name}.png")
    found = add_thumbnails([record(tmp_path / f"{name}.png", 0.0) for name in "abc"], reporter=Impatient())
    assert [len(one["thumbnails"]) for one in found] == [1, 0, 0]


def test_many_records_get_small_thumbnails(tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    Image.new("RGB", (800, 600), "teal").save(picture)
    found = add_thumbnails([record(picture, 0.0) for _ in range(5000)])
    [thumbnail] = found[-1]["thumbnails"]
    image = Image.open(BytesIO(base64.b64decode(thumbnail["src"].partition(",")[2])))
    assert image.size == (160, 120)
