"""Real videos whose frames carry their own number."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

RATE = 25
BITS = 10  # so at most 1024 frames
WIDTH, HEIGHT = 80, 48

# Encoder settings of x264 and x265: one keyframe in 12, bidirectional frames, closed or open groups of pictures.
CLOSED = "keyint=12:min-keyint=12:scenecut=0:bframes=3:b-adapt=0:open-gop=0"
OPEN = CLOSED.replace("open-gop=0", "open-gop=1")


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
    frames: int | Sequence[np.ndarray] = 60,
    at: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
    kind: str | None = None,
    pixel_format: str = "yuv420p",
    group: int = 12,
    b_frames: int | None = None,
    rotation: int | None = None,
) -> Path:
    """Encode a video.

    Args:
        frames: How many numbered frames, or the frames themselves.
        at: When each frame is shown, in 1/25 s; by default one after another.
        options: For the encoder.
        container: For the muxer.
        kind: Container, where the suffix does not say.
        rotation: Degrees counter-clockwise that the display matrix asks for.
    """
    pictures = [numbered(number) for number in range(frames)] if isinstance(frames, int) else frames
    with av.open(str(path), "w", format=kind, container_options=container or {}) as output:
        stream = output.add_stream(codec, rate=RATE, options=options or {})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pixel_format
        stream.codec_context.gop_size = group
        if b_frames is not None:
            stream.codec_context.max_b_frames = b_frames
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for number, pixels in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = at[number] if at else number
            frame.time_base = Fraction(1, RATE)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def make_sound(path: Path, codec: str = "aac") -> Path:
    """A tenth of a second of silence."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


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
