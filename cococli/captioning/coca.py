"""The Python API: a model that captions and embeds what it is given."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from itertools import islice
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

import numpy as np

from ..checkpoints.store import find_model
from ..decoding.options import SearchOptions
from ..engines.choice import resolve
from ..errors import CocaError, UsageError, VideoError
from ..media.clips import read_clip
from ..media.discover import refuse_url
from ..media.memory import opened
from ..media.sampling import Frames, Sampling
from ..parsing import validate
from .captioner import Caption, Captioner, load_captioner

BATCH = 8  # clips that go through the model at once
TEXTS = 64  # and texts

T = TypeVar("T")
Many = list[Any] | tuple[Any, ...] | Iterator[Any]


@dataclasses.dataclass(frozen=True)
class Settings:
    """Arguments of `cococli.load` besides the search options."""

    model: str
    frames: Frames
    num_frames: int
    pool: Literal["joint", "mean"]
    prompt: str
    engine: str
    device: str
    precision: str
    threads: int


class Coca:
    """A loaded model. `cococli.load` makes one."""

    def __init__(self, captioner: Captioner, sampling: Sampling) -> None:
        self._captioner = captioner
        self._sampling = sampling

    @classmethod
    def load(cls, search: Mapping[str, Any], model: str | PathLike[str], **arguments: Any) -> "Coca":
        """See `cococli.load`."""
        arguments["model"] = fspath(model) if isinstance(model, PathLike) else model
        with _named_as_in_python():
            if unknown := search.keys() - {field.name for field in dataclasses.fields(SearchOptions)}:
                raise UsageError(f"load() has no argument {min(unknown)!r}", "see help(cococli.load)")
            options = validate(search, SearchOptions, "load()")
            asked = validate(arguments, Settings, "load()")
            sampling = Sampling(asked.frames, asked.num_frames)
            choice = resolve(asked.engine, asked.device, asked.precision, asked.threads)
            files = find_model(asked.model)
            return cls(load_captioner(files, options, asked.pool, asked.prompt, choice=choice), sampling)

    @overload
    def caption(self, source: Many) -> list[Caption]: ...

    @overload
    def caption(self, source: Any) -> Caption: ...

    def caption(self, source: Any) -> Caption | list[Caption]:
        """Caption a video or picture, or a list of them.

        Args:
            source: A path, the bytes of a file or a file object, a PIL image, or a numpy array or torch tensor of one
                picture [H, W, 3] or of a video's frames [F, H, W, 3]; 3 may stand before H, too. Integers are 0 to 255,
                floats 0 to 1. `frames` and `num_frames` of `cococli.load` apply to arrays as well. Or a list or another
                iterable of these, which are computed in batches.

        Returns:
            Text, logprob, similarity and embedding [D] float32; of a list a list.

        Raises:
            VideoError: A file cannot be read.
            UsageError: The source is something else.
        """
        if not _is_many(source):
            return self.caption([source])[0]
        return list(self._in_batches(source, self._captioner.caption_batch))

    def embed(self, source: Any) -> np.ndarray:
        """Embed a video or picture, or a list of them.

        Args:
            source: As for `caption`.

        Returns:
            [D] float32, L2-normalized, comparable with `embed_text`; of a list [N, D].

        Raises:
            VideoError: A file cannot be read.
            UsageError: The source is something else.
        """
        if not _is_many(source):
            return self.embed([source])[0]
        vectors: Iterator[np.ndarray] = self._in_batches(
            source, lambda pixels, numbers: self._captioner.embed_batch(pixels)
        )
        return self._stacked(vectors)

    def embed_text(self, text: str | Iterable[str]) -> np.ndarray:
        """Embed a text, or a list of them.

        Returns:
            [D] float32, L2-normalized, of a list [N, D]. The product with a video's vector is their cosine similarity.

        Raises:
            UsageError: It is not text.
        """
        if isinstance(text, str):
            return self.embed_text([text])[0]
        texts: list[Any] = list(text) if _is_many(text) else [text]
        if wrong := [one for one in texts if not isinstance(one, str)]:
            raise UsageError(f"{type(wrong[0]).__name__} is not text", "pass a str or a list of them")
        batches = (texts[start : start + TEXTS] for start in range(0, len(texts), TEXTS))
        return self._stacked(vector for batch in batches for vector in self._captioner.embed_texts(batch))

    def _stacked(self, vectors: Iterable[np.ndarray]) -> np.ndarray:
        """[N, D] float32."""
        return np.array([*vectors], np.float32).reshape(-1, self._captioner.engine.config.embed_dim)

    def _in_batches(
        self, sources: Iterable[Any], compute: Callable[[np.ndarray, Sequence[int]], Sequence[T] | np.ndarray]
    ) -> Iterator[T]:
        """Compute a value for each source; clips of as many frames share batches."""
        numbered = enumerate(sources)
        while batch := list(islice(numbered, BATCH)):
            values: dict[int, T] = {}
            clips = {number: self._pixels(source) for number, source in batch}
            for frames in {len(pixels) for pixels in clips.values()}:
                numbers = [number for number, pixels in clips.items() if len(pixels) == frames]
                values |= zip(numbers, compute(np.stack([clips[number] for number in numbers]), numbers), strict=True)
            yield from (values[number] for number in clips)

    def _pixels(self, source: Any) -> np.ndarray:
        """[F, 3, S, S] float32."""
        preprocess = self._captioner.engine.config.preprocess
        if not isinstance(source, str | PathLike):
            with opened(source) as readable:
                return read_clip(readable, self._sampling, self._captioner.image_size, preprocess)[1]
        refuse_url(fspath(source))
        try:
            return read_clip(Path(fspath(source)), self._sampling, self._captioner.image_size, preprocess)[1]
        except VideoError as error:
            raise VideoError(f"{fspath(source)}: {error.message}", error.hint) from None


def _is_many(source: Any) -> bool:
    """Whether this is a list of sources rather than one."""
    one = isinstance(source, str | bytes | bytearray | memoryview | PathLike | Mapping | Set)
    return isinstance(source, Iterable) and not one and not hasattr(source, "read") and not _is_array(source)


def _is_array(source: Any) -> bool:
    return hasattr(source, "__array__") or hasattr(source, "asnumpy")


@contextmanager
def _named_as_in_python() -> Iterator[None]:
    """Name arguments in errors, not the flags of the command line."""
    try:
        yield
    except CocaError as error:
        raise type(error)(_without_flags(error.message), _without_flags(error.hint)) from None


def _without_flags(text: str) -> str:
    return re.sub(r"--([a-z][a-z-]*)", lambda flag: flag[1].replace("-", "_"), text.replace("--search", "method"))
