"""Numbers that no flag can take are refused in one line, before any model loads."""

import subprocess
import sys

import pytest

EXTREMES = ("nan", "inf", "-inf", "1e300", "1" + "0" * 30, "-1000000")
BOUNDED = {
    "caption": "--timeout --threads --batch-size --readers --num-frames --beams --candidates --min-length "
    "--length-penalty --repetition-penalty --no-repeat-ngram --top-k --top-p --temperature --min-score --merge",
    "embed": "--timeout --threads --batch-size --readers --num-frames",
    "search": "-k --per-video --min-score --threshold --threads",
    "evaluate": "--timeout --threads --batch-size --readers --num-frames --limit --worst --beams",
    "finetune": "--lr --epochs --steps --batch-size --accumulate --warmup --weight-decay --grad-clip-norm --ema "
    "--caption-loss-weight --contrastive-loss-weight --unlocked-groups --lora --hold-out --val-frequency --patience "
    "--save-every --keep --workers --threads",
    "bench": "--threads --rows",
}
REST = {
    "caption": ["missing.mp4", "--segments", "1"],
    "embed": ["missing.mp4"],
    "search": ["a dog", "missing"],
    "evaluate": ["--data", "missing", "--frames", "multi"],
    "finetune": ["--data", "missing"],
    "bench": ["--model", "missing"],
}

ALL_AT_ONCE = """
import sys
import typer
from cococli.cli.main import app
from cococli.errors import CocaError
coca = typer.main.get_command(app)
for line in sys.stdin.read().splitlines():
    try:
        coca(line.split("\\t"), standalone_mode=False)
        print("accepted")
    except CocaError as error:
        print(error.exit_code, error.message)
    except typer.TyperException as error:
        print(error.exit_code, error.format_message())
assert not {"torch", "mindspore", "openvino"} & sys.modules.keys()
"""


@pytest.mark.parametrize("command", BOUNDED)
def test_extreme_numbers_are_refused(command: str) -> None:
    cases = [(flag, number) for flag in BOUNDED[command].split() for number in EXTREMES]
    lines = ["\t".join([command, *REST[command], flag, number]) for flag, number in cases]
    run = subprocess.run([sys.executable, "-c", ALL_AT_ONCE], input="\n".join(lines), capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
    answers = run.stdout.splitlines()
    assert len(answers) == len(cases)
    assert [
        (case, answer)
        for case, answer in zip(cases, answers, strict=True)
        if not answer.startswith("2 ") or case[0] not in answer
    ] == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["caption", "missing.mp4", "--timeout", "inf"],
        ["caption", "missing.mp4", "--threads", "100000"],
        ["caption", "missing.mp4", "--template", "{caption:>9999999999}"],
        ["finetune", "--data", "missing", "--epochs", "nan"],
    ],
)
def test_extreme_numbers_are_one_error_and_hint(coca, arguments: list[str]) -> None:
    run = coca(*arguments)
    error, hint = run.stderr.splitlines()
    assert error.startswith("error: ") and hint.startswith("hint: ")
    assert arguments[-2] in error
    assert run.returncode == 2
