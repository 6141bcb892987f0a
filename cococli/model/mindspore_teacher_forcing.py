"""Teacher forcing in MindSpore: all tokens of a caption at once, each predicting the next one.

The image is one tensor, [B, Q, D]: the latent in row 0, then the tokens that the decoder attends to. Layers come in
parts that begin and end at matrix products: `training.tape` keeps the outputs of a part and recomputes its inside.
"""

from mindspore import Tensor, ops

from .mindspore_network import attend, cross_keys_values, layer_norm, linear, mlp_out, pool, project, queries

# Names of weights in the order in which the functions take them.
EMBEDDINGS = ("token_embedding", "positional_embedding")
EMBEDDINGS_AND_CLS = (*EMBEDDINGS, "cls_emb")

_scores = ops.BatchMatMul(transpose_b=True)
_weighted = ops.BatchMatMul()
_softmax = ops.Softmax(-1)


def pool_clips(tokens: Tensor, frames: int, heads: int, *weights: Tensor) -> Tensor:
    """Pool ViT tokens [B * F, T, W] to images [B, Q, D], the F frames of a clip as one. Weights: `POOLER`."""
    latents, pooled = pool(tokens.reshape(-1, frames * tokens.shape[1], tokens.shape[2]), heads, *weights)
    return ops.cat((latents[:, None], pooled), axis=1)


def embed_tokens(ids: Tensor, table: Tensor, positions: Tensor) -> Tensor:
    """Embed tokens: [B, L] ids -> [B, L, D]. Weights: `EMBEDDINGS`."""
    return ops.gather(table, ids, 0) + positions[: ids.shape[1]]


def embed_tokens_and_cls(ids: Tensor, table: Tensor, positions: Tensor, cls: Tensor) -> Tensor:
    """Embed tokens and the CLS, which is last and has the last position: [B, L] ids -> [B, L + 1, D].

    Weights: `EMBEDDINGS_AND_CLS`.
    """
    last = ops.broadcast_to((cls + positions[-1])[None, None], (ids.shape[0], -1, -1))
    return ops.cat((embed_tokens(ids, table, positions), last), axis=1)


def drop_last_and_cls(x: Tensor) -> Tensor:
    """Keep the tokens that are followed by another one: [B, L + 1, D] -> [B, L - 1, D]."""
    return x[:, :-2]


def project_cls(x: Tensor, *weights: Tensor) -> Tensor:
    """Project the CLS to text latents, not normalized: [B, L + 1, D] -> [B, D]. Weights: `LAST`."""
    return project(x[:, -1], *weights)


def add_attention(
    x: Tensor, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, out_weight: Tensor, out_bias: Tensor
) -> Tensor:
    """Add attention to [B, L, D]. Queries, keys and values are as in `attend`."""
    return x + attend(query, keys, values, mask, out_weight, out_bias)


def add_mlp_out(x: Tensor, hidden: Tensor, quick_gelu: bool, weight: Tensor, bias: Tensor) -> Tensor:
    """Add the MLP to [B, L, D]; `hidden` is its first half."""
    return x + mlp_out(hidden, quick_gelu, weight, bias)


def cross_queries(x: Tensor, heads: int, gamma: Tensor, beta: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return queries of cross-attention: [B, L, D] -> [B, H, L, E]."""
    return queries(layer_norm(x, gamma, beta), heads, weight, bias)


def image_keys_values(images: Tensor, heads: int, *weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return keys and values of cross-attention to images [B, Q, D]. Weights: `CROSS_CONTEXT`."""
    return cross_keys_values(images[:, 1:], heads, *weights)


def standardize(images: Tensor) -> Tensor:
    """Standardize image tokens, [B, Q, D] -> [B, N, D], the part that all layer norms share."""
    width = images.shape[-1]
    return layer_norm(images[:, 1:], ops.ones(width, images.dtype), ops.zeros(width, images.dtype))


# Cross-attention to frozen images, with the weights of keys and values applied to the text, which is shorter:
# q . (K n) = (q K) . n, and the weighted sum of V n is V times the weighted sum of n.


def frozen_scores(query: Tensor, tokens: Tensor, gamma: Tensor, beta: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return scores [B, H, L, N] of queries [B, H, L, E] for standardized images [B, N, D], with the weights of keys.

    beta and bias add the same number to all scores of a row, which the softmax ignores.
    """
    by_head = _multiply_heads(query, weight.reshape(query.shape[1], -1, weight.shape[1])) * gamma  # [B, H, L, D]
    return _scores(by_head.reshape(by_head.shape[0], -1, by_head.shape[-1]), tokens).reshape(*query.shape[:3], -1)


def frozen_mix(scores: Tensor, tokens: Tensor) -> Tensor:
    """Mix standardized images [B, N, D] by the softmax of scores [B, H, L, N] -> [B, H, L, D]."""
    share = _softmax(scores)
    mixed = _weighted(share.reshape(share.shape[0], -1, share.shape[-1]), tokens)
    return mixed.reshape(*scores.shape[:3], -1)


def add_frozen_mix(x: Tensor, mixed: Tensor, *weights: Tensor) -> Tensor:
    """Add cross-attention to [B, L, D]. Weights: layer norm, values and output."""
    gamma, beta, v_weight, v_bias, out_weight, out_bias = weights
    heads = mixed.shape[1]
    values = _multiply_heads(mixed * gamma + beta, v_weight.reshape(heads, -1, v_weight.shape[1]).transpose(0, 2, 1))
    rows = values.transpose(0, 2, 1, 3).reshape(x.shape[0], x.shape[1], -1) + v_bias
    return x + linear(rows, out_weight, out_bias)


def _multiply_heads(x: Tensor, matrices: Tensor) -> Tensor:
    """Multiply [B, H, L, I] by the matrix of each head [H, I, O] -> [B, H, L, O]."""
    batch, heads, length, width = x.shape
    rows = x.transpose(1, 0, 2, 3).reshape(heads, batch * length, width)
    return _weighted(rows, matrices).reshape(heads, batch, length, -1).transpose(1, 0, 2, 3)
