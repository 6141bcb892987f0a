"""Draw docs/images/report.png, the picture of the page of results, with clips captioned by `shapes`."""

import io
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).parents[1]
SIZE, SCALE = {"width": 1440, "height": 880}, 1.25
COLORS = 255  # of the PNG


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page = write_page(Path(folder))
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        tab = chromium.new_page(viewport=SIZE, device_scale_factor=SCALE, color_scheme="light")
        tab.goto(page.as_uri())
        draw(tab, ROOT / "docs/images/report.png")
        chromium.close()


def write_page(folder: Path) -> Path:
    """Draw clips and pictures, caption them, and return the page."""
    environment = {**os.environ, "COCA_HOME": str(folder / "home"), "PYTHONPATH": str(ROOT)}
    drawn = [sys.executable, str(ROOT / "examples/shapes.py"), "drawn", "--train", "0", "--val", "0", "--clips", "24"]
    subprocess.run(drawn, cwd=folder, env=environment, check=True)
    shutil.copytree(ROOT / "examples", folder / "clips", ignore=shutil.ignore_patterns("*.py", "cluster"))
    (folder / "clips/unfinished.mp4").write_bytes((folder / "clips/moves.mp4").read_bytes()[:100])
    for path in sorted((folder / "drawn").rglob("*.mp4")):
        path.rename(folder / "clips" / path.name)
    options = ("--frames", "multi", "--min-score", "0.75", "--embed", "index")
    command = ("caption", "clips", "-o", "captions.html", "--model", "shapes", *options)
    subprocess.run([sys.executable, "-m", "cococli", *command], cwd=folder, env=environment, check=False)  # one fails
    return folder / "captions.html"


def draw(tab: Page, target: Path) -> None:
    tab.check("#failures")
    tab.click("#cards article >> nth=1")
    tab.evaluate("document.activeElement.blur()")
    image = Image.open(io.BytesIO(tab.screenshot()))
    image.quantize(COLORS, dither=Image.Dither.NONE).save(target, optimize=True)


if __name__ == "__main__":
    main()
