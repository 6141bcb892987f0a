"""`coca evaluate`: scores of captions, retrieval and classification."""

from typing import TYPE_CHECKING, Annotated

from .. import console
from ..options import Option
from ..requests import EvaluateRequest
from .command import command

if TYPE_CHECKING:
    from ..evaluation.report import Report

SCORE_COLUMN = 14  # cells of a terminal for the scores of the worst examples


@command(
    "coca evaluate --data coco/ --karpathy dataset_coco.json --split test",
    "coca evaluate --classes imagenet/val/ --templates simple",
    "coca evaluate --predictions out.jsonl --references captions.json",
    "coca evaluate --benchmark msr-vtt --data MSRVTT/ --frames multi",
)
def evaluate(
    request: EvaluateRequest,
    reporter: console.ConsoleReporter,
    worst: Annotated[
        int, Option("Show the N worst examples of each kind.", metavar="N", minimum=0, maximum=1_000_000)
    ] = 5,
    as_json: Annotated[bool, Option("Print JSON.", flags=("--json",))] = False,
) -> int:
    """Measure captions (BLEU, METEOR, ROUGE-L, CIDEr, SPICE), retrieval (recall) and classification (accuracy).

    Interrupted evaluations resume when the same command is given again.
    """
    from ..evaluation.evaluate import evaluate

    evaluation = evaluate(request, reporter)
    if as_json:
        console.result(evaluation.to_json())
    else:
        _print(evaluation.report, worst)
    for note in evaluation.report.notes:
        reporter.note(note)
    if evaluation.folder:
        reporter.note(f"kept in {evaluation.folder}")
    return evaluation.exit_code


def _print(report: "Report", worst: int) -> None:
    """Print tables of the scores, and the worst examples."""
    from ..evaluation.dense import TIOUS

    console.table(("measure", "x 100"), report.rows())
    if report.dense:
        columns = ("dense captions", *(f"tIoU {tiou}" for tiou in TIOUS))
        rows = [(name, *(f"{100 * value:.1f}" for value in values)) for name, values in report.dense.at.items()]
        console.table(columns, rows)
    if report.ranks:
        console.table(("rank", "from 1"), [(name, f"{value:.1f}") for name, value in report.ranks.items()])
    for example in report.worst_of_each(worst):
        console.row(f"{example.by} {example.score:.3g}", example.what, SCORE_COLUMN)
        for name, text in (("  said", example.got), ("  wanted", example.wanted)):
            if text:
                console.row(name, text, SCORE_COLUMN)
