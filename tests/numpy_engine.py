"""CoCa in plain numpy without caches: the reference for faster engines and the search.

The text mask, as open_clip's `_build_additive_mask` has it since 3.0 (`correct_cls_mask=False`): besides the causal
mask, key k is hidden from **every** row, not from the CLS row only, when the token to its left, text[k - 1], is pad
(id 0). Checked on the goldens: this mask gives `text_tokens` at pad rows too; hiding keys from the CLS row alone
(open_clip 2.x) gives the same `text_latent` and the same tokens up to one position after EOT, but other pad rows.
Pads come only after EOT, so for captioning the two masks differ in one case: an id 0 inside a caption ("!" glued to
a following sign, as in "!("). Then the key at the *next* position is hidden from itself and from all later rows of
the unimodal text encoder (not of the decoder), and a cached engine has to hide it as well to equal the oracle.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy.special import erf, softmax

from cococli.catalog import CocaConfig
from cococli.engines.base import ClipFeatures, Scores, top_k_scores
from cococli.model.arrays import normalize

Parameters = Mapping[str, np.ndarray]


def from_open_clip(state: Parameters) -> dict[str, np.ndarray]:
    """open_clip's state dict under this program's parameter names: attention split, LayerNorm gamma and beta."""
    parameters: dict[str, np.ndarray] = {}
    for name, value in state.items():
        value = np.asarray(value, np.float32)
        owner, _, leaf = name.rpartition(".")
        if leaf in ("in_proj_weight", "in_proj_bias"):
            for letter, part in zip("qkv", np.split(value, 3), strict=True):
                parameters[f"{owner}.{letter}_proj.{leaf.removeprefix('in_proj_')}"] = part
        elif leaf in ("q_proj_weight", "k_proj_weight", "v_proj_weight"):
            parameters[f"{owner}.{leaf.replace('_weight', '.weight')}"] = value
        elif owner.rpartition(".")[2].startswith("ln_"):
            parameters[f"{owner}.{'gamma' if leaf == 'weight' else 'beta'}"] = value
        elif name == "text.token_embedding.weight":
            parameters["text.token_embedding"] = value
        else:
            parameters[name] = value
    return parameters


@dataclass
class PrefixState:
    """The clip of each slot and the ids so far."""

    slots: int
    beams: int
    top_k: int
    tokens: dict[int, np.ndarray] = field(default_factory=dict)  # [N, D]
    ids: dict[int, np.ndarray] = field(default_factory=dict)  # [beams, position] int32


class NumpyEngine:
    """The engine interface in float32 numpy; every step computes the whole prefix again."""

    def __init__(self, config: CocaConfig, parameters: Parameters) -> None:
        self.config = config
        self.parameters = {name: np.asarray(value, np.float32) for name, value in parameters.items()}

    # The engine interface.

    def encode_clips(self, pixels: np.ndarray, pool: str = "joint") -> ClipFeatures:
        pixels = normalize(pixels, self.config.preprocess)
        clips, frames = pixels.shape[:2]
        patches = self.vision_tokens(pixels.reshape(-1, *pixels.shape[2:]))  # [B*F, N, W]
        if pool == "joint":
            pooled = self.pool(patches.reshape(clips, -1, patches.shape[-1]))
        else:
            pooled = self.pool(patches).reshape(clips, frames, -1, self.config.embed_dim).mean(axis=1)
        return ClipFeatures(normalized(pooled[:, 0] @ self["visual.proj"]), pooled[:, 1:])

    def encode_texts(self, ids: np.ndarray) -> np.ndarray:
        return self.text(ids)[0]

    def begin(self, slots: int, beams: int, max_length: int, top_k: int = 1) -> PrefixState:
        return PrefixState(slots, beams, top_k)

    def admit(self, state: PrefixState, slot: int, tokens: np.ndarray) -> None:
        state.tokens[slot], state.ids[slot] = tokens, np.zeros((state.beams, 0), np.int32)

    def step(self, state: PrefixState, slots: np.ndarray, ids: np.ndarray, parents: np.ndarray) -> Scores:
        logits = []
        for slot, new, continued in zip(slots.tolist(), ids, parents, strict=True):
            state.ids[slot] = np.column_stack([state.ids[slot][continued], new]).astype(np.int32)
            logits.append(self.logits(np.repeat(state.tokens[slot][None], state.beams, axis=0), state.ids[slot])[:, -1])
        return top_k_scores(np.concatenate(logits), state.top_k)

    def resize(self, state: PrefixState, kept: np.ndarray, slots: int) -> PrefixState:
        tokens, ids = ({at: part[slot] for at, slot in enumerate(kept.tolist())} for part in (state.tokens, state.ids))
        return PrefixState(slots, state.beams, state.top_k, tokens, ids)

    # The network. R rows, T text tokens, N image tokens, D = embed_dim, W = vision width.

    def vision_tokens(self, pixels: np.ndarray) -> np.ndarray:
        """[R, 3, S, S] -> [R, patches + 1, W]: a ViT with no final norm."""
        vision = self.config.vision
        side, patch = vision.image_size // vision.patch_size, vision.patch_size
        patches = pixels.reshape(-1, 3, side, patch, side, patch).transpose(0, 2, 4, 1, 3, 5)
        x = patches.reshape(len(pixels), side * side, -1) @ self["visual.conv1.weight"].reshape(vision.width, -1).T
        x = np.concatenate([np.tile(self["visual.class_embedding"], (len(x), 1, 1)), x], axis=1)
        x = self.norm(x + self["visual.positional_embedding"], "visual.ln_pre")
        for layer in range(vision.layers):
            x = self.block(x, f"visual.transformer.resblocks.{layer}", vision.heads)
        return x

    def pool(self, x: np.ndarray) -> np.ndarray:
        """[R, any number of ViT tokens, W] -> [R, queries, D]."""
        keys = self.norm(x, "visual.attn_pool.ln_k")
        queries = self.norm(self["visual.attn_pool.query"], "visual.attn_pool.ln_q")
        queries = np.tile(queries, (len(x), 1, 1))
        pooled = self.attention(queries, keys, "visual.attn_pool.attn", self.config.vision.pooler_heads)
        return self.norm(pooled, "visual.ln_post")

    def text(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """[R, T] ids -> embedding [R, D], L2-normalized, and tokens [R, T, D] as the decoder reads them."""
        cls = np.tile(self["text.cls_emb"], (len(ids), 1, 1))
        x = np.concatenate([self["text.token_embedding"][ids], cls], axis=1)
        length = x.shape[1]
        x = x + self["text.positional_embedding"][:length]
        hidden = np.column_stack([np.zeros(len(ids), bool), ids == self.config.pad_id])  # key k by token k - 1
        mask = causal(length) | hidden[:, None, None, :]
        for layer in range(self.config.text.layers):
            x = self.block(x, f"text.transformer.resblocks.{layer}", self.config.text.heads, mask)
        embedding = self.norm(x[:, -1], "text.ln_final") @ self["text.text_projection"]
        return normalized(embedding), x[:, :-1]

    def logits(self, tokens: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """Image tokens [R, N, D] and ids [R, T] -> logits [R, T, V] of each next token."""
        x = self.text(ids)[1]
        heads = self.config.decoder.heads
        for layer in range(self.config.decoder.layers):
            x = self.block(x, f"text_decoder.resblocks.{layer}", heads, causal(x.shape[1]))
            x = self.cross_block(x, tokens, f"text_decoder.cross_attn.{layer}", heads)
        return self.norm(x, "text_decoder.ln_final") @ self["text_decoder.text_projection"]

    # Its parts.

    def __getitem__(self, name: str) -> np.ndarray:
        return self.parameters[name]

    def block(self, x: np.ndarray, name: str, heads: int, mask: np.ndarray | None = None) -> np.ndarray:
        inner = self.norm(x, f"{name}.ln_1")
        x = x + self.attention(inner, inner, f"{name}.attn", heads, mask)
        return x + self.mlp(self.norm(x, f"{name}.ln_2"), f"{name}.mlp")

    def cross_block(self, x: np.ndarray, tokens: np.ndarray, name: str, heads: int) -> np.ndarray:
        queries, keys = self.norm(x, f"{name}.ln_1"), self.norm(tokens, f"{name}.ln_1_kv")
        x = x + self.attention(queries, keys, f"{name}.attn", heads)
        return x + self.mlp(self.norm(x, f"{name}.ln_2"), f"{name}.mlp")

    def attention(
        self, queries: np.ndarray, keys: np.ndarray, name: str, heads: int, mask: np.ndarray | None = None
    ) -> np.ndarray:
        q = split_heads(self.dense(queries, f"{name}.q_proj"), heads)
        k = split_heads(self.dense(keys, f"{name}.k_proj"), heads)
        v = split_heads(self.dense(keys, f"{name}.v_proj"), heads)
        scores = q @ k.swapaxes(-1, -2) / np.float32(np.sqrt(q.shape[-1]))  # [R, heads, Q, K]
        if mask is not None:
            scores = np.where(mask, -np.inf, scores)
        mixed = (softmax(scores, axis=-1) @ v).swapaxes(1, 2).reshape(*queries.shape[:2], -1)
        return self.dense(mixed, f"{name}.out_proj")

    def mlp(self, x: np.ndarray, name: str) -> np.ndarray:
        x = self.dense(x, f"{name}.c_fc")
        x = x / (1 + np.exp(-1.702 * x)) if self.config.quick_gelu else x * 0.5 * (1 + erf(x / np.float32(2**0.5)))
        return self.dense(x.astype(np.float32), f"{name}.c_proj")

    def dense(self, x: np.ndarray, name: str) -> np.ndarray:
        return x @ self[f"{name}.weight"].T + self[f"{name}.bias"]

    def norm(self, x: np.ndarray, name: str) -> np.ndarray:
        centered = x - x.mean(axis=-1, keepdims=True)
        deviation = np.sqrt((centered**2).mean(axis=-1, keepdims=True) + np.float32(1e-5))
        return centered / deviation * self[f"{name}.gamma"] + self[f"{name}.beta"]


def causal(length: int) -> np.ndarray:
    """[length, length] True where a key is hidden from a query: after it."""
    return ~np.tri(length, dtype=bool)


def split_heads(x: np.ndarray, heads: int) -> np.ndarray:
    """[R, T, D] -> [R, heads, T, D / heads]."""
    return x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)


def normalized(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)
