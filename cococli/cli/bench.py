"""`coca bench`: the speed of each engine on this machine."""

from typing import TYPE_CHECKING, Annotated

from .. import console
from ..options import Option
from ..requests import BenchRequest
from .command import command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..benchmark import Timing


@command("coca bench", "coca bench --engines torch,openvino --model vit-l-14", "coca bench --device cuda --json")
def bench(
    request: BenchRequest,
    reporter: console.ConsoleReporter,
    as_json: Annotated[bool, Option("Print JSON.", flags=("--json",))] = False,
) -> int:
    """Time a model on this machine with each installed engine and precision. Takes minutes.

    Ctrl-C shows the results so far.
    """
    from ..benchmark import benchmark

    timings: list[Timing] = []
    reporter.on_record = timings.append
    try:
        return benchmark(request, reporter).exit_code
    finally:
        if timings:
            _print(timings, as_json)


def _print(timings: "Sequence[Timing]", as_json: bool) -> None:
    if as_json:
        console.json_result([timing.facts() for timing in timings])
        return
    counts = sorted({rows for timing in timings for rows in timing.steps})
    columns = ("engine", "precision", "start", "frame", *(f"{rows} rows" for rows in counts), "captions/min")
    console.table(columns, [_cells(timing, counts) for timing in timings])
    by_speed = sorted(timings, key=lambda timing: -timing.captions_per_minute)
    exact = [timing for timing in by_speed if timing.choice.precision != "int8"]
    if exact and exact[0] is not by_speed[0]:
        console.result(f"more exact: {exact[0].choice.flags}")
    console.result(f"fastest: {by_speed[0].choice.flags}")
    others = ", ".join(f"{stage} {rate:.{1 if rate < 10 else 0}f}" for stage, rate in by_speed[0].rates.items())
    console.result(f"bottleneck: {by_speed[0].bottleneck}, in clips per second: {others}")


def _cells(timing: "Timing", counts: "Sequence[int]") -> tuple[str, ...]:
    choice = timing.choice
    engine = choice.engine if choice.device == "cpu" else f"{choice.engine} {choice.device}"
    times = [
        f"{1000 * seconds:.{0 if seconds >= 0.01 else 1}f} ms" if seconds else ""
        for seconds in (timing.frame, *map(timing.steps.get, counts))
    ]
    return engine, choice.precision, f"{timing.start:.1f} s", *times, f"{timing.captions_per_minute:.0f}"
