"""The `coca` command: its subcommands, error messages and exit codes."""

import os
import sys
import traceback
from contextlib import suppress
from typing import Annotated

import typer

from .. import __version__, console, interrupts, streams
from ..errors import CocaError, UsageError
from ..settings import debugging, home, provide_home
from .bench import bench
from .caption import caption
from .completion import InstallCompletion, ShowCompletion
from .config import config, default_map
from .convert import convert
from .demo import demo
from .doctor import doctor
from .embed import embed
from .evaluate import evaluate
from .fetch import fetch
from .finetune import finetune
from .merge import merge
from .models import app as models
from .report import report
from .review import review
from .schema import schema
from .score import score
from .search import search
from .typer_internals import Command, CommandGroup, describe_error, prepare_completion

INTERRUPTED = 130
HUNG_UP = 129

app = typer.Typer(
    name="coca",
    cls=CommandGroup,
    help="Caption, embed and search videos and pictures with CoCa.",
    epilog="coca demo\ncoca fetch vit-l-14-coco\ncoca caption videos/ -o captions.jsonl",
    context_settings={"help_option_names": ["-h", "--help"]},
    invoke_without_command=True,
    add_completion=False,  # our own flags below take the name of a shell, too
)
app.command()(demo)
app.command()(fetch)
app.command()(caption)
app.command()(embed)
app.command()(merge)
app.command()(search)
app.command()(review)
app.command()(score)
app.command()(report)
app.command()(evaluate)
app.command()(finetune)
app.command()(bench)
app.command()(convert)
app.command()(schema)
app.add_typer(models, name="models", cls=CommandGroup)
app.command()(config)
app.command()(doctor)
for group in (app, models):
    for registered in group.registered_commands:
        registered.cls, registered.no_args_is_help = Command, False
prepare_completion()


def run() -> None:
    """Run the command line and exit. Every error is one clear line and an exit code.

    0: all done; 1: some inputs failed, the rest is written; 2: wrong usage; 3: no such model, or a damaged one;
    129: the terminal was closed; 130: interrupted; what was done is kept.
    """
    provide_home()
    _hush_mindspore()
    streams.guard()
    interrupts.catch()
    try:
        try:
            # Ctrl-C comes back as 130.
            code = app(prog_name="coca", standalone_mode=False)
            sys.stdout.flush()
        finally:
            interrupts.release()
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:
        # The reader of the results is gone, as after `| head`.
        code = 1
    except Exception as error:
        # A person is typing, and no error belongs into their command.
        if "_COCA_COMPLETE" in os.environ:
            sys.exit(1)
        code = INTERRUPTED if interrupts.came() else _report(error)
    if code == INTERRUPTED:
        console.error("interrupted", "what was done before is kept")
        code = HUNG_UP if interrupts.hung_up() else INTERRUPTED
    sys.exit(code)


def _hush_mindspore() -> None:
    """Set what MindSpore reads when it is imported: print errors only, and dump files into the cache folder."""
    os.environ.setdefault("GLOG_v", "3")
    # There may be no cache folder.
    with suppress(UsageError):
        os.environ.setdefault("MS_OM_PATH", str(home() / "mindspore"))


def _report(error: Exception) -> int:
    """Print an error and return the exit code."""
    if debugging():
        traceback.print_exception(error)
    if isinstance(error, CocaError):
        console.error(error.message, error.hint)
        return error.exit_code
    if isinstance(error, typer.TyperException):
        message, command = describe_error(error)
        file = next((word for word in sys.argv[1:] if word.startswith("-") and os.path.lexists(word)), None)
        console.error(message, f"./{file} is the file itself" if file else f"{command} --help")
        return error.exit_code
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        console.error(f"this needs {package}, which is not installed", f"pip install {package}")
        return 1
    hint = "" if debugging() else "this is a bug in coca; COCA_DEBUG=1 shows where"
    console.error(f"unexpected {type(error).__name__}: {error}", hint)
    return 1


def _print_version(requested: bool) -> None:
    if requested:
        console.result(f"coca {__version__}")
        raise typer.Exit


@app.callback()
def coca(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    install_completion: InstallCompletion = False,
    show_completion: ShowCompletion = False,
) -> None:
    if context.invoked_subcommand is None:
        console.result(context.get_help())
        raise typer.Exit(2)
    try:
        context.default_map = default_map(context)
    except UsageError as error:
        if not set(context.help_option_names).isdisjoint(sys.argv):
            console.warning(error.message)
        elif context.invoked_subcommand not in ("config", "doctor"):
            # These report its errors themselves.
            raise
