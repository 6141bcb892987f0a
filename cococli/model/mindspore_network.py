"""The CoCa network (arXiv 2205.01917) in MindSpore, as functions of inputs and weights: maths only.

Weights are inputs of a graph, not parts of it, so all layers of a tower share one compiled graph of a layer.

A decoding step writes the keys and values of its tokens into free entries of a cache, and no entry ever moves: when
beams change parents the mask changes, so that each sequence attends to the entries of its own history.

Shapes: B batch, L tokens, D width, H heads, E = D / H; in decoding C clips, B beams, S cache entries, N image tokens.
"""

from mindspore import Tensor, ops

EPSILON = 1e-5  # of every layer norm


def norm_names(name: str) -> tuple[str, ...]:
    return f"{name}.gamma", f"{name}.beta"


def linear_names(name: str) -> tuple[str, ...]:
    return f"{name}.weight", f"{name}.bias"


# Names of weights in the order in which functions take them, below the name of a layer, `visual.`, `text.` or
# `text_decoder.`.
ATTENTION = tuple(name for part in ("q", "k", "v", "out") for name in linear_names(f"attn.{part}_proj"))
MLP = (*norm_names("ln_2"), *linear_names("mlp.c_fc"), *linear_names("mlp.c_proj"))
BLOCK = (*norm_names("ln_1"), *ATTENTION, *MLP)
CROSS_CONTEXT = (*norm_names("ln_1_kv"), *linear_names("attn.k_proj"), *linear_names("attn.v_proj"))
CROSS = (*norm_names("ln_1"), *linear_names("attn.q_proj"), *linear_names("attn.out_proj"), *MLP)
PATCHES = ("conv1.weight", "class_embedding", "positional_embedding", *norm_names("ln_pre"))
POOLER = (
    *norm_names("attn_pool.ln_q"),
    *norm_names("attn_pool.ln_k"),
    *(f"attn_pool.{name}" for name in ATTENTION),
    *norm_names("ln_post"),
    "attn_pool.query",
    "proj",
)
LAST = (*norm_names("ln_final"), "text_projection")

_matmul = ops.MatMul(transpose_b=True)
_scores = ops.BatchMatMul(transpose_b=True)
_weighted = ops.BatchMatMul()
_softmax = ops.Softmax(-1)
_layer_norm = ops.LayerNorm(begin_norm_axis=-1, begin_params_axis=-1, epsilon=EPSILON)
_write = ops.ScatterUpdate()  # in place, also where the cache is an input of the graph


