"""Scene detectors on synthetic videos with known cuts, fades and dissolves: see README.md in this folder.

    python benchmarks/scenes.py [--pictures DIR] [--seed 1] [--folder /tmp/coca-scenes] [--only slides ...]

Shots are camera moves over textures, or over the pictures of a folder; screens.py draws slides, pages and programs.
Compares FFmpeg's `scene` filter at several thresholds and, if it is installed, PySceneDetect (scenedetect,
opencv-python-headless). The detector of coca was tuned on other videos.
"""

import argparse
import contextlib
import itertools
import math
import re
import shutil
import subprocess
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw
from screens import SCREENS, Recording

WIDTH, HEIGHT = 640, 360
CANVAS = (1280, 720)
RATES = (12, 24, 25, 30, 60)
SCREEN_RATES = (5, 10, 15, 25, 30)
FFMPEG_THRESHOLDS = (0.02, 0.05, 0.1, 0.3)
TOLERANCE = 0.2  # seconds before and after a cut

Draw = Callable[[float], np.ndarray]  # seconds -> [HEIGHT, WIDTH, 3] float32
Effect = Callable[[float, np.ndarray], np.ndarray]
Box = tuple[float, float, float, float]
Random = np.random.Generator


@dataclass(frozen=True)
class Kind:
    """Contents of the videos of a kind."""

    videos: int
    moves: tuple[str, ...] = ("still", "slow", "pan", "zoom", "shake")
    effects: tuple[str, ...] = ("none",)
    changes: tuple[str, ...] = ()  # between shots; none: one shot
    seconds: float = 15.0  # of a single shot


EVERY_EFFECT = ("none", "none", "grain", "objects", "flashes", "lamp")
KINDS = {
    "cuts": Kind(4, changes=("cut",)),
    "dissolves": Kind(5, changes=("dissolve",)),
    "fades": Kind(3, changes=("fade",)),
    "busy": Kind(6, ("still", "slow", "pan", "zoom", "shake", "fast"), EVERY_EFFECT, ("cut", "dissolve", "fade")),
    "moves": Kind(10, ("pan", "fast", "whip", "zoom", "fast zoom", "shake")),
    "flashes": Kind(6, effects=("flashes", "lamp")),
    "objects": Kind(5, ("still", "slow", "shake"), ("objects",)),
    "grain": Kind(3, effects=("grain",)),
    "blackouts": Kind(3, effects=("blackouts",), seconds=25.0),
    "screen": Kind(3, ("screen",), seconds=40.0),
    **{name: Kind(6, changes=("drawn",)) for name in SCREENS},
}


@dataclass(frozen=True)
class Video:
    """A video and the times of its scene changes."""

    path: Path
    kind: str
    seconds: float
    cuts: list[float] = field(default_factory=list)
    gradual: list[tuple[float, float]] = field(default_factory=list)  # from, to


# Pictures


def texture(rng: Random) -> Image.Image:
    """Draw clouds and shapes with about the detail of photos."""
    rough = rng.uniform(0.5, 0.9)
    clouds = sum(rough**octave * cloud(rng, 2**octave) for octave in range(1, 8))
    clouds = rng.uniform(20, 235, 3) + clouds / clouds.std() * rng.uniform(15, 55)
    image = Image.fromarray(clouds.clip(0, 255).astype(np.uint8))
    for _ in range(rng.integers(0, 14)):
        add_shape(rng, ImageDraw.Draw(image))
    return image


def cloud(rng: Random, spots: int) -> np.ndarray:
    """Return [720, 1280, 3], mostly gray noise with this number of spots from top to bottom."""
    noise = rng.standard_normal((4, spots, 2 * spots), np.float32)
    gray, *colors = (np.asarray(Image.fromarray(one).resize(CANVAS, Image.Resampling.BICUBIC)) for one in noise)
    return np.stack([gray + color / 2 for color in colors], axis=-1)


