"""A CoCa in an open checkpoint: which rows of which tensor fill each of its parameters."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..catalog import CLIP, CocaConfig
from ..errors import ModelError
from . import architecture, names
from .architecture import Shape
from .source import SourceTensor, is_ckpt, open_checkpoint

_DTYPES = ("float32", "float16", "bfloat16")  # that become float32 exactly
_FLOAT16_MOST = 65504


@dataclass(frozen=True)
class Parameter:
    """What fills a parameter: all rows of a tensor, or a block of them."""

    tensor: SourceTensor
    start: int
    stop: int

    @property
    def shape(self) -> Shape:
        if self.tensor.shape == () or (self.tensor.name == "logit_scale" and self.tensor.shape == (1,)):
            return ()
        return (self.stop - self.start, *self.tensor.shape[1:])

    def parts(self, dtype: str) -> Iterator[np.ndarray]:
        """Its numbers as float32 or rounded to float16, a few rows at a time; each only until the next is asked for.

        Raises:
            ModelError: float16 cannot hold one of them.
        """
        for part in self.tensor.parts(self.start, self.stop):
            if dtype == "float16" and (most := _largest(part)) > _FLOAT16_MOST:
                problem = f"{self.tensor.name} holds {most:g}, but float16 ends at {_FLOAT16_MOST}"
                raise ModelError(problem, "convert it without --half")
            yield part.astype(dtype, copy=False)


def _largest(part: np.ndarray) -> float:
    """The largest magnitude among the finite numbers."""
    magnitudes = np.abs(part)
    return float(magnitudes.max(initial=0, where=np.isfinite(part)))


@dataclass(frozen=True)
class Model:
    """A whole CoCa in an open checkpoint."""

    config: CocaConfig
    parameters: dict[str, Parameter]  # as `architecture.parameters` names, shapes and orders them
    notes: tuple[str, ...]  # where the config is from, or what was assumed


@contextmanager
def open_model(path: Path, config: CocaConfig | None = None) -> Iterator[Model]:
    """Find a CoCa in a checkpoint, open_clip's or converted; its numbers are not read until asked for.

    Args:
        path: A checkpoint that `source.open_checkpoint` opens.
        config: The architecture; by default the config file beside the checkpoint, else what the shapes tell.

    Raises:
        ModelError: it is not a whole CoCa, contradicts the config, or cannot be read.
    """
    with open_checkpoint(path) as tensors:
        try:
            plan = _plan(tensors, _itself if is_ckpt(path) else names.parameters_of)
            shapes = {name: parameter.shape for name, parameter in plan.items()}
            config, notes = _choose_config(shapes, path, config)
        except ModelError as error:
            raise ModelError(f"{path}: {error.message}", error.hint) from None
        yield Model(config, {name: plan[name] for name in architecture.parameters(config)}, notes)


def _itself(name: str) -> tuple[str]:
    """The parameter that a tensor of a `.ckpt` fills."""
    return (name,)


def _plan(tensors: list[SourceTensor], parameters_of: Callable[[str], tuple[str, ...]]) -> dict[str, Parameter]:
    """What fills each parameter. Every tensor is used, or is a mask that a config implies."""
    _refuse_other_models([tensor.name for tensor in tensors])
    tensors = [tensor for tensor in tensors if tensor.name not in names.DERIVED]
    if unknown := [tensor.name for tensor in tensors if not parameters_of(tensor.name)]:
        raise ModelError(f"no CoCa has tensors called {architecture.listed(unknown)}")
    plan: dict[str, Parameter] = {}
    for tensor in tensors:
        for name, parameter in _split(tensor, parameters_of(tensor.name)).items():
            if name in plan:
                raise ModelError(f"{plan[name].tensor.name} and {tensor.name} both fill {name}")
            plan[name] = parameter
    return plan


def _refuse_other_models(tensors: list[str]) -> None:
    if any(name.startswith("text_decoder.") for name in tensors):
        return
    if any(name.startswith(("visual.", "vision_model.")) for name in tensors):
        raise ModelError("this is a CLIP, not a CoCa: it has no text_decoder")
    raise ModelError(f"this is no CoCa: its tensors are {architecture.listed(tensors)}")


def _split(tensor: SourceTensor, parameters: tuple[str, ...]) -> dict[str, Parameter]:
    """The parameters that a tensor fills with equal blocks of its rows."""
    if tensor.dtype not in _DTYPES:
        raise ModelError(f"{tensor.name} is of type {tensor.dtype}, not {', '.join(_DTYPES)}")
    rows, rest = divmod(tensor.rows, len(parameters))
    if rest:
        raise ModelError(f"the {tensor.rows} rows of {tensor.name} do not split into {len(parameters)} blocks")
    return {name: Parameter(tensor, i * rows, (i + 1) * rows) for i, name in enumerate(parameters)}


def _choose_config(
    shapes: dict[str, Shape], path: Path, config: CocaConfig | None
) -> tuple[CocaConfig, tuple[str, ...]]:
    """The config given, else the one beside the checkpoint, else what the shapes tell; and notes on where from.

    It always says how pictures are prepared: where the one given does not, the one beside the checkpoint may.
    """
    notes: list[str] = []
    beside = architecture.find_config(path)
    if config is None and beside:
        config = architecture.load_config(beside)
        notes.append(f"config read from {beside}")
    if config is None:
        config = architecture.recognize(shapes)
        notes.append("heads assumed to be 64 wide, the pooler's to be 8 and GELU to be exact: no config found")
    if config.preprocess_cfg is None:
        found = architecture.load_preprocess(beside) if beside else None
        if found is None:
            notes.append("no preprocess_cfg found: pictures are prepared as for CLIP")
        config = replace(config, preprocess_cfg=found or CLIP)
    if config.preprocess != CLIP:
        notes.append(f"pictures are prepared with {config.preprocess}")
    architecture.check(config, shapes)
    return config, tuple(notes)
