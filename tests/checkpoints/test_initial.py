"""Weights from scratch are drawn as open_clip draws them."""

import numpy as np
import pytest

from cococli.catalog import CocaConfig, TextConfig, VisionConfig
from cococli.checkpoints.architecture import parameters
from cococli.checkpoints.initial import initial

CONFIG = CocaConfig(
    96,
    VisionConfig(32, 8, 128, 2, 32, pooler_queries=31, pooler_heads=4),
    TextConfig(40, 500, 96, 3, 3),
    TextConfig(40, 500, 96, 3, 5),
)
SQUARE = CocaConfig(96, VisionConfig(32, 8, 96, 2, 32, pooler_heads=4), CONFIG.text, CONFIG.decoder)
NORMAL, UNIFORM = 3.0, 1.73  # what the greatest of many values is at least, and at most, in standard deviations


@pytest.fixture(scope="module")
def drawn() -> dict[str, np.ndarray]:
    return initial(CONFIG)


@pytest.mark.parametrize(
    ("name", "deviation", "kind"),
    [  # open_clip 3.3.0, over 8 seeds
        ("visual.class_embedding", 0.0918, None),
        ("visual.positional_embedding", 0.0883, NORMAL),
        ("visual.proj", 0.0882, NORMAL),
        ("visual.conv1.weight", 0.0416, UNIFORM),
        ("visual.transformer.resblocks.0.attn.q_proj.weight", 0.0625, UNIFORM),
        ("visual.transformer.resblocks.1.attn.out_proj.weight", 0.0511, UNIFORM),
        ("visual.transformer.resblocks.0.mlp.c_fc.weight", 0.0511, UNIFORM),
        ("visual.transformer.resblocks.0.mlp.c_fc.bias", 0.0508, UNIFORM),
        ("visual.transformer.resblocks.1.mlp.c_proj.weight", 0.0255, UNIFORM),
        ("visual.transformer.resblocks.1.mlp.c_proj.bias", 0.0254, UNIFORM),
        ("visual.attn_pool.query", 1.0024, NORMAL),
        ("visual.attn_pool.attn.q_proj.weight", 0.1019, UNIFORM),
        ("visual.attn_pool.attn.v_proj.weight", 0.0943, UNIFORM),
        ("visual.attn_pool.attn.out_proj.weight", 0.0588, UNIFORM),
        ("text.cls_emb", 0.0101, None),
        ("text.positional_embedding", 0.0101, NORMAL),
        ("text.text_projection", 0.1017, NORMAL),
        ("text.token_embedding", 0.0200, NORMAL),
        ("text.transformer.resblocks.0.attn.k_proj.weight", 0.1022, NORMAL),
        ("text.transformer.resblocks.2.attn.out_proj.weight", 0.0415, NORMAL),
        ("text.transformer.resblocks.1.mlp.c_fc.weight", 0.0721, NORMAL),
        ("text.transformer.resblocks.1.mlp.c_fc.bias", 0.0584, UNIFORM),
        ("text.transformer.resblocks.0.mlp.c_proj.weight", 0.0416, NORMAL),
        ("text.transformer.resblocks.2.mlp.c_proj.bias", 0.0293, UNIFORM),
        # its MultimodalTransformer.init_parameters, which it forgets to call
        ("text_decoder.resblocks.4.attn.q_proj.weight", 96**-0.5, NORMAL),
        ("text_decoder.resblocks.0.mlp.c_proj.weight", 96**-0.5 * 10**-0.5, NORMAL),
        ("text_decoder.cross_attn.1.attn.out_proj.weight", 96**-0.5 * 10**-0.5, NORMAL),
        ("text_decoder.cross_attn.3.mlp.c_fc.weight", 192**-0.5, NORMAL),
        ("text_decoder.text_projection", 96**-0.5, NORMAL),
    ],
)
def test_weights_are_spread_as_open_clips(drawn, name: str, deviation: float, kind: float | None) -> None:
    values = drawn[name]
    error = 4 * (2 * values.size) ** -0.5  # four times the standard error of a deviation
    assert values.std() == pytest.approx(deviation, rel=error + 0.02)  # the oracle's own is less than that
    assert abs(values.mean()) < 5 * deviation * values.size**-0.5
    if kind:
        greatest = np.abs(values).max() / deviation
        assert greatest > NORMAL if kind == NORMAL else greatest < 1.05 * UNIFORM


def test_equally_wide_pooler_is_drawn_as_one_matrix() -> None:
    query = initial(SQUARE)["visual.attn_pool.attn.q_proj.weight"]
    assert query.std() == pytest.approx((2 / (96 + 3 * 96)) ** 0.5, rel=0.05)


def test_constant_weights_have_fixed_values(drawn) -> None:
    for name, values in drawn.items():
        if name.endswith("gamma"):
            assert (values == 1).all(), name
        elif name.endswith("beta") or (name.endswith("bias") and ".attn." in name):
            assert (values == 0).all(), name
        elif name == "logit_scale":
            assert values == pytest.approx(2.6593, abs=1e-4)
        else:
            assert values.std() > 0, name


def test_all_parameters_are_there_in_float32(drawn) -> None:
    assert {name: array.shape for name, array in drawn.items()} == parameters(CONFIG)
    assert {array.dtype for array in drawn.values()} == {np.dtype(np.float32)}


def test_seed_determines_the_weights(drawn) -> None:
    again, other = initial(CONFIG, 0), initial(CONFIG, 1)
    for name, array in drawn.items():
        np.testing.assert_array_equal(again[name], array)
        assert array.std() == 0 or not np.array_equal(other[name], array), name
