"""Draw docs/images/demo.svg, the picture of the README: a terminal with captions of the example clips, and frames."""

import base64
import io
import json
import os
import pty
import shlex
import subprocess
import sys
import tempfile
from html import escape
from pathlib import Path

import av
from PIL import Image
from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[1]
COMMAND = "coca caption examples/ --model shapes --frames multi"
SHOWN = ("appears.mp4", "moves.mp4", "vanishes.mp4")  # clips that change, so that several frames matter
COLUMNS = 96  # cells of the terminal
STRIP, FRAME, GAP = 4, 70, 4  # frames of a clip, pixels of a frame and between frames
MARGIN, GUTTER, WIDTH = 20, 22, 20 * 2 + 22 * 2 + 3 * (4 * 70 + 3 * 4)


def main() -> None:
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "COCA_HOME": home, "COLUMNS": str(COLUMNS), "TERM": "xterm-256color"}
        printed = run_in_terminal(environment)
        records = [json.loads(line) for line in run(environment, stdout=subprocess.PIPE).splitlines()]
    terminal, height = draw_terminal(printed)
    shown = [record for record in records if Path(record["video"]).name in SHOWN]
    strips = "\n".join(draw_strip(record, column, height + 2 * MARGIN) for column, record in enumerate(shown))
    total = height + 2 * MARGIN + FRAME + 60
    picture = f"""<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" \
viewBox="0 0 {WIDTH} {total}" width="{WIDTH}" height="{total}">
<rect width="{WIDTH}" height="{total}" rx="10" fill="#1b1f27"/>
{terminal}
{strips}
</svg>
"""
    (ROOT / "docs/images/demo.svg").write_text(picture)


def run(environment: dict[str, str], stdout: int) -> str:
    """Run the command and return what it printed, if stdout is a pipe."""
    command = [sys.executable, "-m", "cococli", *shlex.split(COMMAND)[1:]]
    return subprocess.run(command, cwd=ROOT, env=environment, stdout=stdout, check=True, text=True).stdout


def run_in_terminal(environment: dict[str, str]) -> str:
    """Return what the command prints on a terminal, with its colors."""
    ours, theirs = pty.openpty()
    try:
        run(environment, stdout=theirs)
    finally:
        os.close(theirs)
    parts = []
    try:
        while part := os.read(ours, 1 << 16):
            parts.append(part)
    except OSError:  # Linux's way to say that the other end is closed
        pass
    return b"".join(parts).decode().replace("\r\n", "\n")


def draw_terminal(printed: str) -> tuple[str, int]:
    """Draw a terminal window; return it and its height in pixels of the picture."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    console.print(Text.assemble(("$ ", "bold green"), (COMMAND, "bold")))
    console.print(Text.from_ansi(printed.rstrip("\n")))
    svg = console.export_svg(title="coca", unique_id="terminal")
    width, height = map(float, svg.split('viewBox="0 0 ', 1)[1].split('"', 1)[0].split())
    drawn = round(height * (WIDTH - 2 * MARGIN) / width)
    svg = svg.replace("<svg ", f'<svg x="{MARGIN}" y="{MARGIN}" width="{WIDTH - 2 * MARGIN}" height="{drawn}" ', 1)
    return svg, drawn


def draw_strip(record: dict, column: int, top: int) -> str:
    """Draw frames of a clip side by side, and its name and caption below."""
    left = MARGIN + column * (STRIP * FRAME + (STRIP - 1) * GAP + GUTTER)
    times = record["frames"]
    picked = [times[round(place * (len(times) - 1) / (STRIP - 1))] for place in range(STRIP)]
    images = [
        f'<image x="{left + place * (FRAME + GAP)}" y="{top}" width="{FRAME}" height="{FRAME}" '
        f'xlink:href="data:image/png;base64,{frame}"/>'
        for place, frame in enumerate(read_frames(ROOT / record["video"], picked))
    ]
    name = draw_text(record["video"], left, top + FRAME + 20, 'font-size="12" fill="#8b949e"')
    caption = draw_text(record["caption"], left, top + FRAME + 40, 'font-size="14" fill="#e6edf3"')
    return "\n".join([*images, name, caption])


def draw_text(text: str, left: int, top: int, style: str) -> str:
    return f'<text x="{left}" y="{top}" font-family="Helvetica, Arial, sans-serif" {style}>{escape(text)}</text>'


def read_frames(video: Path, times: list[float]) -> list[str]:
    """Return the frames at these times, as PNGs in base64."""
    with av.open(str(video)) as container:
        frames = [(float(frame.time), frame.to_image()) for frame in container.decode(video=0)]
    chosen = [min(frames, key=lambda frame: abs(frame[0] - time))[1] for time in times]
    return [encode(image.resize((2 * FRAME, 2 * FRAME), Image.Resampling.LANCZOS)) for image in chosen]


def encode(image: Image.Image) -> str:
    file = io.BytesIO()
    image.quantize(64).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


if __name__ == "__main__":
    main()
