"""What the program needs of Typer beyond its public API. These tests fail when a version of Typer changes it."""

import ast
import inspect
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer import _completion_classes, _completion_shared
from typer._click.shell_completion import ShellComplete
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from cococli.cli import typer_internals
from cococli.cli.typer_internals import Command, CommandGroup, convert, settable, subcommands, typed, value_of

CLI = Path(typer_internals.__file__).parent
CHANGED = f"Typer {typer.__version__} changed: adapt cococli/cli/typer_internals.py"

app = typer.Typer(cls=CommandGroup)


@app.command(cls=Command)
def paint(
    paths: list[str],
    color: Annotated[str, typer.Option("--color", "-c", metavar="NAME", envvar="COLOR", help="Of the paint.")] = "red",
    coats: Annotated[int, typer.Option(min=0, max=9, rich_help_panel="Advanced")] = 0,
    gloss: Annotated[bool, typer.Option("--gloss/--matte")] = False,
    quick: Annotated[bool, typer.Option("--quick", is_eager=True)] = False,
) -> None:
    """Paint
    files.

    Slowly.
    """


@app.command(cls=Command)
def dry() -> None:
    """Wait."""


ROOT = typer.Context(typer.main.get_command(app), info_name="shop", help_option_names=["--help"])
PAINT = subcommands(ROOT)["paint"]


@pytest.mark.parametrize(
    ("owner", "names"),
    [
        (TyperOption, ["process_value", "consume_value", "get_default"]),
        (TyperArgument, ["get_default"]),
        (TyperCommand, ["get_help", "get_help_option", "get_params", "make_context"]),
        (TyperGroup, ["get_help", "get_help_option", "get_params", "parse_args"]),
        (typer.Context, ["get_parameter_source", "find_root", "command_path", "meta", "get_help"]),
        (typer.TyperException, ["format_message", "exit_code"]),
        (ShellComplete, ["get_completions"]),
        (_completion_classes, ["ZshComplete", "_sanitize_help_text", "completion_init"]),
        (_completion_classes.ZshComplete, ["source_template"]),
        (_completion_shared, ["_completion_scripts", "_get_shell_name", "get_completion_script", "install", "Shells"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_typer_has_needed_attributes(owner: Any, names: list[str]) -> None:
    assert [name for name in names if not hasattr(owner, name)] == [], CHANGED


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        (TyperOption.process_value, ["self", "ctx", "value"]),
        (TyperOption.consume_value, ["self", "ctx", "opts"]),
        (ShellComplete.get_completions, ["self", "args", "incomplete"]),
        (_completion_shared.get_completion_script, ["prog_name", "complete_var", "shell"]),
        (_completion_shared.install, ["shell", "prog_name", "complete_var"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_typer_functions_take_same_parameters(function: Any, parameters: list[str]) -> None:
    assert list(inspect.signature(function).parameters) == parameters, CHANGED


def test_other_modules_use_public_api_only() -> None:
    for module in CLI.glob("*.py"):
        if module.stem == "typer_internals":
            continue
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert not (node.module or "").startswith("typer."), f"{module.name}: {ast.unparse(node)}"
            if isinstance(node, ast.Attribute):
                assert node.attr not in ("process_value", "consume_value", "get_parameter_source"), module.name


def test_settable_options_are_listed_by_flag() -> None:
    assert list(settable(PAINT)) == ["color", "coats", "gloss"], CHANGED
    assert list(subcommands(ROOT)) == ["paint", "dry"], CHANGED


def test_values_are_converted_as_if_typed() -> None:
    assert convert(settable(PAINT)["coats"], "3", PAINT) == 3, CHANGED
    for value, problem in (("many", "valid integer"), ("10", "less than or equal to 9")):
        with pytest.raises(ValueError, match=problem):
            convert(settable(PAINT)["coats"], value, PAINT)


def test_values_come_with_their_source(monkeypatch: pytest.MonkeyPatch) -> None:
    color = settable(PAINT)["color"]
    assert value_of(color, PAINT) == ("red", "DEFAULT"), CHANGED
    preset = typer.Context(PAINT.command, info_name="paint", default_map={"color": "green"})
    assert value_of(color, preset) == ("green", "DEFAULT_MAP"), CHANGED
    monkeypatch.setenv("COLOR", "blue")
    assert value_of(color, preset) == ("blue", "ENVIRONMENT"), CHANGED


def test_typed_parameters_are_known() -> None:
    context = PAINT.command.make_context("paint", ["a", "-c", "blue"])
    assert [typed(context, name) for name in ("color", "coats", "missing")] == [True, False, False], CHANGED


def test_help_page_is_complete(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    with pytest.raises(SystemExit):
        app(["paint", "--help"], prog_name="shop")
    assert (
        capsys.readouterr().out
        == """\
Usage: shop paint [OPTIONS] PATHS...

Paint files.

Slowly.

Arguments:
  PATHS

Options:
  -c, --color NAME  Of the paint. [default: red; env: COLOR]
  --gloss, --matte  [default: --matte]
  --quick
  --help            Show this message and exit.

Advanced:
  --coats COATS  [default: 0; 0 to 9]
"""
    ), CHANGED


def test_group_help_lists_commands() -> None:
    page = ROOT.get_help()
    assert page.startswith("Usage: shop [OPTIONS] COMMAND"), CHANGED
    assert "Commands:\n  paint  Paint files.\n  dry    Wait." in page, CHANGED
