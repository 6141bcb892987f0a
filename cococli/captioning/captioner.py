"""Captions of clips, with their confidence and embeddings."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from ..catalog import CocaConfig
from ..checkpoints.store import ModelFiles
from ..decoding.caption_search import Hypothesis
from ..decoding.decoder import Decoder, check_prompt
from ..decoding.search_options import SearchOptions
from ..devices import Devices
from ..engines.base import Engine
from ..engines.choice import Choice, open_engine, resolve
from ..engines.sizes import Sizes
from ..errors import UsageError
from ..tokenizer import check_vocabulary, decode, detokenize, encode, tokenize
from .records import Candidate

Key = TypeVar("Key")


@dataclass(frozen=True)
class Caption:
    """A caption of one clip."""

    text: str
    logprob: float  # mean log-probability of a token
    similarity: float  # cosine of the clip's embedding and the text's
    embedding: np.ndarray = field(repr=False)  # [D] float32, L2-normalized
    candidates: tuple[Candidate, ...] = ()  # of different texts, best first, including this one


class Captioner:
    """A model with its search options.

    Args:
        engine: The loaded network.
        model: Name of the model in records.
        search: Search options.
        pool: Pooling of several frames, `joint` or `mean`.
        prompt: Text that every caption begins with.
        rerank: Choose the candidate that is most similar to the clip instead of the most likely one.

    Raises:
        UsageError: The options do not fit each other or the model.
        ModelError: The vocabulary of the model is not CLIP's.
    """

    def __init__(
        self,
        engine: Engine,
        model: str,
        search: SearchOptions | None = None,
        pool: str = "joint",
        prompt: str = "",
        rerank: bool = False,
    ) -> None:
        self.engine = engine
        self.model = model
        self.search = search or SearchOptions()
        self.pool = pool
        self.rerank = rerank
        self.prompt = check_request(engine.config, self.search, pool, prompt, rerank)

    @property
    def image_size(self) -> int:
        """Height and width of a frame, in pixels."""
        return self.engine.config.vision.image_size

    def caption_batch(self, pixels: np.ndarray, seeds: Sequence[int]) -> list[Caption]:
        """Caption clips with one pass of the vision tower, and one of the text tower for all candidates.

        Args:
            pixels: [B, F, S, S, 3] uint8, or normalized, [B, F, 3, S, S] float32.
            seeds: A number for each clip that does not depend on the batches: with the seed of the search options it
                seeds sampling.

        Returns:
            B captions.
        """
        stream: Stream[int] = self.stream(len(pixels))
        stream.submit(range(len(pixels)), pixels, seeds)
        captions: dict[int, Caption] = {}
        while stream.busy:
            captions |= stream.step()
        return [captions[index] for index in range(len(pixels))]

    def stream(self, slots: int) -> "Stream[Any]":
        """Caption clips as they arrive, at most `slots` at once."""
        return Stream(self, slots)

    def choose(self, found: dict[str, Hypothesis], texts: np.ndarray, embedding: np.ndarray) -> Caption:
        """Choose the caption of a clip.

        Args:
            found: Hypotheses by their text, best first.
            texts: [K, D] float32, embeddings of these texts.
            embedding: [D] float32, of the clip.
        """
        candidates = [
            Candidate(text, float(hypothesis.logprob), float(similarity))
            for (text, hypothesis), similarity in zip(found.items(), texts @ embedding, strict=True)
        ]
        if self.rerank:
            candidates.sort(key=lambda candidate: -candidate.similarity)
        first = candidates[0]
        return Caption(first.text, first.logprob, first.similarity, embedding, tuple(candidates))

    def embed_batch(self, pixels: np.ndarray) -> np.ndarray:
        """Embed clips, see `caption_batch`: [B, D] float32, L2-normalized."""
        return self.engine.encode_clips(pixels, self.pool).embedding

    def embed_texts(self, texts: list[str]) -> np.ndarray:
        """Texts -> [B, D] float32, L2-normalized."""
        return self.engine.encode_texts(tokenize(texts, self.engine.config.context_length))


class _Clip(NamedTuple):
    tokens: np.ndarray  # [N, D]
    embedding: np.ndarray  # [D]
    seed: int


class Stream(Generic[Key]):
    """Captioning of clips that arrive one by one. Implements `media.compute.Computer`."""

    def __init__(self, captioner: Captioner, slots: int) -> None:
        self._captioner = captioner
        self._slots = slots
        self._decoder: Decoder[Key] = self._new_decoder()
        self._clips: dict[Key, _Clip] = {}  # whose captions are not complete
        self._found: dict[Key, dict[str, Hypothesis]] = {}  # whose texts are not embedded yet

    def _new_decoder(self) -> "Decoder[Key]":
        captioner = self._captioner
        return Decoder(captioner.engine, captioner.search, captioner.prompt, self._slots)

    @property
    def queued(self) -> int:
        return self._decoder.waiting

    @property
    def busy(self) -> bool:
        return self._decoder.busy or bool(self._found)

    def submit(self, keys: Sequence[Key], pixels: np.ndarray, seeds: Sequence[int]) -> None:
        """Encode clips, and queue them for decoding."""
        clips = self._captioner.engine.encode_clips(pixels, self._captioner.pool)
        for key, tokens, embedding, seed in zip(keys, clips.tokens, clips.embedding, seeds, strict=True):
            self._clips[key] = _Clip(tokens, embedding, seed)
            self._decoder.add(key, tokens, seed)

    def step(self) -> dict[Key, Caption]:
        """Decode one token of each clip; return captions that are complete, those of several clips at once.

        Embedding the texts of one clip takes a GPU almost as long as those of many.
        """
        count = self._captioner.search.candidates
        over = self._decoder.step() if self._decoder.busy else {}
        self._found |= {key: distinct(hypotheses, count) for key, hypotheses in over.items()}
        if not self._found or (self._decoder.busy and len(self._found) < self._slots / 4):
            return {}
        texts = self._captioner.embed_texts([text for found in self._found.values() for text in found])
        complete, self._found = self._found, {}
        ends = np.cumsum([len(found) for found in complete.values()])
        return {
            key: self._captioner.choose(found, vectors, self._clips.pop(key).embedding)
            for (key, found), vectors in zip(complete.items(), np.split(texts, ends[:-1]), strict=True)
        }

    def shrink(self) -> int:
        """Start the captions that are not complete again, with half as many at once."""
        self._slots //= 2
        if self._slots:
            self._decoder = self._new_decoder()
            for key, clip in self._clips.items():
                if key not in self._found:
                    self._decoder.add(key, clip.tokens, clip.seed)
        return self._slots


def distinct(hypotheses: Iterable[Hypothesis], count: int) -> dict[str, Hypothesis]:
    """Return the first `count` hypotheses with different texts, by text: tokens may spell one text in several ways."""
    by_text: dict[str, Hypothesis] = {}
    for hypothesis in hypotheses:
        by_text.setdefault(detokenize(decode(hypothesis.ids)), hypothesis)
        if len(by_text) == count:
            break
    return by_text


class RemoteCaptioner:
    """Captioners of one model on several devices."""

    def __init__(
        self, model: str, devices: Devices[Caption], make: Callable[[Engine], Captioner], sizes: Sizes
    ) -> None:
        """
        Args:
            make: Returns the captioner of a device; a partial of `Captioner`.
            sizes: Clips that each device encodes and decodes at once.
        """
        self.model = model
        self._devices, self._make, self._sizes = devices, make, sizes

    def stream(self, slots: int) -> Devices[Caption]:
        """Caption clips as they arrive, at most `slots` at once on each device."""
        return self._devices.prepare(partial(_open_stream, self._make, slots), self._sizes)


def _open_stream(make: Callable[[Engine], Captioner], slots: int, engine: Engine) -> Stream[Any]:
    return make(engine).stream(slots)


def load_captioner(
    model: ModelFiles,
    search: SearchOptions,
    pool: str = "joint",
    prompt: str = "",
    rerank: bool = False,
    choice: Choice | None = None,
) -> Captioner:
    """Check options, then load the weights of a model.

    Args:
        choice: Engine, device and precision; by default the best that this machine has.

    Raises:
        UsageError: The options do not fit each other or the model.
        ModelError: The weights are damaged, or their vocabulary is not CLIP's.
    """
    check_request(model.config, search, pool, prompt, rerank)
    engine = open_engine(model, choice or resolve())
    return Captioner(engine, model.name, search, pool, prompt, rerank)


def check_request(config: CocaConfig, search: SearchOptions, pool: str, prompt: str, rerank: bool = False) -> list[int]:
    """Check options against a model that need not be loaded; return the token ids of the prompt.

    Raises:
        UsageError: The options do not fit each other or the model.
        ModelError: The vocabulary of the model is not CLIP's.
    """
    if pool not in ("joint", "mean"):
        raise UsageError(f"pool is joint or mean, not {pool!r}")
    if rerank and search.candidates == 1:
        raise UsageError("--rerank needs --candidates 2 or more")
    check_vocabulary(config.vocab_size)
    ids = encode(prompt)
    check_prompt(config, ids, search.ban)
    search.check(config, len(ids))
    return ids
