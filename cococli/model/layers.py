"""The blocks that both towers and the decoder are made of."""

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import Zero

EPSILON = 1e-5  # of every LayerNorm


def empty(*shape: int) -> Parameter:
    """A float32 parameter without memory: it takes whatever tensor is loaded into it, uncopied."""
    return Parameter(Tensor(shape=shape, dtype=ms.float32, init=Zero()))


def layer_norm(width: int) -> nn.LayerNorm:
    return nn.LayerNorm((width,), epsilon=EPSILON)


class Linear(nn.Cell):
    """x @ weight.T + bias, the weight [out, in] as open_clip stores it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.inputs, self.outputs = inputs, outputs
        self.weight = empty(outputs, inputs)
        self.bias = empty(outputs)
        self.matmul = ops.MatMul(transpose_b=True)

    def construct(self, x: Tensor) -> Tensor:
        rows = self.matmul(x.reshape(-1, self.inputs), self.weight) + self.bias
        return rows.reshape(*x.shape[:-1], self.outputs)


class Attention(nn.Cell):
    """Multi-head attention with one matrix each for queries, keys and values.

    Three matrices, each reshaped and transposed once, are faster on CPU than open_clip's fused one.
    """

    def __init__(self, width: int, heads: int, context_width: int | None = None) -> None:
        super().__init__()
        self.heads, self.head_width = heads, width // heads
        self.scale = self.head_width**-0.5
        self.q_proj = Linear(width, width)
        self.k_proj = Linear(context_width or width, width)
        self.v_proj = Linear(context_width or width, width)
        self.out_proj = Linear(width, width)
        self.scores = ops.BatchMatMul(transpose_b=True)
        self.weighted = ops.BatchMatMul()
        self.softmax = ops.Softmax(-1)

    def split(self, x: Tensor) -> Tensor:
        """[B, L, D] -> [B, H, L, D/H]"""
        return x.reshape(x.shape[0], x.shape[1], self.heads, self.head_width).transpose(0, 2, 1, 3)

    def queries(self, x: Tensor) -> Tensor:
        return self.split(self.q_proj(x) * self.scale)

    def keys(self, context: Tensor) -> Tensor:
        return self.split(self.k_proj(context))

    def values(self, context: Tensor) -> Tensor:
        return self.split(self.v_proj(context))

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, H, Q, D/H] queries over [B, H, K, D/H] -> [B, Q, D]; `mask` is added to the scores."""
        scores = self.scores(queries, keys)  # [B, H, Q, K]
        if mask is not None:
            scores = scores + mask
        mixed = self.weighted(self.softmax(scores), values).transpose(0, 2, 1, 3)  # [B, Q, H, D/H]
        return self.out_proj(mixed.reshape(mixed.shape[0], mixed.shape[1], -1))

    def construct(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.attend(self.queries(x), self.keys(context), self.values(context), mask)


class Mlp(nn.Cell):
    """Two matrices with a GELU between: the exact one, or OpenAI's quick one."""

    def __init__(self, width: int, ratio: float, quick_gelu: bool) -> None:
        super().__init__()
        self.quick_gelu = quick_gelu
        self.c_fc = Linear(width, int(width * ratio))
        self.c_proj = Linear(int(width * ratio), width)

    def construct(self, x: Tensor) -> Tensor:
        x = self.c_fc(x)
        x = x * ops.sigmoid(1.702 * x) if self.quick_gelu else ops.gelu(x, approximate="none")
        return self.c_proj(x)


class Block(nn.Cell):
    """A pre-norm transformer block with self-attention."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, quick_gelu: bool) -> None:
        super().__init__()
        self.ln_1 = layer_norm(width)
        self.attn = Attention(width, heads)
        self.ln_2 = layer_norm(width)
        self.mlp = Mlp(width, mlp_ratio, quick_gelu)

    def construct(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, mask)
        return x + self.mlp(self.ln_2(x))


class CrossBlock(Block):
    """A block whose keys and values come from the image's tokens, with a norm of their own."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, quick_gelu: bool) -> None:
        super().__init__(width, heads, mlp_ratio, quick_gelu)
        self.ln_1_kv = layer_norm(width)

    def construct(self, x: Tensor, image: Tensor) -> Tensor:  # type: ignore[override]
        x = x + self.attn(self.ln_1(x), self.ln_1_kv(image))
        return x + self.mlp(self.ln_2(x))
