"""The page of results: one HTML file that needs no network."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..reporting import SILENT, Reporter
from .thumbnails import add_thumbnails

ASSETS = Path(__file__).parent / "assets"
SCRIPTS = ("store.js", "cards.js", "list.js", "charts.js", "map.js", "page.js")
REVIEW = "review.js"  # of a page that a server shows


def load_jinja() -> Any:
    """Return the package that fills the template.

    Raises:
        UsageError: It is not installed.
    """
    try:
        import jinja2
    except ImportError:
        raise UsageError("the page of results needs jinja2", "pip install 'cococli[review]'") from None
    return jinja2


def make_page(
    records: Sequence[Mapping[str, Any]],
    title: str,
    index: Path | None = None,
    root: Path | None = None,
    reporter: Reporter = SILENT,
) -> str:
    """Return a page with thumbnails of what the records describe.

    Args:
        records: Fields of JSONL.
        index: Folder of their embeddings, for a map of them.
        root: Where the videos are now, if they were moved.

    Raises:
        UsageError: The index is damaged or holds none of the records.
    """
    from .map import place

    found = add_thumbnails(records, root, reporter)
    return render(found, title, place(found, index) if index else None)


def render(
    records: Sequence[Mapping[str, Any]],
    title: str,
    map: Mapping[str, Any] | None = None,
    server: Mapping[str, Any] | None = None,
) -> str:
    """Return the page.

    Args:
        records: Fields of JSONL, each with an `id` and with `thumbnails`; see the comment in `assets/page.js`.
        map: Positions of embeddings, from `map.place`.
        server: What the page needs to call the server that shows it, such as `{"token": ...}`. Its records come from
            there.
    """
    jinja2 = load_jinja()
    environment = jinja2.Environment(autoescape=True, loader=jinja2.FileSystemLoader(ASSETS), trim_blocks=True)
    styles = ("style.css", *(("review.css",) if server else ()))
    style = "".join((ASSETS / name).read_text("utf-8") for name in styles)
    scripts = [(ASSETS / name).read_text("utf-8") for name in (*SCRIPTS, *((REVIEW,) if server else ()))]
    data = {"title": title, "records": records, "map": map, "server": server}
    page: str = environment.get_template("page.html").render(
        title=title.encode("utf-8", "replace").decode(),
        policy=_policy(style, scripts, bool(server)),
        style=style,
        scripts=scripts,
        data=embed_json(data),
    )
    return page


def embed_json(value: Any) -> str:
    """Return JSON in ASCII that no parser takes for markup, whatever captions and names hold."""
    return json.dumps(value, separators=(",", ":")).translate({ord(char): f"\\u{ord(char):04x}" for char in "<>&"})


def _policy(style: str, scripts: Sequence[str], served: bool) -> str:
    """Return the Content-Security-Policy: only these scripts run, and nothing is loaded but from the page's server."""
    media = "'self' blob: data:" if served else "data:"
    allowed = {
        "default-src": "'none'",
        "script-src": " ".join(map(_hash, scripts)),
        "style-src": _hash(style),
        "img-src": media,
        "media-src": media,
        "connect-src": "'self'" if served else "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in allowed.items())


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
