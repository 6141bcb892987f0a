"""Tensors of open_clip's CoCa, and which of their rows fill each parameter of the network here.

`PARAMETERS` is the table of names, read from open_clip 3.3.0's `coca_model.py` and `transformer.py`, and from torch's
`nn.MultiheadAttention`, which fuses its projections where all widths are equal. Keys are open_clip's names with `*` for
a layer's number. Values are the parameters that the tensor fills: one, or several that take equal blocks of its rows in
this order.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..catalog import CLIP, UNSUPPORTED, CocaConfig
from ..errors import ModelError
from . import architecture
from .architecture import Shape
from .source import SourceTensor, is_ckpt, open_checkpoint

_DTYPES = ("float32", "float16", "bfloat16")  # float32 holds them exactly
_LARGEST_FLOAT16 = 65504


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
BIAS = "logit_bias"  # of SigLIP's loss, which CoCa is not trained with here

# MindONE's names of open_clip's tensors, by which its converter replaces parts of them.
_MINDONE = {
    r"^visual\.visual\.": "visual.",
    r"^text\.embedding_table$": "text.token_embedding.weight",
    r"^text\.transformer_layer\.": "text.transformer.",
    r"\.(c_fc|c_proj)\.": r".mlp.\1.",
    r"\.gamma$": ".weight",
    r"\.beta$": ".bias",
}


def parameters_of(tensor: str) -> tuple[str, ...]:
    """Return the parameters that an open_clip tensor fills; none if no CoCa has a tensor of this name."""
    layer = re.search(r"\.(\d+)\.", tensor)
    if layer is None:
        return PARAMETERS.get(tensor, ())
    pattern = f"{tensor[: layer.start()]}.*.{tensor[layer.end() :]}"
    return tuple(name.replace("*", layer[1]) for name in PARAMETERS.get(pattern, ()))


class OpenClipTensor(NamedTuple):
    """A tensor of open_clip's CoCa, and the parameters that fill its rows, block by block."""

    name: str
    shape: tuple[int, ...]
    parameters: tuple[str, ...]


def tensors_of(parameters: Mapping[str, tuple[int, ...]]) -> Iterator[OpenClipTensor]:
    """Yield open_clip's tensors of the CoCa that has parameters of these names and shapes."""
    left = dict(parameters)
    layers = sorted({int(layer) for name in parameters for layer in re.findall(r"\.(\d+)\.", name)})
    for pattern, targets in PARAMETERS.items():
        for layer in map(str, layers if "*" in pattern else [0]):
            names = tuple(target.replace("*", layer) for target in targets)
            shape = left.get(names[0])
            # Projections of unequal widths are separate tensors.
            if shape is not None and all(left.get(name) == shape for name in names):
                fused = (len(names) * shape[0], *shape[1:]) if shape else ()
                yield OpenClipTensor(pattern.replace("*", layer), fused, names)
                for name in names:
                    del left[name]


@dataclass(frozen=True)
class Parameter:
    """A parameter of the network in an open checkpoint: all rows of a tensor, or a block of them."""

    tensor: SourceTensor
    start: int
    stop: int

    @property
    def shape(self) -> Shape:
        if self.tensor.shape == () or (self.tensor.name == "logit_scale" and self.tensor.shape == (1,)):
            return ()
        return (self.stop - self.start, *self.tensor.shape[1:])

    def parts(self, dtype: str) -> Iterator[np.ndarray]:
        """Yield its values as float32 or rounded to float16, a few rows at a time.

        A part is valid until the next one is requested.

        Raises:
            ModelError: float16 cannot hold a value.
        """
        for part in self.tensor.parts(self.start, self.stop):
            if dtype == "float16" and (largest := _largest(part)) > _LARGEST_FLOAT16:
                problem = f"{self.tensor.name} holds {largest:g}, but float16 ends at {_LARGEST_FLOAT16}"
                raise ModelError(problem, "convert it without --half")
            yield part.astype(dtype, copy=False)


def _largest(part: np.ndarray) -> float:
    """Return the largest magnitude of finite values."""
    return float(np.abs(part).max(initial=0, where=np.isfinite(part)))


@dataclass(frozen=True)
class OpenModel:
    """A complete CoCa in an open checkpoint."""

    config: CocaConfig
    parameters: dict[str, Parameter]  # named, shaped and ordered as by `architecture.parameters`
    notes: tuple[str, ...]  # where the config is from, or what was assumed


