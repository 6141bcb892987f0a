"""The blocks that both towers and the decoder are made of, as functions of their input and their weights.

Weights are inputs of a graph, not parts of it: all layers of a tower run through one graph of a layer, compiled in
some tenths of a second. A graph of a whole vit-l-14 takes 6 seconds and 1.6 GB more memory.
"""

from mindspore import Tensor, ops

EPSILON = 1e-5  # of every LayerNorm


def norm_names(name: str) -> tuple[str, ...]:
    return f"{name}.gamma", f"{name}.beta"


def linear_names(name: str) -> tuple[str, ...]:
    return f"{name}.weight", f"{name}.bias"


# Names of weights in the order in which a function takes them.
ATTENTION = tuple(name for part in ("q", "k", "v", "out") for name in linear_names(f"attn.{part}_proj"))
MLP = (*norm_names("ln_2"), *linear_names("mlp.c_fc"), *linear_names("mlp.c_proj"))
BLOCK = (*norm_names("ln_1"), *ATTENTION, *MLP)

_matmul = ops.MatMul(transpose_b=True)
_scores = ops.BatchMatMul(transpose_b=True)
_weighted = ops.BatchMatMul()
_softmax = ops.Softmax(-1)
_layer_norm = ops.LayerNorm(begin_norm_axis=-1, begin_params_axis=-1, epsilon=EPSILON)


def layer_norm(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    return _layer_norm(x, gamma, beta)[0]


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x @ weight.T + bias, the weight [out, in] as open_clip stores it."""
    rows = _matmul(x.reshape(-1, x.shape[-1]), weight) + bias
    return rows.reshape(*x.shape[:-1], weight.shape[0])


def split(x: Tensor, heads: int) -> Tensor:
    """[B, L, D] -> [B, H, L, D/H]"""
    return x.reshape(x.shape[0], x.shape[1], heads, -1).transpose(0, 2, 1, 3)


def queries(x: Tensor, heads: int, weight: Tensor, bias: Tensor) -> Tensor:
    """[B, L, D] -> [B, H, L, D/H], scaled. Three matrices are faster on CPU than open_clip's fused one."""
    return split(linear(x, weight, bias) * (x.shape[-1] // heads) ** -0.5, heads)


def attend(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, out_weight: Tensor, out_bias: Tensor
) -> Tensor:
    """[B, H, Q, D/H] queries over [B, H, K, D/H] -> [B, Q, D]; `mask` is added to the scores."""
    scores = _scores(queries, keys)  # [B, H, Q, K]
    if mask is not None:
        scores = scores + mask
    mixed = _weighted(_softmax(scores), values).transpose(0, 2, 1, 3)  # [B, Q, H, D/H]
    return linear(mixed.reshape(mixed.shape[0], mixed.shape[1], -1), out_weight, out_bias)


def attention_inputs(x: Tensor, heads: int, *weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[B, L, D] -> queries, keys and values, [B, H, L, D/H] each. Weights: `BLOCK`'s up to the values'."""
    gamma, beta, q_weight, q_bias, k_weight, k_bias, v_weight, v_bias = weights
    normed = layer_norm(x, gamma, beta)
    keys, values = split(linear(normed, k_weight, k_bias), heads), split(linear(normed, v_weight, v_bias), heads)
    return queries(normed, heads, q_weight, q_bias), keys, values


def widen(x: Tensor, gamma: Tensor, beta: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The first half of an MLP: a norm and a matrix."""
    return linear(layer_norm(x, gamma, beta), weight, bias)


def narrow(hidden: Tensor, quick_gelu: bool, weight: Tensor, bias: Tensor) -> Tensor:
    """The second half of an MLP: a GELU, the exact one or OpenAI's quick one, and a matrix."""
    hidden = hidden * ops.sigmoid(1.702 * hidden) if quick_gelu else ops.gelu(hidden, approximate="none")
    return linear(hidden, weight, bias)


def mlp(x: Tensor, quick_gelu: bool, *weights: Tensor) -> Tensor:
    """A norm, then two matrices with a GELU between. Weights: `MLP`."""
    return narrow(widen(x, *weights[:4]), quick_gelu, *weights[4:])


def block(x: Tensor, mask: Tensor | None, heads: int, quick_gelu: bool, *weights: Tensor) -> Tensor:
    """A pre-norm transformer block with self-attention, [B, L, D] -> [B, L, D]. Weights: `BLOCK`."""
    x = x + attend(*attention_inputs(x, heads, *weights[:8]), mask, *weights[8:10])
    return x + mlp(x, quick_gelu, *weights[10:])
