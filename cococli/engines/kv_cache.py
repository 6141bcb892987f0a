"""Bookkeeping of a key/value cache: entries, histories and masks. The same for every engine.

Each slot holds the sequences of one clip. A sequence writes the key and value of every token into an entry of its own
and remembers the entries of its history. When beams change parents only these lists change; no key is ever moved.
"""

from collections.abc import Iterator

import numpy as np

from ..model.arrays import HIDDEN


class KVCache:
    """Histories of B sequences in each of C slots, with S = max_length * B cache entries per slot.

    Engines subclass it and add keys and values. Implements `engines.base.DecodeState`.
    """

    def __init__(self, slots: int, beams: int, max_length: int, pad_id: int, top_k: int) -> None:
        self.slots, self.beams, self.entries, self.top_k = slots, beams, max_length * beams, top_k
        self.position = np.zeros(slots, np.int64)  # tokens read so far
        self._pad_id = pad_id
        self._history = np.zeros((slots, beams, max_length), np.int64)  # entry of each token so far
        self._ids = np.full((slots, beams, max_length), -1, np.int32)

    def reset(self, slot: int) -> None:
        """Empty a slot for another clip."""
        self.position[slot] = 0

    def append(self, slots: np.ndarray, ids: np.ndarray, parents: np.ndarray) -> np.ndarray:
        """Give each sequence in slots [K] its parent's history and one more token: ids and parents [K, B].

        Returns:
            [C, B] ids, 0 in idle slots.
        """
        self._history[slots] = np.take_along_axis(self._history[slots], parents[..., None], axis=1)
        self._ids[slots] = np.take_along_axis(self._ids[slots], parents[..., None], axis=1)
        own = self.position[slots, None] * self.beams + np.arange(self.beams)
        self._history[slots, :, self.position[slots]] = own
        self._ids[slots, :, self.position[slots]] = ids
        all_ids = np.zeros((self.slots, self.beams), np.int64)
        all_ids[slots] = ids
        return all_ids

    def new_entries(self) -> np.ndarray:
        """Return entries [C, B] of the newest tokens. Idle slots write where no sequence attends yet."""
        return np.minimum(self.position[:, None] * self.beams, self.entries - self.beams) + np.arange(self.beams)

    def masks(self, slots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return masks [C, 1, B, S] float32 of text tower and decoder: each sequence attends to its own history.

        The text tower hides the token after a pad, see `arrays.text_mask`.
        """
        text = np.full((self.slots, 1, self.beams, self.entries), HIDDEN, np.float32)
        decoder = text.copy()
        for slot in slots:
            history = self._history[slot, :, : self.position[slot] + 1]
            after_pad = np.pad(self._ids[slot, :, : self.position[slot]] == self._pad_id, ((0, 0), (1, 0)))
            np.put_along_axis(text[slot, 0], history, np.where(after_pad, np.float32(HIDDEN), np.float32(0)), axis=1)
            np.put_along_axis(decoder[slot, 0], history, np.float32(0), axis=1)
        return text, decoder

    def split_masks(self, slots: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield each of `masks` in two parts: of the entries before the newest tokens, and [C, 1, B, 1] of those."""
        own = self.new_entries()[:, None, :, None]
        for mask in self.masks(slots):
            newest = np.take_along_axis(mask, own, axis=-1)
            np.put_along_axis(mask, own, np.float32(HIDDEN), axis=-1)
            yield mask, newest

    def advance(self, slots: np.ndarray) -> None:
        """Move on to the next position in slots [K]."""
        self.position[slots] += 1

    def copy_history(self, other: "KVCache", kept: np.ndarray) -> None:
        """Copy the histories of slots `kept` [K] of another cache into the first K slots."""
        for ours, theirs in (
            (self.position, other.position),
            (self._history, other._history),
            (self._ids, other._ids),
        ):
            ours[: len(kept)] = theirs[kept]
