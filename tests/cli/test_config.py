"""config.toml, and `coca config`."""

import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import typer

from cococli.cli.config import default_map, toml
from cococli.cli.typer_internals import Command
from cococli.doctor import variables
from cococli.errors import UsageError
from cococli.settings import config_file

EXAMPLES = Path(__file__).parents[2] / "examples"

app = typer.Typer(context_settings={"help_option_names": ["-h", "--help"]})
models = typer.Typer()
app.add_typer(models, name="models")

Model = Annotated[str, typer.Option("--model", "-m", envvar="COCA_MODEL")]


@app.callback()
def root(context: typer.Context, version: Annotated[bool, typer.Option(is_eager=True)] = False) -> None:
    context.default_map = default_map(context)


@app.command()
def caption(
    path: str,
    model: Model = "built-in",
    beams: Annotated[int, typer.Option(min=1)] = 6,
    top_p: float = 0.9,
    tags: Annotated[list[str], typer.Option()] = [],  # noqa: B006
) -> dict[str, Any]:
    return {"model": model, "beams": beams, "top_p": top_p, "tags": tags}


@app.command(cls=Command)
def fetch(
    model: Model = "built-in",
    keep: Annotated[bool, typer.Option("--keep-download/--no-keep-download")] = True,
    source: Annotated[Path | None, typer.Option("--from")] = None,
) -> dict[str, Any]:
    return {"model": model, "keep": keep, "source": source}


@app.command()
def embed(
    beams: Annotated[int, typer.Option(min=1, max=4)] = 2, precision: Literal["fp32", "int8"] = "fp32"
) -> list[Any]:
    return [beams, precision]


@app.command()
def finetune(precision: Literal["fp32", "fp16"] = "fp32") -> str:
    return precision


@models.command()
def prune(yes: bool = False, days: int = 30) -> dict[str, Any]:
    return {"yes": yes, "days": days}


@models.command("rm")
def remove(name: str, yes: bool = False) -> dict[str, Any]:
    return {"yes": yes}


def run(*arguments: str) -> Any:
    """Run a command of the app above and return what it returns."""
    return app(list(arguments), prog_name="coca", standalone_mode=False)


def write(text: str) -> None:
    config_file().write_text(text, encoding="utf-8")


def test_precedence_of_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("fetch")["model"] == "built-in"
    write('model = "top"')
    assert run("fetch")["model"] == "top"
    write('model = "top"\n[fetch]\nmodel = "table"')
    assert run("fetch")["model"] == "table"
    assert run("caption", "a.mp4")["model"] == "top"
    monkeypatch.setenv("COCA_MODEL", "environment")
    assert run("fetch")["model"] == "environment"
    assert run("fetch", "-m", "typed")["model"] == "typed"


def test_nearest_table_wins() -> None:
    write("[models]\nyes = true\n[models.prune]\nyes = false\ndays = 7")
    assert run("models", "prune") == {"yes": False, "days": 7}
    assert run("models", "rm", "tiny") == {"yes": True}


def test_shared_value_applies_where_it_is_valid() -> None:
    write('precision = "int8"\nbeams = 5')
    assert run("embed") == [2, "int8"]
    assert run("caption", "a.mp4")["beams"] == 5
    assert run("finetune") == "fp32"
    write('precision = "int8"\n[finetune]\nprecision = "fp16"')
    assert run("finetune") == "fp16"


def test_value_valid_nowhere_is_an_error() -> None:
    write('precision = "int9"')
    with pytest.raises(UsageError, match="precision: 'int9' is not one of 'fp32', 'int8'"):
        run("finetune")
    write('[finetune]\nprecision = "int8"')
    with pytest.raises(UsageError, match=r"finetune\.precision: 'int8' is not one of 'fp32', 'fp16'"):
        run("embed")


@pytest.mark.parametrize("spelling", ["top-p = 0.5", "top_p = 0.5", '"top-p" = "0.5"', "[caption]\ntop_p = 0.5"])
def test_keys_have_dashes_or_underscores(spelling: str) -> None:
    write(spelling)
    assert run("caption", "a.mp4")["top_p"] == 0.5


def test_values_have_the_types_of_their_flags() -> None:
    write('[caption]\ntop-p = 1\nmodel = 2024\ntags = ["a", 1]\n[fetch]\nfrom = "a.bin"')
    values = run("caption", "a.mp4")
    assert (values["model"], values["tags"], values["top_p"]) == ("2024", ["a", "1"], 1.0)
    assert type(values["top_p"]) is float
    assert run("fetch")["source"] == Path("a.bin")


def test_switch_with_two_forms_uses_the_first() -> None:
    write("keep-download = false")
    assert run("fetch")["keep"] is False
    assert run("fetch", "--keep-download")["keep"] is True


