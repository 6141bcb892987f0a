"""`coca demo`, and what it needs of a clone and of a wheel."""

import json
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_demo_captions_examples_and_shows_commands(coca) -> None:
    run = coca("demo", "--engine", "torch", cwd=ROOT)
    lines = run.stdout.splitlines()
    commands = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    assert commands == [
        "coca caption examples/ --model shapes",
        "coca caption examples/ --model shapes --frames multi",
    ]
    records = [json.loads(line) for line in lines if not line.startswith("$ ")]
    clips = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "examples").glob("*.mp4"))]
    assert [record["video"] for record in records] == clips * 2
    typed = coca(*shlex.split(commands[1])[1:], "--engine", "torch", "--quiet", cwd=ROOT)
    assert typed.stdout.splitlines() == lines[-len(clips) :]
    picture = (ROOT / "docs/images/demo.svg").read_text().replace("&#160;", " ")
    assert all(record["caption"] in picture for record in records[len(clips) :])
    assert (run.stderr, run.returncode) == ("", 0)


def test_the_wheel_has_every_example() -> None:
    packaged = ROOT / "cococli/assets/examples"
    clips = sorted((ROOT / "examples").glob("*.mp4"))
    assert [path.name for path in clips] == sorted(path.name for path in packaged.iterdir())
    assert all((packaged / path.name).read_bytes() == path.read_bytes() for path in clips)
