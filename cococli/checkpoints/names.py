"""The table of names: what every tensor of open_clip's CoCa is called here.

Keys are open_clip's names with `*` for a layer's number. Values are the parameters that the tensor fills: one, or
several that take equal blocks of its rows in this order. Read from open_clip 3.3.0's `coca_model.py` and
`transformer.py`, and from torch's `nn.MultiheadAttention`, which fuses its projections where all widths are equal.
"""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple


def _same(*names: str) -> dict[str, tuple[str, ...]]:
    return {name: (name,) for name in names}


def _linear(name: str) -> dict[str, tuple[str, ...]]:
    return _same(f"{name}.weight", f"{name}.bias")


def _norm(name: str) -> dict[str, tuple[str, ...]]:
    return {f"{name}.weight": (f"{name}.gamma",), f"{name}.bias": (f"{name}.beta",)}


def _attention(name: str) -> dict[str, tuple[str, ...]]:
    projections = [f"{name}.{part}_proj" for part in "qkv"]
    return {
        f"{name}.in_proj_weight": tuple(f"{projection}.weight" for projection in projections),
        f"{name}.in_proj_bias": tuple(f"{projection}.bias" for projection in projections),
        **{f"{projection}_weight": (f"{projection}.weight",) for projection in projections},
        **_linear(f"{name}.out_proj"),
    }


def _block(name: str) -> dict[str, tuple[str, ...]]:
    return {
        **_norm(f"{name}.ln_1"),
        **_attention(f"{name}.attn"),
        **_norm(f"{name}.ln_2"),
        **_linear(f"{name}.mlp.c_fc"),
        **_linear(f"{name}.mlp.c_proj"),
    }


PARAMETERS = {
    **_same("logit_scale"),
    # image tower
    **_same("visual.class_embedding", "visual.positional_embedding", "visual.proj", "visual.conv1.weight"),
    **_norm("visual.ln_pre"),
    **_block("visual.transformer.resblocks.*"),
    **_same("visual.attn_pool.query"),
    **_attention("visual.attn_pool.attn"),
    **_norm("visual.attn_pool.ln_q"),
    **_norm("visual.attn_pool.ln_k"),
    **_norm("visual.ln_post"),
    # text encoder
    **_same("text.cls_emb", "text.positional_embedding", "text.text_projection"),
    "text.token_embedding.weight": ("text.token_embedding",),
    **_block("text.transformer.resblocks.*"),
    **_norm("text.ln_final"),
    # caption decoder: self-attention block i, then cross-attention block i
    **_block("text_decoder.resblocks.*"),
    **_block("text_decoder.cross_attn.*"),
    **_norm("text_decoder.cross_attn.*.ln_1_kv"),
    **_norm("text_decoder.ln_final"),
    **_same("text_decoder.text_projection"),
}

DERIVED = frozenset({"text.attn_mask", "text_decoder.attn_mask"})  # buffers that follow from the config


def parameters_of(tensor: str) -> tuple[str, ...]:
    """Parameters that an open_clip tensor fills; empty when a CoCa has no tensor of this name."""
    layer = re.search(r"\.(\d+)\.", tensor)
    if layer is None:
        return PARAMETERS.get(tensor, ())
    pattern = f"{tensor[: layer.start()]}.*.{tensor[layer.end() :]}"
    return tuple(name.replace("*", layer[1]) for name in PARAMETERS.get(pattern, ()))


class OpenClipTensor(NamedTuple):
    """A tensor of open_clip's CoCa."""

    name: str
    shape: tuple[int, ...]
    parameters: tuple[str, ...]  # that fill it, each a block of its rows


def tensors_of(parameters: Mapping[str, tuple[int, ...]]) -> Iterator[OpenClipTensor]:
    """open_clip's tensors of the CoCa that has parameters of these names and shapes."""
    left = dict(parameters)
    layers = sorted({int(layer) for name in parameters for layer in re.findall(r"\.(\d+)\.", name)})
    for pattern, targets in PARAMETERS.items():
        for layer in map(str, layers if "*" in pattern else [0]):
            names = tuple(target.replace("*", layer) for target in targets)
            shape = left.get(names[0])
            if shape is not None and all(left.get(name) == shape for name in names):  # unequal widths stay apart
                fused = (len(names) * shape[0], *shape[1:]) if shape else ()
                yield OpenClipTensor(pattern.replace("*", layer), fused, names)
                for name in names:
                    del left[name]
