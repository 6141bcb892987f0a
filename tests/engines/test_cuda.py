"""The engine of NVIDIA's GPUs. Its steps run on CPUs, too, where they are not recorded."""

import pytest
import torch
from engines.cases import EngineCases

from cococli.engines.cuda import CudaEngine


class TestInPlaceStep(EngineCases):
    @staticmethod
    def make(config, weights):
        return CudaEngine(config, weights, device="cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU of NVIDIA")
class TestCuda(EngineCases):
    make = CudaEngine