def layer_norm(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    return _layer_norm(x, gamma, beta)[0]


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x @ weight.T + bias, the weight [out, in] as open_clip stores it."""
    rows = _matmul(x.reshape(-1, x.shape[-1]), weight) + bias
    return rows.reshape(*x.shape[:-1], weight.shape[0])


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Split heads: [B, L, D] -> [B, H, L, E]."""
    return x.reshape(x.shape[0], x.shape[1], heads, -1).transpose(0, 2, 1, 3)


def queries(x: Tensor, heads: int, weight: Tensor, bias: Tensor) -> Tensor:
    """Return scaled queries, [B, L, D] -> [B, H, L, E]. On CPUs three matrices are faster than one."""
    return split_heads(linear(x, weight, bias) * (x.shape[-1] // heads) ** -0.5, heads)


def attend(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, out_weight: Tensor, out_bias: Tensor
) -> Tensor:
    """Attend with queries [B, H, Q, E] to keys and values [B, H, K, E] -> [B, Q, D]; `mask` is added to the scores."""
    scores = _scores(queries, keys)  # [B, H, Q, K]
    if mask is not None:
        scores = scores + mask
    mixed = _weighted(_softmax(scores), values).transpose(0, 2, 1, 3)  # [B, Q, H, E]
    return linear(mixed.reshape(mixed.shape[0], mixed.shape[1], -1), out_weight, out_bias)


def attention_inputs(x: Tensor, heads: int, *weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values, [B, L, D] -> [B, H, L, E] each. Weights: `BLOCK`'s up to the values'."""
    gamma, beta, q_weight, q_bias, k_weight, k_bias, v_weight, v_bias = weights
    normed = layer_norm(x, gamma, beta)
    keys, values = linear(normed, k_weight, k_bias), linear(normed, v_weight, v_bias)
    return queries(normed, heads, q_weight, q_bias), split_heads(keys, heads), split_heads(values, heads)


def mlp_in(x: Tensor, gamma: Tensor, beta: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Apply the first half of an MLP: layer norm and a matrix."""
    return linear(layer_norm(x, gamma, beta), weight, bias)


def mlp_out(hidden: Tensor, quick_gelu: bool, weight: Tensor, bias: Tensor) -> Tensor:
    """Apply the second half of an MLP: GELU, exact or OpenAI's quick one, and a matrix."""
    hidden = hidden * ops.sigmoid(1.702 * hidden) if quick_gelu else ops.gelu(hidden, approximate="none")
    return linear(hidden, weight, bias)


def mlp(x: Tensor, quick_gelu: bool, *weights: Tensor) -> Tensor:
    """Layer norm, then two matrices with GELU between them. Weights: `MLP`."""
    return mlp_out(mlp_in(x, *weights[:4]), quick_gelu, *weights[4:])


def block(x: Tensor, mask: Tensor | None, heads: int, quick_gelu: bool, *weights: Tensor) -> Tensor:
    """Apply a pre-norm transformer block with self-attention, [B, L, D] -> [B, L, D]. Weights: `BLOCK`."""
    x = x + attend(*attention_inputs(x, heads, *weights[:8]), mask, *weights[8:10])
    return x + mlp(x, quick_gelu, *weights[10:])


# First and last layers of the towers.


def embed_patches(pixels: Tensor, *weights: Tensor) -> Tensor:
    """Embed the patches of frames, [N, 3, S, S] -> [N, T, W], the CLS first. Weights: `PATCHES`."""
    kernel, cls, positions, gamma, beta = weights  # the kernel's stride is its size: it is a matrix
    frames, channels, size = pixels.shape[0], pixels.shape[1], kernel.shape[-1]
    side = pixels.shape[2] // size
    grid = pixels.reshape(frames, channels, side, size, side, size).transpose(0, 2, 4, 1, 3, 5)
    patches = ops.matmul(grid.reshape(frames, side * side, -1), kernel.reshape(kernel.shape[0], -1).T)
    cls = ops.broadcast_to(cls[None, None], (frames, -1, -1))
    return layer_norm(ops.cat((cls, patches), axis=1) + positions, gamma, beta)


def pool(tokens: Tensor, heads: int, *weights: Tensor) -> tuple[Tensor, Tensor]:
    """Let learned queries read the ViT tokens of a clip, however many frames it has. Weights: `POOLER`.

    [B, K, W] ViT tokens, before any norm -> [B, D] latent, not normalized, and [B, queries - 1, D] tokens.
    """
    q_gamma, q_beta, k_gamma, k_beta = weights[:4]
    q_weight, q_bias, k_weight, k_bias, v_weight, v_bias, out_weight, out_bias = weights[4:12]
    gamma, beta, query, proj = weights[12:]
    query = queries(layer_norm(query, q_gamma, q_beta)[None], heads, q_weight, q_bias)  # the same for every clip
    query = ops.broadcast_to(query, (tokens.shape[0], -1, -1, -1))
    context = layer_norm(tokens, k_gamma, k_beta)
    keys = split_heads(linear(context, k_weight, k_bias), heads)
    values = split_heads(linear(context, v_weight, v_bias), heads)
    pooled = layer_norm(attend(query, keys, values, None, out_weight, out_bias), gamma, beta)
    return ops.matmul(pooled[:, 0], proj), pooled[:, 1:]


def project(x: Tensor, gamma: Tensor, beta: Tensor, projection: Tensor) -> Tensor:
    """Apply the last layer of the text tower or the decoder: [..., D] -> [rows, out]. Weights: `LAST`."""
    return ops.matmul(layer_norm(x, gamma, beta).reshape(-1, x.shape[-1]), projection)


# One decoding step.


def cross_keys_values(image: Tensor, heads: int, *weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return keys and values [C, H, N, E] of cross-attention to image tokens [C, N, D]. Weights: `CROSS_CONTEXT`."""
    gamma, beta, k_weight, k_bias, v_weight, v_bias = weights
    context = layer_norm(image, gamma, beta)
    return split_heads(linear(context, k_weight, k_bias), heads), split_heads(linear(context, v_weight, v_bias), heads)


def write_slots(cache: Tensor, slots: Tensor, new: Tensor) -> Tensor:
    """Write [K, ...] into slots [K] of a cache [C, ...], in place."""
    return _write(cache, slots, new)


def cached_blocks(x: Tensor, entries: Tensor, mask: Tensor, heads: int, quick_gelu: bool, *tensors: Tensor) -> Tensor:
    """Apply consecutive blocks of the text tower to one new token per sequence.

    Args:
        x: [C, B, D]
        entries: [C * H * B] int32, cache entries for the keys and values of this step.
        mask: [C, 1, B, S], added to the scores.
        tensors: For each block keys and values, [C * H * S, E] caches that are written in place, and its `BLOCK`.
    """
    size = 2 + len(BLOCK)
    for start in range(0, len(tensors), size):
        x = cached_block(x, entries, mask, heads, quick_gelu, *tensors[start : start + size])
    return x


def decoder_blocks(x: Tensor, entries: Tensor, mask: Tensor, heads: int, quick_gelu: bool, *tensors: Tensor) -> Tensor:
    """Apply blocks like `cached_blocks`, each followed by its cross-attention.

    Args:
        tensors: For each pair the tensors of `cached_blocks`, the image's keys and values [C, H, N, E], and `CROSS`.
    """
    own = 2 + len(BLOCK)
    size = own + 2 + len(CROSS)
    for start in range(0, len(tensors), size):
        x = cached_block(x, entries, mask, heads, quick_gelu, *tensors[start : start + own])
        x = cross_block(x, heads, quick_gelu, *tensors[start + own : start + size])
    return x


def cached_block(
    x: Tensor,
    entries: Tensor,
    mask: Tensor,
    heads: int,
    quick_gelu: bool,
    keys: Tensor,
    values: Tensor,
    *weights: Tensor,
) -> Tensor:
    new_queries, new_keys, new_values = attention_inputs(x, heads, *weights[:8])
    width = keys.shape[-1]
    keys = _write(keys, entries, new_keys.reshape(-1, width)).reshape(x.shape[0], heads, -1, width)
    values = _write(values, entries, new_values.reshape(-1, width)).reshape(x.shape[0], heads, -1, width)
    x = x + attend(new_queries, keys, values, mask, *weights[8:10])
    return x + mlp(x, quick_gelu, *weights[10:])


def cross_block(x: Tensor, heads: int, quick_gelu: bool, keys: Tensor, values: Tensor, *weights: Tensor) -> Tensor:
    gamma, beta, q_weight, q_bias = weights[:4]
    query = queries(layer_norm(x, gamma, beta), heads, q_weight, q_bias)
    x = x + attend(query, keys, values, None, *weights[4:6])
    return x + mlp(x, quick_gelu, *weights[6:])
