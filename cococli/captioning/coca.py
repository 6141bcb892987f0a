"""The Python API: one model, one video at a time."""

from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoints.store import find_model
from ..decoding.options import SearchOptions
from ..engines.choice import resolve
from ..video.clips import read_clip
from ..video.sampling import Frames, Sampling
from .captioner import Caption, Captioner, load_captioner


class Coca:
    """A loaded model. `cococli.load` makes one."""

    def __init__(self, captioner: Captioner, sampling: Sampling) -> None:
        self._captioner = captioner
        self._sampling = sampling

    @classmethod
    def load(
        cls,
        model: str,
        *,
        frames: Frames,
        num_frames: int,
        pool: str,
        prompt: str,
        engine: str,
        device: str,
        precision: str,
        threads: int,
        **search: Any,
    ) -> "Coca":
        """See `cococli.load`."""
        sampling, options = Sampling(frames, num_frames), SearchOptions(**search)
        choice = resolve(engine, device, precision, threads)
        return cls(load_captioner(find_model(model), options, pool, prompt, choice=choice), sampling)

    def caption(self, video: str | PathLike[str]) -> Caption:
        """Say what a video or picture shows.

        Returns:
            Its text, logprob, similarity and embedding [D] float32.

        Raises:
            VideoError: it cannot be read.
        """
        return self._captioner.caption_batch(self._pixels(video), [0])[0]

    def embed(self, video: str | PathLike[str]) -> np.ndarray:
        """The vector of a video or picture: [D] float32, L2-normalised, comparable with `embed_text`.

        Raises:
            VideoError: it cannot be read.
        """
        return self._captioner.embed_batch(self._pixels(video))[0]

    def embed_text(self, text: str) -> np.ndarray:
        """The vector of a text: [D] float32, L2-normalised. Its product with a video's vector is their cosine."""
        return self._captioner.embed_texts([text])[0]

    def _pixels(self, video: str | PathLike[str]) -> np.ndarray:
        """[1, F, 3, S, S] float32."""
        preprocess = self._captioner.engine.config.preprocess
        return read_clip(Path(fspath(video)), self._sampling, self._captioner.image_size, preprocess)[1][None]
