import numpy as np
import pytest
from mindspore import Tensor

from cococli.training import inplace


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_tensors_change_where_they_lie(shape):
    tensor = Tensor(np.full(shape, 4, np.float32))
    same = tensor
    inplace.scale(tensor, 0.25)
    inplace.add(tensor, Tensor(np.full(shape, 2, np.float32)))
    np.testing.assert_array_equal(same.asnumpy(), np.full(shape, 3, np.float32))


@pytest.mark.parametrize(("value", "wanted"), [(-1.0, 0.0), (2.0, 2.0), (9.0, 4.0)])
def test_a_number_is_brought_within_bounds(value, wanted):
    number = Tensor(np.array(value, np.float32))
    inplace.clamp(number, 0, 4)
    assert number.asnumpy() == wanted
