"""`coca score`: similarity of existing captions to their pictures or videos."""

from .. import console
from ..requests import ScoreRequest
from .command import command


@command(
    "coca score captions.csv -o scores.jsonl",
    "coca score pictures/ -o scores.parquet",
    "coca score '{000..012}.tar' --frames multi",
)
def score(request: ScoreRequest, reporter: console.ConsoleReporter) -> int:
    """Compare existing captions with their pictures or videos: cosine similarity and CLIPScore.

    Interrupted runs resume when the same command is given again.
    """
    from ..evaluation.score import score

    if not request.output or "-" in request.output:
        reporter.on_record = lambda record: console.result(record.to_json())
    return score(request, reporter).exit_code
