"""Videos, decoded by decord where it finds the right frames and by PyAV elsewhere."""

import ctypes
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np

from ..errors import VideoError, is_transient
from ..files import find_member
from ..reporting import SILENT, Reporter
from .display import displayed, is_ordinary
from .frames import MAX_FRAME_PIXELS, Frame, open_file, reason, report_progress

# Their index leads to a keyframe by its presentation time. Others seek by decoding time, and not always exactly.
_INDEXED_CONTAINERS = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}
_MATROSKA = b"\x1a\x45\xdf\xa3"
_MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")  # that such a file may begin with

# decord finds the right frames in indexed containers of these only; `_suits_decord` lists the other conditions.
_DECORD_CODECS = {"h264", "hevc", "vp9"}

# MPEG program streams give few times; those between are guessed, wrongly after a seek. Decoded from the start.
_GUESSED_AFTER_SEEK = {"mpeg"}

# Containers that FFmpeg may take a file for. Others open further files or sockets (HLS, DASH, concat, SDP, RTSP), run
# filter graphs (lavfi), or are picture formats that Pillow reads.
DEMUXERS = (
    *("amv", "apng", "asf", "av1", "avi", "bmp_pipe", "cavsvideo", "dirac", "dnxhd", "dv", "evc", "flv", "gif", "gxf"),
    *("h261", "h263", "h264", "hevc", "ivf", "j2k_pipe", "jpeg_pipe", "live_flv", "m4v", "matroska", "mjpeg", "mov"),
    *("mpeg", "mpegts", "mpegvideo", "mxf", "nsv", "nut", "obu", "ogg", "png_pipe", "psd_pipe", "rm", "tiff_pipe"),
    *("vc1", "vc1test", "vvc", "webp_pipe", "wtv", "yuv4mpegpipe"),
)
_OPTIONS = {"format_whitelist": ",".join(DEMUXERS), "protocol_whitelist": "file"}

_LONGEST = 86_400  # seconds that one frame may stay on screen


@dataclass(frozen=True)
class Video:
    """The video stream of a file: its frames in order of presentation."""

    path: Path
    ticks: np.ndarray  # [N] int64, presentation times in units of `tick`, ascending
    end_tick: int
    tick: Fraction  # seconds
    begin: float  # seconds from where the file begins to the first frame
    keys: list[tuple[int, int]]  # (presentation, seek) ticks of the frames to start decoding at; none: only counted
    decoder: Literal["decord", "PyAV"]
    reporter: Reporter = SILENT

    @property
    def starts(self) -> np.ndarray:
        return self._seconds(self.ticks)

    @property
    def end(self) -> float:
        return float(self._seconds(np.int64(self.end_tick)))

    def _seconds(self, ticks: Any) -> Any:
        return (ticks - self.ticks[0]) * self.tick.numerator / self.tick.denominator + self.begin

    def frames(self, indices: Sequence[int]) -> Iterator[Frame]:
        if self.decoder == "PyAV":
            yield from _av_frames(self, indices)
            return
        decoded = 0
        try:
            for frame in _decord_frames(self, indices):
                yield frame
                decoded += 1
        except VideoError:
            for position, frame in enumerate(_av_frames(self, indices[decoded:])):
                if position == 0:
                    self.reporter.note(f"{self.path}: decord failed; decoding with PyAV instead")
                yield frame

    def decode_all(self) -> Iterator[tuple[float, Any]]:
        """Decode every frame with PyAV; yield its time in seconds and PyAV's frame, not converted to RGB."""
        with _av_stream(self.path) as stream:
            for frame in (_timed if self.keys else _counted)(_decoded(stream)):
                yield float(self._seconds(frame.pts)), frame


def _decord_frames(video: Video, indices: Sequence[int]) -> Iterator[Frame]:
    starts = video.starts
    reader = _decord_reader(video)
    for index in indices:
        try:
            pixels = reader[index].asnumpy()
        except Exception as error:
            # decord raises RuntimeError, AssertionError, IndexError and StopIteration.
            raise VideoError(reason(error)) from None
        # decord mistakes the padding of narrow frames for channels.
        if pixels.shape[2] != 3:
            raise VideoError("decord cannot read frames of this width")
        yield Frame(float(starts[index]), pixels)