def add_shape(rng: Random, pencil: ImageDraw.ImageDraw) -> None:
    (x, y), radius = rng.uniform((0, 0), CANVAS), rng.uniform(20, 260)
    height, color = radius * rng.uniform(0.4, 1.6), tuple(rng.integers(0, 256, 3).tolist())
    box = (x - radius, y - height, x + radius, y + height)
    angles = np.sort(rng.uniform(0, 2 * math.pi, 5))
    corners = [(x + radius * math.cos(angle), y + height * math.sin(angle)) for angle in angles]
    kind = rng.integers(3)
    if kind == 0:
        pencil.ellipse(box, color)
    elif kind == 1:
        pencil.rectangle(box, color)
    else:
        pencil.polygon(corners, color)


def photo(rng: Random, pictures: Sequence[Path]) -> Image.Image:
    image = Image.open(pictures[rng.integers(len(pictures))]).convert("RGB")
    scale = max(CANVAS[0] / image.width, CANVAS[1] / image.height)
    left, top = (image.width - CANVAS[0] / scale) / 2, (image.height - CANVAS[1] / scale) / 2
    box = (left, top, image.width - left, image.height - top)
    return image.resize(CANVAS, Image.Resampling.BICUBIC, box)


# Camera moves: the visible part of the canvas


def camera(rng: Random, move: str) -> Callable[[float], Box]:
    size = rng.uniform(0.5, 0.7)  # of the visible part
    angle, phases = rng.uniform(0, 2 * math.pi), rng.uniform(0, 2 * math.pi, 4)
    start = rng.uniform(0.2, 0.8, 2)
    speeds = {"slow": (0.02, 0.1), "pan": (0.1, 0.35), "fast": (0.5, 1.5), "whip": (2, 4)}  # pictures a second
    speed = rng.uniform(*speeds.get(move, (0, 0)))
    zooming = rng.uniform(*{"zoom": (0.03, 0.12), "fast zoom": (0.4, 1)}.get(move, (0, 0))) * rng.choice([-1, 1])
    shaking = rng.uniform(0.005, 0.05) if move == "shake" else 0

    def box(t: float) -> Box:
        part = 0.35 + 0.6 * bounced((size - 0.35) / 0.6 + zooming * t) if zooming else size
        way = speed * (t // 2 * 0.25 + min(t % 2, 0.25) if move == "whip" else t)  # a whip pan stops in between
        room = 1 - part
        x = room * bounced(start[0] + math.cos(angle) * way * part / room)
        y = room * bounced(start[1] + math.sin(angle) * way * part / room / 2)
        x += shaking * part * (math.sin(phases[0] + 5 * t) + math.sin(phases[1] + 19 * t))
        y += shaking * part * (math.sin(phases[2] + 4 * t) + math.sin(phases[3] + 23 * t))
        x, y = np.clip((x, y), 0, room)
        return x * CANVAS[0], y * CANVAS[1], (x + part) * CANVAS[0], (y + part) * CANVAS[1]

    return box


def bounced(x: float) -> float:
    """Reflect a number into 0 to 1."""
    return 1 - abs(x % 2 - 1)


# Effects in front of the camera and in it


def none(rng: Random) -> Effect:
    return lambda t, frame: frame


def grain(rng: Random) -> Effect:
    amount = rng.uniform(8, 30)
    return lambda t, frame: frame + amount * rng.standard_normal((HEIGHT, WIDTH, 1), np.float32)


def flashes(rng: Random) -> Effect:
    starts = np.cumsum(rng.uniform(0.6, 2.5, 60))
    lengths, light = rng.uniform(0.04, 0.16, 60), rng.uniform(80, 255, 60)
    return lambda t, frame: frame + light[(starts <= t) & (t < starts + lengths)].sum(dtype=np.float32)


def lamp(rng: Random) -> Effect:
    """Change the light slowly and in steps."""
    phase, pace, depth = rng.uniform(0, 6), rng.uniform(0.5, 4), rng.uniform(0.1, 0.4)
    switched, levels = np.cumsum(rng.uniform(1, 3, 60)), rng.uniform(0.4, 1.3, 61).astype(np.float32)
    return lambda t, frame: frame * levels[np.searchsorted(switched, t)] * (1 + depth * math.sin(phase + pace * t))


def objects(rng: Random) -> Effect:
    """Let large objects cross the picture."""
    sprites = []
    for _ in range(rng.integers(1, 4)):
        size = int(rng.uniform(80, 330))
        thing = texture(rng).resize((size, round(size * rng.uniform(0.7, 1))))
        mask = Image.new("L", thing.size)
        ImageDraw.Draw(mask).ellipse((0, 0, *thing.size), fill=255)
        way = WIDTH * (1 + rng.uniform(0.3, 3)) + size
        speed = WIDTH * rng.uniform(0.2, 2) * rng.choice([-1, 1])
        sprites.append((thing, mask, way, rng.uniform(0, way), speed, int(HEIGHT * rng.uniform(-0.2, 0.8))))

    def cross(t: float, frame: np.ndarray) -> np.ndarray:
        image = Image.fromarray(frame.astype(np.uint8))
        for thing, mask, way, start, speed, top in sprites:
            image.paste(thing, (int((start + speed * t) % way) - thing.width, top), mask)
        return np.asarray(image).astype(np.float32)

    return cross


def blackouts(rng: Random) -> Effect:
    """Fade to black or white, and back to the same scene."""
    middles, fades = np.cumsum(rng.uniform(3, 6, 9)), rng.uniform(0.2, 0.8, 9)
    holds, colors = rng.uniform(0, 0.4, 9), rng.choice([0, 0, 255], 9)

    def fade(t: float, frame: np.ndarray) -> np.ndarray:
        near = np.abs(middles - t).argmin()
        kept = np.clip((abs(middles[near] - t) - holds[near]) / fades[near], 0, 1)
        return (frame * kept + colors[near] * (1 - kept)).astype(np.float32)

    return fade


EFFECTS = {effect.__name__: effect for effect in (none, grain, flashes, lamp, objects, blackouts)}


# Shots


def shot(rng: Random, kind: Kind, canvas: Callable[[Random], Image.Image]) -> Draw:
    move, effect = str(rng.choice(kind.moves)), EFFECTS[str(rng.choice(kind.effects))](rng)
    if move == "screen":
        return screen(rng)
    picture, part, exposure = canvas(rng), camera(rng, move), np.float32(rng.choice([1, 1, 1, 0.5, 0.25]))

    def draw(t: float) -> np.ndarray:
        seen = picture.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR, part(t))
        return effect(t, np.asarray(seen) * exposure).clip(0, 255)

    return draw


