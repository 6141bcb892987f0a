"""Architecture and preprocessing of CoCa models, and the checkpoints that have short names."""

import dataclasses
import math
import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import ModelError

# Largest plausible sizes: a network is built from a config before any weights are compared with it.
_MAXIMUM = {
    **dict.fromkeys(("image_size", "patch_size"), 1 << 13),
    **dict.fromkeys(("width", "head_width", "heads", "pooler_heads", "pooler_queries", "context_length"), 1 << 16),
    "layers": 1 << 10,
    "mlp_ratio": 64,
    "vocab_size": 1 << 24,
}


@dataclass(frozen=True)
class Preprocess:
    """Preprocessing of pictures for a model: open_clip's `preprocess_cfg`.

    Its `size` is left out: open_clip uses that of the image tower, whatever the entry contains.
    """

    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)  # RGB of pixels in 0..1; CLIP's
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    interpolation: str = "bicubic"  # or bilinear
    resize_mode: str = "shortest"  # side that is resized to the image size; longest pads, squash resizes both
    fill_color: tuple[int, int, int] = (0, 0, 0)  # of the padding

    @classmethod
    def from_open_clip(cls, entry: Any) -> "Preprocess":
        """Read an open_clip `preprocess_cfg`; as in open_clip, missing entries have CLIP's values.

        Raises:
            ModelError: A value has another type, or open_clip does not know it.
        """
        if not isinstance(entry, dict):
            raise ModelError(f"preprocess_cfg is not an object but {_shown(entry)}")
        default = cls()
        std = _three(entry, "std", default.std)
        if not all(std):
            raise ModelError("preprocess_cfg.std holds 0, by which pixels cannot be divided")
        fill = _three(entry, "fill_color", default.fill_color)
        if not all(value in range(256) for value in fill):
            raise ModelError(f"preprocess_cfg.fill_color = {_shown(entry['fill_color'])} is not a number from 0 to 255")
        _one_of(entry, "mode", ("RGB",))
        interpolation = _one_of(entry, "interpolation", ("bicubic", "bilinear", "random"))
        return cls(
            mean=_three(entry, "mean", default.mean),
            std=std,
            interpolation=interpolation.replace("random", "bicubic"),  # random is for training
            resize_mode=_one_of(entry, "resize_mode", ("shortest", "longest", "squash")),
            fill_color=(int(fill[0]), int(fill[1]), int(fill[2])),
        )

    def to_open_clip(self) -> dict[str, Any]:
        """Return the open_clip `preprocess_cfg`."""
        entry: dict[str, Any] = {
            "mean": list(self.mean),
            "std": list(self.std),
            "interpolation": self.interpolation,
            "resize_mode": self.resize_mode,
        }
        if self.fill_color != Preprocess.fill_color:
            gray = len(set(self.fill_color)) == 1
            entry["fill_color"] = self.fill_color[0] if gray else list(self.fill_color)
        return entry

    def __str__(self) -> str:
        """Return the values that differ from CLIP's, or `CLIP's`."""
        default = CLIP.to_open_clip()
        differing = {key: value for key, value in self.to_open_clip().items() if value != default.get(key)}
        return ", ".join(f"{key} {value}" for key, value in differing.items()) or "CLIP's"


CLIP = Preprocess()


