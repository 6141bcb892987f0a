"""The losses and their gradients against torch's in double precision."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from cococli.model.torch_teacher_forcing import caption_loss, contrastive_loss


def drawn(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def assert_close(loss: Tensor, inputs: list[Tensor], exact_loss: Tensor, exact_inputs: list[Tensor]) -> None:
    assert loss.item() == pytest.approx(exact_loss.item(), rel=1e-4)
    found, expected = torch.autograd.grad(3 * loss, inputs), torch.autograd.grad(3 * exact_loss, exact_inputs)
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() <= 1e-4 * other.norm()


@pytest.mark.parametrize("certainty", [0.0, 1.0, 18.0])
def test_caption_loss_is_exact(certainty: float) -> None:
    """At certainty 18 the loss is about 0.001: nearly all probability is on the right one of 49,408 tokens."""
    x, projection = drawn(5, 8), drawn(8, 49408, seed=1, scale=0.1)
    labels = torch.tensor([5, 9, 7, 49407, 3])
    for row, label in zip(x, labels, strict=True):
        if certainty:
            projection[:, label] = certainty * row / (row @ row)
    exact = [tensor.double().requires_grad_() for tensor in (x, projection)]
    expected = functional.cross_entropy(exact[0] @ exact[1], labels, reduction="sum")
    inputs = [x.requires_grad_(), projection.requires_grad_()]
    assert_close(caption_loss(*inputs, labels), inputs, expected, exact)
    with torch.no_grad():
        assert caption_loss(*inputs, labels).item() == pytest.approx(expected.item(), rel=1e-2)


@pytest.mark.parametrize(("alike", "scale"), [(0.0, 2.66), (0.7, 2.66), (0.1, 4.6)])
def test_contrastive_loss_is_exact(alike: float, scale: float) -> None:
    images = drawn(5, 48)
    texts = alike * images + drawn(5, 48, seed=1, scale=0.5)
    inputs = [images, texts, torch.tensor(scale)]
    exact = [tensor.double().requires_grad_() for tensor in inputs]
    inputs = [tensor.requires_grad_() for tensor in inputs]
    latents = [functional.normalize(tensor, dim=-1) for tensor in exact[:2]]
    logits = exact[2].exp() * latents[0] @ latents[1].T
    pairs = torch.arange(5)
    expected = (functional.cross_entropy(logits, pairs) + functional.cross_entropy(logits.T, pairs)) / 2
    assert_close(contrastive_loss(*inputs), inputs, expected, exact)


def test_single_pair_has_no_contrastive_loss() -> None:
    inputs = [drawn(1, 4).requires_grad_(), drawn(1, 4, seed=1).requires_grad_(), torch.tensor(2.0, requires_grad=True)]
    loss = contrastive_loss(*inputs)
    assert loss == 0
    assert not any(gradient.any() for gradient in torch.autograd.grad(loss, inputs))
