"""Measure how soon a page of many records shows its cards, and how smoothly it scrolls, in headless Chromium.

python benchmarks/page.py [RECORDS]
"""

import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import sync_playwright

from cococli.report.page import render
from cococli.report.thumbnails import data_uri

# Scrolls down a screen per frame for 3 seconds; returns the milliseconds between frames, sorted.
SCROLL = """() => new Promise((resolve) => {
  const gaps = [];
  let last = performance.now();
  const end = last + 3000;
  const step = (now) => {
    gaps.push(now - last);
    last = now;
    scrollBy(0, innerHeight);
    now < end ? requestAnimationFrame(step) : resolve(gaps.slice(1).sort((one, other) => one - other));
  };
  requestAnimationFrame(step);
})"""
# Milliseconds until a change of the filter or of the order is drawn.
CHANGE = """(view) => new Promise((resolve) => {
  const start = performance.now();
  store.show(view);
  requestAnimationFrame(() => requestAnimationFrame(() => resolve(performance.now() - start)));
})"""
# Milliseconds to draw the map, and to find the point at the pointer.
HOVER = """() => {
  const start = performance.now();
  map.draw();
  const drawn = performance.now();
  for (let clientX = 300; clientX < 700; clientX += 20) {
    map.canvas.dispatchEvent(new PointerEvent("pointermove", {clientX, clientY: 500}));
  }
  return [drawn - start, (performance.now() - drawn) / 20];
}"""


def make_map(count: int) -> dict[str, Any]:
    positions = np.random.default_rng(0).random((count, 2)).round(4).tolist()
    clusters = [
        {"label": f"cluster {number}", "x": number / 12, "y": 0.5, "count": count // 12} for number in range(12)
    ]
    return {
        "method": "PCA",
        "points": [[number, *position, number % 12] for number, position in enumerate(positions)],
        "clusters": clusters,
    }


def make_records(count: int) -> list[dict[str, Any]]:
    """Records with thumbnails as large as those of real pictures, about 2 KB."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 255, (50, 15, 20, 3), np.uint8).repeat(8, axis=1).repeat(8, axis=2)
    noise = random.integers(-12, 12, coarse.shape)
    pictures = [data_uri(pixels) for pixels in np.clip(coarse + noise, 0, 255).astype(np.uint8)]
    return [
        {
            "id": number,
            "video": f"videos/trip {number % 97}/clip {number}.mp4",
            "start": 0.0,
            "end": 8.0,
            "caption": f"a {('dog', 'cat', 'boat')[number % 3]} on the {('grass', 'sofa', 'sea')[number % 7 % 3]}",
            "logprob": -float(random.random()),
            "similarity": float(random.normal(0.3, 0.05)),
            "frames": [4.0],
            "model": "vit-l-14",
            "status": "ok",
            # Each differs, as browsers decode equal ones once.
            "thumbnails": [{"time": 4.0, "src": f"{pictures[number % 50]}#{number}"}],
        }
        for number in range(count)
    ]


def main(count: int = 10_000) -> None:
    records = make_records(count)
    started = time.perf_counter()
    page = render(records, "page.html", make_map(count))
    print(f"{count} records: {len(page) / 1e6:.0f} MB, rendered in {time.perf_counter() - started:.1f} s")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        file = Path(folder, "page.html")
        file.write_text(page)
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        tab = chromium.new_page(viewport={"width": 1440, "height": 900})
        started = time.perf_counter()
        tab.goto(file.as_uri(), wait_until="commit")
        tab.wait_for_selector("#cards article img")
        print(f"first cards after {time.perf_counter() - started:.2f} s")
        gaps = tab.evaluate(SCROLL)
        median, slow = gaps[len(gaps) // 2], gaps[int(0.95 * len(gaps))]
        print(f"scrolling a screen per frame: {median:.1f} ms a frame (median), {slow:.1f} ms (95%)")
        print(f"{tab.locator('#cards article').count()} cards in the document")
        for name, view in (("filter", {"text": "dog sea"}), ("order", {"text": "", "sort": "similarity-down"})):
            print(f"{name} drawn after {tab.evaluate(CHANGE, view):.0f} ms")
        tab.click("nav >> text=Map")
        print("map drawn after {:.0f} ms, point at the pointer found after {:.0f} ms".format(*tab.evaluate(HOVER)))
        chromium.close()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
