"""The three parts of CoCa: vision tower, unimodal text tower, multimodal decoder."""

import numpy as np
from mindspore import Tensor, nn, ops

from ..catalog import TextConfig, VisionConfig
from .layers import Attention, Block, CrossBlock, empty, layer_norm

HIDDEN = -1e9  # added to a score that must not be seen; exp of it is exactly 0 in float32


class Transformer(nn.Cell):
    """Blocks, one after the other."""

    def __init__(self, width: int, heads: int, layers: int, mlp_ratio: float, quick_gelu: bool) -> None:
        super().__init__()
        self.resblocks = nn.CellList([Block(width, heads, mlp_ratio, quick_gelu) for _ in range(layers)])

    def construct(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for block in self.resblocks:
            x = block(x, mask)
        return x


class Pooler(nn.Cell):
    """Learned queries that read the ViT tokens of a clip, however many frames it has."""

    def __init__(self, width: int, context_width: int, heads: int, queries: int) -> None:
        super().__init__()
        self.query = empty(queries, width)
        self.attn = Attention(width, heads, context_width)
        self.ln_q = layer_norm(width)
        self.ln_k = layer_norm(context_width)

    def construct(self, tokens: Tensor) -> Tensor:
        """[B, K, context_width] -> [B, queries, width]"""
        queries = self.attn.queries(self.ln_q(self.query)[None])  # [1, H, queries, D/H]: the same for every clip
        queries = ops.broadcast_to(queries, (tokens.shape[0], -1, -1, -1))
        context = self.ln_k(tokens)
        return self.attn.attend(queries, self.attn.keys(context), self.attn.values(context))


class VisionTower(nn.Cell):
    """ViT and attentional pooler. No norm stands between them."""

    def __init__(self, config: VisionConfig, embed_dim: int, quick_gelu: bool) -> None:
        super().__init__()
        width = config.width
        self.conv1 = nn.Conv2d(3, width, config.patch_size, config.patch_size, pad_mode="valid", has_bias=False)
        self.class_embedding = empty(width)
        self.positional_embedding = empty(config.tokens, width)
        self.ln_pre = layer_norm(width)
        self.transformer = Transformer(width, config.heads, config.layers, config.mlp_ratio, quick_gelu)
        self.attn_pool = Pooler(embed_dim, width, config.pooler_heads, config.pooler_queries)
        self.ln_post = layer_norm(embed_dim)
        self.proj = empty(embed_dim, embed_dim)

    def frame_tokens(self, pixels: Tensor) -> Tensor:
        """[N, 3, S, S] frames -> [N, T, W] ViT tokens, the CLS first."""
        patches = self.conv1(pixels)  # [N, W, S/P, S/P]
        patches = patches.reshape(patches.shape[0], patches.shape[1], -1).transpose(0, 2, 1)
        cls = ops.broadcast_to(self.class_embedding[None, None], (patches.shape[0], -1, -1))
        tokens = ops.cat((cls, patches), axis=1) + self.positional_embedding
        return self.transformer(self.ln_pre(tokens))

    def pool(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """[B, K, W] ViT tokens of each clip -> [B, D] latent, not normalised, and [B, queries - 1, D] tokens."""
        pooled = self.ln_post(self.attn_pool(tokens))
        return ops.matmul(pooled[:, 0], self.proj), pooled[:, 1:]


class TextTower(nn.Cell):
    """Causal text transformer with a CLS at the end of the padded context."""

    def __init__(self, config: TextConfig, embed_dim: int, quick_gelu: bool) -> None:
        super().__init__()
        width = config.width
        self.token_embedding = empty(config.vocab_size, width)
        self.cls_emb = empty(width)
        self.positional_embedding = empty(config.context_length + 1, width)
        self.transformer = Transformer(width, config.heads, config.layers, config.mlp_ratio, quick_gelu)
        self.ln_final = layer_norm(width)
        self.text_projection = empty(width, embed_dim)

    def construct(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Encode whole texts.

        Args:
            ids: [B, T] int32, zero-padded.
            mask: [B, 1, T + 1, T + 1] from `text_mask`.

        Returns:
            [B, D] latent of the CLS, not normalised, and [B, T, D] tokens, which enter the decoder un-normed.
        """
        words = ops.gather(self.token_embedding, ids, 0)  # [B, T, D]
        cls = ops.broadcast_to(self.cls_emb[None, None], (ids.shape[0], -1, -1))
        length = ids.shape[1] + 1
        x = self.transformer(ops.cat((words, cls), axis=1) + self.positional_embedding[:length], mask)
        return ops.matmul(self.ln_final(x[:, -1]), self.text_projection), x[:, :-1]


class Decoder(nn.Cell):
    """Self-attention and cross-attention blocks in turn, then the head over the vocabulary."""

    def __init__(self, config: TextConfig, quick_gelu: bool) -> None:
        super().__init__()
        shape = (config.width, config.heads, config.mlp_ratio, quick_gelu)
        self.resblocks = nn.CellList([Block(*shape) for _ in range(config.layers)])
        self.cross_attn = nn.CellList([CrossBlock(*shape) for _ in range(config.layers)])
        self.ln_final = layer_norm(config.width)
        self.text_projection = empty(config.width, config.vocab_size)

    def construct(self, image_tokens: Tensor, text_tokens: Tensor, mask: Tensor) -> Tensor:
        """[B, N, D] image and [B, T, D] text tokens, [T, T] causal mask -> [B, T, V] logits."""
        x = text_tokens
        for block, cross in zip(self.resblocks, self.cross_attn):
            x = cross(block(x, mask), image_tokens)
        return ops.matmul(self.ln_final(x), self.text_projection)


def causal_mask(length: int) -> np.ndarray:
    """[T, T] float32: 0 where a token may look, `HIDDEN` at what comes after it."""
    return np.triu(np.full((length, length), HIDDEN, np.float32), 1)


def text_mask(ids: np.ndarray, pad_id: int) -> np.ndarray:
    """Mask of the text tower as the released weights were trained with it.

    Pads are hidden one position too far to the right (open_clip's `correct_cls_mask=False`): the token after
    a pad is hidden, the first pad and the first token are not.

    Args:
        ids: [B, T] int32, zero-padded.

    Returns:
        [B, 1, T + 1, T + 1] float32, additive; row and column T are the CLS.
    """
    after_pad = np.pad(ids == pad_id, ((0, 0), (1, 0)))[:, None, None, :]  # [B, 1, 1, T + 1]
    return np.minimum(causal_mask(ids.shape[1] + 1), np.where(after_pad, np.float32(HIDDEN), np.float32(0)))