def _share_cpp_library() -> None:
    """Load the system's C++ library before decord's older one, with which a later import of MindSpore aborts."""
    with suppress(OSError):
        ctypes.CDLL("libstdc++.so.6", mode=ctypes.RTLD_GLOBAL)


def _decord_reader(video: Video) -> Any:
    _share_cpp_library()
    try:
        import decord

        decord.logging.set_level(decord.logging.QUIET)
        # An absolute path, or "12:30.mp4" is taken for a protocol. The tolerance, below one frame, makes decord
        # fail on a frame that it cannot decode, where it would hand out the one before.
        reader = decord.VideoReader(str(video.path.absolute()), num_threads=1, fault_tol=1e-7)
    except Exception as error:
        raise VideoError(reason(error)) from None
    if len(reader) != len(video.ticks):
        raise VideoError("decord counts other frames")
    return reader


def _av_frames(video: Video, indices: Sequence[int]) -> Iterator[Frame]:
    with _av_stream(video.path) as stream:
        playhead = _Playhead(stream, video.keys)
        for index in indices:
            frame = playhead.at(int(video.ticks[index]))
            yield Frame(float(video._seconds(frame.pts)), displayed(frame, stream.sample_aspect_ratio))


class _Playhead:
    """Decodes onward, or from the nearest keyframe, to the frame that is on screen at a tick."""

    def __init__(self, stream: Any, keys: list[tuple[int, int]]) -> None:
        self.stream = stream
        self.keys = keys
        self.key_ticks = np.array([presentation for presentation, _ in keys], np.int64)
        self.decoded = _timed(_decoded(stream)) if keys else _counted(_decoded(stream))
        self.shown: Any = None
        self.upcoming: Any = None

    def at(self, tick: int) -> Any:
        key = max(int(np.searchsorted(self.key_ticks, tick, side="right")) - 1, 0)
        if key and (self.shown is None or self.shown.pts < self.key_ticks[key]):
            self._seek(key)
        self._advance(tick)
        back = 1
        while key and (self.shown is None or self.shown.pts > tick):
            # The container landed late, or the keyframe is damaged: start from ever earlier ones.
            key, back = max(key - back, 0), 2 * back
            self._seek(key)
            self._advance(tick)
        if self.shown is None:
            raise VideoError("no frame can be decoded")
        return self.shown

    def _seek(self, key: int) -> None:
        import av

        try:
            self.stream.container.seek(self.keys[key][1], stream=self.stream)
        except av.FFmpegError:
            return
        self.decoded = _timed(_decoded(self.stream))
        self.shown = self.upcoming = None

    def _advance(self, tick: int) -> None:
        while True:
            self.upcoming = self.upcoming or next(self.decoded, None)
            if self.upcoming is None or (self.shown is not None and self.upcoming.pts > tick):
                return
            self.shown, self.upcoming = self.upcoming, None


def _timed(frames: Iterator[Any]) -> Iterator[Any]:
    """Skip frames without a time, as the first ones after a seek may be."""
    return (frame for frame in frames if frame.pts is not None)


def _counted(frames: Iterator[Any]) -> Iterator[Any]:
    for count, frame in enumerate(frames):
        frame.pts = count
        yield frame


def _decoded(stream: Any) -> Iterator[Any]:
    """Yield frames in presentation order, skipping packets that cannot be decoded."""
    import av

    for packet in chain(_packets(stream), [None]):
        try:
            frames = stream.decode(packet)
        except av.FFmpegError:
            continue
        yield from frames


def _packets(stream: Any) -> Iterator[Any]:
    """Yield the packets of a stream, up to where the file ends or is truncated."""
    import av

    try:
        for packet in stream.container.demux(stream):
            report_progress(packet.size)
            if packet.size:
                yield packet
    except (av.FFmpegError, OSError, IndexError) as error:
        # An IndexError comes at the end of files in which streams turn up on the way.
        # The file goes on, but the disk fails.
        if is_transient(error):
            raise VideoError(reason(error)) from None


