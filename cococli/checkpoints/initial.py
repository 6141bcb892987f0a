"""Initial weights to train from scratch, drawn as by open_clip."""

import math

import numpy as np

from ..catalog import CocaConfig
from .architecture import Shape, parameters

FIRST_LOGIT_SCALE = math.log(1 / 0.07)


def initial(config: CocaConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Return every parameter of the network, float32. The same seed draws the same weights."""
    draw = np.random.default_rng(seed)
    return {name: _initial(name, shape, config, draw).astype(np.float32) for name, shape in parameters(config).items()}


def _initial(name: str, shape: Shape, config: CocaConfig, draw: np.random.Generator) -> np.ndarray:
    if name == "logit_scale":
        return np.array(FIRST_LOGIT_SCALE)
    if name.endswith("gamma"):
        return np.ones(shape)
    if name.endswith("beta") or (".attn." in name and name.endswith("bias")):
        return np.zeros(shape)
    if (deviation := _deviation(name, shape, config)) is not None:
        return draw.normal(0, deviation, shape)
    fan_in = math.prod(shape[1:]) if len(shape) > 1 else _fan_in_of_bias(name, config)
    bound = _xavier(name, shape, config) if _is_projection_of_attention(name) else fan_in**-0.5
    return draw.uniform(-bound, bound, shape)


def _deviation(name: str, shape: Shape, config: CocaConfig) -> float | None:
    """Return the standard deviation of a weight drawn from a normal distribution; None for other weights."""
    if name == "visual.attn_pool.query":
        return 1.0
    if name in ("visual.class_embedding", "visual.positional_embedding", "visual.proj"):
        return config.vision.width**-0.5
    if name == "text.token_embedding":
        return 0.02
    if name in ("text.positional_embedding", "text.cls_emb"):
        return 0.01
    if name.endswith("text_projection"):
        return shape[0] ** -0.5
    if name.startswith("visual.") or name.endswith("bias"):
        return None
    # open_clip defines this for its decoder but never calls it: its decoder has torch's defaults, and its projection to
    # words uninitialized memory.
    tower = config.text if name.startswith("text.") else config.decoder
    if name.endswith("c_fc.weight"):
        return (2 * tower.width) ** -0.5
    if name.endswith(("c_proj.weight", "out_proj.weight")):
        return tower.width**-0.5 * (2 * tower.layers) ** -0.5
    return tower.width**-0.5


def _is_projection_of_attention(name: str) -> bool:
    return name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight"))


def _xavier(name: str, shape: Shape, config: CocaConfig) -> float:
    """Return the bound of each of the three matrices of an attention, which torch draws as one if widths are equal."""
    outputs, inputs = shape
    fused = not name.startswith("visual.attn_pool.") or config.vision.width == config.embed_dim
    return math.sqrt(6 / (inputs + (3 * outputs if fused else outputs)))


def _fan_in_of_bias(name: str, config: CocaConfig) -> int:
    """Return the number of inputs of the matrix that a bias belongs to."""
    return parameters(config)[name.removesuffix("bias") + "weight"][1]
