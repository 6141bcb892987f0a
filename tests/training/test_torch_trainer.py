"""Training on PyTorch: losses and gradients equal open_clip's, and variants of a step equal each other."""

import math

import numpy as np
import pytest
import torch
from training.trainer_fixtures import BOTH, assert_close, batch, captions, copied, gradients, norm, split, trainer

from cococli.checkpoints.tensors import parameters_of
from cococli.datasets import pairs
from cococli.errors import ModelError
from cococli.model import torch_teacher_forcing
from cococli.training import torch_trainer
from cococli.training.objective import AdamWOptions, Batch, Objective
from cococli.training.torch_trainer import FIRST_LOSS_SCALE, Trainer, is_adapted

RATE, RANK = 1e-3, 2


def test_losses_and_gradients_equal_open_clip(golden):
    pupil = trainer(golden)
    losses = pupil.step([batch(golden)], 0.0).losses
    assert losses.caption == pytest.approx(golden.oracle["caption_loss"], rel=1e-4)
    assert losses.contrastive == pytest.approx(golden.oracle["contrastive_loss"], rel=1e-4)
    assert losses.total == pytest.approx(2 * losses.caption + losses.contrastive)
    found = gradients(trainer(golden), [batch(golden)])
    norms = {tensor: norm(found.pop(name) for name in parameters_of(tensor)) for tensor in golden.gradient_norms}
    assert norms == pytest.approx(golden.gradient_norms, rel=1e-3)
    assert not found


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 1)])
def test_micro_batches_equal_one_large_batch(tiny, sizes):
    whole = Batch(captions(tiny.config, 15, 4, 9), batch(tiny).pixels)
    one, several = trainer(tiny), trainer(tiny)
    losses = one.step([whole], 0.0).losses
    parts = several.step(split(whole, *sizes), 0.0).losses
    assert (parts.caption, parts.contrastive) == pytest.approx((losses.caption, losses.contrastive), rel=1e-5)
    assert_close(gradients(trainer(tiny), split(whole, *sizes)), gradients(trainer(tiny), [whole]), 1e-4)


def test_trimming_pads_keeps_losses_and_gradients(tiny, monkeypatch):
    ids = captions(tiny.config, 15, 4, 9)
    ids[2, 5] = 0  # a token that is taken for a pad
    whole = Batch(ids, batch(tiny).pixels)
    short = gradients(trainer(tiny), [whole])
    monkeypatch.setattr(pairs, "ROUNDED", tiny.config.context_length)
    assert_close(short, gradients(trainer(tiny), [whole]))


def test_caption_loss_alone_has_its_gradients(tiny):
    """Gradients are linear in the weights of the losses."""
    once, twice = (gradients(trainer(tiny, Objective(contrastive=it)), [batch(tiny)]) for it in (1.0, 2.0))
    nowhere = {"text.cls_emb": np.full_like(tiny.arrays["text.cls_emb"], np.nan)}
    pupil = trainer(tiny, Objective(contrastive=0.0), weights=nowhere)
    alone = gradients(pupil, [batch(tiny)])
    assert once.keys() - alone.keys() == {
        *("logit_scale", "visual.proj", "text.cls_emb", "text.text_projection"),
        *("text.ln_final.gamma", "text.ln_final.beta"),
    }
    assert_close(alone, {name: 2 * once[name] - twice[name] for name in alone}, tolerance=1e-4)


def test_contrastive_loss_alone_runs_no_decoder(tiny):
    once, twice = (gradients(trainer(tiny, Objective(caption=it)), [batch(tiny)]) for it in (2.0, 4.0))
    gone = {name: np.full_like(array, np.nan) for name, array in tiny.arrays.items() if "decoder" in name}
    alone = gradients(trainer(tiny, Objective(caption=0.0), weights=gone), [batch(tiny)])
    assert {name for name in once if not name.startswith("text_decoder.")} == alone.keys()
    exact = {name: 2 * once[name] - twice[name] for name in alone}
    assert norm(alone[name] - exact[name] for name in alone) <= 1e-3 * norm(alone.values())


