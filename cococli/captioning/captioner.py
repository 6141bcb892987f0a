"""Batches of clips to captions, with their confidence and embeddings."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..catalog import CocaConfig
from ..checkpoints.store import ModelFiles
from ..decoding.options import SearchOptions
from ..decoding.search import check_prompt, search
from ..engines.base import Engine
from ..errors import ModelError, UsageError
from ..tokenizer import EOT_ID, decode, encode, tokenize


@dataclass(frozen=True)
class Caption:
    """What the model says about one clip."""

    text: str
    logprob: float  # mean log-probability of a token
    similarity: float  # cosine of the clip's embedding and the text's
    embedding: np.ndarray  # [D] float32, L2-normalised


class Captioner:
    """A model and how it is asked.

    Args:
        engine: The network.
        model: Its name, for the records.
        search: How a caption is searched.
        pool: How several frames become one, `joint` or `mean`.
        prompt: Words that every caption begins with.

    Raises:
        UsageError: the options do not fit each other or the model.
        ModelError: the model does not speak CLIP's vocabulary.
    """

    def __init__(
        self, engine: Engine, model: str, search: SearchOptions | None = None, pool: str = "joint", prompt: str = ""
    ) -> None:
        self.engine = engine
        self.model = model
        self.search = search or SearchOptions()
        self.pool = pool
        self.prompt = check_request(engine.config, self.search, pool, prompt)

    @property
    def image_size(self) -> int:
        """Side of a frame in pixels."""
        return self.engine.config.vision.image_size

    def caption_batch(self, pixels: np.ndarray, places: Sequence[int]) -> list[Caption]:
        """Caption clips; one pass of the vision tower gives the words and the embedding.

        Args:
            pixels: [B, F, 3, S, S] float32, normalised frames.
            places: Each clip's place among all that are captioned. With the seed it decides what a search that
                draws will draw, so that the same clips have the same captions whatever the batches are.

        Returns:
            B captions. Their similarity costs one pass of the text tower for the whole batch.
        """
        clips = self.engine.encode_clips(pixels, self.pool)
        found = search(self.engine, clips.tokens, self.search, self.prompt, places)
        texts = [decode(hypothesis.ids) for hypothesis in found]
        similarities = np.sum(clips.embedding * self.embed_texts(texts), axis=1)
        return [
            Caption(text, float(hypothesis.logprob), float(similarity), embedding)
            for text, hypothesis, similarity, embedding in zip(texts, found, similarities, clips.embedding, strict=True)
        ]

    def embed_batch(self, pixels: np.ndarray) -> np.ndarray:
        """[B, F, 3, S, S] float32, normalised frames -> [B, D] float32, L2-normalised."""
        return self.engine.encode_clips(pixels, self.pool).embedding

    def embed_texts(self, texts: list[str]) -> np.ndarray:
        """Texts -> [B, D] float32, L2-normalised."""
        return self.engine.encode_texts(tokenize(texts, self.engine.config.context_length))


def load_captioner(model: ModelFiles, search: SearchOptions, pool: str = "joint", prompt: str = "") -> Captioner:
    """Load a model's weights, once it is sure that the rest can be right.

    Raises:
        UsageError: the options do not fit each other or the model.
        ModelError: the weights are damaged, or of a vocabulary that is not CLIP's.
    """
    check_request(model.config, search, pool, prompt)
    from ..engines.mindspore import MindSporeEngine

    return Captioner(MindSporeEngine.open(model.weights, model.config), model.name, search, pool, prompt)


def check_request(config: CocaConfig, search: SearchOptions, pool: str, prompt: str) -> list[int]:
    """The token ids of the prompt, when everything fits the model.

    Raises:
        UsageError: the options do not fit each other or the model.
        ModelError: the model does not speak CLIP's vocabulary.
    """
    if pool not in ("joint", "mean"):
        raise UsageError(f"pool is joint or mean, not {pool!r}")
    if config.eot_id != EOT_ID:
        raise ModelError(f"this model has {config.vocab_size} tokens, but CLIP's vocabulary has {EOT_ID + 1}")
    ids = encode(prompt)
    check_prompt(config, ids)
    search.check(config, len(ids))
    return ids
