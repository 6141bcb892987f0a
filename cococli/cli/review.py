"""`coca review`: a page to look at captions, correct them and search."""

import shlex
from typing import TYPE_CHECKING

from .. import console
from ..requests import ReviewRequest
from .command import command

if TYPE_CHECKING:
    from ..review.server import ReviewServer


@command(
    "coca review captions.jsonl",
    "coca review captions.jsonl --index index/",
    "coca review captions.jsonl --export corrected.csv",
)
def review(request: ReviewRequest, reporter: console.ConsoleReporter) -> None:
    """View, play, correct and accept captions in a browser.

    Edits are saved at once to a file beside the captions, which stay as they are.
    """
    if request.export:
        from ..review.edits import Review
        from ..review.export import export

        export(Review(request.path), request.export, request.overwrite, reporter)
        reporter.note(f"coca finetune --data {shlex.quote(request.export)}")
        return
    from ..review.start import open_review

    serve(open_review(request, reporter), reporter, request.browser)


def serve(server: "ReviewServer", reporter: console.ConsoleReporter, open_browser: bool = True) -> None:
    """Print the address of a page and serve it until Ctrl-C."""
    console.result(server.url)
    reporter.note("Ctrl-C ends")
    server.run(open_browser)
