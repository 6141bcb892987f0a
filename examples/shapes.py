"""Make a set of captioned pictures in COCO's layout: the world that the bundled `shapes` checkpoint knows.

    python examples/shapes.py FOLDER [--train 10000] [--val 200] [--clips 0] [--seed 0]

A picture shows one shape, small or large, on a background, or two shapes beside or above each other; what is
at the left or at the top is named first. So every picture has one caption. Places, radii and colours vary a little.

In a clip one of two shapes comes after the middle, or has gone before it: only its several frames tell the caption.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice, permutations, product
from pathlib import Path
from random import Random

import numpy as np
from draw import COLORS, SIZE, ZOOM, covers, write
from PIL import Image

SIZES = ("small", "large")
FORMS = ("circle", "square", "triangle")
PAINTS = ("red", "yellow", "purple", "green", "blue", "white")  # colours of shapes
BACKGROUNDS = ("black", "gray", "pink")
RELATIONS = ("beside", "above")
RADII = {"small": (8, 10), "large": (15, 19), "any": (8, 12)}  # from, to, in pixels; two large ones have no room
FIRST_ID = {"train": 1, "val": 500_001}  # as in COCO, no two pictures have one id


@dataclass(frozen=True)
class Scene:
    """What a caption says."""

    kinds: tuple[tuple[str, str], ...]  # color and form of each shape, in the order of the caption
    size: str  # small, large; of two shapes any, for nothing is said of it
    place: str  # the background of one shape, the relation of two

    @property
    def caption(self) -> str:
        first, *second = (f"{color} {form}" for color, form in self.kinds)
        if second:
            return f"a {first} {self.place} a {second[0]}"
        return f"a {self.size} {first} on a {self.place} background"


@dataclass(frozen=True)
class Shape:
    """A shape as it is drawn."""

    color: tuple[int, int, int]
    form: str
    radius: float  # this and the centre in pixels of the 64 x 64 picture
    x: float
    y: float


@dataclass(frozen=True)
class Layout:
    """A picture before it is drawn."""

    caption: str
    background: tuple[int, int, int]
    shapes: tuple[Shape, ...]


def scenes() -> list[Scene]:
    """All that can be said: 108 captions of one shape and 540 of two, which differ in color."""
    kinds = list(product(PAINTS, FORMS))
    one = [Scene((kind,), size, background) for kind, size, background in product(kinds, SIZES, BACKGROUNDS)]
    pairs = [pair for pair in permutations(kinds, 2) if pair[0][0] != pair[1][0]]
    return one + [Scene(pair, "any", relation) for pair, relation in product(pairs, RELATIONS)]


def layouts(known: list[Scene], random: Random) -> Iterator[Layout]:
    """Pictures without end: each scene once in some order, then each again."""
    while True:
        for scene in random.sample(known, len(known)):
            yield lay_out(scene, random)


def lay_out(scene: Scene, random: Random) -> Layout:
    """One of the many pictures that have this caption."""
    radii = [random.uniform(*RADII[scene.size]) for _ in scene.kinds]
    alone = len(radii) == 1
    centers = _anywhere(radii[0], random) if alone else _in_a_row(radii, scene.place, random)
    background = scene.place if alone else random.choice(BACKGROUNDS)
    shapes = tuple(
        Shape(_shade(color, random), form, radius, x, y)
        for (color, form), radius, (x, y) in zip(scene.kinds, radii, centers, strict=True)
    )
    return Layout(scene.caption, _shade(background, random), shapes)


def _anywhere(radius: float, random: Random) -> list[tuple[float, float]]:
    return [(_within(0, SIZE, radius, random), _within(0, SIZE, radius, random))]


def _in_a_row(radii: list[float], relation: str, random: Random) -> list[tuple[float, float]]:
    """A centre in each half of the picture, the second about as high, or as far to the right, as the first."""
    halves = [(0, SIZE / 2), (SIZE / 2, SIZE)]
    along = [_within(*half, radius, random) for half, radius in zip(halves, radii, strict=True)]
    line = random.uniform(0.25, 0.75) * SIZE
    across = [line + random.uniform(-3, 3) for _ in radii]
    return list(zip(along, across, strict=True) if relation == "beside" else zip(across, along, strict=True))


def _within(start: float, end: float, radius: float, random: Random) -> float:
    """A centre that keeps a shape, and a pixel around it, between two borders."""
    return random.uniform(start + radius + 1, end - radius - 1) - 0.5  # pixel 0 lies around 0.0


def _shade(color: str, random: Random) -> tuple[int, int, int]:
    red, green, blue = (min(max(part + random.randint(-12, 12), 0), 255) for part in COLORS[color])
    return red, green, blue


def paint(layout: Layout) -> np.ndarray:
    """[SIZE * ZOOM, SIZE * ZOOM, 3] uint8"""
    image = np.full((SIZE * ZOOM, SIZE * ZOOM, 3), layout.background, np.uint8)
    for shape in layout.shapes:
        image[covers(shape.form, shape.radius, shape.x, shape.y)] = shape.color
    return image


def write_split(folder: Path, split: str, count: int, seed: int) -> None:
    """Write `train2017/` or `val2017/` and its annotations."""
    pictures = folder / f"{split}2017"
    pictures.mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    made = islice(layouts(scenes(), Random(f"{split} {seed}")), count)
    for number, layout in enumerate(made, start=FIRST_ID[split]):
        name = f"{number:012d}.png"  # JPEG would smear the colours
        Image.fromarray(paint(layout)).reduce(ZOOM).save(pictures / name)
        images.append({"id": number, "file_name": name, "height": SIZE, "width": SIZE})
        annotations.append({"id": number, "image_id": number, "caption": layout.caption})
    file = folder / "annotations" / f"captions_{split}2017.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"images": images, "annotations": annotations}))


def write_clips(folder: Path, count: int, seed: int) -> None:
    """Write `clips/` with its `captions.jsonl`: by turns something appears late, and something vanishes early."""
    clips = folder / "clips"
    clips.mkdir(parents=True, exist_ok=True)
    random = Random(f"clips {seed}")
    pairs = [scene for scene in scenes() if len(scene.kinds) == 2]
    records = []
    for number, layout in enumerate(islice(layouts(pairs, random), count)):
        happens = "vanishes" if number % 2 else "appears"
        name = f"{happens}_{number:04d}.mp4"
        write(clips / name, _happening(happens, layout, random))
        records.append({"video": name, "caption": layout.caption, "split": "val"})
    (clips / "captions.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def _happening(happens: str, layout: Layout, random: Random) -> Callable[[float], np.ndarray]:
    """Draws a clip in which one of two shapes is there only at its end, or only at its start."""
    both, alone = paint(layout), paint(replace(layout, shapes=(random.choice(layout.shapes),)))
    change = random.uniform(0.55, 0.75) if happens == "appears" else random.uniform(0.25, 0.45)
    return lambda t: both if (t > change) == (happens == "appears") else alone


def main() -> None:
    parser = argparse.ArgumentParser(description="Make a set of captioned pictures of shapes, in COCO's layout.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=10_000, help="pictures to train on (10,000)")
    parser.add_argument("--val", type=int, default=200, help="pictures held out (200)")
    parser.add_argument("--clips", type=int, default=0, help="clips in which something happens (none)")
    parser.add_argument("--seed", type=int, default=0, help="another seed makes another set (0)")
    wanted = parser.parse_args()
    write_split(wanted.folder, "train", wanted.train, wanted.seed)
    write_split(wanted.folder, "val", wanted.val, wanted.seed)
    if wanted.clips:
        write_clips(wanted.folder, wanted.clips, wanted.seed)


if __name__ == "__main__":
    main()
