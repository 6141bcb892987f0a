"""`coca embed`: embeddings of videos, pictures and texts, in an index or a file."""

from .. import console
from ..requests import EmbedRequest
from .command import command


@command(
    "coca embed videos/ -o index/",
    "coca embed videos/ --segments scene -o index/",
    "coca embed --texts lines.txt -o lines.npz",
)
def embed(request: EmbedRequest, reporter: console.ConsoleReporter) -> int:
    """Embed videos, pictures and texts in the joint space of CoCa.

    Interrupted runs resume when the same command is given again. New and changed files are added.
    """
    from ..retrieval.embed import embed

    reporter.on_record = lambda embedding: console.result(embedding.to_json())
    return embed(request, reporter).exit_code
