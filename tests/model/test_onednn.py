"""Private operators of torch: these tests fail when their signatures or results change."""

import pytest
import torch
from torch.nn import functional

from cococli.model import onednn

pytestmark = pytest.mark.skipif(not onednn.AVAILABLE, reason="needs oneDNN and AVX")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("has_bias", [True, False])
def test_linear_equals_torch(dtype: torch.dtype, has_bias: bool) -> None:
    x, weight, bias = (torch.randn(*shape).to(dtype) for shape in ((2, 5, 64), (32, 64), (32,)))
    wanted = functional.linear(x, weight, bias if has_bias else None)
    for given in (weight, onednn.pack(weight)):
        torch.testing.assert_close(onednn.linear(x, given, bias if has_bias else None), wanted, rtol=0.02, atol=0.02)


def test_packed_weights_are_mkldnn_tensors() -> None:
    assert onednn.pack(torch.ones(32, 64, dtype=torch.bfloat16)).is_mkldnn
