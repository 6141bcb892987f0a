"""The blocks of one cached decoding step, for every beam of a batch of clips.

Each row writes its key and value into a slot of its own, at `position * beams + beam` of its clip, and no slot ever
moves. When beams change parents the mask changes, not the cache: a row sees just the slots of its own history. Keys
and values of the image stand once per clip.

Shapes: C clips, B beams, H heads, S = max_length * B slots, N image tokens, E = D / H.
"""

from mindspore import Tensor, ops

from .layers import BLOCK, MLP, attend, layer_norm, linear, linear_names, mlp, norm_names, queries, split

# Names of weights in the order in which the functions take them.
LOOK = (*norm_names("ln_1_kv"), *linear_names("attn.k_proj"), *linear_names("attn.v_proj"))
CROSS = (*norm_names("ln_1"), *linear_names("attn.q_proj"), *linear_names("attn.out_proj"), *MLP)

_write = ops.ScatterUpdate()  # in place, also where the cache is an input of the graph


def look(
    image: Tensor,
    heads: int,
    gamma: Tensor,
    beta: Tensor,
    k_weight: Tensor,
    k_bias: Tensor,
    v_weight: Tensor,
    v_bias: Tensor,
) -> tuple[Tensor, Tensor]:
    """[C, N, D] image tokens -> [C, H, N, E] keys and values of one cross-attention. Weights: `LOOK`."""
    context = layer_norm(image, gamma, beta)
    return split(linear(context, k_weight, k_bias), heads), split(linear(context, v_weight, v_bias), heads)


def write_lanes(cache: Tensor, lanes: Tensor, new: Tensor) -> Tensor:
    """Write [K, ...] into lanes [K] of a cache [C, ...], in place."""
    return _write(cache, lanes, new)


def cached_blocks(x: Tensor, slots: Tensor, mask: Tensor, heads: int, quick_gelu: bool, *tensors: Tensor) -> Tensor:
    """Blocks of the text tower, one after the other, for one new token per row.

    Args:
        x: [C, B, D]
        slots: [C * H * B] int32, where this step's keys and values go.
        mask: [C, 1, B, S], added to the scores.
        tensors: For each block keys and values, [C * H * S, E] caches that are written in place, and its `BLOCK`.
    """
    size = 2 + len(BLOCK)
    for at in range(0, len(tensors), size):
        x = cached_block(x, slots, mask, heads, quick_gelu, *tensors[at : at + size])
    return x


def decoder_blocks(x: Tensor, slots: Tensor, mask: Tensor, heads: int, quick_gelu: bool, *tensors: Tensor) -> Tensor:
    """Like `cached_blocks`, each followed by its cross-attention.

    Args:
        tensors: For each pair what `cached_blocks` takes, then the image's keys and values [C, H, N, E] and `CROSS`.
    """
    own = 2 + len(BLOCK)
    size = own + 2 + len(CROSS)
    for at in range(0, len(tensors), size):
        x = cached_block(x, slots, mask, heads, quick_gelu, *tensors[at : at + own])
        x = cross_block(x, heads, quick_gelu, *tensors[at + own : at + size])
    return x


def cached_block(
    x: Tensor, slots: Tensor, mask: Tensor, heads: int, quick_gelu: bool, keys: Tensor, values: Tensor, *weights: Tensor
) -> Tensor:
    gamma, beta, q_weight, q_bias, k_weight, k_bias, v_weight, v_bias, out_weight, out_bias = weights[:10]
    normed, width = layer_norm(x, gamma, beta), keys.shape[-1]
    keys = _write(keys, slots, split(linear(normed, k_weight, k_bias), heads).reshape(-1, width))
    values = _write(values, slots, split(linear(normed, v_weight, v_bias), heads).reshape(-1, width))
    keys, values = keys.reshape(x.shape[0], heads, -1, width), values.reshape(x.shape[0], heads, -1, width)
    x = x + attend(queries(normed, heads, q_weight, q_bias), keys, values, mask, out_weight, out_bias)
    return x + mlp(x, quick_gelu, *weights[10:])


def cross_block(x: Tensor, heads: int, quick_gelu: bool, keys: Tensor, values: Tensor, *weights: Tensor) -> Tensor:
    gamma, beta, q_weight, q_bias, out_weight, out_bias = weights[:6]
    asked = queries(layer_norm(x, gamma, beta), heads, q_weight, q_bias)
    x = x + attend(asked, keys, values, None, out_weight, out_bias)
    return x + mlp(x, quick_gelu, *weights[6:])
