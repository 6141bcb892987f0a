"""The losses and their gradients against torch's in double precision."""

import numpy as np
import pytest
import torch
from mindspore import Tensor
from torch.nn import functional

from cococli.training.losses import caption_loss, contrastive_loss
from cococli.training.tape import compiled


def run(function, *inputs):
    """Loss and gradients, the loss weighing 3."""
    tensors = [Tensor(value) if isinstance(value, np.ndarray) else value for value in inputs]
    return [value.asnumpy() for value in compiled(function)(Tensor(np.float32(3)), *tensors)]


def doubles(*arrays):
    return [torch.tensor(np.asarray(array, np.float64), requires_grad=True) for array in arrays]


def assert_close(actual, wanted, tolerance):
    error = np.linalg.norm(actual - wanted.numpy())
    assert error <= tolerance * np.linalg.norm(wanted.numpy())


@pytest.mark.parametrize("certainty", [0.0, 1.0, 18.0])
def test_caption_loss_is_exact(certainty):
    """At certainty 18 the loss is about 0.001: most of the model's mind is on the right one of 49,408 tokens."""
    rng = np.random.default_rng(0)
    x, projection = rng.standard_normal((2, 4, 8)).astype(np.float32), rng.normal(0, 0.1, (8, 49408)).astype(np.float32)
    labels = np.array([[5, 9, 7, 0], [49407, 3, 0, 0]], np.int32)
    for row, label in zip(x.reshape(-1, 8), labels.ravel(), strict=True):
        if label:
            projection[:, label] = certainty * row / (row @ row)
    loss, *gradients = run(caption_loss, x, projection, labels, 0)
    exact = doubles(x, projection)
    logits = (exact[0] @ exact[1]).reshape(8, -1)
    wanted = functional.cross_entropy(logits, torch.tensor(labels.ravel()).long(), ignore_index=0)
    assert loss == pytest.approx(wanted.item(), rel=1e-4)
    for gradient, tensor in zip(gradients, torch.autograd.grad(3 * wanted, exact), strict=True):
        assert_close(gradient, tensor, 1e-4)


def test_a_token_thought_impossible_gives_a_finite_loss():
    x, projection = np.ones((1, 1, 1), np.float32), np.array([[0, 500, 0]], np.float32)
    loss, x_gradient, _ = run(caption_loss, x, projection, np.array([[2]], np.int32), 0)
    assert 80 < loss < 100
    np.testing.assert_allclose(x_gradient, [[[1500]]])


@pytest.mark.parametrize(("alike", "scale"), [(0.0, 2.66), (0.7, 2.66), (0.1, 4.6)])
def test_contrastive_loss_is_exact(alike, scale):
    rng = np.random.default_rng(0)
    images = rng.standard_normal((5, 3, 48)).astype(np.float32)
    texts = (alike * images[:, 0] + rng.standard_normal((5, 48)) * 0.5).astype(np.float32)
    loss, *gradients = run(contrastive_loss, images, texts, np.array(scale, np.float32))
    exact = doubles(images, texts, scale)
    latents = functional.normalize(exact[0][:, 0], dim=-1), functional.normalize(exact[1], dim=-1)
    logits = exact[2].exp() * latents[0] @ latents[1].T
    pairs = torch.arange(5)
    wanted = (functional.cross_entropy(logits, pairs) + functional.cross_entropy(logits.T, pairs)) / 2
    assert loss == pytest.approx(wanted.item(), rel=1e-4)
    for gradient, tensor in zip(gradients, torch.autograd.grad(3 * wanted, exact), strict=True):
        assert_close(gradient, tensor, 1e-4)


def test_single_pair_has_no_contrastive_loss():
    loss, *gradients = run(
        contrastive_loss, np.ones((1, 3, 4), np.float32), np.ones((1, 4), np.float32), np.array(2, np.float32)
    )
    assert loss == 0
    assert not any(gradient.any() for gradient in gradients)
