"""Help pages, and warnings about flags without effect."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.main import get_command

from cococli.cli.command import warn_of_flags
from cococli.cli.main import app
from cococli.cli.typer_internals import examples_of, help_page, help_panels, subcommands

MOVES = Path(__file__).parents[2] / "examples/moves.mp4"
COCA = get_command(app)


def contexts(context: typer.Context) -> Iterator[typer.Context]:
    """Yield the context of a command and of those below it."""
    yield context
    for child in subcommands(context).values():
        yield from contexts(child)


ALL = list(contexts(typer.Context(COCA, info_name="coca", help_option_names=["-h", "--help"])))


def test_every_command_has_own_examples() -> None:
    for context in ALL:
        lines = examples_of(context.command)
        assert len(lines) >= 3
        assert all(f"{line} ".startswith(f"{context.command_path} ") for line in lines)


@pytest.mark.parametrize("context", ALL, ids=lambda context: context.command_path)
def test_examples_can_be_typed(context: typer.Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for line in examples_of(context.command):
        command, words = COCA, shlex.split(re.split(" [|>] ", line)[0])[1:]
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]
        command.make_context("coca", words)


@pytest.mark.parametrize("context", ALL, ids=lambda context: context.command_path)
@pytest.mark.parametrize("columns", [80, 200])
def test_help_fits_terminal(context: typer.Context, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    page = help_page(context)
    assert max(map(len, page.splitlines())) <= min(columns, 100)
    assert page.splitlines()[-1].strip() == examples_of(context.command)[-1]
    for flags, _ in (row for rows in help_panels(context).values() for row in rows):
        assert f"\n  {flags}" in page


@pytest.mark.parametrize(
    ("name", "headings"),
    [
        ("caption", ["Arguments", "Output", "Input", "Frames", "Model", "Options", "Cluster", "Advanced"]),
        ("search", ["Arguments", "Results", "Model", "Options", "Advanced"]),
        ("evaluate", ["Data", "Output", "Input", "Frames", "Model", "Options", "Advanced"]),
    ],
)
def test_help_lists_everyday_options_first(name: str, headings: list[str]) -> None:
    (found,) = (context for context in ALL if context.command_path == f"coca {name}")
    assert list(help_panels(found)) == headings


def warnings(line: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the warnings about the flags of a command line."""
    name, *words = shlex.split(line)
    with typer.Context(COCA, info_name="coca") as root:
        warn_of_flags(COCA.commands[name].make_context(name, words, parent=root))
    return capsys.readouterr().err.splitlines()


