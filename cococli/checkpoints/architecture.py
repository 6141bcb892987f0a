"""Architecture of a checkpoint: read from its config, else recognized from the shapes of its tensors."""

import difflib
import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .. import catalog
from ..catalog import CocaConfig, Preprocess, TextConfig, VisionConfig
from ..errors import ModelError, UsageError
from ..files import check_regular, os_reason
from ..parsing import parse_json, read_errors, read_json

Shape = tuple[int, ...]

HEAD_WIDTH = 64  # in all of open_clip's CoCa configs
POOLER_HEADS = 8


def parameters(config: CocaConfig) -> dict[str, Shape]:
    """Return the name and shape of every parameter of the network, named as in `tensors.PARAMETERS`."""
    vision, text, decoder, width = config.vision, config.text, config.decoder, config.embed_dim
    return {
        "logit_scale": (),
        "visual.class_embedding": (vision.width,),
        "visual.positional_embedding": (vision.tokens, vision.width),
        "visual.proj": (width, width),
        "visual.conv1.weight": (vision.width, 3, vision.patch_size, vision.patch_size),
        **_norm("visual.ln_pre", vision.width),
        **_blocks("visual.transformer.resblocks", vision.layers, vision.width, vision.mlp_ratio),
        "visual.attn_pool.query": (vision.pooler_queries, width),
        **_attention("visual.attn_pool.attn", width, vision.width),
        **_norm("visual.attn_pool.ln_q", width),
        **_norm("visual.attn_pool.ln_k", vision.width),
        **_norm("visual.ln_post", width),
        "text.cls_emb": (text.width,),
        "text.positional_embedding": (text.context_length + 1, text.width),  # the last row is the CLS
        "text.text_projection": (text.width, width),
        "text.token_embedding": (text.vocab_size, text.width),
        **_blocks("text.transformer.resblocks", text.layers, text.width, text.mlp_ratio),
        **_norm("text.ln_final", text.width),
        **_blocks("text_decoder.resblocks", decoder.layers, decoder.width, decoder.mlp_ratio),
        **_blocks("text_decoder.cross_attn", decoder.layers, decoder.width, decoder.mlp_ratio),
        **_joined(_norm(f"text_decoder.cross_attn.{i}.ln_1_kv", decoder.width) for i in range(decoder.layers)),
        **_norm("text_decoder.ln_final", decoder.width),
        "text_decoder.text_projection": (decoder.width, decoder.vocab_size),
    }


def _blocks(name: str, layers: int, width: int, mlp_ratio: float) -> dict[str, Shape]:
    return _joined(_block(f"{name}.{i}", width, int(width * mlp_ratio)) for i in range(layers))


def _block(name: str, width: int, hidden: int) -> dict[str, Shape]:
    return {
        **_norm(f"{name}.ln_1", width),
        **_attention(f"{name}.attn", width, width),
        **_norm(f"{name}.ln_2", width),
        **_linear(f"{name}.mlp.c_fc", hidden, width),
        **_linear(f"{name}.mlp.c_proj", width, hidden),
    }


def _attention(name: str, width: int, key_width: int) -> dict[str, Shape]:
    return {
        **_linear(f"{name}.q_proj", width, width),
        **_linear(f"{name}.k_proj", width, key_width),
        **_linear(f"{name}.v_proj", width, key_width),
        **_linear(f"{name}.out_proj", width, width),
    }


def _linear(name: str, outputs: int, inputs: int) -> dict[str, Shape]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name: str, width: int) -> dict[str, Shape]:
    return {f"{name}.gamma": (width,), f"{name}.beta": (width,)}


def _joined(parts: Iterable[dict[str, Shape]]) -> dict[str, Shape]:
    return {name: shape for part in parts for name, shape in part.items()}


def recognize(shapes: Mapping[str, Shape]) -> CocaConfig:
    """Derive the config from the shapes of parameters, with heads as in open_clip's configs.

    Raises:
        ModelError: A parameter is missing or has an unlikely shape, or a width does not split into heads of 64.
    """
    width, _, patch, _ = _shape(shapes, "visual.conv1.weight", 4)
    rows, _ = _shape(shapes, "visual.positional_embedding", 2)
    queries, embed_dim = _shape(shapes, "visual.attn_pool.query", 2)
    vision = VisionConfig(
        image_size=math.isqrt(max(rows - 1, 0)) * patch,
        patch_size=patch,
        width=width,
        layers=_layers(shapes, "visual.transformer.resblocks"),
        head_width=HEAD_WIDTH,
        mlp_ratio=_mlp_ratio(shapes, "visual.transformer.resblocks"),
        pooler_queries=queries,
        pooler_heads=POOLER_HEADS,
    )
    context_length = _shape(shapes, "text.positional_embedding", 2)[0] - 1
    vocab_size, text_width = _shape(shapes, "text.token_embedding", 2)
    text = _transformer(shapes, "text.transformer.resblocks", context_length, vocab_size, text_width)
    decoder_width, decoder_vocab = _shape(shapes, "text_decoder.text_projection", 2)
    decoder = _transformer(shapes, "text_decoder.resblocks", context_length, decoder_vocab, decoder_width)
    for size in (width, embed_dim, text_width, decoder_width):
        if size % HEAD_WIDTH:
            raise ModelError(
                f"the number of heads is unknown, and a width of {size} does not split into heads of {HEAD_WIDTH}",
                "give the model's config: --config open_clip_config.json",
            )
    return CocaConfig(embed_dim, vision, text, decoder)


