"""A whole caption at once, as training sees it: every token is given, and after each the next is asked for.

Each function gives one tensor, so that `training.tape` can go back through it. The image is one tensor too,
[B, Q, D]: the latent in row 0 and behind it the tokens that the decoder looks at.
"""

from mindspore import Tensor, ops

from .decode import CROSS, LOOK, cross_block, look
from .layers import BLOCK, block
from .towers import pool, project

# Names of weights in the order in which the functions take them.
WORDS = ("token_embedding", "positional_embedding")
WORDS_AND_CLS = (*WORDS, "cls_emb")
LOOKING = (*LOOK, *CROSS)


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
    """[B, L + 1, D] -> [B, D] latents of the texts, not normalised. Weights: `towers.LAST`."""
    return project(x[:, -1], *weights)


def decoder_layer(x: Tensor, image: Tensor, mask: Tensor, heads: int, quick_gelu: bool, *weights: Tensor) -> Tensor:
    """Self-attention, then cross-attention to the image [B, Q, D]. Weights: `BLOCK`, then `LOOKING`."""
    own, at = len(BLOCK), len(BLOCK) + len(LOOK)
    x = block(x, mask, heads, quick_gelu, *weights[:own])
    keys, values = look(image[:, 1:], heads, *weights[own:at])
    return cross_block(x, heads, quick_gelu, keys, values, *weights[at:])