@pytest.mark.parametrize(
    ("line", "idle"),
    [
        ("caption a.mp4 --num-frames 3 --pool mean", ["--num-frames", "--pool"]),
        ("caption a.mp4 --num-frames 3 --pool mean --frames multi", []),
        ("caption a.mp4 --merge 0.9", ["--merge"]),
        ("caption a.mp4 --merge 0.9 --segments 5", []),
        ("caption a.mp4 --search top-p --top-k 5 --beams 2 --seed 1", ["--top-k", "--beams"]),
        ("caption a.mp4 --search top-p --top-p 0.5 --temperature 2 --seed 1", []),
        ("caption a.mp4 --top-p 0.5 --temperature 2 --seed 1", ["--top-p", "--temperature", "--seed"]),
        ("caption a.mp4 --search greedy --beams 3 --length-penalty 2", ["--beams", "--length-penalty"]),
        ("caption a.mp4 --search legacy --beams 3 --length-penalty 2", []),
        ("caption a.mp4 --subtitles vtt --max-cue 3 --template x", ["--as", "--max-cue", "--template"]),
        ("caption a.mp4 --max-cue 3 --subtitles vtt -o a.srt", ["--as"]),
        ("caption a.mp4 --max-cue 3 --subtitles vtt --template x -o subs/ -o a.TXT", []),
        ("caption a.mp4 --max-cue 3 --subtitles vtt --beside", []),
        ("caption a.mp4 --quiet --verbose --overwrite --retry-failed", ["--retry-failed", "--verbose"]),
        ("embed --texts a.txt -o i/ --since 7d --frames multi --pool mean", ["--since", "--frames"]),
        ("embed a.mp4 -o i/ --since 7d --segments scene --retry-failed", []),
        ("search dog index/ --threshold 0.9 -k 3 --min-score 0.1", ["--threshold"]),
        ("search --duplicates index/ --threshold 0.9 -k 3 --per-video 2", ["-k", "--per-video"]),
        ("evaluate --classes a/ --templates simple", []),
        ("evaluate --data a/ --templates simple --beams 3 --only captions", ["--templates"]),
        ("evaluate --predictions a.json --references b.json --engine torch --split test", ["--engine"]),
        ("fetch vit-l-14 --from a.bin --keep-download", ["--keep-download"]),
        ("fetch vit-l-14 --keep-download", []),
    ],
)
def test_flags_without_effect_cause_warnings(line: str, idle: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    found = warnings(line, capsys)
    assert sorted(text.split()[1] for text in found) == sorted(idle)
    assert all(" has no effect with" in text for text in found)


def test_defaults_and_config_cause_no_warnings(coca, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.toml").write_text("top_k = 5\nmerge = 0.9\n")
    monkeypatch.setenv("COCA_CONFIG", str(tmp_path / "config.toml"))
    run = coca("caption", MOVES, "--model", "shapes", "--engine", "torch", "-q")
    assert (run.stderr, run.returncode) == ("", 0)


def test_flags_without_effect_keep_results(coca) -> None:
    command = ["caption", MOVES, "--model", "shapes", "--engine", "torch", "--quiet"]
    plain, idle = coca(*command), coca(*command, "--verbose", "--top-k", 5, "--num-frames", 2)
    assert idle.stdout == plain.stdout
    assert idle.stderr.splitlines() == [
        "warning: --num-frames has no effect without --frames multi",
        "warning: --top-k has no effect without --search top-k",
        "warning: --verbose has no effect with --quiet",
    ]


@pytest.mark.parametrize("arguments", [[], ["--steps", "3"], ["--help"]], ids=str)
def test_missing_option_is_two_lines(coca, arguments: list[str]) -> None:
    run = coca("finetune", *arguments)
    if arguments == ["--help"]:
        assert "Examples:" in run.stdout
    else:
        assert run.stderr.splitlines() == ["error: Missing option '--data'.", "hint: coca finetune --help"]
        assert (run.stdout, run.returncode) == ("", 2)


def test_url_instead_of_path_is_named(coca) -> None:
    url = "https://example.com/coco"
    for flags in (["--images", url], [f"--images={url}"]):
        run = coca("finetune", "--data", "coco", *flags)
        assert (run.stderr.splitlines()[0], run.returncode) == (f"error: {url} is a URL, not a file", 2)
    run = coca("finetune", "--data", url, "--model", "shapes")
    assert (run.stderr.splitlines()[0], run.returncode) == (f"error: {url} is a URL, but not of a tar", 2)


EMPTY = [
    "caption VIDEO -o OUT.jsonl -o ''",
    "caption VIDEO --embed ''",
    "caption VIDEO --cut-to=",
    "caption VIDEO --log-file ''",
    "caption VIDEO ''",
    "embed '' -o OUT/",
    "embed VIDEO -o ''",
    "embed VIDEO --texts '' -o OUT/",
    "search triangle ''",
    "finetune --data ''",
    "evaluate --data ''",
    "score ''",
    "report '' -o OUT.html",
    "models export shapes ''",
]


@pytest.mark.parametrize("line", EMPTY)
def test_empty_paths_are_not_the_working_folder(
    coca, tmp_path: Path, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COCA_MODEL", "shapes")
    run = coca(*shlex.split(line.replace("VIDEO", str(MOVES))), cwd=tmp_path)
    assert run.stderr.splitlines() == [
        "error: a path is empty",
        "hint: is a variable in it unset? . is the working folder",
    ]
    assert (run.stdout, run.returncode, list(tmp_path.iterdir())) == ("", 2, [])


def test_file_named_like_a_flag_is_explained(coca, tmp_path: Path) -> None:
    (tmp_path / "-new.mp4").write_bytes(MOVES.read_bytes())
    run = coca("caption", "-new.mp4", cwd=tmp_path)
    assert run.stderr.splitlines() == ["error: No such option: -n", "hint: ./-new.mp4 is the file itself"]
    assert (run.stdout, run.returncode) == ("", 2)
    assert coca("caption", "./-new.mp4", "--model", "shapes", cwd=tmp_path).returncode == 0