def _transformer(
    shapes: Mapping[str, Shape], blocks: str, context_length: int, vocab_size: int, width: int
) -> TextConfig:
    heads, layers = width // HEAD_WIDTH, _layers(shapes, blocks)
    return TextConfig(context_length, vocab_size, width, heads, layers, _mlp_ratio(shapes, blocks))


def _shape(shapes: Mapping[str, Shape], name: str, rank: int) -> Shape:
    if name not in shapes:
        raise ModelError(f"not a complete CoCa: it has no {name}")
    if len(shapes[name]) != rank or 0 in shapes[name]:
        raise ModelError(f"not a CoCa: {name} has the shape {shapes[name]}")
    return shapes[name]


def _layers(shapes: Mapping[str, Shape], blocks: str) -> int:
    numbers = [re.match(rf"{re.escape(blocks)}\.(\d+)\.", name) for name in shapes]
    return len({number[1] for number in numbers if number})


def _mlp_ratio(shapes: Mapping[str, Shape], blocks: str) -> float:
    hidden, width = _shape(shapes, f"{blocks}.0.mlp.c_fc.weight", 2)
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)


def check(config: CocaConfig, shapes: Mapping[str, Shape]) -> None:
    """Check that shapes are those of a config's parameters.

    Raises:
        ModelError: They differ; the message names the first difference.
    """
    wanted = parameters(config)
    for name, shape in wanted.items():
        if name not in shapes:
            absent = [name for name in wanted if name not in shapes]
            raise ModelError(f"parameters are missing: {listed(absent)}")
        if shapes[name] != shape:
            raise ModelError(f"{name} has the shape {shapes[name]}, but the config implies {shape}")
    if foreign := [name for name in shapes if name not in wanted]:
        raise ModelError(f"the config has no parameters called {listed(foreign)}")


def listed(names: Iterable[str]) -> str:
    """Join the first few names on one line, with their number if there are more."""
    first, *others = [name if name.isprintable() else repr(name) for name in names]
    shown = ", ".join([first, *others[:2]])
    return f"{shown}, ... ({1 + len(others)} in all)" if len(others) > 2 else shown


def load_config(name_or_path: str | Path) -> CocaConfig:
    """Return a catalog model's config, or the one in a file in open_clip's format, with or without `model_cfg`.

    Names of open_clip's are names of the catalog, too. The file is JSON or, as MindONE's, YAML.

    Raises:
        ModelError: There is no such name or file, or it is not the config of a CoCa.
    """
    known = catalog.MODELS.get(str(name_or_path))
    if known and known.config:
        return known.config
    path = Path(name_or_path)
    if not os.path.isfile(path):  # noqa: PTH113 (a name too long for a path is not a file either)
        known = catalog.MODELS.get(catalog.known_name(str(name_or_path)) or "")
        if known and known.config:
            return known.config
        names = [name for name, model in catalog.MODELS.items() if model.config]
        close = difflib.get_close_matches(str(name_or_path), names)
        raise ModelError(f"no config file or model is called {name_or_path}", f"known: {', '.join(close or names)}")
    config = read_config(path)
    try:
        return CocaConfig.from_open_clip(config)
    except ModelError as error:
        raise ModelError(f"{path}: {error.message}", error.hint) from None


def load_preprocess(path: Path) -> Preprocess | None:
    """Return the preprocessing of pictures in a config file; None if it does not set it.

    Raises:
        ModelError: It cannot be read, or is invalid.
    """
    entry = read_config(path).get("preprocess_cfg")
    try:
        return None if entry is None else Preprocess.from_open_clip(entry)
    except ModelError as error:
        raise ModelError(f"{path}: {error.message}", error.hint) from None


def read_config(path: Path) -> dict[str, Any]:
    """Read the content of a config file.

    Raises:
        ModelError: It cannot be read, or is not a JSON object.
    """
    try:
        config = _read_yaml(path) if path.suffix in (".yaml", ".yml") else read_json(path)
    except UsageError as error:
        raise ModelError(error.message, error.hint) from None
    if not isinstance(config, dict):
        raise ModelError(f"{path} is not a model config but a {type(config).__name__}")
    return config


def _read_yaml(path: Path) -> Any:
    import yaml

    with read_errors(path, "YAML"):
        text = path.read_text("utf-8-sig")
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError):
        # PyYAML raises whatever values such as `!!bool x` lead it to.
        raise UsageError(f"{path} is not YAML") from None


def find_config(weights: Path) -> Path | None:
    """Find the config beside a checkpoint: `<stem>.json`, `open_clip_config.json` or `config.json`, in this order.

    Files that do not describe an open_clip model are skipped: other tools write a `config.json`, too.

    Raises:
        ModelError: A file cannot be read.
    """
    for name in (f"{weights.stem}.json", "open_clip_config.json", "config.json"):
        path = weights.with_name(name)
        if path.is_file() and is_config(path):
            return path
    return None


def is_config(path: Path) -> bool:
    """Return whether a file looks like the config of an open_clip model, though perhaps not of a CoCa.

    Raises:
        ModelError: It cannot be read.
    """
    try:
        check_regular(path)
        config = parse_json(path.read_bytes())
    except OSError as error:
        raise ModelError(f"cannot read {path}: {os_reason(error)}") from None
    except ValueError:
        return False
    return isinstance(config, dict) and ("vision_cfg" in config or "model_cfg" in config)
