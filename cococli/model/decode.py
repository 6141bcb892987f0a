"""One cached step of the text tower and the decoder, for every beam of a batch of clips."""

from collections.abc import Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from .coca import Coca
from .layers import Block, CrossBlock


class CachedStep(nn.Cell):
    """The network for one new token per row, with the caches it needs. Of one fixed shape: it compiles once.

    Each row writes its key and value into a slot of its own, at `position * beams + beam` of its clip, and no
    slot ever moves. When beams change parents the mask changes, not the cache: a row sees just the slots of its
    own history. Keys and values of the image stand once per clip.

    Shapes: C clips, B beams, R = C * B rows, H heads, S = max_length * B slots, N image tokens, E = D / H.
    """

    def __init__(self, network: Coca, clips: int, beams: int, max_length: int) -> None:
        super().__init__(auto_prefix=False)
        self.text, self.decoder = network.text, network.text_decoder
        self.clips, self.beams, self.slots = clips, beams, max_length * beams
        config = network.config
        self.image_tokens = config.vision.pooler_queries - 1
        blocks = [*self.text.transformer.resblocks, *self.decoder.resblocks]
        slots = [(clips * block.attn.heads * self.slots, block.attn.head_width) for block in blocks]
        images = [
            (clips, block.attn.heads, self.image_tokens, block.attn.head_width) for block in self.decoder.cross_attn
        ]
        self.keys, self.values = zeros("keys", slots), zeros("values", slots)
        self.image_keys, self.image_values = zeros("image_keys", images), zeros("image_values", images)
        self.write = ops.ScatterUpdate()

    def caches(self) -> list[Parameter]:
        """All caches; in memory each is laid out clip by clip."""
        return [*self.keys, *self.values, *self.image_keys, *self.image_values]

    @ms.jit
    def look(self, tokens: Tensor) -> Tensor:
        """Project [C, N, D] image tokens to the keys and values of every cross-attention."""
        for i, cross in enumerate(self.decoder.cross_attn):
            context = cross.ln_1_kv(tokens)
            ops.assign(self.image_keys[i], cross.attn.keys(context))
            ops.assign(self.image_values[i], cross.attn.values(context))
        return tokens

    @ms.jit
    def restore(self, *values: Tensor) -> Tensor:
        """Fill every cache, in the order of `caches`. `set_data` would part the compiled graphs from each other."""
        for cache, value in zip(self.keys + self.values + self.image_keys + self.image_values, values):
            ops.assign(cache, value)
        return values[0]

    @ms.jit
    def construct(
        self, ids: Tensor, position: Tensor, text_slots: Tensor, slots: Tensor, text_mask: Tensor, mask: Tensor
    ) -> Tensor:
        """Feed one token per row.

        Args:
            ids: [R] int32.
            position: [] int32, the same for all rows.
            text_slots, slots: [C * H * B] int32, where the keys and values go, for the heads of either tower.
            text_mask, mask: [C, 1, B, S] float32, added to the scores of the text tower and of the decoder.

        Returns:
            [R, V] logits of the next token.
        """
        x = ops.gather(self.text.token_embedding, ids, 0) + ops.gather(self.text.positional_embedding, position, 0)
        depth = 0
        for block in self.text.transformer.resblocks:
            x = self.self_attention(block, x, depth, text_slots, text_mask)
            depth += 1
        for i, (block, cross) in enumerate(zip(self.decoder.resblocks, self.decoder.cross_attn)):
            x = self.self_attention(block, x, depth, slots, mask)
            x = self.cross_attention(cross, x, i)
            depth += 1
        return ops.matmul(self.decoder.ln_final(x), self.decoder.text_projection)

    def self_attention(self, block: Block, x: Tensor, depth: int, slots: Tensor, mask: Tensor) -> Tensor:
        attn = block.attn
        normed = self.by_clip(block.ln_1(x))  # [C, B, D]
        keys = self.write(self.keys[depth], slots, attn.keys(normed).reshape(-1, attn.head_width))
        values = self.write(self.values[depth], slots, attn.values(normed).reshape(-1, attn.head_width))
        shape = (self.clips, attn.heads, self.slots, attn.head_width)
        x = x + self.by_row(attn.attend(attn.queries(normed), keys.reshape(shape), values.reshape(shape), mask))
        return x + block.mlp(block.ln_2(x))

    def cross_attention(self, block: CrossBlock, x: Tensor, i: int) -> Tensor:
        queries = block.attn.queries(self.by_clip(block.ln_1(x)))
        x = x + self.by_row(block.attn.attend(queries, self.image_keys[i], self.image_values[i]))
        return x + block.mlp(block.ln_2(x))

    def by_clip(self, x: Tensor) -> Tensor:
        """[R, D] -> [C, B, D]"""
        return x.reshape(self.clips, self.beams, x.shape[-1])

    def by_row(self, x: Tensor) -> Tensor:
        """[C, B, D] -> [R, D]"""
        return x.reshape(self.clips * self.beams, x.shape[-1])


def zeros(name: str, shapes: Sequence[tuple[int, ...]]) -> ParameterTuple:
    return ParameterTuple(
        [Parameter(Tensor(np.zeros(shape, np.float32)), name=f"{name}.{i}") for i, shape in enumerate(shapes)]
    )
