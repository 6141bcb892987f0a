"""Random weights under open_clip's own names, written out by hand from its `coca_model.py` and `transformer.py`."""

from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import torch

from cococli.catalog import CocaConfig, TextConfig, VisionConfig
from cococli.checkpoints import ckpt

SMALL = CocaConfig(  # 64-wide heads and 8 in the pooler, as is assumed without a config
    embed_dim=64,
    vision=VisionConfig(16, 8, 128, 2, 64, 4.0, 5, 8),
    text=TextConfig(6, 30, 64, 1, 2),
    decoder=TextConfig(6, 30, 64, 1, 1),
)


def state_dict(config: CocaConfig, seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in _shapes(config)}


def save(state: dict[str, torch.Tensor], path: Path, prefixed: bool = False, wrapped: bool = False) -> Path:
    """Write a checkpoint as its suffix says; wrapped as open_clip's training does."""
    if prefixed:
        state = {f"module.{name}": tensor for name, tensor in state.items()}
    if path.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file(state, path)
    else:
        optimizer = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-4}]}
        torch.save({"epoch": 3, "name": "run", "state_dict": state, "optimizer": optimizer} if wrapped else state, path)
    return path


# What MindONE's converter does to the names in a checkpoint, in this order.
_MINDONE = [
    *[("module.logit_scale", "logit_scale"), ("module.text", "text"), ("token_embedding.weight", "embedding_table")],
    *[("text.transformer", "text.transformer_layer"), (".mlp.", "."), ("module.visual", "visual.visual")],
    *[(f"{norm}.weight", f"{norm}.gamma") for norm in ("ln_1", "ln_2", "ln_final", "ln_pre", "ln_q", "ln_k")],
    *[(f"{norm}.bias", f"{norm}.beta") for norm in ("ln_1", "ln_2", "ln_final", "ln_pre", "ln_q", "ln_k")],
    *[("ln_post.weight", "ln_post.gamma"), ("ln_post.bias", "ln_post.beta"), ("module.text_decoder", "text_decoder")],
    *[("ln_1_kv.weight", "ln_1_kv.gamma"), ("ln_1_kv.bias", "ln_1_kv.beta")],
]


def save_as_mindone(state: dict[str, torch.Tensor], path: Path, prefix: str = "module.") -> Path:
    """Write a `.ckpt` as MindONE's converter does from a checkpoint with this prefix of all names."""
    with path.open("wb") as file:
        for name, tensor in state.items():
            renamed = reduce(lambda name, pair: name.replace(*pair), _MINDONE, prefix + name)
            ckpt.write(file, renamed, tuple(tensor.shape), [tensor.numpy()])
    return path


def _shapes(config: CocaConfig) -> Iterator[tuple[str, Any]]:
    vision, text, decoder, dim = config.vision, config.text, config.decoder, config.embed_dim
    yield "logit_scale", ()
    yield "text.cls_emb", (text.width,)
    yield "text.positional_embedding", (text.context_length + 1, text.width)
    yield "text.text_projection", (text.width, dim)
    yield "text.token_embedding.weight", (text.vocab_size, text.width)
    for layer in range(text.layers):
        yield from _block(f"text.transformer.resblocks.{layer}", text.width, text.mlp_ratio)
    yield from _norm("text.ln_final", text.width)
    yield "visual.class_embedding", (vision.width,)
    yield "visual.positional_embedding", (vision.tokens, vision.width)
    yield "visual.proj", (dim, dim)
    yield "visual.conv1.weight", (vision.width, 3, vision.patch_size, vision.patch_size)
    yield from _norm("visual.ln_pre", vision.width)
    for layer in range(vision.layers):
        yield from _block(f"visual.transformer.resblocks.{layer}", vision.width, vision.mlp_ratio)
    yield "visual.attn_pool.query", (vision.pooler_queries, dim)
    yield from _attention("visual.attn_pool.attn", dim, vision.width)
    yield from _norm("visual.attn_pool.ln_q", dim)
    yield from _norm("visual.attn_pool.ln_k", vision.width)
    yield from _norm("visual.ln_post", dim)
    yield "text_decoder.text_projection", (decoder.width, decoder.vocab_size)
    for layer in range(decoder.layers):
        yield from _block(f"text_decoder.resblocks.{layer}", decoder.width, decoder.mlp_ratio)
        yield from _block(f"text_decoder.cross_attn.{layer}", decoder.width, decoder.mlp_ratio)
        yield from _norm(f"text_decoder.cross_attn.{layer}.ln_1_kv", decoder.width)
    yield from _norm("text_decoder.ln_final", decoder.width)


def _block(name: str, width: int, mlp_ratio: float) -> Iterator[tuple[str, Any]]:
    hidden = int(width * mlp_ratio)
    yield from _norm(f"{name}.ln_1", width)
    yield from _attention(f"{name}.attn", width, width)
    yield from _norm(f"{name}.ln_2", width)
    yield from _linear(f"{name}.mlp.c_fc", hidden, width)
    yield from _linear(f"{name}.mlp.c_proj", width, hidden)


def _attention(name: str, width: int, key_width: int) -> Iterator[tuple[str, Any]]:
    """As torch's MultiheadAttention names them: one fused matrix where all widths are equal, else three."""
    if key_width == width:
        yield f"{name}.in_proj_weight", (3 * width, width)
    else:
        yield f"{name}.q_proj_weight", (width, width)
        yield f"{name}.k_proj_weight", (width, key_width)
        yield f"{name}.v_proj_weight", (width, key_width)
    yield f"{name}.in_proj_bias", (3 * width,)
    yield from _linear(f"{name}.out_proj", width, width)


def _linear(name: str, outputs: int, inputs: int) -> Iterator[tuple[str, Any]]:
    yield f"{name}.weight", (outputs, inputs)
    yield f"{name}.bias", (outputs,)


def _norm(name: str, width: int) -> Iterator[tuple[str, Any]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)