def _three(entry: dict[str, Any], key: str, default: tuple[float, float, float]) -> tuple[float, float, float]:
    """Return a number per channel; one number stands for three. To open_clip 0 and an empty list mean the default."""
    value = entry.get(key) or default
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    if len(values) not in (1, 3) or not all(map(_is_finite, values)):
        raise ModelError(f"preprocess_cfg.{key} = {_shown(value)} is not one finite number, or three")
    red, green, blue = [float(value) for value in values] * (3 // len(values))
    return red, green, blue


def _one_of(entry: dict[str, Any], key: str, known: tuple[str, ...]) -> str:
    value = entry.get(key) or known[0]
    if value not in known:
        raise ModelError(f"preprocess_cfg.{key} = {_shown(value)} is not supported", f"supported: {', '.join(known)}")
    return str(value)


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= 1e9


def _shown(value: Any) -> str:
    """Format a value for an error message, on one short line."""
    text = reprlib.repr(value)  # a few lines of YAML may stand for any number of values
    return text if len(text) <= 60 else f"{text[:57]}..."


@dataclass(frozen=True)
class VisionConfig:
    """The image tower: a ViT, then an attentional pooler."""

    image_size: int = 224  # pixels, square
    patch_size: int = 14  # pixels
    width: int = 1024
    layers: int = 24
    head_width: int = 64  # width of one attention head; heads = width / head_width
    mlp_ratio: float = 4.0
    pooler_queries: int = 256  # query 0 is the embedding, the others feed the decoder
    pooler_heads: int = 8

    @property
    def heads(self) -> int:
        return self.width // self.head_width

    @property
    def tokens(self) -> int:
        """ViT tokens of one frame: the patches and the CLS."""
        return (self.image_size // self.patch_size) ** 2 + 1


@dataclass(frozen=True)
class TextConfig:
    """A text transformer: the unimodal encoder, or the decoder that cross-attends to the image."""

    context_length: int = 76  # tokens of a caption with SOT and EOT, without the CLS
    vocab_size: int = 49408
    width: int = 768
    heads: int = 12
    layers: int = 12
    mlp_ratio: float = 4.0


@dataclass(frozen=True)
class CocaConfig:
    """Architecture of one CoCa with a single attentional pooler, as open_clip trains them."""

    embed_dim: int = 768
    vision: VisionConfig = field(default_factory=VisionConfig)
    text: TextConfig = field(default_factory=TextConfig)
    decoder: TextConfig = field(default_factory=TextConfig)
    quick_gelu: bool = False  # x * sigmoid(1.702 x), as OpenAI's CLIP, instead of the exact GELU
    preprocess_cfg: Preprocess | None = field(default=None, compare=False)  # None: its file does not set it

    def __post_init__(self) -> None:
        for name, part, keys in (
            ("vision_cfg", self.vision, _VISION_KEYS),
            ("text_cfg", self.text, _TEXT_KEYS),
            ("multimodal_cfg", self.decoder, _DECODER_KEYS),
        ):
            for theirs, ours in keys.items():
                value, maximum = getattr(part, ours), _MAXIMUM[ours]
                if not 0 < value <= maximum:
                    raise ModelError(f"{name}.{theirs} = {_shown(value)} is out of range: 1 to {maximum}")
        widths = {"embed_dim": self.embed_dim, "text width": self.text.width, "decoder width": self.decoder.width}
        if len(set(widths.values())) != 1:
            found = ", ".join(f"{name} {width}" for name, width in widths.items())
            raise ModelError(f"embedding, text and decoder of a CoCa have the same width, but this config has {found}")
        if self.text.vocab_size != self.decoder.vocab_size:
            found = f"text {self.text.vocab_size}, decoder {self.decoder.vocab_size}"
            raise ModelError(f"text and decoder of a CoCa have the same vocabulary, but this config has {found}")
        for name, width, heads in (
            ("vision", self.vision.width, self.vision.heads),
            ("pooler", self.embed_dim, self.vision.pooler_heads),
            ("text", self.text.width, self.text.heads),
            ("decoder", self.decoder.width, self.decoder.heads),
        ):
            if heads < 1 or width % heads:
                raise ModelError(f"{name} width {width} cannot be split into {heads} heads")
        if self.vision.image_size % self.vision.patch_size:
            size, patch = self.vision.image_size, self.vision.patch_size
            raise ModelError(f"image size {size} is not a multiple of patch size {patch}")

    @property
    def preprocess(self) -> Preprocess:
        """Preprocessing in the config, else CLIP's."""
        return self.preprocess_cfg or CLIP

    @property
    def context_length(self) -> int:
        return self.text.context_length

    @property
    def vocab_size(self) -> int:
        return self.text.vocab_size

    @property
    def sot_id(self) -> int:
        """Start of text: the last but one id of CLIP's vocabulary."""
        return self.vocab_size - 2

    @property
    def eot_id(self) -> int:
        """End of text: the last id of CLIP's vocabulary."""
        return self.vocab_size - 1

    @property
    def pad_id(self) -> int:
        return 0

    @classmethod
    def from_open_clip(cls, config: dict[str, Any]) -> "CocaConfig":
        """Read an open_clip model config (`open_clip_config.json`, or its `model_cfg` part).

        Raises:
            ModelError: The config is not that of a CoCa, needs an unsupported part, or holds an invalid value.
        """
        preprocess = config.get("preprocess_cfg")
        config = config.get("model_cfg", config)
        parts = [config[name] for name in _PARTS if isinstance(config, dict) and isinstance(config.get(name), dict)]
        if len(parts) < len(_PARTS) or "embed_dim" not in config:
            raise ModelError(
                "this is not an open_clip config of a CoCa: it needs embed_dim, vision_cfg, text_cfg and multimodal_cfg"
            )
        vision, text, decoder = parts
        if not vision.get("attentional_pool"):
            raise ModelError(UNSUPPORTED)
        if not text.get("embed_cls"):
            raise ModelError("text_cfg: `embed_cls` must be true")
        _refuse_foreign(vision, _VISION_KEYS, _VISION_FIXED, "vision_cfg")
        _refuse_foreign(text, _TEXT_KEYS, _TEXT_FIXED, "text_cfg")
        _refuse_foreign(decoder, _DECODER_KEYS, {}, "multimodal_cfg")
        small = TextConfig(77, 49408, 512, 8, 12)
        return cls(
            embed_dim=_number(config["embed_dim"], int, "embed_dim"),
            vision=VisionConfig(**_renamed(vision, _VISION_KEYS, VisionConfig(224, 16, 768, 12), "vision_cfg")),
            text=TextConfig(**_renamed(text, _TEXT_KEYS, small, "text_cfg")),
            decoder=TextConfig(**_renamed(decoder, _DECODER_KEYS, small, "multimodal_cfg")),
            quick_gelu=bool(config.get("quick_gelu", False)),
            preprocess_cfg=None if preprocess is None else Preprocess.from_open_clip(preprocess),
        )

    def to_open_clip(self) -> dict[str, Any]:
        """Return the architecture as an open_clip `model_cfg`."""
        config: dict[str, Any] = {
            "embed_dim": self.embed_dim,
            "vision_cfg": {
                **_unrenamed(self.vision, _VISION_KEYS),
                "attentional_pool": True,
                "output_tokens": True,
            },
            "text_cfg": {**_unrenamed(self.text, _TEXT_KEYS), "embed_cls": True, "output_tokens": True},
            "multimodal_cfg": {
                **_unrenamed(self.decoder, _DECODER_KEYS),
                "attn_pooler_heads": self.vision.pooler_heads,
            },
            "custom_text": True,
        }
        if self.quick_gelu:
            config["quick_gelu"] = True
        return config

    def to_file(self) -> dict[str, Any]:
        """Return the content of an `open_clip_config.json`: architecture and preprocessing."""
        return {"model_cfg": self.to_open_clip(), "preprocess_cfg": self.preprocess.to_open_clip()}


# open_clip's key -> ours. Keys in _IGNORED change nothing in inference; keys in *_FIXED must have these values.
_PARTS = ("vision_cfg", "text_cfg", "multimodal_cfg")
_VISION_KEYS = {
    "image_size": "image_size",
    "patch_size": "patch_size",
    "width": "width",
    "layers": "layers",
    "head_width": "head_width",
    "mlp_ratio": "mlp_ratio",
    "attn_pooler_queries": "pooler_queries",
    "attn_pooler_heads": "pooler_heads",
}
_TEXT_KEYS = {name: name for name in ("context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio")}
_DECODER_KEYS = _TEXT_KEYS
_VISION_FIXED = {"attentional_pool": (True,), "output_tokens": (True,), "pool_type": ("tok",)}
_TEXT_FIXED = {"embed_cls": (True,), "output_tokens": (True,), "correct_cls_mask": (False,), "pad_id": (0,)}
_IGNORED = {"patch_dropout", "dim_head", "n_queries", "attn_pooler_heads", "final_ln_after_pool", "eos_id"}


def _refuse_foreign(part: dict[str, Any], keys: dict[str, str], fixed: dict[str, tuple], where: str) -> None:
    """Refuse a part of a config that changes the network in an unsupported way."""
    for key, value in part.items():
        if key in fixed:
            if value not in fixed[key]:
                raise ModelError(f"{where}: {key} = {_shown(value)} is not supported, only {fixed[key][0]!r}")
        elif key not in keys and key not in _IGNORED and value not in (None, False, 0):
            raise ModelError(f"{where}: {key} = {_shown(value)} is not supported")


def _renamed(part: dict[str, Any], keys: dict[str, str], defaults: Any, where: str) -> dict[str, Any]:
    """Translate the keys of a part of an open_clip config; missing keys have open_clip's defaults."""
    values = dataclasses.asdict(defaults)
    for theirs, ours in keys.items():
        if part.get(theirs) is not None:
            values[ours] = _number(part[theirs], type(values[ours]), f"{where}.{theirs}")
    return values


def _number(value: Any, kind: type, where: str) -> Any:
    """Check that a value is a number, whole where it must be, and convert it without rounding."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or (kind is int and value != value // 1):
        raise ModelError(f"{where} = {_shown(value)} is not a {'whole ' if kind is int else ''}number")
    if abs(value) > max(_MAXIMUM.values()) or math.isnan(value):
        raise ModelError(f"{where} = {_shown(value)} is too large")
    return kind(value)


def _unrenamed(part: Any, keys: dict[str, str]) -> dict[str, Any]:
    return {theirs: getattr(part, ours) for theirs, ours in keys.items()}


VIT_L_14 = CocaConfig()
VIT_B_32 = CocaConfig(
    embed_dim=512,
    vision=VisionConfig(patch_size=32, width=768, layers=12),
    text=TextConfig(width=512, heads=8),
    decoder=TextConfig(width=512, heads=8),
)


@dataclass(frozen=True)
class KnownModel:
    """A checkpoint that has a short name, with the scores that its authors published."""

    config: CocaConfig | None  # None: read from the checkpoint's own config
    repository: str  # on the model hub; empty when the checkpoint ships with the package
    summary: str
    imagenet: float | None = None  # zero-shot top-1 accuracy, %
    text_to_image: float | None = None  # recall@1 on COCO, %
    image_to_text: float | None = None
    captions: str = ""  # quality
    warning: str = ""  # about unsuitable uses
    license: str = "MIT"
    sha256: Mapping[str, str] = field(default_factory=dict)  # of its files, by name

    @property
    def bundled(self) -> bool:
        return not self.repository


UNSUPPORTED = (
    "CoCa without an attentional pooler, as coca_base and coca_roberta-ViT-B-32, is not supported: "
    "no weights of it are published"
)
_UNSUPPORTED_NAMES = re.compile(r"coca[_-](base|roberta[_-]vit[_-]b[_-]32)([/:].*)?", re.IGNORECASE)

BUNDLED = "shapes"
SUGGESTED = "vit-l-14-coco"  # for users without a model
MODELS = {
    "shapes": KnownModel(
        config=None,
        repository="",
        summary="bundled demo: drawn circles, squares and triangles; needs no download",
        captions="of drawn shapes",
        sha256={"shapes.ckpt": "6d196cc4ae54ea57f138b0656e211df6ac2ebbac4bacd786e5ce040f90c25c6e"},
    ),
    "vit-l-14": KnownModel(
        config=VIT_L_14,
        repository="laion/CoCa-ViT-L-14-laion2B-s13B-b90k",
        summary="large, general embeddings",
        imagenet=75.6,
        text_to_image=45.7,
        image_to_text=62.9,
        captions="weak",
        sha256={"open_clip_pytorch_model.bin": "73725652298ad76ed2162caffdae96d8653a05d7a29b6281103e4df81d0ff8ea"},
    ),
    "vit-l-14-coco": KnownModel(
        config=VIT_L_14,
        repository="laion/mscoco_finetuned_CoCa-ViT-L-14-laion2B-s13B-b90k",
        summary="large, fine-tuned to caption",
        imagenet=72.0,
        text_to_image=53.7,
        image_to_text=66.8,
        captions="CIDEr 125.3, B@4 35.6",
        sha256={"open_clip_pytorch_model.bin": "f22c34acef2b7a5d1ed28982a21077de651363eaaebcf34a3f10676e17837cb8"},
    ),
    "vit-b-32": KnownModel(
        config=VIT_B_32,
        repository="laion/CoCa-ViT-B-32-laion2B-s13B-b90k",
        summary="small, general embeddings",
        imagenet=63.3,
        text_to_image=36.2,
        image_to_text=54.6,
        captions="weak",
    ),
    "vit-b-32-coco": KnownModel(
        config=VIT_B_32,
        repository="laion/mscoco_finetuned_CoCa-ViT-B-32-laion2B-s13B-b90k",
        summary="small, fine-tuned to caption",
        imagenet=0.79,
        text_to_image=0.3,
        image_to_text=0.9,
        captions="good",
        warning="its embeddings are useless: use another model for vectors, search and similarity",
    ),
}

# Apple's captioners of MobileCLIP2 (arXiv 2508.20691). Those of longer captions are fetched by repository.
APPLE = "apple/mobileclip2_coca_dfn2b_s13b_"
MODELS |= {
    f"mobileclip2-coca{name}": KnownModel(
        config=VIT_L_14,
        repository=f"{APPLE}{tag}context77",
        summary=f"large, {trained}",
        captions=captions,
        license="apple-amlr",
    )
    for name, tag, trained, captions in (
        ("", "", "trained on DFN-2B", "weak"),
        ("-coco", "mscoco38k_s12m_", "fine-tuned on COCO", "short"),
        ("-dci-short", "dci-short_s12m_", "fine-tuned on DCI", "short"),
        ("-dci", "dci-extended_s12m_", "fine-tuned on DCI", "long"),
        ("-dci-full", "dci-complete_s12m_", "fine-tuned on DCI", "long"),
        ("-docci", "docci_s12m_", "fine-tuned on DOCCI", "long"),
        ("-gbc", "gbc1m-short_", "fine-tuned on GBC", "short"),
        ("-recap", "recap-coco-30k_s12m_", "fine-tuned on Recap-COCO", "long"),
    )
}

_SIZE = re.compile(r"vit-?(l-?14|b-?32)")
_FILLERS = {"coca", "laion2b", "s13b", "b90k"}  # parts of open_clip's names without meaning here
_COCO = {"coco", "mscoco", "finetuned"}


def known_name(name: str) -> str | None:
    """Return the catalog name of a model by its name in open_clip or its repository on the hub; None for others.

    Accepts `coca_ViT-L-14`, with a pretrained tag (`coca_ViT-B-32/mscoco_finetuned_laion2b_s13b_b90k`) or without, a
    tag alone, which means `coca_ViT-L-14`, and a repository of Apple's without `apple/`.

    Raises:
        ModelError: It is a model of open_clip's that is not supported.
    """
    if _UNSUPPORTED_NAMES.fullmatch(name.strip()):
        raise ModelError(UNSUPPORTED)
    if apple := next((own for own, model in MODELS.items() if model.repository == f"apple/{name.strip()}"), None):
        return apple
    plain = re.sub(r"[\s_/:-]+", "-", name.strip().lower())
    if re.fullmatch("(mscoco-finetuned-)?laion2b-s13b-b90k", plain):
        plain = f"vit-l-14-{plain}"
    found = _SIZE.search(plain)
    if found is None or ("/" in name and not _SIZE.search(plain[: name.strip().index("/")])):
        return None
    others = set(filter(None, _SIZE.sub("", plain).split("-")))
    if others - _FILLERS - _COCO:
        return None
    size = found[1].replace("-", "")
    return f"vit-{size[0]}-{size[1:]}{'-coco' if others & _COCO else ''}"