@contextmanager
def _av_stream(path: Path) -> Iterator[Any]:
    """Open the best video stream of a file in PyAV."""
    import av
    from av.stream import Disposition

    # It is opened here, because FFmpeg would interpret names with colons or percent signs.
    with open_file(path) as file:
        try:
            container = av.open(
                file,
                options=_OPTIONS,
                io_open=_refuse_other_files,
                metadata_errors="replace",
            )
        except av.ArgumentError:
            raise VideoError("not a video or picture in a supported format") from None
        except (av.FFmpegError, OSError, ValueError) as error:
            raise VideoError(reason(error) if is_transient(error) else _why_not_a_video(path, error)) from None
        with container:
            stream = container.streams.best("video")
            # The cover of a song is no video.
            if stream is None or stream.disposition & Disposition.attached_pic:
                raise VideoError("no video stream")
            if stream.codec_context is None:
                raise VideoError("unknown video codec")
            if stream.width * stream.height > MAX_FRAME_PIXELS:
                raise VideoError(f"frames of more than {MAX_FRAME_PIXELS:,} pixels")
            # Videos are read in parallel already, and threads would decode ahead in vain.
            stream.codec_context.thread_count = 1
            yield stream


def _refuse_other_files(url: str, flags: int, options: dict[str, str]) -> NoReturn:
    """Refuse files and addresses that a playlist names, but the user did not."""
    raise VideoError("not a video: it only points to other files")


def _why_not_a_video(path: Path, error: Exception) -> str:
    with open_file(path) as file:
        if file.read(8)[4:] == b"ftyp":
            return "unfinished download: the index of the frames is missing"
    return f"not a video: {reason(error)}"


# Indexing


def open_video(path: Path, reporter: Reporter = SILENT) -> Video:
    """Time the frames of a video by reading its packets, and choose its decoder.

    Args:
        reporter: Receives a note if decord, although chosen, fails on a frame that PyAV decodes.
    """
    with _av_stream(path) as stream:
        index = _PacketIndex(by_presentation=stream.container.format.name in _INDEXED_CONTAINERS)
        for packet in _packets(stream):
            index.add(packet)
        rate = stream.average_rate or Fraction(25)
        if not index.ticks:
            if not index.untimed:
                raise VideoError("no video frames")
            # A raw stream, such as .h264: frames are counted, and decoding starts at the first.
            tick = 1 / (stream.guessed_rate or rate)
            return Video(path, np.arange(index.untimed), index.untimed, tick, 0.0, [], "PyAV")
        longest = round(_LONGEST / stream.time_base)
        ticks = _without_strays(np.sort(np.array(index.ticks, np.int64)), longest)
        end_tick = int(ticks[-1]) + min(index.last_duration or round(1 / rate / stream.time_base), longest)
        if stream.container.format.name.endswith("_pipe") and len(ticks) == 1:
            end_tick = int(ticks[0])
        begin = _begin(stream, int(ticks[0]))
        keys = sorted(index.keys)
        if stream.container.format.name in _GUESSED_AFTER_SEEK:
            keys = keys[:1]
        decord = _suits_decord(path, stream, index)
        return Video(path, ticks, end_tick, stream.time_base, begin, keys, "decord" if decord else "PyAV", reporter)


def timestamp_offset(path: Path) -> tuple[str, float]:
    """Return the container and time offset by which FFmpeg's tools find a time in a video.

    Returns:
        The name of the container's demuxer, and the seconds to add to a time of the video to get the container's
        timestamp.

    Raises:
        VideoError: Why it cannot be read, without its path.
    """
    video = open_video(path)
    with _av_stream(path) as stream:
        name = stream.container.format.name.partition(",")[0]
    return name, float(video.ticks[0] * video.tick) - video.begin


