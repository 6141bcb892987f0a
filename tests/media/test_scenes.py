"""Scenes begin at cuts, fades and dissolves, and not where only the camera or the light moves."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from media.video_fixtures import RATE, make_video
from PIL import Image, ImageDraw, ImageFont

from cococli.media.clips import Segments, segment_spans
from cococli.media.frames import Frame
from cococli.media.readers import open_reader
from cococli.media.scenes import find_scenes, scene_spans

HEIGHT, WIDTH = 72, 128


def clouds(seed: int, height: int = HEIGHT, width: int = WIDTH, spots: tuple[int, int] = (5, 8)) -> np.ndarray:
    """[height, width, 3] uint8: soft spots of many colors, other ones for each seed."""
    colors = np.random.default_rng(seed).integers(0, 256, (*spots, 3), np.uint8)
    return np.asarray(Image.fromarray(colors).resize((width, height), Image.Resampling.BICUBIC))


def stays(seed: int, seconds: float) -> list[np.ndarray]:
    return [clouds(seed)] * round(RATE * seconds)


def mixed(one: np.ndarray | int, other: np.ndarray | int, seconds: float) -> list[np.ndarray]:
    """Frames that go over from one to another."""
    shares = np.linspace(0, 1, round(RATE * seconds))
    return [np.broadcast_to(one * (1 - share) + other * share, (HEIGHT, WIDTH, 3)).astype(np.uint8) for share in shares]


@dataclass(frozen=True)
class Drawn:
    """Frames that need no decoding."""

    pictures: Sequence[np.ndarray]
    rate: float = RATE

    @property
    def starts(self) -> np.ndarray:
        return np.arange(len(self.pictures)) / self.rate

    @property
    def end(self) -> float:
        return len(self.pictures) / self.rate

    def frames(self, indices: Sequence[int]) -> Iterator[Frame]:
        return (Frame(float(self.starts[index]), self.pictures[index]) for index in indices)


# Changes


def test_cuts_are_found_at_their_frame(tmp_path: Path) -> None:
    video = open_reader(make_video(tmp_path / "a.mp4", frames=stays(0, 2) + stays(1, 1.48) + stays(2, 2)))
    assert find_scenes(video) == pytest.approx([2.0, 3.48])
    assert np.array(segment_spans(video, Segments("scene"))) == pytest.approx(
        np.array([(0, 2), (2, 3.48), (3.48, 5.48)])
    )


@pytest.mark.parametrize("name", ["a.ts", "a.gif", "a.h264", "a.webm"])
def test_cuts_are_found_in_every_container(tmp_path: Path, name: str) -> None:
    frames = stays(0, 1.6) + stays(1, 1.6)
    if name == "a.gif":
        first, *rest = (Image.fromarray(frame).quantize(64) for frame in frames)
        first.save(tmp_path / name, save_all=True, append_images=rest, duration=40)
    else:
        codec = "libvpx-vp9" if name == "a.webm" else "libx264"
        make_video(tmp_path / name, codec, frames, kind="h264" if name == "a.h264" else None)
    video = open_reader(tmp_path / name)
    (found,) = find_scenes(video)
    assert found == pytest.approx(1.6, abs=0.001)
    assert found in video.starts


@pytest.mark.parametrize(("height", "width"), [(2, 2), (200, 64), (97, 63)])
def test_pictures_of_any_shape_are_cut(tmp_path: Path, height: int, width: int) -> None:
    frames = [clouds(seed, height, width) for seed in (3, 4) for _ in range(40)]
    video = open_reader(make_video(tmp_path / "a.mp4", frames=frames, pixel_format="yuv444p"))
    assert find_scenes(video) == pytest.approx([1.6])


@pytest.mark.parametrize("seconds", [0.5, 1.0, 2.0])
def test_dissolves_are_found_once(seconds: float) -> None:
    for seed in range(6):
        dissolve = mixed(clouds(seed), clouds(seed + 1), seconds)
        (found,) = find_scenes(Drawn(stays(seed, 2) + dissolve + stays(seed + 1, 2)))
        assert 2 < found < 2 + seconds


@pytest.mark.parametrize("color", [0, 255], ids=["black", "white"])
def test_a_fade_to_another_scene_is_one_change(color: int) -> None:
    fade = mixed(clouds(0), color, 0.6) + mixed(color, clouds(1), 0.6)
    (found,) = find_scenes(Drawn(stays(0, 2) + fade + stays(1, 2)))
    assert 2 < found < 3.2


def test_a_cut_through_one_blended_frame_is_found() -> None:
    """Frame rate conversion causes such cuts."""
    blended = [(clouds(0) // 2 + clouds(1) // 2)]
    (found,) = find_scenes(Drawn(stays(0, 2) + blended + stays(1, 2)))
    assert found in (2.0, 2.04)


def test_slides_that_stand_for_long_are_scenes(tmp_path: Path) -> None:
    slides = [clouds(seed) for seed in range(4)]
    video = open_reader(make_video(tmp_path / "a.mp4", frames=[*slides, slides[-1]], at=[0, 250, 500, 90_000, 90_250]))
    assert find_scenes(video) == pytest.approx([10.0, 20.0, 3600.0])


# No changes


def shown(draw: Callable[[int], np.ndarray]) -> Drawn:
    """Three seconds."""
    return Drawn([draw(number).clip(0, 255).astype(np.uint8) for number in range(75)])


@pytest.mark.parametrize("speed", [1, 2, 4, 8])
def test_camera_moves_make_no_scene(speed: int) -> None:
    for seed in range(3):
        wide = clouds(seed, HEIGHT, 6 * WIDTH, (14, 144))
        video = shown(lambda number: wide[:, speed * number : speed * number + WIDTH])  # noqa: B023
        assert find_scenes(video) == []


def test_zooms_make_no_scene() -> None:
    boxes = [(number / 4, number / 8, WIDTH - number / 4, HEIGHT - number / 8) for number in range(75)]
    for seed in range(3):
        picture = Image.fromarray(clouds(seed, spots=(14, 24)))
        zoomed = [np.asarray(picture.resize((WIDTH, HEIGHT), box=box)) for box in boxes]
        assert find_scenes(Drawn(zoomed)) == []


def test_flashes_and_switched_lights_make_no_scene() -> None:
    light = np.ones(75)
    light[30:], light[50:54] = 0.4, 3.0
    assert find_scenes(shown(lambda number: clouds(0) * light[number])) == []


def test_grain_makes_no_scene() -> None:
    chance = np.random.default_rng(0)
    assert find_scenes(shown(lambda number: clouds(0) + chance.normal(0, 30, (HEIGHT, WIDTH, 1)))) == []


def test_fades_to_black_make_no_scene() -> None:
    black = [np.zeros((HEIGHT, WIDTH, 3), np.uint8)] * 40
    blink = mixed(clouds(0), 0, 0.4) + black[:10] + mixed(0, clouds(0), 0.4)
    assert find_scenes(Drawn([*black, *mixed(0, clouds(0), 0.5), *stays(0, 2), *blink, *stays(0, 2), *black])) == []


def test_a_window_that_opens_makes_no_scene() -> None:
    window = clouds(0).copy()
    window[10:45, 20:70] = (255, 255, 90)
    assert find_scenes(Drawn(stays(0, 2) + [window] * 50 + stays(0, 2))) == []


def test_moving_objects_make_no_scene() -> None:
    def draw(number: int) -> np.ndarray:
        picture = clouds(0).copy()
        picture[20:65, max(0, 6 * number - 200) : max(0, 6 * number - 140)] = (250, 250, 30)
        return picture

    assert find_scenes(shown(draw)) == []


@pytest.mark.parametrize("frames", [1, 2, 75])
@pytest.mark.parametrize("shade", [0, 128])
def test_blank_videos_are_one_scene(frames: int, shade: int) -> None:
    assert find_scenes(Drawn([np.full((HEIGHT, WIDTH, 3), shade, np.uint8)] * frames)) == []


# Rules


def test_stronger_of_close_changes_wins() -> None:
    weak = clouds(0) // 4 * 3 + clouds(1) // 4
    pictures = stays(0, 2) + [weak] * 10 + stays(2, 2) + stays(3, 0.5)
    assert find_scenes(Drawn(pictures)) == pytest.approx([2.4])
    assert find_scenes(Drawn(pictures), shortest=0.3) == pytest.approx([2.4, 4.4])


def test_long_videos_are_cut_like_short_ones() -> None:
    """It is looked at in stretches of half a minute, and changes at their borders are found once."""
    pictures = [
        picture for seed in range(22) for picture in stays(seed, 2.24) + mixed(clouds(seed), clouds(seed + 1), 0.8)
    ]
    found = find_scenes(Drawn(pictures))
    assert len(found) == 21
    assert all(2.24 < time - 3.04 * place < 3.04 for place, time in enumerate(found))
    cut = [picture for seed in range(40) for picture in stays(seed, 1.6)]
    assert find_scenes(Drawn(cut)) == pytest.approx(np.arange(1, 40) * 1.6)


def test_damaged_files_are_cut(tmp_path: Path) -> None:
    whole = make_video(tmp_path / "a.ts", frames=stays(0, 2) + stays(1, 2) + stays(2, 2))
    data = bytearray(whole.read_bytes())
    data[-len(data) // 3 :] = b""
    whole.write_bytes(data)
    assert find_scenes(open_reader(whole))[:1] == pytest.approx([2.0])


# Slides, pages and split screens


def page(seed: int, lines: int = 9, first: int = 0) -> np.ndarray:
    """[720, 1280, 3] uint8: a white page with lines of words, those of another page for another seed."""
    chance, image = np.random.default_rng(seed), Image.new("RGB", (1280, 720), "white")
    for line in range(40):
        text = " ".join("".join(chance.choice(list("abcdefghij"), chance.integers(2, 10))) for _ in range(9))
        if first <= line < first + lines:
            place = (90, 60 + 66 * (line - first))
            ImageDraw.Draw(image).text(place, text, "black", ImageFont.load_default(30))
    return np.asarray(image)


def shown_for(*pages: np.ndarray, seconds: float = 2.0) -> Drawn:
    return Drawn([one for one in pages for _ in range(round(10 * seconds))], rate=10)


def test_every_new_slide_of_text_is_found() -> None:
    assert find_scenes(shown_for(*map(page, range(4)))) == pytest.approx([2, 4, 6])
    assert find_scenes(shown_for(*(page(seed, lines=1) for seed in range(4)))) == pytest.approx([2, 4, 6])


def test_typing_and_scrolling_make_no_scene() -> None:
    assert find_scenes(shown_for(*(page(0, lines=count) for count in range(1, 9)), seconds=0.6)) == []
    assert find_scenes(shown_for(*(page(0, first=first) for first in range(8)))) == []


def test_grain_renewed_at_keyframes_makes_no_scene() -> None:
    rng = np.random.default_rng(0)
    grain = [rng.normal(0, 4, (144, 256, 1)) for _ in range(4)]  # held from one keyframe to the next, as codecs do
    frames = [(clouds(0, 144, 256, (8, 24)) + one).clip(0, 255).astype(np.uint8) for one in grain]
    assert find_scenes(shown_for(*frames)) == []


def test_cuts_in_half_of_the_picture_are_found() -> None:
    paper, films = page(0)[::10, ::10], [clouds(seed, 72, 200, (8, 24)) for seed in (5, 6, 7)]

    def draw(number: int) -> np.ndarray:
        picture = paper.copy()
        picture[:, 64:] = films[number // 40][:, number : number + 64]
        return picture

    assert find_scenes(Drawn([draw(number) for number in range(120)])) == pytest.approx([1.6, 3.2])


def test_long_blanks_between_scenes_belong_to_none() -> None:
    black = [np.zeros((HEIGHT, WIDTH, 3), np.uint8)] * 50
    faded = [*stays(0, 2), *mixed(clouds(0), 0, 0.4), *black, *mixed(0, clouds(1), 0.4), *stays(1, 2), *black]
    (start, out), (back, end) = scene_spans(Drawn(faded))
    assert (start, out, back, end) == pytest.approx((0, 2.4, 4.4, 6.8), abs=0.2)
    assert scene_spans(Drawn(black)) == [(0.0, 2.0)]
