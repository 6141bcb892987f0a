"""What stands around the blocks of CoCa's towers (arXiv 2205.01917): their first and last layers."""

from mindspore import Tensor, ops

from .layers import ATTENTION, attend, layer_norm, linear, norm_names, queries, split

# Names of weights in the order in which the functions take them, under `visual.`, `text.` and `text_decoder.`.
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


def embed_patches(pixels: Tensor, *weights: Tensor) -> Tensor:
    """[N, 3, S, S] frames -> [N, T, W] what enters the ViT, the CLS first. Weights: `PATCHES`."""
    kernel, cls, positions, gamma, beta = weights  # the kernel's stride is its size: it is a matrix
    frames, channels, size = pixels.shape[0], pixels.shape[1], kernel.shape[-1]
    side = pixels.shape[2] // size  # patches
    grid = pixels.reshape(frames, channels, side, size, side, size).transpose(0, 2, 4, 1, 3, 5)
    patches = ops.matmul(grid.reshape(frames, side * side, -1), kernel.reshape(kernel.shape[0], -1).T)
    cls = ops.broadcast_to(cls[None, None], (frames, -1, -1))
    return layer_norm(ops.cat((cls, patches), axis=1) + positions, gamma, beta)


def pool(tokens: Tensor, heads: int, *weights: Tensor) -> tuple[Tensor, Tensor]:
    """Learned queries read the ViT tokens of a clip, however many frames it has. Weights: `POOLER`.

    [B, K, W] ViT tokens, which no norm has passed -> [B, D] latent, not normalized, and [B, queries - 1, D] tokens.
    """
    q_gamma, q_beta, k_gamma, k_beta = weights[:4]
    q_weight, q_bias, k_weight, k_bias, v_weight, v_bias, out_weight, out_bias = weights[4:12]
    gamma, beta, query, proj = weights[12:]
    asked = queries(layer_norm(query, q_gamma, q_beta)[None], heads, q_weight, q_bias)  # the same for every clip
    asked = ops.broadcast_to(asked, (tokens.shape[0], -1, -1, -1))
    context = layer_norm(tokens, k_gamma, k_beta)
    keys, values = split(linear(context, k_weight, k_bias), heads), split(linear(context, v_weight, v_bias), heads)
    pooled = layer_norm(attend(asked, keys, values, None, out_weight, out_bias), gamma, beta)
    return ops.matmul(pooled[:, 0], proj), pooled[:, 1:]


def project(x: Tensor, gamma: Tensor, beta: Tensor, projection: Tensor) -> Tensor:
    """The last layer of the text tower and of the decoder: [..., D] -> [rows, out]. Weights: `LAST`."""
    return ops.matmul(layer_norm(x, gamma, beta).reshape(-1, x.shape[-1]), projection)