def screen(rng: Random) -> Draw:
    """Draw a screen with typing and scrolling, a moving pointer, and small windows that open and close."""
    paper, ink = ((30, 30, 34), (210, 210, 210)) if rng.random() < 0.4 else ((245, 245, 245), (30, 30, 30))
    page = Image.new("RGB", (WIDTH, 6000), paper)
    words, pen = [], np.array([90, 40])
    for width in rng.integers(8, 60, 4000).tolist():
        if pen[0] + width > 600:
            pen = np.array([90, pen[1] + 14])
        words.append((*pen.tolist(), pen[0] + width, pen[1] + 7))
        pen[0] += width + 6
    opened = np.cumsum(rng.uniform(3, 9, 20))
    closed, corners, sizes = opened + rng.uniform(0.5, 4, 20), rng.uniform(0, 300, (20, 2)), rng.uniform(80, 260, 20)
    scrolled, far = np.cumsum(rng.uniform(2, 9, 20)), rng.uniform(50, 200)
    typing, written = rng.uniform(1, 7), iter(words)
    done = int(rng.integers(0, 200))

    def draw(t: float) -> np.ndarray:
        nonlocal done
        while done <= 200 + typing * t:
            ImageDraw.Draw(page).rectangle(next(written), ink)
            done += 1
        back = sum(far * math.sin((t - at) * math.pi) for at in scrolled if 0 < t - at < 1)
        top = max(0, words[done - 1][1] - 300 - back)
        image = page.crop((0, int(top), WIDTH, int(top) + HEIGHT))
        pencil = ImageDraw.Draw(image)
        pencil.rectangle((0, 0, 80, HEIGHT), (60, 80, 120))
        for i in np.flatnonzero((opened < t) & (t < closed)):
            pencil.rectangle((*corners[i], *(corners[i] + sizes[i] * np.array((1, 0.6)))), (200, 200, 90), (0, 0, 0))
        x, y = WIDTH * (0.5 + 0.4 * math.sin(0.7 * t)), HEIGHT * (0.5 + 0.4 * math.sin(1.1 * t))
        pencil.polygon([(x, y), (x + 10, y + 12), (x, y + 16)], (255, 255, 255), (0, 0, 0))
        return np.asarray(image).astype(np.float32)

    return draw


