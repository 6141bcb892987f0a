"""One Chromium for all tests of pages."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from report.page_fixtures import make_records

from cococli.report.page import render

CHROMIUM = shutil.which("chromium")
Open = Callable[..., Any]


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if not CHROMIUM:
        pytest.skip("needs chromium: apt-get install chromium")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser: Any, tmp_path: Path) -> Iterator[Open]:
    """Open an HTML page. Errors of its scripts, and if strict what its policy blocks, fail the test."""
    errors: list[str] = []
    contexts = []

    def open_page(
        source: str,
        width: int = 1280,
        height: int = 800,
        theme: str = "light",
        strict: bool = True,
        on_request: Callable[[str], object] = len,
        **options: Any,
    ) -> Any:
        if not source.startswith("http"):
            (tmp_path / "page.html").write_text(source, "utf-8")
            source = (tmp_path / "page.html").as_uri()
        size: Any = {"width": width, "height": height}
        contexts.append(browser.new_context(viewport=size, color_scheme=theme, **options))
        page = contexts[-1].new_page()
        page.set_default_timeout(10_000)
        page.on("request", lambda request: on_request(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        if strict:
            page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.goto(source)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert errors == []


@pytest.fixture
def show(open_page: Open) -> Open:
    """Open a page with these records, or with this many."""

    def show(records: Any, map: Any = None, **options: Any) -> Any:
        records = make_records(records) if isinstance(records, int) else records
        return open_page(render(records, "out.jsonl", map), **options)

    return show
