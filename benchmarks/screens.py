"""Synthetic screen recordings: slides, pages, programs, split screens, calls, boards, and films with blanks.

Each comes with the times at which a slide, a page or a large region changes. What also happens meanwhile (typing, the
pointer, scrolling, small videos and windows, builds of a slide, logos that move) is no change.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFont

WIDTH, HEIGHT = 1280, 720

Random = np.random.Generator
Box = tuple[int, int, int, int]
Color = tuple[int, int, int]
Film = Callable[[float], Image.Image]  # seconds -> a picture
Overlay = Callable[[float, Image.Image], None]  # draws on the picture of this second

WORDS = """
model data video the of and a in for with results training loss frames captions users system we is are
method learning error rate table figure quarterly revenue growth market plan risk budget team design
review latency cache server client request token image text encoder decoder attention layer sample scene
change page region detect
""".split()  # noqa: SIM905


@dataclass
class Recording:
    """A drawn video and the times of its scene changes."""

    seconds: float
    draw: Film
    cuts: list[float] = field(default_factory=list)
    gradual: list[tuple[float, float]] = field(default_factory=list)  # from, to


@dataclass(frozen=True)
class Theme:
    paper: Color
    ink: Color
    accent: Color


def theme(rng: Random) -> Theme:
    accent = tuple(rng.integers(40, 200, 3).tolist())
    light = tuple((rng.integers(238, 256) + np.zeros(3, int)).tolist()), tuple(rng.integers(0, 70, 3).tolist())
    dark = tuple(rng.integers(8, 45, 3).tolist()), tuple((rng.integers(185, 250) + np.zeros(3, int)).tolist())
    return Theme(*(dark if rng.random() < 0.35 else light), accent)


@lru_cache
def font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def sentence(rng: Random, words: int) -> str:
    return " ".join(rng.choice(WORDS, words)).capitalize()


def write(image: Image.Image, rng: Random, box: Box, size: int, ink: Color, paragraphs: bool = True) -> None:
    """Fill a box with lines of text."""
    pencil, (left, top, right, bottom), letters = ImageDraw.Draw(image), box, font(size)
    y = float(top)
    while y + size < bottom:
        line = sentence(rng, max(1, int((right - left) / size / 2.9)))
        if paragraphs and rng.random() < 0.2:
            line, after = line[: len(line) // int(rng.integers(2, 4))], 0.9 * size
        else:
            after = 0.0
        pencil.text((left, y), line, ink, letters)
        y += 1.4 * size + after


def chart(image: Image.Image, rng: Random, box: Box, ink: Color) -> None:
    pencil, (left, top, right, bottom) = ImageDraw.Draw(image), box
    pencil.line((left, top, left, bottom, right, bottom), ink, 3)
    count = int(rng.integers(3, 9))
    step = (right - left) / count
    heights = rng.uniform(0.15, 0.95, count) * (bottom - top)
    colors = [tuple(rng.integers(30, 220, 3).tolist()) for _ in range(count)]
    if rng.random() < 0.5:
        for i, (height, color) in enumerate(zip(heights, colors, strict=True)):
            pencil.rectangle((left + (i + 0.2) * step, bottom - height, left + (i + 0.8) * step, bottom), color)
    else:
        pencil.line([(left + (i + 0.5) * step, bottom - height) for i, height in enumerate(heights)], colors[0], 4)
    for i in range(count):
        pencil.text((left + (i + 0.3) * step, bottom + 8), str(rng.integers(2000, 2030)), ink, font(16))


def texture(rng: Random, width: int, height: int) -> Image.Image:
    """Draw clouds and shapes with about the detail of photos."""
    clouds = np.zeros((height, width, 3), np.float32)
    for octave in range(1, 8):
        noise = rng.standard_normal((2**octave, 2 ** (octave + 1), 3)).astype(np.float32)
        planes = [Image.fromarray(noise[..., i]).resize((width, height), Image.Resampling.BICUBIC) for i in range(3)]
        gray = np.asarray(planes[0])[..., None]
        clouds += 0.7**octave * (gray + np.stack([np.asarray(plane) for plane in planes], -1) / 2)
    clouds = rng.uniform(30, 200, 3) + clouds / clouds.std() * rng.uniform(20, 50)
    image = Image.fromarray(clouds.clip(0, 255).astype(np.uint8))
    for _ in range(rng.integers(2, 10)):
        x, y, radius = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0.03, 0.3) * height
        box = (x - radius, y - radius, x + radius, y + radius * rng.uniform(0.2, 1.5))
        ImageDraw.Draw(image).ellipse(box, tuple(rng.integers(0, 256, 3).tolist()))
    return image


# Films and people, which never stand still


def film(rng: Random, width: int, height: int) -> Film:
    """Move a camera slowly."""
    picture = texture(rng, int(1.4 * width), int(1.4 * height))
    phases, pace = rng.uniform(0, 6, 2), rng.uniform(0.1, 0.7)

    def draw(t: float) -> Image.Image:
        x = 0.2 * width * (1 + math.sin(phases[0] + pace * t))
        y = 0.2 * height * (1 + math.sin(phases[1] + 0.7 * pace * t))
        return picture.crop((int(x), int(y), int(x) + width, int(y) + height))

    return draw


def person(rng: Random, width: int, height: int) -> Film:
    """Draw a moving, speaking head in front of a still wall."""
    wall, skin = texture(rng, width, height), tuple(rng.integers(90, 240, 3).tolist())
    shirt, phases = tuple(rng.integers(0, 256, 3).tolist()), rng.uniform(0, 6, 3)

    def draw(t: float) -> Image.Image:
        image, size = wall.copy(), height / 4
        pencil = ImageDraw.Draw(image)
        x = width / 2 + 0.3 * size * math.sin(phases[0] + 0.9 * t)
        y = 0.45 * height + 0.1 * size * math.sin(phases[1] + 1.7 * t)
        pencil.ellipse((x - 1.9 * size, y + 0.9 * size, x + 1.9 * size, y + 4 * size), shirt)
        pencil.ellipse((x - 0.75 * size, y - size, x + 0.75 * size, y + size), skin)
        mouth = 0.15 * size * abs(math.sin(phases[2] + 9 * t))
        pencil.ellipse(
            (x - 0.25 * size, y + 0.45 * size - mouth, x + 0.25 * size, y + 0.5 * size + mouth), (90, 30, 30)
        )
        for eye in (-0.3, 0.3):
            pencil.ellipse(
                (x + (eye - 0.1) * size, y - 0.3 * size, x + (eye + 0.1) * size, y - 0.1 * size), (20, 20, 20)
            )
        return image

    return draw


def shots(rng: Random, cuts: Sequence[float], make: Callable[[Random, int, int], Film], size: tuple[int, int]) -> Film:
    """Show films one after another."""
    films = [make(rng, *size) for _ in range(len(cuts) + 1)]
    return lambda t: films[int(np.searchsorted(cuts, t + 1e-6, side="right"))](t)


# What moves on a screen without being a change


def pointer(rng: Random) -> Overlay:
    ways, away = rng.uniform(0.2, 1.2, 4), rng.random() < 0.3

    def draw(t: float, image: Image.Image) -> None:
        if away or int(t) % 3 == 0:  # it rests in between
            return
        x, y = WIDTH * (0.5 + 0.4 * math.sin(ways[0] * t + ways[2])), HEIGHT * (0.5 + 0.4 * math.sin(ways[1] * t))
        arrow = [(x, y), (x + 16, y + 18), (x + 6, y + 18), (x, y + 24)]
        ImageDraw.Draw(image).polygon(arrow, (255, 255, 255), (0, 0, 0))

    return draw


def logo(rng: Random) -> Overlay:
    """Draw a rotating logo in a corner, smooth or at a few frames per second."""
    size, pace = int(rng.uniform(50, 120)), rng.uniform(0.5, 4)
    x = int(rng.choice([30, WIDTH - size - 30]))
    y, jumps = int(rng.choice([20, HEIGHT - size - 20])), rng.choice([0, 2, 4])
    colors = [tuple(rng.integers(0, 256, 3).tolist()) for _ in range(3)]

    def draw(t: float, image: Image.Image) -> None:
        t = math.floor(t * jumps) / jumps if jumps else t
        for i, color in enumerate(colors):
            begin = math.degrees(pace * t) + 120 * i
            ImageDraw.Draw(image).pieslice((x, y, x + size, y + size), begin, begin + 120, color)

    return draw


def inset(rng: Random, make: Callable[[Random, int, int], Film], share: float, cuts: Sequence[float] = ()) -> Overlay:
    """Show a video in a corner or inside a page."""
    width = int(WIDTH * math.sqrt(share))
    height = int(HEIGHT * math.sqrt(share))
    x, y = int(rng.choice([12, WIDTH - width - 12])), int(rng.choice([12, HEIGHT - height - 12]))
    shown = shots(rng, cuts, make, (width, height))
    return lambda t, image: image.paste(shown(t), (x, y))


def nothing(t: float, image: Image.Image) -> None:
    pass


# Slides


def slide(rng: Random, back: Image.Image, look: Theme) -> list[Image.Image]:
    """Return the steps in which a slide is built; usually one."""
    image, size = back.copy(), int(rng.integers(26, 44))
    kind = rng.choice(["bullets", "bullets", "bullets", "columns", "picture", "chart", "few"])
    pencil = ImageDraw.Draw(image)
    if kind == "few":
        text = sentence(rng, int(rng.integers(1, 4)))
        pencil.text((WIDTH / 2, HEIGHT / 2), text, look.ink, font(64), anchor="mm")
        return [image]
    pencil.text((70, 50), sentence(rng, int(rng.integers(2, 6))), look.accent, font(48))
    if kind == "columns":
        write(image, rng, (70, 150, 600, 640), size - 6, look.ink)
        write(image, rng, (670, 150, 1210, 640), size - 6, look.ink)
    elif kind == "picture":
        write(image, rng, (70, 150, 600, 560), size, look.ink)
        image.paste(texture(rng, 520, 400), (690, 170))
    elif kind == "chart":
        chart(image, rng, (120, 160, 1100, 600), look.ink)
    else:
        steps, count, built = [], int(rng.integers(3, 7)), rng.random() < 0.3
        for i in range(count):
            if built:
                steps.append(image.copy())
            text = sentence(rng, int(rng.integers(3, 9)))
            ImageDraw.Draw(image).text((90, 160 + 75 * i), "- " + text, look.ink, font(size))
        return [*steps, image]
    return [image]


def slide_back(rng: Random, look: Theme) -> Image.Image:
    """Common design of the slides of a talk."""
    image = Image.new("RGB", (WIDTH, HEIGHT), look.paper)
    pencil = ImageDraw.Draw(image)
    kind = rng.integers(4)
    if kind == 0:
        pencil.rectangle((0, 0, WIDTH, 26), look.accent)
        pencil.rectangle((0, HEIGHT - 40, WIDTH, HEIGHT), look.accent)
    elif kind == 1:
        faint = texture(rng, WIDTH, HEIGHT)
        image = Image.blend(image, faint, 0.15)
    pencil = ImageDraw.Draw(image)
    if rng.random() < 0.7:
        pencil.text((60, HEIGHT - 34), sentence(rng, 5), look.ink, font(18))
        pencil.ellipse((WIDTH - 110, HEIGHT - 100, WIDTH - 40, HEIGHT - 30), look.accent)
    return image


def mixed(before: Image.Image, after: Image.Image, share: float, kind: str) -> Image.Image:
    """Draw a transition between two pictures."""
    if kind == "fade":
        return Image.blend(before, after, share)
    image, edge = before.copy(), int(WIDTH * share)
    if kind == "wipe":
        image.paste(after.crop((0, 0, edge, HEIGHT)), (0, 0))
    elif kind == "push":
        image = ImageChops.offset(before, -edge, 0)
        image.paste(after.crop((0, 0, edge, HEIGHT)), (WIDTH - edge, 0))
    return image


def slides(rng: Random) -> Recording:
    look = theme(rng)
    back = slide_back(rng, look)
    views, recording, t = [(0.0, slide(rng, back, look)[-1], 0.0, "cut")], Recording(0, nothing), 0.0
    animated = rng.random() < 0.4
    for _ in range(7):
        t += rng.uniform(2, 7)
        first, *steps = slide(rng, back, look)
        kind = str(rng.choice(["fade", "wipe", "push"])) if animated else "cut"
        lasting = 0.0 if kind == "cut" else rng.uniform(0.3, 0.7)
        views.append((t, first, lasting, kind))
        (recording.gradual.append((t, t + lasting)) if lasting else recording.cuts.append(t))
        t += lasting
        for step in steps:
            t += rng.uniform(1, 2.5)
            views.append((t, step, 0.0, "cut"))
    recording.seconds = t + 4
    extra = int(rng.integers(5))
    overlay = [nothing, nothing, logo(rng), inset(rng, person, 0.05), pointer(rng)][extra]
    starts = [at for at, *_ in views]

    def draw(t: float) -> Image.Image:
        i = int(np.searchsorted(starts, t + 1e-6, side="right")) - 1
        at, view, lasting, kind = views[i]
        share = (t - at) / lasting if lasting else 1.0
        image = mixed(views[i - 1][1], view, share, kind) if share < 1 else view.copy()
        overlay(t, image)
        return image

    recording.draw = draw
    return recording


# Pages that are scrolled, turned and typed


def pages(rng: Random) -> Recording:
    """Show a document in a viewer with a side bar."""
    look, size, bar = theme(rng), int(rng.integers(14, 24)), int(rng.choice([0, 0, 200]))
    height = HEIGHT - 50
    document = Image.new("RGB", (WIDTH - bar, 16 * height), look.paper)
    left, right = (120, WIDTH - bar - 120) if rng.random() < 0.6 else (40, WIDTH - bar - 40)
    for top in range(0, document.height, height):
        if rng.random() < 0.3:
            middle = (left + right) // 2
            write(document, rng, (left, top + 30, middle - 20, top + height - 30), size, look.ink)
            write(document, rng, (middle + 20, top + 30, right, top + height - 30), size, look.ink)
        else:
            write(document, rng, (left, top + 30, right, top + height - 30), size, look.ink)
        if rng.random() < 0.4:
            box = (left + 100, top + 200, right - 100, top + 450)
            document.paste(look.paper, box)
            chart(document, rng, box, look.ink)
    frame = Image.new("RGB", (WIDTH, HEIGHT), tuple((np.array(look.paper) // 4 * 3 + 20).tolist()))
    ImageDraw.Draw(frame).text((20, 12), sentence(rng, 8), look.ink, font(20))
    if bar:
        write(frame, rng, (14, 80, bar - 10, 600), 14, look.ink)
    events, cuts, t = [], [], 0.0  # time, duration, pixels
    while t < 34:
        kind = rng.choice(["turn", "turn", "notches", "smooth"])
        if kind == "turn":
            t += rng.uniform(2, 4)
            events.append((t, 0.0, height))
            cuts.append(t)
        elif kind == "notches":
            t += rng.uniform(1, 3)
            for _ in range(rng.integers(1, 6)):
                events.append((t, 0.0, int(rng.choice([53, 100, 120]))))
                t += rng.uniform(0.1, 0.6)
        else:
            t += rng.uniform(1, 3)
            lasting = rng.uniform(0.4, 3)
            events.append((t, lasting, int(rng.uniform(0.2, 0.6) * height * max(1, lasting))))
            t += lasting
        if sum(far for *_, far in events) > document.height - 5 * height:
            break
    overlay, typed = pointer(rng), rng.random() < 0.5
    letters = [sentence(rng, 12) for _ in range(40)]

    def draw(t: float) -> Image.Image:
        shares = [
            (min(1.0, (t + 1e-6 - at) / lasting) if lasting else 1.0, far)
            for at, lasting, far in events
            if t + 1e-6 >= at
        ]
        top = int(sum(share * far for share, far in shares))
        image = frame.copy()
        image.paste(document.crop((0, top, document.width, top + height)), (bar, 50))
        if typed:  # a note at the margin
            text = letters[0] + " " + letters[1]
            pencil = ImageDraw.Draw(image)
            pencil.rectangle((bar + 10, HEIGHT - 40, WIDTH - 20, HEIGHT - 10), look.paper, look.accent)
            pencil.text((bar + 20, HEIGHT - 36), text[: int(4 * t) % len(text)], look.ink, font(18))
        overlay(t, image)
        return image

    return Recording(t + 3, draw, cuts)


# Programs


def program(rng: Random) -> Image.Image:
    """Draw a full-screen program: an editor, a browser, a table, a terminal."""
    look, kind = theme(rng), rng.choice(["editor", "browser", "table", "terminal"])
    image = Image.new("RGB", (WIDTH, HEIGHT), look.paper)
    pencil = ImageDraw.Draw(image)
    if kind == "editor":
        pencil.rectangle((0, 0, 220, HEIGHT), tuple(int(0.9 * c + 8) for c in look.paper))
        write(image, rng, (14, 60, 210, 600), 15, look.ink)
        y, indent = 50, 0
        while y < HEIGHT - 60:
            indent = int(np.clip(indent + rng.integers(-1, 2), 0, 5))
            color = look.ink if rng.random() < 0.6 else look.accent
            pencil.text((240 + 30 * indent, y), sentence(rng, int(rng.integers(1, 10))), color, font(16))
            y += 23 if rng.random() < 0.9 else 46
    elif kind == "browser":
        for box in ((60, 100, 600, 400), (60, 420, 600, 690), (650, 100, 1220, 300)):
            if rng.random() < 0.4:
                image.paste(texture(rng, box[2] - box[0], box[3] - box[1]), box[:2])
            else:
                write(image, rng, box, int(rng.integers(15, 22)), look.ink)
        write(image, rng, (650, 320, 1220, 700), 17, look.ink)
    elif kind == "table":
        for x in range(40, WIDTH, 124):
            pencil.line((x, 60, x, HEIGHT), look.accent)
        for y in range(60, HEIGHT, 30):
            pencil.line((40, y, WIDTH, y), look.accent)
            for x in range(48, WIDTH, 124):
                if rng.random() < 0.7:
                    pencil.text((x, y + 6), str(rng.integers(0, 10**6)), look.ink, font(16))
    else:
        write(image, rng, (14, 60, int(rng.integers(700, 1270)), int(rng.integers(400, 700))), 17, look.ink)
    pencil.rectangle((0, 0, WIDTH, 36), look.accent)
    pencil.text((20, 8), sentence(rng, 4), (255, 255, 255), font(18))
    return image


def dialog(rng: Random) -> Overlay:
    """Open and close small windows."""
    opened = np.cumsum(rng.uniform(3, 8, 12))
    closed = opened + rng.uniform(0.7, 2.5, 12)
    windows = []
    for _ in opened:
        width, height = int(rng.uniform(200, 520)), int(rng.uniform(80, 270))
        window = Image.new("RGB", (width, height), tuple(rng.integers(150, 255, 3).tolist()))
        write(window, rng, (16, 16, width - 16, height - 16), 18, (20, 20, 20))
        windows.append((window, int(rng.uniform(0, WIDTH - width)), int(rng.uniform(0, HEIGHT - height))))

    def draw(t: float, image: Image.Image) -> None:
        for i in np.flatnonzero((opened < t) & (t < closed)):
            window, x, y = windows[i]
            image.paste(window, (x, y))

    return draw


def typing(rng: Random) -> Overlay:
    speed, begin, ink = rng.uniform(3, 12), int(rng.integers(60, 500)), (128, 128, 128)
    lines, x = [sentence(rng, 9)[:50] for _ in range(30)], int(rng.choice([260, 500]))

    def draw(t: float, image: Image.Image) -> None:
        count, y = int(speed * t), begin
        for line in lines[:8]:
            ImageDraw.Draw(image).text((x, y), line[: max(0, count)], ink, font(18))
            count, y = count - len(line), y + 24

    return draw


def terminal(rng: Random) -> Film:
    """Scroll new lines in, one or many at a time."""
    look, size = theme(rng), int(rng.integers(15, 22))
    lines = [sentence(rng, int(rng.integers(1, 14))) for _ in range(400)]
    times = np.cumsum(rng.choice([0.05, 0.3, 1.0, 2.0], 400) * rng.uniform(0.5, 1.5, 400)) - 12
    room = int((HEIGHT - 20) / (1.4 * size))

    def draw(t: float) -> Image.Image:
        image = Image.new("RGB", (WIDTH, HEIGHT), look.paper)
        last = max(room, int(np.searchsorted(times, t)))
        for i, line in enumerate(lines[last - room : last]):
            ImageDraw.Draw(image).text((14, 10 + 1.4 * size * i), line, look.ink, font(size))
        return image

    return draw


def programs(rng: Random) -> Recording:
    """Switch between programs; typing, small windows and videos are not scene changes."""
    cuts = np.cumsum(rng.uniform(3, 9, 5)).tolist()
    films: list[Film] = []
    for _ in range(6):
        if rng.random() < 0.25:
            films.append(terminal(rng))
        else:
            image = program(rng)
            films.append(lambda t, image=image: image.copy())
    kinds = [pointer(rng), typing(rng), dialog(rng), inset(rng, film, rng.uniform(0.05, 0.2)), logo(rng)]
    chosen = [kinds[i] for i in rng.choice(5, 2, replace=False)]

    def draw(t: float) -> Image.Image:
        image = films[int(np.searchsorted(cuts, t + 1e-6, side="right"))](t)
        for overlay in chosen:
            overlay(t, image)
        return image

    return Recording(cuts[-1] + 5, draw, cuts)


# Split screens and calls


def split(rng: Random) -> Recording:
    """Show a growing chart next to a film with cuts."""
    look, share = theme(rng), rng.uniform(0.45, 0.62)
    width, tall = int(WIDTH * share), bool(rng.random() < 0.25)
    size = (WIDTH, int(HEIGHT * share)) if tall else (width, HEIGHT)
    cuts = np.cumsum(rng.uniform(2, 6, 5)).tolist()
    shown = shots(rng, cuts, film, size)
    back = Image.new("RGB", (WIDTH, HEIGHT), look.paper)
    first = bool(rng.random() < 0.5)  # the film is left, or above
    room = (WIDTH, HEIGHT - size[1]) if tall else (WIDTH - width, HEIGHT)
    corner = ((0, size[1]) if tall else (width, 0)) if first else (0, 0)
    place = (0, 0) if first else ((0, room[1]) if tall else (room[0], 0))
    x, y = corner[0] + 50, corner[1] + 60
    chart(back, rng, (x, y, corner[0] + room[0] - 40, corner[1] + room[1] - 60), look.ink)
    ImageDraw.Draw(back).text((x, y - 45), sentence(rng, 3), look.ink, font(28))
    exposure = rng.choice([1, 1, 0.4])

    def draw(t: float) -> Image.Image:
        image = back.copy()
        image.paste(shown(t).point(lambda value: value * exposure), place)
        ImageDraw.Draw(image).line((x, y + 80, x + 8 * t, y + 80 + 30 * math.sin(t / 3)), look.accent, 5)
        return image

    return Recording(cuts[-1] + 4, draw, cuts)


def calls(rng: Random) -> Recording:
    """Show a call: one person speaks or shares slides; the others are small."""
    cuts = np.cumsum(rng.uniform(2.5, 7, 6)).tolist()
    look, strip = theme(rng), 200
    room = (WIDTH - strip, HEIGHT - 40)
    back = slide_back(rng, look)
    views: list[Film] = []
    for _ in range(7):
        if rng.random() < 0.5:
            image = slide(rng, back, look)[-1].resize(room)
            views.append(lambda t, image=image: image)
        else:
            views.append(person(rng, *room))
    others = [person(rng, strip - 10, 130) for _ in range(4)]

    def draw(t: float) -> Image.Image:
        image = Image.new("RGB", (WIDTH, HEIGHT), (24, 24, 28))
        image.paste(views[int(np.searchsorted(cuts, t + 1e-6, side="right"))](t), (0, 0))
        for i, other in enumerate(others):
            image.paste(other(t), (room[0] + 5, 20 + 145 * i))
        ImageDraw.Draw(image).text((30, HEIGHT - 32), "Ada Lovelace", (230, 230, 230), font(20))
        return image

    return Recording(cuts[-1] + 4, draw, cuts)


def boards(rng: Random) -> Recording:
    """Draw by hand, sometimes on an earlier page."""
    look = theme(rng)
    cuts = np.cumsum(rng.uniform(5, 12, 3)).tolist()
    strokes = []
    for _ in range(4):
        drawn = []
        for _ in range(rng.integers(40, 90)):
            x, y = rng.uniform(80, WIDTH - 300), rng.uniform(60, HEIGHT - 120)
            bends = np.cumsum(rng.uniform(-30, 40, (8, 2)), axis=0)
            drawn.append([(x + dx, y + dy / 2) for dx, dy in bends.tolist()])
        strokes.append((drawn, int(rng.integers(8, 20)), rng.uniform(0.5, 3)))
    color, overlay = [look.ink, look.accent], pointer(rng)

    def draw(t: float) -> Image.Image:
        image = Image.new("RGB", (WIDTH, HEIGHT), look.paper)
        i = int(np.searchsorted(cuts, t + 1e-6, side="right"))
        drawn, before, speed = strokes[i]
        done = before + speed * (t - (cuts[i - 1] if i else 0))
        for number, line in enumerate(drawn[: int(done) + 1]):
            points = line[: 2 + int(7 * (done % 1))] if number == int(done) else line
            ImageDraw.Draw(image).line(points, color[number % 2], 5)
        overlay(t, image)
        return image

    return Recording(cuts[-1] + 8, draw, cuts)


# Fades through blank


def blanks(rng: Random) -> Recording:
    """Fade to black or white for a long time, and start and end in black."""
    films = [film(rng, 640, 360) for _ in range(4)]
    shown, spans, t = [], [], float(rng.uniform(0, 2))
    for _ in films:
        shown.append((t, t := t + float(rng.uniform(3, 6))))
        spans.append((t - float(rng.uniform(0.3, 1.2)), (t := t + float(rng.uniform(1.2, 2.5)))))
    color, power = int(rng.choice([0, 0, 255])), float(rng.choice([1, 1, 2.5]))
    noise = rng.normal(0, rng.choice([0, 2]), (360, 640, 1))
    fade = float(rng.uniform(0.3, 1.0))

    def draw(t: float) -> Image.Image:
        for one, (start, end) in zip(films, shown, strict=True):
            if start <= t < end:
                kept = min(1.0, (t - start) / fade, (end - t) / fade)
                pixels = np.asarray(one(t)).astype(np.float32)
                if not color and power > 1:  # shadows go first
                    pixels = 255 * (pixels / 255) ** (1 + power * (1 - kept))
                return Image.fromarray((pixels * kept + color * (1 - kept)).clip(0, 255).astype(np.uint8))
        gray = np.full((360, 640, 3), color) + np.roll(noise, int(997 * t), axis=1)
        return Image.fromarray(gray.clip(0, 255).astype(np.uint8))

    gradual = [(end - fade, start + fade) for (_, end), (start, _) in pairwise(shown)]
    return Recording(t, draw, [], gradual)


SCREENS = {kind.__name__: kind for kind in (slides, pages, programs, split, calls, boards, blanks)}
