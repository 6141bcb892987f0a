"""Real videos whose frames carry their own number."""

import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from cococli.reporting import Reporter

RATE = 25
BITS = 10  # so at most 1024 frames
WIDTH, HEIGHT = 80, 48

# Encoder settings of x264 and x265: one keyframe in 12, bidirectional frames, closed or open groups of pictures.
CLOSED = "keyint=12:min-keyint=12:scenecut=0:bframes=3:b-adapt=0:open-gop=0"
OPEN = CLOSED.replace("open-gop=0", "open-gop=1")
X264 = {"options": {"x264-params": CLOSED}}


# What a frame says of its colors, and how the matrices weigh red and blue.
COLORS = ("colorspace", "color_range", "color_trc", "color_primaries")
MATRICES = {"BT.601": (0.299, 0.114), "BT.709": (0.2126, 0.0722), "BT.2020": (0.2627, 0.0593)}


def numbered(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """[H, W, 3] uint8: `number` in binary as dark and light bars, the lowest bit at the left."""
    bits = (number >> np.arange(width) * BITS // width) & 1
    row = np.where(bits, 230, 20).astype(np.uint8)
    return np.broadcast_to(row[None, :, None], (height, width, 3)).copy()


def number_of(pixels: np.ndarray) -> int:
    """The number that a frame carries, as `numbered` drew it."""
    bars = pixels.mean(axis=(0, 2)).reshape(BITS, -1)
    middles = bars[:, bars.shape[1] // 4 : -(bars.shape[1] // 4)].mean(axis=1)
    return int(((middles > 125) << np.arange(BITS)).sum())


def make_video(
    path: Path,
    codec: str = "libx264",
    frames: int | Sequence[np.ndarray | av.VideoFrame] = 60,
    at: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
    kind: str | None = None,
    pixel_format: str = "yuv420p",
    group: int = 12,
    b_frames: int | None = None,
    rotation: int | None = None,
    matrix: tuple[int, int, int, int] | None = None,
    aspect: Fraction | None = None,
    title: str = "",
    rate: int = RATE,
) -> Path:
    """Encode a video.

    Args:
        frames: How many numbered frames, or the frames themselves: RGB, or PyAV's with what they say of their colors.
        at: When each frame is shown, in units of 1 / `rate`; by default one after another.
        options: For the encoder.
        container: For the muxer.
        kind: Container, where the suffix does not say.
        rotation: Degrees counter-clockwise that the display matrix asks for.
        matrix: A display matrix: where the unit vectors across and down a stored frame point to on the screen.
        aspect: Width of a pixel by its height.
    """
    numbers = [numbered(number) for number in range(frames)] if isinstance(frames, int) else frames
    pictures = [_frame(picture) for picture in numbers]
    with av.open(str(path), "w", format=kind, container_options=container or {}) as output:
        output.metadata["title"] = title
        stream = output.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width = pictures[0].height, pictures[0].width
        stream.pix_fmt = pixel_format
        for name in COLORS:
            setattr(stream.codec_context, name, getattr(pictures[0], name))
        stream.codec_context.gop_size = group
        if b_frames is not None:
            stream.codec_context.max_b_frames = b_frames
        if rotation is not None:
            stream.set_display_rotation(rotation)
        if matrix is not None:
            across_x, across_y, down_x, down_y = (number << 16 for number in matrix)
            stream.set_display_matrix([across_x, across_y, 0, down_x, down_y, 0, 0, 0, 1 << 30])
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        for number, frame in enumerate(pictures):
            frame.pts = at[number] if at else number
            frame.time_base = Fraction(1, rate)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    if codec == "libsvtav1":  # for root it makes the calling thread a real-time one, before which all others wait
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    return path


def _frame(picture: np.ndarray | av.VideoFrame) -> av.VideoFrame:
    return picture if isinstance(picture, av.VideoFrame) else av.VideoFrame.from_ndarray(picture, format="rgb24")


def make_yuv(codes: np.ndarray, matrix: str, full: bool = False, bits: int = 8) -> av.VideoFrame:
    """What a camera stores of gamma-encoded RGB: a frame whose colors are not tagged.

    Args:
        codes: [H, W, 3], 0..1; height and width even.
        matrix: Key of MATRICES.
        full: Whether black is 0 and white the largest number.
    """
    kr, kb = MATRICES[matrix]
    red, green, blue = np.moveaxis(codes, -1, 0)
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    chroma = [(blue - luma) / (2 - 2 * kb), (red - luma) / (2 - 2 * kr)]
    unit = 2 ** (bits - 8)
    scale_y, scale_c, black = (256 * unit - 1, 256 * unit - 1, 0) if full else (219 * unit, 224 * unit, 16 * unit)
    planes = [luma * scale_y + black, *(plane[::2, ::2] * scale_c + 128 * unit for plane in chroma)]
    stored = np.concatenate([plane.ravel() for plane in planes]).round().clip(0, 256 * unit - 1)
    array = stored.astype(np.uint8 if bits == 8 else np.uint16).reshape(-1, codes.shape[1])
    return av.VideoFrame.from_ndarray(array, format="yuv420p" if bits == 8 else f"yuv420p{bits}le")


def make_sound(path: Path, codec: str = "aac") -> Path:
    """A tenth of a second of silence."""
    with av.open(str(path), "w") as output:
        add_sound(output, codec)
    return path


def add_sound(output: av.container.OutputContainer, codec: str = "aac") -> None:
    stream = output.add_stream(codec, rate=8000, layout="mono")
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
    frame.sample_rate = 8000
    output.mux(stream.encode(frame))
    output.mux(stream.encode(None))


def trim(source: Path, target: Path, first: int) -> Path:
    """Cut the first frames off without encoding again, as `ffmpeg -ss -c copy` does.

    They stay in the file, since later ones need them, and an edit list hides them.
    """
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(old.streams.video[0]):
            if packet.size:
                shift = round(first / RATE / packet.time_base)
                packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                packet.stream = stream
                new.mux(packet)
    return target


def damage(path: Path) -> Path:
    """Overwrite the middle tenth of a file with zeros."""
    content = bytearray(path.read_bytes())
    middle, tenth = len(content) // 2, len(content) // 10
    content[middle : middle + tenth] = bytes(tenth)
    path.write_bytes(content)
    return path


def with_sound(source: Path, target: Path, codec: str = "aac") -> Path:
    """The same video with a tenth of a second of silence, from 0.0 on."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        add_sound(new, codec)
        for packet in old.demux(old.streams.video[0]):
            if packet.size:
                packet.stream = stream
                new.mux(packet)
    return target


class Notes(Reporter):
    """Keeps the notes that it receives."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)