def test_help_shows_values_of_config(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    write('keep-download = false\nmodel = "mine"')
    run("fetch", "--help")
    shown = capsys.readouterr().out
    assert "[default: false, from config.toml]" in shown
    assert '[default: "mine", from config.toml; env: COCA_MODEL]' in shown


@pytest.mark.parametrize(
    ("text", "problem", "hint"),
    [
        ("beans = 3", "beans: no flag that can be set", "close: beams"),
        (
            "[caption]\nno_keep_download = true",
            "caption.no_keep_download: no flag that can be set",
            "coca caption --help",
        ),
        ("[captoin]\nbeams = 3", "captoin: no such command", "close: caption"),
        ("[models.prun]\ndays = 3", "models.prun: no such command", "close: prune"),
        ("[fetch]\nbeams = 3", "fetch.beams: no flag that can be set", "coca fetch --help"),
        ("[caption]\npath = 'a.mp4'", "caption.path: no flag that can be set", "coca caption --help"),
        ("[caption]\nhelp = true", "caption.help: no flag that can be set", "coca caption --help"),
        ("version = true", "version: no flag that can be set", "close: precision"),
        ("m = 'tiny'", "m: no flag that can be set", "coca --help"),
        ("fetch = true", "fetch: no flag that can be set", "coca --help"),
        ("[caption.beams]", "caption.beams: no such command", "coca caption --help"),
        ("beams = 0", "beams: Input should be greater than or equal to 1", "coca caption --help"),
        (
            "[models.prune]\ndays = 'ten'",
            "models.prune.days: Input should be a valid integer, unable to parse string as an integer",
            "coca models prune --help",
        ),
        ("beams = true", "beams: takes a value, not true or false", "coca caption --help"),
        ("beams = [1]", "beams: takes one value", "coca caption --help"),
        ("keep-download = 'no'", "keep-download: takes true or false", "coca fetch --help"),
    ],
)
def test_invalid_entries_stop_every_command(text: str, problem: str, hint: str) -> None:
    write(text)
    with pytest.raises(UsageError) as error:
        run("models", "rm", "tiny")
    assert (error.value.message, error.value.hint) == (f"{config_file()}: {problem}", hint)


def test_syntax_error_names_line() -> None:
    write("beams = 3\nmodel = vit-l-14")
    with pytest.raises(UsageError) as error:
        run("fetch")
    assert error.value.message == f"{config_file()} is not valid TOML: Invalid value (at line 2, column 9)"
    assert error.value.hint == 'put text in quotes: model = "vit-l-14"'


@pytest.mark.parametrize("text", [f"beams = {'9' * 5000}", f"beams = {'[' * 5000}{']' * 5000}", "beams = 1e999"])
def test_excessive_numbers_and_nesting_are_refused(text: str) -> None:
    write(text)
    with pytest.raises(UsageError, match=r"config\.toml"):
        run("caption")


def test_unreadable_file_is_an_error() -> None:
    config_file().write_bytes(b'model = "\xff"')
    with pytest.raises(UsageError, match=r"config\.toml is not UTF-8 text$"):
        run("fetch")
    config_file().unlink()
    config_file().mkdir()
    with pytest.raises(UsageError, match=r"^cannot read .*config\.toml: Is a directory$"):
        run("fetch")


def test_byte_order_mark_and_empty_file_are_accepted() -> None:
    write('\ufeffmodel = "mine"\r\n')
    assert run("fetch")["model"] == "mine"
    write("")
    assert run("fetch")["model"] == "built-in"


def test_file_is_in_user_config_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("COCA_CONFIG")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    assert config_file().is_relative_to(tmp_path)
    assert config_file().parts[-2:] == ("coca", "config.toml")
    monkeypatch.setenv("COCA_CONFIG", "~/other.toml")
    assert config_file() == tmp_path / "other.toml"


def test_values_are_formatted_as_toml() -> None:
    import tomllib

    values = {"text": 'say "hi"\\ \n é', "yes": True, "count": 3, "ratio": 1.0, "small": 1e-7, "list": ["a", "b"]}
    assert tomllib.loads("\n".join(f"{key} = {toml(value)}" for key, value in values.items())) == values
    assert (toml(None), toml(Path("a"))) == ("", '"a"')


def test_caption_uses_config(coca, monkeypatch: pytest.MonkeyPatch) -> None:
    write('[caption]\nmodel = "shapes"\nsearch = "greedy"\nframes = "multi"\nnum-frames = 2\nquiet = true')
    caption = coca("caption", EXAMPLES / "moves.mp4")
    assert (len(json.loads(caption.stdout)["frames"]), caption.stderr) == (2, "")
    monkeypatch.setenv("COCA_MODEL", "no-such-model")
    assert coca("caption", EXAMPLES / "moves.mp4").returncode == 3


def test_broken_file_allows_help_and_completion_only(coca, monkeypatch: pytest.MonkeyPatch) -> None:
    write("[caption]\nbeans = 3")
    problem = f"{config_file()}: caption.beans: no flag that can be set"
    convert = coca("convert", "a.bin")
    assert (convert.stdout, convert.stderr) == ("", f"error: {problem}\nhint: close: beams, ban\n")
    assert convert.returncode == 2
    help_page = coca("caption", "--help")
    assert "--beams" in help_page.stdout
    assert (help_page.stderr, help_page.returncode) == (f"warning: {problem}\n", 0)
    for harmless in ("--help", "--version"):
        assert (coca(harmless).stderr, coca(harmless).returncode) == ("", 0)
    path = coca("config", "--path")
    assert (path.stdout, path.stderr, path.returncode) == (f"{config_file()}\n", "", 0)
    shown = coca("config")
    assert str(config_file()) in shown.stdout
    assert (shown.stderr, shown.returncode) == (f"error: {problem}\nhint: close: beams, ban\n", 2)
    monkeypatch.setenv("_COCA_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "coca\ncaption\n--frames\nm")
    monkeypatch.setenv("COMP_CWORD", "3")
    completed = coca()
    assert (completed.stdout.split(), completed.stderr) == (["middle", "multi"], "")


def test_config_shows_places_environment_and_settings(coca, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in {*variables()} - {"COCA_HOME", "COCA_CONFIG"}:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HF_ENDPOINT", "https://me:secret@mirror.example")
    monkeypatch.setenv("COCA_MODEL", "tiny")
    write('model = "mine"\n[caption]\nbeams = 3\n[convert]\nverify = true')
    run = coca("config")
    file = config_file()
    width = max(len(str(file)), len(str(home)))
    assert run.stdout.splitlines() == [
        f"place   {'path':{width}}  from",
        f"config  {file!s:{width}}  COCA_CONFIG",
        f"cache   {home!s:{width}}  COCA_HOME",
        "",
        "variable     value",
        f"COCA_HOME    {home}",
        f"COCA_CONFIG  {file}",
        "COCA_MODEL   tiny",
        "HF_ENDPOINT  https://...@mirror.example",
        "HF_TOKEN     set",
        "",
        "command   flag    value   from",
        'caption   model   "tiny"  COCA_MODEL',
        "caption   beams   3       config.toml",
        'embed     model   "tiny"  COCA_MODEL',
        'score     model   "tiny"  COCA_MODEL',
        'evaluate  model   "tiny"  COCA_MODEL',
        'finetune  model   "tiny"  COCA_MODEL',
        'bench     model   "tiny"  COCA_MODEL',
        "convert   verify  true    config.toml",
    ]
    assert run.stderr == "all other flags have their built-in default: coca config --all\n"
    assert "secret" not in coca("config", "--json").stdout


def test_invalid_environment_variable_is_an_error(coca, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COCA_PRECISION", "fp8")
    run = coca("config")
    assert run.stderr.splitlines()[0].startswith("error: COCA_PRECISION: 'fp8' is not one of 'auto', 'fp32'")
    assert run.returncode == 2


def test_config_without_file_shows_its_path(coca, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COCA_ENGINE", "COCA_PRECISION"):
        monkeypatch.delenv(name)
    run = coca("config")
    assert run.stdout.splitlines()[1] == f"config  {config_file()}  COCA_CONFIG, not there yet"
    assert "command" not in run.stdout
    assert run.stderr == "all flags have their built-in default: coca config --all\n"


def test_config_all_shows_every_flag_of_every_command(coca) -> None:
    write("[caption]\nbeams = 3")
    lines = [line.split() for line in coca("config", "--all").stdout.splitlines()]
    assert ["caption", "beams", "3", "config.toml"] in lines
    assert ["caption", "length-penalty", "1.0", "default"] in lines
    assert ["caption", "model", "default"] in lines
    assert ["convert", "verify", "false", "default"] in lines


def test_config_as_json_has_everything(coca, home: Path) -> None:
    write('[caption]\nbeams = 3\noutput = "out.jsonl"')
    shown = json.loads(coca("config", "--json").stdout)
    assert shown["config"] == {"path": str(config_file()), "source": "COCA_CONFIG", "exists": True}
    assert shown["cache"] == {"path": str(home), "source": "COCA_HOME", "exists": True}
    assert shown["environment"]["COCA_CONFIG"] == os.environ["COCA_CONFIG"]
    settings = {(each["command"], each["flag"]): (each["value"], each["source"]) for each in shown["settings"]}
    assert settings["caption", "beams"] == (3, "config.toml")
    assert settings["caption", "output"] == (["out.jsonl"], "config.toml")
    assert settings["caption", "model"] == (None, "default")
    assert settings["convert", "verify"] == (False, "default")


def test_config_sets_its_own_flags(coca) -> None:
    write("[config]\njson = true")
    assert json.loads(coca("config").stdout)["config"]["exists"] is True


def test_quiet_in_config_applies_to_one_command(coca) -> None:
    write("[fetch]\nquiet = true")
    assert coca("models").stderr.startswith("no model is here yet: ")
