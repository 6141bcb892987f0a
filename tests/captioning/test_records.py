"""Records as lines of JSON."""

import json
import os

from cococli.captioning.records import Record
from cococli.journal import Failure


def record(video: str = "videos/a.mp4", logprob: float = -0.41239, caption: str = "a cat") -> Record:
    return Record(video, 0.0, 7.20049, caption, logprob, 0.29, (0.5, 1.39951), "vit-l-14")


def test_record_is_one_line_of_json() -> None:
    assert json.loads(record().to_json()) == {
        "video": "videos/a.mp4",
        "start": 0.0,
        "end": 7.2,
        "caption": "a cat",
        "logprob": -0.4124,
        "similarity": 0.29,
        "frames": [0.5, 1.4],
        "model": "vit-l-14",
        "status": "ok",
    }


def test_a_failure_names_the_video_and_the_reason() -> None:
    assert Failure("videos/broken.mp4", "no video stream").to_json() == (
        '{"video": "videos/broken.mp4", "status": "error", "error": "no video stream"}'
    )


def test_json_keeps_other_scripts_and_escapes_line_breaks() -> None:
    line = record(video="vidéos/猫\n.mp4").to_json()
    assert "vidéos/猫" in line
    assert "\n" not in line


def test_undecodable_file_names_survive_json() -> None:
    name = os.fsdecode(b"caf\xe9.mp4")
    line = record(video=name).to_json().encode("utf-8")
    assert os.fsencode(json.loads(line)["video"]) == b"caf\xe9.mp4"


def test_scores_that_are_not_finite_are_null() -> None:
    line = record(logprob=float("-inf")).to_json()
    assert json.loads(line, parse_constant=lambda name: name)["logprob"] is None
