"""CoCa's two losses (arXiv 2205.01917) with their gradients, equal to open_clip's CoCaLoss."""

import mindspore as ms
from mindspore import Tensor, ops

LEAST = 1e-37  # lower bound of probabilities in the value of the loss

_times_transposed = ops.MatMul(transpose_b=True)
_transposed_times = ops.MatMul(transpose_a=True)
_softmax = ops.Softmax(-1)


def caption_loss(
    weight: Tensor, x: Tensor, projection: Tensor, labels: Tensor, pad_id: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the cross-entropy of the next token, averaged over the tokens that are not pads, with its gradients.

    Differentiated by hand: MindSpore's gradient reads the logits, by far the largest tensor of a step, so often that it
    takes longer than the matrix products. The probabilities of other tokens are summed separately from that of the
    correct one: `1 - p`, or a sum of 49,408 numbers with `p`, would lose the small losses of a good model. torch's
    float32 is off by 1% and more at a loss of 0.007.

    Args:
        weight: Weight of the loss in the total; its gradients are multiplied by it.
        x: [B, L, D], normed.
        projection: [D, V]
        labels: [B, L] int32, the token after each.

    Returns:
        The loss, and gradients of x and projection.
    """
    rows, wanted = x.reshape(-1, x.shape[-1]), labels.reshape(-1, 1)
    counted = (wanted != pad_id).astype(ms.float32)
    share = counted / counted.sum()  # [B * L, 1]
    probabilities = _softmax(ops.matmul(rows, projection))  # [B * L, V]
    own = ops.gather_elements(probabilities, 1, wanted)
    others = ops.tensor_scatter_elements(probabilities, wanted, ops.zeros_like(own), axis=1)
    other = others.sum(-1, keepdims=True)
    loss = (ops.log1p(other / ops.maximum(own, LEAST)) * share).sum()
    surplus = ops.tensor_scatter_elements(others, wanted, -other, axis=1)
    share = weight * share / (own + other)
    x_gradient = (_times_transposed(surplus, projection) * share).reshape(x.shape)
    return loss, x_gradient, _transposed_times(rows * share, surplus)


def contrastive_loss(
    weight: Tensor, images: Tensor, texts: Tensor, logit_scale: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return symmetric InfoNCE between pictures and captions of a batch, with its gradients.

    Args:
        weight: Weight of the loss in the total; its gradients are multiplied by it.
        images: [B, Q, D], the latents in row 0, not normalized.
        texts: [B, D] latents, not normalized.
        logit_scale: (), the logarithm of the inverse temperature.

    Returns:
        The loss, and gradients of images, texts and logit_scale.
    """
    loss, (images_gradient, texts_gradient, scale_gradient) = _info_nce_and_gradients(images, texts, logit_scale)
    return loss, weight * images_gradient, weight * texts_gradient, weight * scale_gradient


def part_of_contrastive_loss(
    weight: Tensor, images: Tensor, texts: Tensor, logit_scale: Tensor, other_images: Tensor, other_texts: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return one worker's part of the contrastive loss of a batch shared by several, and of its gradients.

    The sums over all workers are the loss and the gradients of the batch. Other arguments are as in `contrastive_loss`.

    Args:
        other_images: [N - B, 1, D], the latents of all other workers.
        other_texts: [N - B, D]
    """
    own, rest = texts.shape[0], images[:, 1:]
    all_images, all_texts = ops.concat((images[:, :1], other_images)), ops.concat((texts, other_texts))
    loss, images_gradient, texts_gradient, scale_gradient = contrastive_loss(weight, all_images, all_texts, logit_scale)
    images_gradient = ops.concat((images_gradient[:own], ops.zeros_like(rest)), 1)
    part = own / all_texts.shape[0]
    return part * loss, images_gradient, texts_gradient[:own], part * scale_gradient


def _info_nce(images: Tensor, texts: Tensor, logit_scale: Tensor) -> Tensor:
    logits = ops.exp(logit_scale) * _times_transposed(_normalized(images[:, 0]), _normalized(texts))  # [B, B]
    return (_own_among(logits) + _own_among(logits.T)) / 2


def _own_among(logits: Tensor) -> Tensor:
    """Return the mean cross-entropy of the diagonal of logits [B, B], exact even if it is almost 0."""
    own = ops.eye(logits.shape[0], logits.shape[0], ms.float32)
    others = logits - (logits * own).sum(-1, keepdims=True) - 1e9 * own  # relative to the row's own
    peak = ops.stop_gradient(ops.relu(others.max(-1, keepdims=True)))
    return (peak + ops.log1p(ops.expm1(-peak) + ops.exp(others - peak).sum(-1, keepdims=True))).mean()


_info_nce_and_gradients = ms.value_and_grad(_info_nce, grad_position=(0, 1, 2))


def _normalized(x: Tensor) -> Tensor:
    """L2-normalize rows [B, D]."""
    return x / ops.sqrt((x * x).sum(-1, keepdims=True))
