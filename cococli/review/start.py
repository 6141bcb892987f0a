"""From a request to the server of its page."""

from ..errors import UsageError
from ..report.page import load_jinja
from ..reporting import SILENT, Reporter
from ..requests import ReviewRequest, SearchRequest
from ..retrieval.search import open_searcher, parse_query
from .edits import Review
from .server import ReviewServer


def open_review(request: ReviewRequest, reporter: Reporter = SILENT) -> ReviewServer:
    """Read captions, load the model of the index if there is one, and listen.

    Raises:
        UsageError: The file or the index is missing or damaged, a package is missing, or the port is taken.
        ModelError: The model of the index does not exist, or its weights are damaged.
    """
    _require_packages()
    with reporter.progress("reading captions"):
        review = Review(request.path)
    searcher = None
    if request.index:
        index = SearchRequest(index=request.index, index_model=request.index_model, compute=request.compute)
        searcher = open_searcher(index, reporter)
    return ReviewServer(review, request.port, searcher)


def open_hits(request: SearchRequest, reporter: Reporter = SILENT) -> ReviewServer:
    """Search an index, and listen to show what was found.

    Raises:
        UsageError, ModelError, CocaError: As from `retrieval.search.search`; or a package is missing.
    """
    _require_packages()
    query = parse_query(request.query, request.exclude)
    searcher = open_searcher(request, reporter)
    found = searcher.search(query, request.count, request.min_score, request.per_video)
    return ReviewServer(Review(None), 0, searcher, found, " + ".join(request.query))


def _require_packages() -> None:
    """Raise a UsageError if a package of the extra is missing."""
    load_jinja()
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UsageError(f"the page needs {error.name}", "pip install 'cococli[review]'") from None
