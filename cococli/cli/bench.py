"""`coca bench`: how fast this machine is, with each engine and precision that it has."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from .. import console
from ..errors import CocaError, UsageError
from . import options

if TYPE_CHECKING:
    from ..captioning.timing import Timing
    from ..engines.choice import Choice


def bench(
    model: options.Model = None,
    engines: Annotated[
        str,
        typer.Option(metavar="NAME,...", show_default=False, help="Time only these: mindspore, torch, openvino."),
    ] = "",
    device: options.Device = "auto",
    threads: options.Threads = 0,
    rows: Annotated[
        str,
        typer.Option(metavar="N,...", help="Captions under way in a step: 6 for each clip, in the default search."),
    ] = "6,48",
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Time a model on this machine, with each engine and precision that is installed. Takes minutes.

    Ctrl-C shows what was timed by then.
    """
    from ..captioning.timing import Timing, timed
    from ..jobs import choose_model

    console.be_quiet(quiet)
    counts = _counts(rows)
    choices = _choices(engines, device, threads)
    files = choose_model(model)
    found: list[Timing] = []
    try:
        for choice in choices:
            with console.status(f"timing {choice.flags}") as say:
                try:
                    found.append(timed(model or files.name, choice, counts, say))
                except CocaError as error:
                    console.warning(f"{choice.flags}: {error.message}")
    finally:
        if found:
            _show(found, as_json)
    if len(found) < len(choices):
        raise typer.Exit(1)


def _counts(text: str) -> list[int]:
    counts = text.split(",")
    if not all(count.isdecimal() and 0 < int(count) <= 1000 for count in counts):
        raise UsageError(f"--rows cannot be {text!r}", "numbers of 1 to 1000, as 6,48")
    return sorted(set(map(int, counts)))


def _choices(engines: str, device: str, threads: int) -> "list[Choice]":
    """What is to be timed, in the order in which auto takes them.

    Raises:
        UsageError: there is no such engine or device here.
    """
    from ..engines.choice import available, resolve

    named = engines.split(",") if engines else ["auto"]
    for name in named:
        resolve(name, device, threads=threads)
    return [
        resolve(one.engine, one.device, one.precision, threads)
        for one in available(device)
        if not engines or one.engine in named
    ]


def _show(found: "Sequence[Timing]", as_json: bool) -> None:
    if as_json:
        console.result(json.dumps([_facts(timing) for timing in found]))
        return
    columns = ("engine", "precision", "start", "frame", *(f"{rows} rows" for rows in found[0].steps), "captions/min")
    console.table(columns, [_cells(timing) for timing in found])
    best = max(found, key=lambda timing: timing.captions)
    exact = max((one for one in found if one.choice.precision != "int8"), key=lambda one: one.captions, default=best)
    if exact is not best:
        console.result(f"more exact: {exact.choice.flags}")
    console.result(f"fastest: {best.choice.flags}")


def _facts(timing: "Timing") -> dict[str, object]:
    choice = timing.choice
    named = {"engine": choice.engine, "device": choice.device, "precision": choice.precision, "threads": choice.threads}
    seconds = {"start": timing.start, "frame": timing.frame, "steps": timing.steps}
    return {**named, **seconds, "captions_per_minute": timing.captions}


def _cells(timing: "Timing") -> tuple[str, ...]:
    choice = timing.choice
    engine = choice.engine if choice.device == "cpu" else f"{choice.engine} {choice.device}"
    spans = [timing.frame, *timing.steps.values()]
    return (
        engine,
        choice.precision,
        f"{timing.start:.1f} s",
        *(f"{1000 * seconds:.{0 if seconds >= 0.01 else 1}f} ms" for seconds in spans),
        f"{timing.captions:.0f}",
    )
