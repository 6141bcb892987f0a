"""Captions under way in the MindSpore engine: their caches, and which row sees what."""

import numpy as np
from mindspore import Tensor

from ..catalog import CocaConfig, TextConfig
from ..model.towers import HIDDEN

Cache = tuple[Tensor, Tensor]  # keys and values of one attention


class Captions:
    """Implements `engines.base.DecodeState`.

    Clips stand in lanes; lanes beyond them idle. Each row knows the slot of every token of its history, which is all
    that changes when beams swap parents.
    """

    def __init__(self, config: CocaConfig, image: list[Cache], clips: int, beams: int, max_length: int) -> None:
        """Start captions of `clips` clips.

        Args:
            image: Keys and values [C, H, N, E] of each cross-attention, C at least `clips`.
        """
        self.config, self.beams, self.position = config, beams, 0
        self.image = image
        self.lanes = np.arange(clips)
        self.width = len(image[0][0])  # C
        self.slots = max_length * beams  # S
        self.text = [self._empty_cache(config.text) for _ in range(config.text.layers)]
        self.decoder = [self._empty_cache(config.decoder) for _ in range(config.decoder.layers)]
        self.history = np.zeros((self.rows, max_length), np.int64)  # slot of each token so far
        self.ids = np.full((self.rows, max_length), -1, np.int32)
        self.idle_seconds = 0.0  # spent on idle lanes

    def _empty_cache(self, tower: TextConfig) -> Cache:
        shape = (self.width * tower.heads * self.slots, tower.width // tower.heads)
        return Tensor(np.zeros(shape, np.float32)), Tensor(np.zeros(shape, np.float32))

    @property
    def clips(self) -> int:
        return len(self.lanes)

    @property
    def rows(self) -> int:
        return self.clips * self.beams

    def feed(self, ids: np.ndarray, parents: np.ndarray) -> np.ndarray:
        """Give each row its parent's history and one more token; returns [C, B] ids, 0 in idle lanes."""
        if self.position:
            self.history, self.ids = self.history[parents], self.ids[parents]
        self.history[:, self.position] = self.position * self.beams + np.arange(self.rows) % self.beams
        self.ids[:, self.position] = ids
        in_lanes = np.zeros((self.width, self.beams), np.int64)
        in_lanes[self.lanes] = ids.reshape(self.clips, self.beams)
        return in_lanes

    def new_slots(self, tower: TextConfig) -> Tensor:
        """[C * H * B] int32: where this step's keys and values go."""
        base = np.arange(self.width * tower.heads)[:, None] * self.slots + self.position * self.beams
        return Tensor((base + np.arange(self.beams)).astype(np.int32).reshape(-1))

    def masks(self) -> tuple[Tensor, Tensor]:
        """[C, 1, B, S] float32 for the text tower and for the decoder: each row sees its own history."""
        seen = self.history[:, : self.position + 1]
        after_pad = np.pad(self.ids[:, : self.position] == self.config.pad_id, ((0, 0), (1, 0)))
        text = self._mask(seen, np.where(after_pad, np.float32(HIDDEN), np.float32(0)))
        return text, self._mask(seen, np.zeros(seen.shape, np.float32))

    def _mask(self, seen: np.ndarray, scores: np.ndarray) -> Tensor:
        rows = np.full((self.rows, self.slots), HIDDEN, np.float32)
        np.put_along_axis(rows, seen, scores, axis=1)
        mask = np.full((self.width, 1, self.beams, self.slots), HIDDEN, np.float32)
        mask[self.lanes, 0] = rows.reshape(self.clips, self.beams, self.slots)
        return Tensor(mask)

    def select(self, clips: np.ndarray) -> None:
        """Drop all but these clips; their lanes idle."""
        rows = (np.asarray(clips)[:, None] * self.beams + np.arange(self.beams)).reshape(-1)
        self.lanes, self.history, self.ids = self.lanes[clips], self.history[rows], self.ids[rows]

    def narrow(self, width: int) -> None:
        """Carry the caches of the live lanes to fewer lanes."""
        for caches in (self.image, self.text, self.decoder):
            caches[:] = [(self._carried(keys, width), self._carried(values, width)) for keys, values in caches]
        self.lanes, self.width = np.arange(self.clips), width

    def _carried(self, cache: Tensor, width: int) -> Tensor:
        """The live lanes of a cache, laid out lane by lane, and zeros up to `width` lanes."""
        by_lane = cache.asnumpy().reshape(self.width, -1)
        carried = np.zeros((width, by_lane.shape[1]), np.float32)
        carried[: self.clips] = by_lane[self.lanes]
        return Tensor(carried.reshape(-1, *cache.shape[1:]))