@pytest.mark.parametrize(
    ("objective", "locked"),
    [
        (Objective(lock_image=True), ("visual.",)),
        (Objective(lock_text=True), ("text.",)),
        (Objective(lock_image=True, lock_text=True), ("visual.", "text.")),
        (
            Objective(lock_image=True, unlocked_groups=2),
            (
                "visual.conv1",
                "visual.class_emb",
                "visual.pos",
                "visual.ln_pre",
                *(f"visual.transformer.resblocks.{layer}" for layer in (0, 1)),
            ),
        ),
        (Objective(lock_image=True, unlocked_groups=99), ()),
    ],
)
def test_locked_parts_keep_other_gradients(tiny, objective, locked):
    everything = gradients(trainer(tiny), [batch(tiny)])
    found = gradients(trainer(tiny, objective), [batch(tiny)])
    expected = {name: array for name, array in everything.items() if not name.startswith(locked)}
    assert_close(found, expected, 1e-4)


def test_cached_features_equal_pixels(tiny):
    objective = Objective(lock_image=True)
    images = trainer(tiny).encode_images(batch(tiny).pixels)
    gone = {name: np.full_like(array, np.nan) for name, array in tiny.arrays.items() if name.startswith("visual.")}
    pupil = trainer(tiny, objective, weights=gone)
    assert_close(
        gradients(pupil, [Batch(batch(tiny).ids, images=images)]),
        gradients(trainer(tiny, objective), [batch(tiny)]),
        1e-4,
    )


def test_clip_features_equal_reference(tiny):
    pixels = tiny.oracle["pixels"].reshape(2, 3, *tiny.oracle["pixels"].shape[1:])
    images = trainer(tiny).encode_images(pixels)
    latents = images[:, 0] / np.linalg.norm(images[:, 0], axis=1, keepdims=True)
    np.testing.assert_allclose(latents, tiny.oracle["clip_latent"], rtol=0, atol=2e-4)
    np.testing.assert_allclose(images[:, 1:], tiny.oracle["clip_tokens"], rtol=0, atol=2e-4)


def test_frames_are_normalized_on_the_device(tiny):
    frames = np.random.default_rng(0).integers(0, 256, (2, 1, *tiny.oracle["pixels"].shape[2:], 3), np.uint8)
    mean, std = (np.float32(values) for values in (tiny.config.preprocess.mean, tiny.config.preprocess.std))
    normalized = ((frames / np.float32(255) - mean) / std).transpose(0, 1, 4, 2, 3)
    pupil = trainer(tiny)
    np.testing.assert_allclose(pupil.encode_images(frames), pupil.encode_images(normalized), atol=1e-4)


def test_checkpointing_keeps_gradients(tiny):
    kept, again = (gradients(trainer(tiny, checkpointing=it), [batch(tiny)]) for it in (False, True))
    for name, array in kept.items():
        np.testing.assert_array_equal(again[name], array)


def test_rows_of_logits_may_be_split(tiny, monkeypatch):
    whole = gradients(trainer(tiny), [batch(tiny)])
    monkeypatch.setattr(torch_teacher_forcing, "LOSS_ROWS", 5)
    assert_close(gradients(trainer(tiny), [batch(tiny)]), whole)


def test_bf16_is_close_to_float32(tiny):
    exact, near = (trainer(tiny, precision=it) for it in ("fp32", "bf16"))
    for _ in range(4):
        one, other = exact.step([batch(tiny)], RATE, 1.0), near.step([batch(tiny)], RATE, 1.0)
        assert other.losses.total == pytest.approx(one.losses.total, rel=2e-2)
        assert other.norm == pytest.approx(one.norm, rel=5e-2)
        assert one.losses.caption != other.losses.caption


