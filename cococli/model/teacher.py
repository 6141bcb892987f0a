"""A whole caption at once, as training sees it: every token is given, and after each the next is asked for.

The image is one tensor, [B, Q, D]: the latent in row 0 and behind it the tokens that the decoder looks at. Layers come
in parts that no matrix product stands before another in: `training.tape` keeps what a part gives, and computes what
is inside again.
"""

from mindspore import Tensor, ops

from .decode import look
from .layers import attend, layer_norm, linear, narrow, queries
from .towers import pool, project

# Names of weights in the order in which the functions take them.
WORDS = ("token_embedding", "positional_embedding")
WORDS_AND_CLS = (*WORDS, "cls_emb")

_scores = ops.BatchMatMul(transpose_b=True)
_weighted = ops.BatchMatMul()
_softmax = ops.Softmax(-1)


def pool_clips(tokens: Tensor, frames: int, heads: int, *weights: Tensor) -> Tensor:
    """[B * F, T, W] ViT tokens -> [B, Q, D] images, the F frames of a clip read as one. Weights: `towers.POOLER`."""
    latents, pooled = pool(tokens.reshape(-1, frames * tokens.shape[1], tokens.shape[2]), heads, *weights)
    return ops.cat((latents[:, None], pooled), axis=1)


def embed_words(ids: Tensor, table: Tensor, positions: Tensor) -> Tensor:
    """[B, L] ids -> [B, L, D]. Weights: `WORDS`."""
    return ops.gather(table, ids, 0) + positions[: ids.shape[1]]


def embed_words_and_cls(ids: Tensor, table: Tensor, positions: Tensor, cls: Tensor) -> Tensor:
    """[B, L] ids -> [B, L + 1, D], the CLS last and at the last position of all. Weights: `WORDS_AND_CLS`."""
    last = ops.broadcast_to((cls + positions[-1])[None, None], (ids.shape[0], -1, -1))
    return ops.cat((embed_words(ids, table, positions), last), axis=1)


def without_last_and_cls(x: Tensor) -> Tensor:
    """[B, L + 1, D] -> [B, L - 1, D]: the tokens after which another one comes."""
    return x[:, :-2]


def project_cls(x: Tensor, *weights: Tensor) -> Tensor:
    """[B, L + 1, D] -> [B, D] latents of the texts, not normalized. Weights: `towers.LAST`."""
    return project(x[:, -1], *weights)


def add_attention(
    x: Tensor, asked: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, out_weight: Tensor, out_bias: Tensor
) -> Tensor:
    """[B, L, D] and what attention adds to it. Queries, keys and values as in `layers.attend`."""
    return x + attend(asked, keys, values, mask, out_weight, out_bias)


def add_narrowed(x: Tensor, hidden: Tensor, quick_gelu: bool, weight: Tensor, bias: Tensor) -> Tensor:
    """[B, L, D] and what the MLP adds to it, whose first half has made `hidden`."""
    return x + narrow(hidden, quick_gelu, weight, bias)


def ask(x: Tensor, heads: int, gamma: Tensor, beta: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """[B, L, D] -> [B, H, L, D/H] queries of cross-attention."""
    return queries(layer_norm(x, gamma, beta), heads, weight, bias)


def look_at(images: Tensor, heads: int, *weights: Tensor) -> tuple[Tensor, Tensor]:
    """[B, Q, D] images -> keys and values of cross-attention. Weights: `LOOK`."""
    return look(images[:, 1:], heads, *weights)


def normalized(images: Tensor) -> Tensor:
    """[B, Q, D] images -> [B, N, D] their tokens, of mean 0 and variance 1: what all norms of `look` have in common."""
    width = images.shape[-1]
    return layer_norm(images[:, 1:], ops.ones(width, images.dtype), ops.zeros(width, images.dtype))


# Cross-attention to images that do not change, with the weights of keys and values moved over to the text, which is
# shorter: q . (K n) = (q K) . n, and the weighted sum of V n is V times the weighted sum of n.


def scores_of(asked: Tensor, tokens: Tensor, gamma: Tensor, beta: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """[B, H, L, D/H] queries and `normalized` images [B, N, D] -> [B, H, L, N], the weights those of the keys.

    beta and bias add one number to all scores of a row, which the softmax after it does not see.
    """
    by_head = _of_heads(asked, weight.reshape(asked.shape[1], -1, weight.shape[1])) * gamma  # [B, H, L, D]
    return _scores(by_head.reshape(by_head.shape[0], -1, by_head.shape[-1]), tokens).reshape(*asked.shape[:3], -1)


def mix(scores: Tensor, tokens: Tensor) -> Tensor:
    """[B, H, L, N] and [B, N, D] -> [B, H, L, D]"""
    share = _softmax(scores)
    mixed = _weighted(share.reshape(share.shape[0], -1, share.shape[-1]), tokens)
    return mixed.reshape(*scores.shape[:3], -1)


def add_mixed(x: Tensor, mixed: Tensor, *weights: Tensor) -> Tensor:
    """[B, L, D] and what cross-attention adds to it. Weights: the keys' norm, the values, then what is last."""
    gamma, beta, v_weight, v_bias, out_weight, out_bias = weights
    heads = mixed.shape[1]
    values = _of_heads(mixed * gamma + beta, v_weight.reshape(heads, -1, v_weight.shape[1]).transpose(0, 2, 1))
    rows = values.transpose(0, 2, 1, 3).reshape(x.shape[0], x.shape[1], -1) + v_bias
    return x + linear(rows, out_weight, out_bias)


def _of_heads(x: Tensor, matrices: Tensor) -> Tensor:
    """[B, H, L, I] times a matrix of each head [H, I, O] -> [B, H, L, O]"""
    batch, heads, length, width = x.shape
    rows = x.transpose(1, 0, 2, 3).reshape(heads, batch * length, width)
    return _weighted(rows, matrices).reshape(heads, batch, length, -1).transpose(1, 0, 2, 3)
