"""Captions under way: which slot of a cache holds what, and which row sees it. The same for every engine.

Clips stand in lanes. Each row writes its key and value of every token into a slot of its own, and knows the slots of
its history, which is all that changes when beams swap parents: no cache is ever moved.
"""

from collections.abc import Iterator

import numpy as np

from ..model.masks import HIDDEN


class History:
    """Who wrote what in C lanes of B rows, S = max_length * B slots each."""

    def __init__(self, lanes: int, beams: int, max_length: int, pad_id: int) -> None:
        self.lanes, self.beams, self.slots, self._pad_id = lanes, beams, max_length * beams, pad_id
        self.position = np.zeros(lanes, np.int64)  # tokens read so far
        self._seen = np.zeros((lanes, beams, max_length), np.int64)  # slot of each token so far
        self._ids = np.full((lanes, beams, max_length), -1, np.int32)

    def clear(self, lane: int) -> None:
        """Let a lane begin anew."""
        self.position[lane] = 0

    def feed(self, lanes: np.ndarray, ids: np.ndarray, parents: np.ndarray) -> np.ndarray:
        """Give each row of lanes [K] its parent's history and one more token: ids and parents [K, B].

        Returns:
            [C, B] ids, 0 in idle lanes.
        """
        self._seen[lanes] = np.take_along_axis(self._seen[lanes], parents[..., None], axis=1)
        self._ids[lanes] = np.take_along_axis(self._ids[lanes], parents[..., None], axis=1)
        own = self.position[lanes, None] * self.beams + np.arange(self.beams)
        self._seen[lanes, :, self.position[lanes]] = own
        self._ids[lanes, :, self.position[lanes]] = ids
        in_lanes = np.zeros((self.lanes, self.beams), np.int64)
        in_lanes[lanes] = ids
        return in_lanes

    def new_slots(self) -> np.ndarray:
        """[C, B] where each row's newest token goes. Idle lanes write where nobody looks yet."""
        return np.minimum(self.position[:, None] * self.beams, self.slots - self.beams) + np.arange(self.beams)

    def masks(self, lanes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """[C, 1, B, S] float32 for the text tower and for the decoder: each row sees its own history and newest token.

        The text tower hides what comes after a pad, see `masks.text_mask`.
        """
        text = np.full((self.lanes, 1, self.beams, self.slots), HIDDEN, np.float32)
        decoder = text.copy()
        for lane in lanes:
            seen = self._seen[lane, :, : self.position[lane] + 1]
            after_pad = np.pad(self._ids[lane, :, : self.position[lane]] == self._pad_id, ((0, 0), (1, 0)))
            np.put_along_axis(text[lane, 0], seen, np.where(after_pad, np.float32(HIDDEN), np.float32(0)), axis=1)
            np.put_along_axis(decoder[lane, 0], seen, np.float32(0), axis=1)
        return text, decoder

    def masks_apart(self, lanes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The same for newest tokens that are not in their slots yet: of the slots, and [C, 1, B, 1] of themselves."""
        own = self.new_slots()[:, None, :, None]
        for mask in self.masks(lanes):
            newest = np.take_along_axis(mask, own, axis=-1)
            np.put_along_axis(mask, own, np.float32(HIDDEN), axis=-1)
            yield mask, newest

    def advance(self, lanes: np.ndarray) -> None:
        self.position[lanes] += 1

    def resized(self, kept: np.ndarray, lanes: int) -> "History":
        """Lanes `kept` as the first of so many."""
        other = History(lanes, self.beams, self.slots // self.beams, self._pad_id)
        for mine, theirs in ((self.position, other.position), (self._seen, other._seen), (self._ids, other._ids)):
            theirs[: len(kept)] = mine[kept]
        return other


class InLanes:
    """Captions under way, as `engines.base.DecodeState` wants them."""

    def __init__(self, history: History, few: int) -> None:
        self.history, self.few = history, few

    @property
    def lanes(self) -> int:
        return self.history.lanes

    @property
    def beams(self) -> int:
        return self.history.beams