def _begin(stream: Any, first_tick: int) -> float:
    """Return the seconds from the start of a file, with sound or picture, to its first frame.

    Sound before 0 only fills the decoder and does not count.
    """
    from av.stream import Disposition

    others = [other for other in (*stream.container.streams.audio, *stream.container.streams.video) if other != stream]
    starts = [
        other.start_time * other.time_base
        for other in others
        if other.start_time is not None and not other.disposition & Disposition.attached_pic
    ]
    begin = first_tick * stream.time_base - max(min(starts, default=first_tick * stream.time_base), 0)
    # Damaged files have times of weeks.
    return float(begin) if 0 < begin <= _LONGEST else 0.0


def _without_strays(ticks: np.ndarray, longest: int) -> np.ndarray:
    """Return the longest run of frames without gaps of a day: damage causes times of weeks, with too many clips."""
    return max(np.split(ticks, np.flatnonzero(np.diff(ticks) > longest) + 1), key=len)


class _PacketIndex:
    """Times and keyframes from the packets of a stream: 8 bytes per frame, so that a day of video fits."""

    def __init__(self, by_presentation: bool) -> None:
        self.by_presentation = by_presentation  # the container seeks by presentation time
        self.ticks = array("q")  # presentation times, in the order of decoding
        self.key_positions: list[int] = []  # in `ticks`
        self.keys: list[tuple[int, int]] = []  # (presentation, seek) ticks
        self.untimed = 0
        self.hidden = 0
        self.last_duration = 0  # of the frame shown last, in ticks
        self._last_tick = -(2**63)

    def add(self, packet: Any) -> None:
        if packet.pts is None:
            self.untimed += 1
            return
        if packet.is_keyframe and not packet.is_corrupt:
            by_decoding = packet.dts is not None and not self.by_presentation
            self.keys.append((packet.pts, packet.dts if by_decoding else packet.pts))
        if packet.is_discard or packet.is_corrupt:
            self.hidden += 1
            return
        if packet.is_keyframe:
            self.key_positions.append(len(self.ticks))
        if packet.pts > self._last_tick:
            self._last_tick, self.last_duration = packet.pts, packet.duration or 0
        self.ticks.append(packet.pts)


def _suits_decord(path: Path, stream: Any, index: _PacketIndex) -> bool:
    """Return whether decord is installed, and returns the requested frames as a player shows them.

    decord numbers packets as if each were one displayed frame, and as if every keyframe had the same index in decoding
    and in presentation order. Otherwise (trimmed clips, open GOPs as x265 makes them), or where the container seeks
    inexactly (MPEG-TS, AVI, ASF), it silently returns wrong frames.
    """
    container = stream.container
    if not find_spec("decord") or find_member(path) or not _has_plain_header(path):
        return False
    if container.format.name not in _INDEXED_CONTAINERS or stream.codec.name not in _DECORD_CODECS:
        return False
    if len(container.streams.video) != 1 or index.untimed or index.hidden:
        return False
    if _announced_frames(stream) > 2 * len(index.ticks) + 100:
        return False
    decoding = np.array(index.ticks, np.int64)
    presentation = np.sort(decoding)
    keys = index.key_positions
    return (
        bool(keys)
        and keys[0] == 0
        and bool(np.all(np.diff(presentation) > 0))
        and bool(np.all(decoding[keys] == presentation[keys]))
        and _starts_ordinarily(stream)
    )


def _has_plain_header(path: Path) -> bool:
    """Return whether decord, which accepts no list of formats, can only take a file for Matroska or MP4."""
    with open_file(path) as file:
        head = file.read(8)
    return head.startswith(_MATROSKA) or head[4:] in _MP4_BOXES


def _starts_ordinarily(stream: Any) -> bool:
    """Return whether decord shows the first frame as a player does."""
    import av

    with suppress(av.FFmpegError):
        stream.container.seek(0)
    first = next(_decoded(stream), None)
    return first is not None and is_ordinary(first, stream.sample_aspect_ratio)


def _announced_frames(stream: Any) -> float:
    """Return the number of frames in the header. decord allocates memory for all, and aborts if it is far too high."""
    seconds = (stream.container.duration or 0) / 1_000_000
    return max(stream.frames, seconds * float(stream.average_rate or 0))
