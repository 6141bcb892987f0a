"""Gradients through noted layers, against those worked out by hand."""

import numpy as np
import pytest
from mindspore import Tensor

from cococli.training.tape import Tape


def scaled(x, factor, weight):
    return x * factor * weight


def added(x, y):
    return x + y


def squared(weight, x):
    """The loss x * x, and its weighted gradient."""
    return x * x, 2 * weight * x


@pytest.fixture
def tensors():
    return [Tensor(np.array(value, np.float32)) for value in (2, 3, 5)]


def test_a_tensor_used_twice_gets_both_gradients(tensors):
    x, a, b = tensors
    tape = Tape([x, a, b])
    y = tape.run(added, tape.run(scaled, x, 7, a), tape.run(scaled, x, 1, b))
    assert tape.loss(squared, 10, y).asnumpy() == (7 * 2 * 3 + 2 * 5) ** 2
    upstream = 10 * 2 * (7 * 2 * 3 + 2 * 5)
    assert [gradient.asnumpy() for gradient in tape.gradients()] == [
        upstream * (7 * 3 + 5),
        upstream * 7 * 2,
        upstream * 2,
    ]


def test_gradients_of_several_losses_are_added(tensors):
    x, a, _ = tensors
    tape = Tape([a])
    y = tape.run(scaled, x, 1, a)
    tape.loss(squared, 1, y)
    tape.loss(squared, 2, tape.run(scaled, y, 3, a))
    assert tape.gradients()[0].asnumpy() == 2 * 6 * 2 + 2 * 2 * (3 * 2 * 9) * (3 * 2 * 2 * 3)


def test_unneeded_layers_are_not_recorded(tensors):
    x, a, b = tensors
    tape = Tape([b])
    tape.run(scaled, x, 1, a)
    assert not tape._entries