# Videos


def make(folder: Path, seed: int, pictures: Sequence[Path], name: str, number: int) -> Video:
    """Create a video if it is missing."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode()), number])
    kind, path = KINDS[name], folder / f"{name}-{number}.mp4"
    if name in SCREENS:
        return record(path, name, rng)
    rate, quality = int(rng.choice(RATES)), str(rng.choice(["20", "26", "32"]))
    changes = [str(rng.choice(kind.changes)) for _ in range(11)] if kind.changes else []
    lasting = [0.0 if change == "cut" else rng.uniform(0.5, 2) for change in changes]
    alone = rng.uniform(1.5, 6, 12) if kind.changes else np.array([kind.seconds])  # of each shot
    begins = (np.cumsum(alone[:-1]) + np.cumsum([0.0, *lasting])[:-1]).tolist() if changes else []
    seconds = float(alone.sum() + sum(lasting))
    cuts = [math.ceil(at * rate) / rate for at, long in zip(begins, lasting, strict=True) if not long]
    gradual = [(at, at + long) for at, long in zip(begins, lasting, strict=True) if long]
    video = Video(path, name, seconds, cuts, gradual)
    if path.exists():
        return video
    canvas = partial(photo, pictures=pictures) if pictures else texture
    shots, colors = [shot(rng, kind, canvas) for _ in alone], rng.choice([0, 0, 255], len(changes))

    def draw(t: float) -> np.ndarray:
        last = int(np.searchsorted(begins, t, side="right"))
        if last == 0 or t >= begins[last - 1] + lasting[last - 1]:
            return shots[last](t)
        share = (t - begins[last - 1]) / lasting[last - 1]
        if changes[last - 1] == "dissolve":
            return (1 - share) * shots[last - 1](t) + share * shots[last](t)
        kept = abs(2 * share - 1)
        return shots[last - (share < 0.5)](t) * kept + colors[last - 1] * (1 - kept)

    encode(path, ((i, draw(i / rate)) for i in range(round(seconds * rate))), rate, {"crf": quality})
    return video


def record(path: Path, name: str, rng: Random) -> Video:
    """Record a screen with the quality, frame rates and keyframes of screen recorders."""
    recording, rate = SCREENS[name](rng), int(rng.choice(SCREEN_RATES))
    options = {"crf": str(rng.choice([20, 27, 34])), "g": str(rng.choice([15, 50, 250]))}
    changing_only = bool(rng.random() < 0.3)
    cuts = [math.ceil(at * rate - 1e-3) / rate for at in recording.cuts]
    gradual = [(math.floor(start * rate) / rate, math.ceil(end * rate) / rate) for start, end in recording.gradual]
    if not path.exists():
        encode(path, drawn(recording, rate, changing_only), rate, options)
    return Video(path, name, recording.seconds, cuts, gradual)


def drawn(recording: Recording, rate: int, changing_only: bool) -> Iterator[tuple[int, np.ndarray]]:
    """Yield index and pixels of frames; skip repeated frames if only changes are recorded."""
    last, count = None, round(recording.seconds * rate)
    for i in range(count):
        pixels = np.asarray(recording.draw(i / rate))
        if not changing_only or last is None or i == count - 1 or not np.array_equal(pixels, last):
            yield i, pixels
        last = pixels


def encode(path: Path, frames: Iterator[tuple[int, np.ndarray]], rate: int, options: dict[str, str]) -> None:
    first = next(frames)
    unfinished = path.with_suffix(".part")
    with av.open(str(unfinished), "w", format="mp4") as output:
        stream = output.add_stream("libx264", rate=rate, options={"preset": "veryfast", **options})
        stream.height, stream.width = first[1].shape[:2]
        stream.pix_fmt = "yuv420p"
        for number, pixels in itertools.chain([first], frames):
            frame = av.VideoFrame.from_ndarray(pixels.astype(np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, rate)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    unfinished.rename(path)


# Detectors: a video -> times of its scenes


def detectors() -> dict[str, Callable[[Path], list[float]]]:
    found: dict[str, Callable[[Path], list[float]]] = {"coca": ours}
    for threshold in FFMPEG_THRESHOLDS:
        found[f"ffmpeg scene > {threshold}"] = partial(ffmpegs, threshold)
    with contextlib.suppress(ImportError):
        import scenedetect

        for name in ("ContentDetector", "AdaptiveDetector", "HashDetector", "HistogramDetector", "ThresholdDetector"):
            found[name] = partial(theirs, getattr(scenedetect.detectors, name))
    return found


def ours(path: Path) -> list[float]:
    from cococli.media.readers import open_reader
    from cococli.media.scenes import find_scenes

    return find_scenes(open_reader(path))


def ffmpegs(threshold: float, path: Path) -> list[float]:
    """Run FFmpeg's `scene` filter; of changes within a second only the first counts, as in `min_scene_len`."""
    program = shutil.which("ffmpeg")
    if program is None:
        import imageio_ffmpeg

        program = imageio_ffmpeg.get_ffmpeg_exe()
    chosen = f"select='gt(scene,{threshold})',showinfo"
    command = [program, "-hide_banner", "-threads", "1", "-i", str(path), "-vf", chosen, "-an", "-f", "null", "-"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    found: list[float] = []
    for match in re.finditer(r"Parsed_showinfo.* pts_time:\s*([\d.]+)", output):
        if not found or float(match[1]) - found[-1] >= 1:
            found.append(float(match[1]))
    return found


def theirs(detector: Callable[..., object], path: Path) -> list[float]:
    """Run PySceneDetect with its defaults, except for scenes of at least a second, as in coca."""
    import scenedetect

    with av.open(str(path)) as file:
        second = round(file.streams.video[0].average_rate)
    scenes = scenedetect.detect(str(path), detector(min_scene_len=second))
    return [start.get_seconds() for start, _ in scenes[1:]]


# Scores


@dataclass
class Score:
    """Accuracy on the videos of a kind."""

    hits: int = 0
    missed: int = 0
    false: int = 0
    seconds: float = 0.0

    def add(self, video: Video, found: list[float]) -> None:
        """Count each cut found within the tolerance, and each gradual change found within its duration, once."""
        spans = [(cut - TOLERANCE, cut + TOLERANCE) for cut in video.cuts] + video.gradual
        left, hits = sorted(found), 0
        for start, end in sorted(spans):
            inside = [at for at in left if start <= at <= end]
            if inside:
                left.remove(min(inside, key=lambda at: abs(at - (start + end) / 2)))
                hits += 1
        self.hits, self.missed = self.hits + hits, self.missed + len(spans) - hits
        self.false, self.seconds = self.false + len(left), self.seconds + video.seconds

    def __str__(self) -> str:
        if self.hits + self.missed:
            return f"{2 * self.hits / (2 * self.hits + self.missed + self.false):.3f}"
        return f"{60 * self.false / self.seconds:.1f}"


def row(*cells: object) -> None:
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, help="a folder of .jpg or .png pictures, instead of textures")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/coca-scenes"), help="for some 100 MB of videos")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS), help="kinds of videos")
    arguments = parser.parse_args()
    kinds = {name: KINDS[name] for name in arguments.only}
    pictures = sorted(path for path in arguments.pictures.glob("*.[jp][pn]g")) if arguments.pictures else []
    folder = arguments.folder / f"{arguments.pictures.name if arguments.pictures else 'textures'}-{arguments.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [(name, number) for name, kind in kinds.items() for number in range(kind.videos)]
    with ProcessPoolExecutor(2) as processes:
        videos = list(processes.map(partial(make, folder, arguments.seed, pictures), *zip(*wanted, strict=True)))
    minutes = sum(video.seconds for video in videos) / 60
    row("detector", *(f"{name}, F1" if kind.changes else f"{name}, false/min" for name, kind in kinds.items()), "s/min")
    row("---", *("---:" for _ in kinds), "---:")
    for name, detect in detectors().items():
        scores = {kind: Score() for kind in kinds}
        start = time.perf_counter()
        found = [detect(video.path) for video in videos]
        taken = time.perf_counter() - start
        for video, times in zip(videos, found, strict=True):
            scores[video.kind].add(video, times)
        row(name, *scores.values(), f"{taken / minutes:.2f}")


if __name__ == "__main__":
    main()