def test_joined_projections_keep_gradients(tiny, monkeypatch):
    """As on GPUs."""

    def found() -> dict[str, np.ndarray]:
        every = gradients(trainer(tiny, precision="bf16"), [batch(tiny)])
        return {name: array for name, array in every.items() if not name.endswith("k_proj.bias")}

    apart = found()
    monkeypatch.setattr(torch_trainer, "JOINING", ("cpu",))
    assert_close(found(), apart, 2e-2)


def test_training_on_one_batch_learns_it(tiny):
    pupil = trainer(tiny)
    losses = [pupil.step([batch(tiny)], RATE).losses for _ in range(12)]
    assert losses[-1].caption < 0.6 * losses[0].caption


def test_given_weights_are_not_changed(tiny):
    before = copied(tiny.arrays)
    pupil = trainer(tiny, Objective(lock_image=True))
    pupil.step([batch(tiny)], RATE)
    for name, array in pupil.weights().items():
        np.testing.assert_array_equal(tiny.arrays[name], before[name])
        locked = name.startswith("visual.")
        assert np.array_equal(array, before[name]) == (locked or name.endswith("k_proj.bias")) or not locked, name
        assert np.shares_memory(array, tiny.arrays[name]) == locked, name


def test_gradients_are_clipped_all_together(tiny):
    exact = gradients(trainer(tiny), [batch(tiny)])
    clipped = trainer(tiny)
    step = clipped.step([batch(tiny)], RATE, max_norm=0.5)
    assert step.norm == pytest.approx(norm(exact.values()), rel=1e-5)
    for name, array in exact.items():
        np.testing.assert_allclose(clipped.state()[f"{name}.m"], 0.1 * array * 0.5 / step.norm, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_infinite_losses_change_nothing(tiny, value):
    pupil, bad = trainer(tiny), batch(tiny)
    pupil.step([batch(tiny)], RATE)
    weights, state = copied(pupil.weights()), copied(pupil.state())
    bad.pixels[1] = value
    step = pupil.step([bad], RATE)
    assert not step.applied
    assert not math.isfinite(step.losses.total + step.norm)
    for found, expected in ((pupil.weights(), weights), (pupil.state(), state)):
        for name, array in found.items():
            np.testing.assert_array_equal(array, expected[name])


@pytest.mark.parametrize(("start", "end"), [(9.0, math.log(100)), (-3.0, 0.0), (2.0, 2.0)])
def test_logit_scale_stays_within_bounds(tiny, start, end):
    pupil = trainer(tiny, weights={"logit_scale": np.array(start, np.float32)})
    pupil.step([batch(tiny)], 1e-9)
    assert pupil.weights()["logit_scale"] == pytest.approx(end, abs=1e-6)


@pytest.mark.parametrize("options", [{}, {"lora": RANK}, {"ema": 0.9}], ids=str)
def test_trainer_resumes_bit_for_bit(tiny, options):
    whole = trainer(tiny, **options)
    for _ in range(2):
        whole.step([batch(tiny)], RATE)
    again = trainer(tiny, weights=copied(whole.weights()), **options)
    again.load(copied(whole.state()))
    assert whole.step([batch(tiny)], RATE) == again.step([batch(tiny)], RATE)
    for name, array in whole.weights().items():
        np.testing.assert_array_equal(again.weights()[name], array)


def test_steps_equal_plain_torch(tiny):
    """Moments, bias correction, and weight decay of matrices alone."""
    pupil, rates = trainer(tiny), (1e-2, 1e-3, 1e-3)
    name_of = {name: torch.nn.Parameter(torch.tensor(tiny.arrays[name])) for name in BOTH.trained(tiny.config)}
    groups = [
        {"params": [one for one in name_of.values() if (one.ndim > 1) == matrices], "weight_decay": 0.2 * matrices}
        for matrices in (True, False)
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-6)
    for rate in rates:
        probe = trainer(tiny, weights={name: it.detach().numpy().copy() for name, it in name_of.items()})
        for name, gradient in gradients(probe, [batch(tiny)]).items():
            name_of[name].grad = torch.tensor(gradient, dtype=torch.float32)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        pupil.step([batch(tiny)], rate)
    for name, parameter in name_of.items():
        if not name.endswith("k_proj.bias"):
            np.testing.assert_allclose(pupil.weights()[name], parameter.detach().numpy(), rtol=0, atol=2e-5)


def test_adapters_change_attention_by_low_rank(tiny):
    pupil = trainer(tiny, lora=RANK)
    for _ in range(3):
        pupil.step([batch(tiny)], 1e-2)
    for name, array in pupil.weights().items():
        change = array - tiny.arrays[name]
        if is_adapted(name):
            assert np.linalg.matrix_rank(change, tol=1e-4) == RANK, name
        else:
            assert not change.any(), name
    moments = sum(array.size for name, array in pupil.state().items() if name.endswith((".m", ".v")))
    assert moments == 2 * RANK * sum(sum(array.shape) for name, array in tiny.arrays.items() if is_adapted(name))


def test_first_adapter_step_equals_manual_computation(tiny):
    name = "text_decoder.cross_attn.0.attn.v_proj.weight"
    gradient, base = gradients(trainer(tiny), [batch(tiny)])[name], tiny.arrays[name]
    pupil = trainer(tiny, lora=RANK)
    a = pupil.state()[f"{name}.a"].copy()
    assert a.shape == (RANK, base.shape[1]) and not pupil.state()[f"{name}.b"].any()
    pupil.step([batch(tiny)], 1e-2)
    of_b = gradient @ a.T  # that of A is 0, as B is
    b = -1e-2 * of_b / (np.abs(of_b) + 1e-6)  # AdamW's first step
    a = a * (1 - 1e-2 * 0.2)
    np.testing.assert_allclose(pupil.state()[f"{name}.a"], a, rtol=1e-6)
    np.testing.assert_allclose(pupil.weights()[name], base + b @ a, rtol=1e-3, atol=1e-6)


def test_moving_average_is_saved(tiny):
    plain, averaged = trainer(tiny), trainer(tiny, ema=0.5)
    expected = tiny.arrays["visual.proj"]
    for decay in (2 / 11, 3 / 12, 4 / 13):
        plain.step([batch(tiny)], RATE)
        averaged.step([batch(tiny)], RATE)
        expected = decay * expected + (1 - decay) * plain.weights()["visual.proj"]
    np.testing.assert_allclose(averaged.weights()["visual.proj"], expected, atol=1e-6)
    np.testing.assert_array_equal(averaged.state()["visual.proj"], plain.weights()["visual.proj"])


def test_half_precision_skips_overflows(tiny):
    pupil = Trainer(tiny.config, tiny.arrays, BOTH, AdamWOptions(), precision="fp16")
    assert pupil.state()["loss_scale"].tolist() == [FIRST_LOSS_SCALE, 0]
    pupil.load(pupil.state() | {"loss_scale": np.array([2.0**60, 0], np.float32)})
    before = pupil.weights()["visual.proj"].copy()
    step = pupil.step([batch(tiny)], RATE)
    assert (step.applied, step.skipped) == (False, True)
    assert math.isfinite(step.losses.total) and not math.isfinite(step.norm)
    assert (pupil.weights()["visual.proj"] == before).all()
    assert pupil.state()["loss_scale"].tolist() == [2.0**59, 0]


def test_engine_shares_weights(tiny):
    pupil = trainer(tiny)
    engine = pupil.engine()
    before = engine.encode_clips(batch(tiny).pixels).embedding
    np.testing.assert_allclose(before, tiny.oracle["image_latent"][:3], atol=2e-4)
    pupil.step([batch(tiny)], RATE)
    assert not np.array_equal(engine.encode_clips(batch(tiny).pixels).embedding, before)


def test_weights_of_another_network_are_refused(tiny):
    with pytest.raises(ModelError, match="logit_scale has the shape"):
        trainer(tiny, weights={"logit_scale": np.zeros(1, np.float32)})
