"""Losses and gradients against the oracle's, and against each other where only the way differs."""

import numpy as np
import pytest

from cococli.checkpoints.tensors import parameters_of
from cococli.training import pairs
from cococli.training.network import Batch, Objective, encode_images, losses_and_gradients, trained

BOTH = Objective()


def gradients_of(golden, batch, objective=BOTH, weights=None):
    names = trained(golden.config, objective)
    losses, gradients = losses_and_gradients(golden.config, weights or golden.weights(), names, batch, objective)
    return losses, {name: gradient.asnumpy() for name, gradient in zip(names, gradients, strict=True)}


def pictures(golden, ids=None):
    """The first three pictures, with their captions or others."""
    return Batch(golden.oracle["text_ids"] if ids is None else ids, golden.oracle["pixels"][:3, None])


def norm(arrays):
    return np.sqrt(sum(np.sum(np.square(array, dtype=np.float64)) for array in arrays))


def assert_close(actual, wanted, tolerance=1e-5):
    """Gradients equal within a share of each one's length. Those of a key's bias are 0 but for rounding."""
    assert actual.keys() == wanted.keys()
    rounding = 1e-8 * norm(wanted.values())
    for name, array in wanted.items():
        assert norm([actual[name] - array]) <= tolerance * norm([array]) + rounding, name


def captions(config, *lengths):
    """[B, T] captions of these lengths, SOT and EOT included."""
    ids = np.zeros((len(lengths), config.context_length), np.int32)
    for row, length in zip(ids, lengths, strict=True):
        row[:length] = [config.sot_id, *range(40, 38 + length), config.eot_id]
    return ids


def test_losses_and_every_gradient_equal_the_oracle(golden):
    losses, gradients = gradients_of(golden, pictures(golden))
    assert losses.caption == pytest.approx(golden.oracle["caption_loss"], rel=1e-4)
    assert losses.contrastive == pytest.approx(golden.oracle["contrastive_loss"], rel=1e-4)
    assert losses.total == pytest.approx(2 * losses.caption + losses.contrastive)
    norms = {tensor: norm(gradients.pop(name) for name in parameters_of(tensor)) for tensor in golden.gradient_norms}
    assert norms == pytest.approx(golden.gradient_norms, rel=1e-3)
    assert not gradients


def test_trimming_pads_keeps_losses_and_gradients(tiny, monkeypatch):
    ids = captions(tiny.config, 15, 4, 9)
    ids[2, 5] = 0  # a token that is taken for a pad
    short, short_gradients = gradients_of(tiny, pictures(tiny, ids))
    monkeypatch.setattr(pairs, "LENGTHS", ())
    whole, whole_gradients = gradients_of(tiny, pictures(tiny, ids))
    assert short.caption == pytest.approx(whole.caption, rel=1e-6)
    assert short.contrastive == pytest.approx(whole.contrastive, rel=1e-6)
    assert_close(short_gradients, whole_gradients)


def test_caption_loss_alone_has_its_gradients(tiny):
    """Gradients are linear in the weights of the losses."""
    _, once = gradients_of(tiny, pictures(tiny))
    _, twice = gradients_of(tiny, pictures(tiny), Objective(contrastive=2.0))
    losses, alone = gradients_of(tiny, pictures(tiny), Objective(contrastive=0.0))
    assert losses.contrastive == 0
    assert losses.total == 2 * losses.caption
    assert once.keys() - alone.keys() == {
        *("logit_scale", "visual.proj", "text.cls_emb", "text.text_projection"),
        *("text.ln_final.gamma", "text.ln_final.beta"),
    }
    assert_close(alone, {name: 2 * once[name] - twice[name] for name in alone}, tolerance=1e-4)


def test_the_caption_loss_alone_computes_no_text_latent(tiny):
    nowhere = np.full_like(tiny.arrays["text.cls_emb"], np.nan)
    weights = tiny.weights(**{"text.cls_emb": nowhere})
    losses, gradients = gradients_of(tiny, pictures(tiny), Objective(contrastive=0.0), weights)
    assert np.isfinite(losses.total + norm(gradients.values()))


def test_contrastive_loss_alone_runs_no_decoder(tiny):
    _, once = gradients_of(tiny, pictures(tiny))
    _, twice = gradients_of(tiny, pictures(tiny), Objective(caption=4.0))
    gone = {name: np.full_like(array, np.nan) for name, array in tiny.arrays.items() if "decoder" in name}
    losses, alone = gradients_of(tiny, pictures(tiny), Objective(caption=0.0), tiny.weights(**gone))
    assert losses.caption == 0
    assert losses.total == losses.contrastive
    assert {name for name in once if not name.startswith("text_decoder.")} == alone.keys()
    exact = {name: 2 * once[name] - twice[name] for name in alone}
    assert norm(alone[name] - exact[name] for name in alone) <= 1e-3 * norm(alone.values())


def test_frozen_vision_tower_needs_no_weights(tiny):
    _, everything = gradients_of(tiny, pictures(tiny))
    images = encode_images(tiny.config, tiny.weights(), tiny.oracle["pixels"][:3, None])
    gone = {name: np.full_like(array, np.nan) for name, array in tiny.arrays.items() if name.startswith("visual.")}
    batch = Batch(tiny.oracle["text_ids"], images=images)
    _, gradients = gradients_of(tiny, batch, Objective(frozen="vision"), tiny.weights(**gone))
    assert_close(gradients, {name: array for name, array in everything.items() if not name.startswith("visual.")})


def test_frozen_text_tower_keeps_other_gradients(tiny):
    _, everything = gradients_of(tiny, pictures(tiny))
    _, gradients = gradients_of(tiny, pictures(tiny), Objective(frozen="text"))
    assert_close(gradients, {name: array for name, array in everything.items() if not name.startswith("text.")})


def test_clip_features_equal_reference(tiny):
    pixels = tiny.oracle["pixels"].reshape(2, 3, *tiny.oracle["pixels"].shape[1:])
    images = encode_images(tiny.config, tiny.weights(), pixels)
    latents = images[:, 0] / np.linalg.norm(images[:, 0], axis=1, keepdims=True)
    np.testing.assert_allclose(latents, tiny.oracle["clip_latent"], rtol=0, atol=2e-4)
    np.testing.assert_allclose(images[:, 1:], tiny.oracle["clip_tokens"], rtol=0, atol=2e-4)


def test_gradients_of_clips_match_differences(tiny):
    pixels = tiny.oracle["pixels"].reshape(3, 2, *tiny.oracle["pixels"].shape[1:])
    batch = Batch(tiny.oracle["text_ids"], pixels)
    _, gradients = gradients_of(tiny, batch)
    vision = {name: gradient for name, gradient in gradients.items() if name.startswith("visual.transformer")}
    length, small = norm(vision.values()), 1e-3

    def total(direction):
        moved = {name: tiny.arrays[name] + direction * small / length * array for name, array in vision.items()}
        return losses_and_gradients(tiny.config, tiny.weights(**moved), (), batch, BOTH)[0].total

    assert (total(1) - total(-1)) / (2 * small) == pytest.approx(length, rel=1e-2)
