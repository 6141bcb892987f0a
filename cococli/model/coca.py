"""CoCa (arXiv 2205.01917), with open_clip's parameter names."""

import mindspore as ms
from mindspore import Parameter, Tensor, nn

from ..catalog import CocaConfig
from .towers import Decoder, TextTower, VisionTower


class Coca(nn.Cell):
    """The whole network. Its parameters are empty until a checkpoint is loaded."""

    def __init__(self, config: CocaConfig) -> None:
        super().__init__(auto_prefix=False)
        self.config = config
        self.visual = VisionTower(config.vision, config.embed_dim, config.quick_gelu)
        self.text = TextTower(config.text, config.embed_dim, config.quick_gelu)
        self.text_decoder = Decoder(config.decoder, config.quick_gelu)
        self.logit_scale = Parameter(Tensor(0.0, ms.float32))
        self.update_parameters_name("")
