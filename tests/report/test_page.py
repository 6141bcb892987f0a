"""The page of results, in a real browser."""

from typing import Any

import pytest

expect = pytest.importorskip("playwright.sync_api", reason="needs playwright").expect

CARDS = "#cards article"


def test_filter_matches_captions_and_names(show: Any) -> None:
    page = show(60)
    page.keyboard.press("/")
    page.keyboard.type("GREEN clip 12.")
    expect(page.locator(f"{CARDS} .caption")).to_have_text(["a green square number 12"])
    expect(page.locator("#count")).to_contain_text("1 shown of 60 records")
    page.fill("#filter", "no such thing")
    expect(page.locator("#empty")).to_have_text("Nothing matches.")
