"""Small real videos and pictures, and a captioner that says how bright they are."""

from collections.abc import Callable, Sequence
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from cococli.captioning.captioner import Caption
from cococli.media.compute import FunctionComputer

Make = Callable[[str, int], Path]


class BrightnessCaptioner:
    """Says the brightness of each clip, in percent, and remembers the batches it was given."""

    image_size = 32
    model = "brightness"

    def __init__(self) -> None:
        self.batches: list[tuple[int, int]] = []  # clips and frames of each batch

    def caption_batch(self, pixels: np.ndarray, places: Sequence[int]) -> list[Caption]:
        self.batches.append(pixels.shape[:2])
        shades = pixels[..., 1].mean(axis=(1, 2, 3)) / 2.55
        return [Caption(f"{round(float(shade))} percent", -0.5, 0.25, np.ones(4, np.float32) / 2) for shade in shades]

    def stream(self, lanes: int) -> FunctionComputer[Caption]:
        return FunctionComputer(self.caption_batch)


@pytest.fixture
def captioner() -> BrightnessCaptioner:
    return BrightnessCaptioner()


@pytest.fixture
def video(tmp_path: Path) -> Make:
    """Make a video of ten frames, 10 per second, of one brightness in percent."""

    def make(name: str, percent: int) -> Path:
        path = tmp_path / name
        with av.open(str(path), "w") as file:
            stream = file.add_stream("mpeg4", rate=10)
            stream.width = stream.height = 64
            stream.pix_fmt = "yuv420p"
            for _ in range(10):
                frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), round(2.55 * percent), np.uint8))
                file.mux(stream.encode(frame))
            file.mux(stream.encode())
        return path

    return make


@pytest.fixture
def picture(tmp_path: Path) -> Make:
    """Make a picture of one brightness in percent."""

    def make(name: str, percent: int) -> Path:
        path = tmp_path / name
        Image.new("RGB", (64, 64), (round(2.55 * percent),) * 3).save(path)
        return path

    return make
