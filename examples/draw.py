"""Draw the example clips: the world that the bundled `shapes` checkpoint was trained on, in motion.

    python examples/draw.py [FOLDER]

A picture is 64 x 64 pixels with one or two flat shapes, drawn here four times as large. In these clips things
move, appear and change, so that `--frames middle` and `--frames multi` see different things.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

SIZE, ZOOM, RATE, SECONDS = 64, 4, 12, 4  # pixels, factor, frames per second, seconds
RADIUS = {"small": 9, "large": 17}
COLORS = {
    "red": (220, 40, 40),
    "yellow": (235, 215, 50),
    "purple": (150, 50, 190),
    "green": (40, 170, 60),
    "blue": (40, 70, 220),
    "pink": (250, 170, 190),
    "black": (15, 15, 15),
    "gray": (128, 128, 128),
    "white": (240, 240, 240),
}


@dataclass(frozen=True)
class Shape:
    size: str  # small, large
    color: str
    form: str  # circle, square, triangle
    x: float  # centre, in pixels of the 64 x 64 picture
    y: float


def covers(form: str, radius: float, x: float, y: float) -> np.ndarray:
    """[SIZE * ZOOM, SIZE * ZOOM] bool: the pixels of a shape around a centre."""
    across = (np.arange(SIZE * ZOOM) + 0.5) / ZOOM - 0.5
    right, down = across - x, (across - y)[:, None]
    if form == "circle":
        return right**2 + down**2 <= radius**2 + radius * 0.5
    inside = (abs(right) <= radius) & (abs(down) <= radius)
    return inside if form == "square" else inside & (abs(right) * 2 <= down + radius)


def picture(background: str, *shapes: Shape) -> np.ndarray:
    """[SIZE * ZOOM, SIZE * ZOOM, 3] uint8"""
    image = np.full((SIZE * ZOOM, SIZE * ZOOM, 3), COLORS[background], np.uint8)
    for shape in shapes:
        image[covers(shape.form, RADIUS[shape.size], shape.x, shape.y)] = COLORS[shape.color]
    return image


def appears(t: float) -> np.ndarray:
    """A triangle is alone until another joins it, past the middle."""
    shapes = [Shape("small", "purple", "triangle", 16, 32)]
    if t > 0.6:
        shapes.append(Shape("small", "yellow", "triangle", 46, 32))
    return picture("gray", *shapes)


def changes(t: float) -> np.ndarray:
    """A triangle changes its color before the middle."""
    return picture("pink", Shape("large", "red" if t < 0.3 else "yellow", "triangle", 30, 30))


def grows(t: float) -> np.ndarray:
    """A circle grows early on, and stays."""
    return picture("black", Shape("small" if t < 0.3 else "large", "white", "circle", 30, 30))


def moves(t: float) -> np.ndarray:
    """A circle rolls from left to right."""
    return picture("black", Shape("large", "yellow", "circle", 18 + 28 * t, 32))


def vanishes(t: float) -> np.ndarray:
    """Of two triangles, the upper one leaves just before the middle."""
    shapes = [Shape("small", "red", "triangle", 32, 46)]
    if t < 0.5:
        shapes.append(Shape("small", "yellow", "triangle", 32, 15))
    return picture("pink", *shapes)


CLIPS: dict[str, Callable[[float], np.ndarray]] = {
    "appears": appears,
    "changes": changes,
    "grows": grows,
    "moves": moves,
    "vanishes": vanishes,
}


def write(path: Path, draw: Callable[[float], np.ndarray]) -> None:
    """Encode a clip as H.264; `draw` takes the time as a share of the clip, 0 to 1."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"crf": "12"})
        stream.width = stream.height = SIZE * ZOOM
        stream.pix_fmt = "yuv444p"  # flat colours keep their edges
        frames = RATE * SECONDS
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(draw(i / (frames - 1)), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    for name, draw in CLIPS.items():
        write(folder / f"{name}.mp4", draw)
        print(folder / f"{name}.mp4")
