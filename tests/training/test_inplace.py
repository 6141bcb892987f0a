import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from cococli.training import inplace


@pytest.fixture(params=["host", "device"])
def memory(request, monkeypatch):
    """Both ways to compute; that of devices works on CPU too."""
    monkeypatch.setattr(inplace, "in_host_memory", lambda: request.param == "host")


@pytest.mark.usefixtures("memory")
@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_tensors_change_where_they_lie(shape):
    tensor = Tensor(np.full(shape, 4, np.float32))
    same = tensor
    inplace.scale([tensor], 0.25)
    inplace.add([tensor], [Tensor(np.full(shape, 2, np.float32))])
    np.testing.assert_array_equal(same.asnumpy(), np.full(shape, 3, np.float32))


def test_here_tensors_lie_in_host_memory():
    assert inplace.in_host_memory()


@ms.jit
def double(x):
    return x + x


@pytest.mark.usefixtures("memory")
def test_graphs_see_what_was_changed():
    """What a graph made changes too, and is what the next one reads."""
    tensor = double(Tensor(np.ones((64, 64), np.float32)))
    for wanted in (3, 9, 27):
        inplace.scale([tensor], 1.5 if wanted == 3 else 3)
        np.testing.assert_array_equal(double(tensor).asnumpy(), np.full((64, 64), 2 * wanted, np.float32))


@pytest.mark.parametrize(("value", "wanted"), [(-1.0, 0.0), (2.0, 2.0), (9.0, 4.0)])
def test_a_number_is_brought_within_bounds(value, wanted):
    number = Tensor(np.array(value, np.float32))
    inplace.clamp(number, 0, 4)
    assert number.asnumpy() == wanted
