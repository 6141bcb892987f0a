"""`coca report`: a page of captions to look at in a browser."""

from .. import console
from ..requests import ReportRequest
from .command import command


@command(
    "coca report out.jsonl -o report.html",
    "coca report out.jsonl -o report.html --index index/",
    "coca report out.jsonl -o report.html --root /new/videos",
)
def report(request: ReportRequest, reporter: console.ConsoleReporter) -> None:
    """Write a page of captions: thumbnails, scores, timelines and a map, in one file that needs no network."""
    from ..captioning.report import report

    report(request, reporter)
