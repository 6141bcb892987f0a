"""Batches of clips to captions, with their confidence and embeddings."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np

from ..catalog import CocaConfig
from ..checkpoints.store import ModelFiles
from ..decoding.decoder import Decoder, check_prompt
from ..decoding.options import SearchOptions
from ..decoding.sequences import Hypothesis
from ..engines.base import Engine
from ..engines.choice import Choice, open_engine, resolve
from ..errors import ModelError, UsageError
from ..tokenizer import EOT_ID, decode, detokenize, encode, tokenize
from .records import Candidate

Key = TypeVar("Key")


@dataclass(frozen=True)
class Caption:
    """What the model says about one clip."""

    text: str
    logprob: float  # mean log-probability of a token
    similarity: float  # cosine of the clip's embedding and the text's
    embedding: np.ndarray = field(repr=False)  # [D] float32, L2-normalized
    candidates: tuple[Candidate, ...] = ()  # of different texts, best first; the first one is what it says


class Captioner:
    """A model and how it is asked.

    Args:
        engine: The network.
        model: Its name, for the records.
        search: How a caption is searched.
        pool: How several frames become one, `joint` or `mean`.
        prompt: Words that every caption begins with.
        rerank: Whether of several candidates the one most similar to the clip comes first, or the search's best.

    Raises:
        UsageError: the options do not fit each other or the model.
        ModelError: the model does not speak CLIP's vocabulary.
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
        """Side of a frame in pixels."""
        return self.engine.config.vision.image_size

    def caption_batch(self, pixels: np.ndarray, places: Sequence[int]) -> list[Caption]:
        """Caption clips; one pass of the vision tower gives the words and the embedding.

        Args:
            pixels: [B, F, 3, S, S] float32, normalized frames.
            places: Each clip's place among all that are captioned. With the seed it decides what a search that
                draws will draw, so that the same clips have the same captions whatever the batches are.

        Returns:
            B captions. Similarities cost one pass of the text tower for all candidates of the batch.
        """
        stream: Stream[int] = self.stream(len(pixels))
        stream.submit(range(len(pixels)), pixels, places)
        found: dict[int, Caption] = {}
        while stream.busy:
            found |= stream.step()
        return [found[place] for place in range(len(pixels))]

    def stream(self, lanes: int) -> "Stream[Any]":
        """Caption clips as they come, so many at once."""
        return Stream(self, lanes)

    def caption_of(self, told: dict[str, Hypothesis], texts: np.ndarray, embedding: np.ndarray) -> Caption:
        """The caption of a clip of which these texts, embedded as [K, D], are told, best first."""
        candidates = [
            Candidate(text, float(hypothesis.logprob), float(similarity))
            for (text, hypothesis), similarity in zip(told.items(), texts @ embedding, strict=True)
        ]
        if self.rerank:
            candidates.sort(key=lambda candidate: -candidate.similarity)
        first = candidates[0]
        return Caption(first.text, first.logprob, first.similarity, embedding, tuple(candidates))

    def embed_batch(self, pixels: np.ndarray) -> np.ndarray:
        """[B, F, 3, S, S] float32, normalized frames -> [B, D] float32, L2-normalized."""
        return self.engine.encode_clips(pixels, self.pool).embedding

    def embed_texts(self, texts: list[str]) -> np.ndarray:
        """Texts -> [B, D] float32, L2-normalized."""
        return self.engine.encode_texts(tokenize(texts, self.engine.config.context_length))


class Stream(Generic[Key]):
    """Clips on their way to captions. Implements `media.compute.Computer`."""

    def __init__(self, captioner: Captioner, lanes: int) -> None:
        self._captioner = captioner
        self._decoder: Decoder[Key] = Decoder(captioner.engine, captioner.search, captioner.prompt, lanes)
        self._embeddings: dict[Key, np.ndarray] = {}

    @property
    def queued(self) -> int:
        return self._decoder.waiting

    @property
    def busy(self) -> bool:
        return self._decoder.busy

    def submit(self, keys: Sequence[Key], pixels: np.ndarray, seeds: Sequence[int]) -> None:
        """One pass of the vision tower gives what words are made of, and the embeddings."""
        clips = self._captioner.engine.encode_clips(pixels, self._captioner.pool)
        for key, tokens, seed in zip(keys, clips.tokens, seeds, strict=True):
            self._decoder.add(key, tokens, seed)
        self._embeddings |= zip(keys, clips.embedding, strict=True)

    def step(self) -> dict[Key, Caption]:
        """One step; the captions of the clips whose search it ended, with one pass of the text tower for all."""
        told = {key: distinct(found, self._captioner.search.candidates) for key, found in self._decoder.step().items()}
        if not told:
            return {}
        texts = self._captioner.embed_texts([text for by_text in told.values() for text in by_text])
        ends = np.cumsum([len(by_text) for by_text in told.values()])
        return {
            key: self._captioner.caption_of(by_text, vectors, self._embeddings.pop(key))
            for (key, by_text), vectors in zip(told.items(), np.split(texts, ends[:-1]), strict=True)
        }


def distinct(found: Iterable[Hypothesis], count: int) -> dict[str, Hypothesis]:
    """The first `count` captions that read differently, by what they read: tokens may spell one text in many ways."""
    by_text: dict[str, Hypothesis] = {}
    for hypothesis in found:
        by_text.setdefault(detokenize(decode(hypothesis.ids)), hypothesis)
        if len(by_text) == count:
            break
    return by_text


def load_captioner(
    model: ModelFiles,
    search: SearchOptions,
    pool: str = "joint",
    prompt: str = "",
    rerank: bool = False,
    choice: Choice | None = None,
) -> Captioner:
    """Load a model's weights, once it is sure that the rest can be right.

    Args:
        choice: What computes; by default the best that this machine has.

    Raises:
        UsageError: the options do not fit each other or the model.
        ModelError: the weights are damaged, or of a vocabulary that is not CLIP's.
    """
    check_request(model.config, search, pool, prompt, rerank)
    engine = open_engine(model, choice or resolve())
    return Captioner(engine, model.name, search, pool, prompt, rerank)


def check_request(config: CocaConfig, search: SearchOptions, pool: str, prompt: str, rerank: bool = False) -> list[int]:
    """The token ids of the prompt, when everything fits the model.

    Raises:
        UsageError: the options do not fit each other or the model.
        ModelError: the model does not speak CLIP's vocabulary.
    """
    if pool not in ("joint", "mean"):
        raise UsageError(f"pool is joint or mean, not {pool!r}")
    if rerank and search.candidates == 1:
        raise UsageError("--rerank has nothing to order: it takes --candidates 2 or more")
    if config.eot_id != EOT_ID:
        raise ModelError(f"this model has {config.vocab_size} tokens, but CLIP's vocabulary has {EOT_ID + 1}")
    ids = encode(prompt)
    check_prompt(config, ids, search.ban)
    search.check(config, len(ids))
    return ids