@contextmanager
def open_model(path: Path, config: CocaConfig | None = None) -> Iterator[OpenModel]:
    """Open the CoCa in a checkpoint, open_clip's or a converted one. Values are read when requested.

    Args:
        path: A checkpoint that `source.open_checkpoint` opens.
        config: The architecture; by default the config file beside the checkpoint, else recognized from shapes.

    Raises:
        ModelError: It is not a complete CoCa, contradicts the config, or cannot be read.
    """
    with open_checkpoint(path) as tensors:
        try:
            converted = is_ckpt(path)
            if converted and is_mindone(tensor.name for tensor in tensors):
                tensors, converted = [replace(it, name=_from_mindone(it.name)) for it in tensors], False
            parameters = _assign(tensors, converted)
            shapes = {name: parameter.shape for name, parameter in parameters.items()}
            config, notes = _choose_config(shapes, path, config)
            if any(tensor.name == BIAS for tensor in tensors):
                notes += (f"{BIAS} is left out: it shifts all similarities alike, which changes no order",)
        except ModelError as error:
            raise ModelError(f"{path}: {error.message}", error.hint) from None
        yield OpenModel(config, {name: parameters[name] for name in architecture.parameters(config)}, notes)


def is_mindone(names: Iterable[str]) -> bool:
    """Return whether the parameters of a `.ckpt` are named as by MindONE's converter."""
    return "text.embedding_table" in names


def _from_mindone(name: str) -> str:
    """Return open_clip's name of a tensor."""
    for pattern, replacement in _MINDONE.items():
        name = re.sub(pattern, replacement, name)
    return name


def _assign(tensors: Sequence[SourceTensor], converted: bool) -> dict[str, Parameter]:
    """Assign every tensor to the parameters that it fills, apart from masks that follow from the config and `BIAS`."""
    _refuse_other_models([tensor.name for tensor in tensors])
    targets = {
        tensor.name: (tensor.name,) if converted else parameters_of(tensor.name)
        for tensor in tensors
        if tensor.name not in DERIVED and tensor.name != BIAS
    }
    if unknown := [name for name, parameters in targets.items() if not parameters]:
        raise ModelError(f"no CoCa has tensors called {architecture.listed(unknown)}")
    assigned: dict[str, Parameter] = {}
    for tensor in tensors:
        for name, parameter in _split(tensor, targets.get(tensor.name, ())).items():
            if name in assigned:
                raise ModelError(f"{assigned[name].tensor.name} and {tensor.name} both fill {name}")
            assigned[name] = parameter
    return assigned


def _refuse_other_models(tensors: list[str]) -> None:
    if any(name.startswith("text_decoder.") for name in tensors):
        if not any(name.startswith("visual.attn_pool.") for name in tensors):
            raise ModelError(UNSUPPORTED)
        return
    if any(name.startswith(("visual.", "vision_model.")) for name in tensors):
        raise ModelError("this is a CLIP, not a CoCa: it has no text_decoder")
    raise ModelError(f"this is not a CoCa: its tensors are {architecture.listed(tensors)}")


def _split(tensor: SourceTensor, parameters: tuple[str, ...]) -> dict[str, Parameter]:
    """Split a tensor into the parameters that it fills with equal blocks of its rows."""
    if not parameters:
        return {}
    if tensor.dtype not in _DTYPES:
        raise ModelError(f"{tensor.name} is of type {tensor.dtype}, not {', '.join(_DTYPES)}")
    rows, rest = divmod(tensor.rows, len(parameters))
    if rest:
        raise ModelError(f"the {tensor.rows} rows of {tensor.name} do not split into {len(parameters)} blocks")
    return {name: Parameter(tensor, i * rows, (i + 1) * rows) for i, name in enumerate(parameters)}


def _choose_config(
    shapes: dict[str, Shape], path: Path, config: CocaConfig | None
) -> tuple[CocaConfig, tuple[str, ...]]:
    """Choose the given config, else the one beside the checkpoint, else the one recognized from shapes.

    Where the config does not set the preprocessing, the one beside the checkpoint may.

    Returns:
        The config, always with preprocessing, and notes on where it is from.
    """
    notes: list[str] = []
    beside = architecture.find_config(path)
    if config is None and beside:
        config = architecture.load_config(beside)
        notes.append(f"config read from {beside}")
    if config is None:
        config = architecture.recognize(shapes)
        notes.append("no config found: assuming heads of width 64, 8 heads in the pooler and exact GELU")
    if config.preprocess_cfg is None:
        found = architecture.load_preprocess(beside) if beside else None
        if found is None:
            notes.append("no preprocess_cfg found: pictures are prepared as for CLIP")
        config = replace(config, preprocess_cfg=found or CLIP)
    if config.preprocess != CLIP:
        notes.append(f"pictures are prepared with {config.preprocess}")
    architecture.check(config, shapes)
    return config, tuple(notes)
