# mypy: disable-error-code="no-untyped-def"
"""Triton kernels of `in_place_step`, for NVIDIA GPUs. They compute in float32, whatever the type of the tensors."""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 32  # tokens of a history that are read at once
CHUNK = 4096  # logits that one program reads
SIZES = ("beams", "entries", "steps")  # one kernel serves all


# One program attends for one head of one row. It reads only entries of earlier tokens, so that no other program writes
# what it reads. The softmax is computed block by block (arXiv 2205.14135): `total` and `mixed` are relative to `peak`.
@triton.jit(do_not_specialize=SIZES)
def _attend_kernel(
    qkv, keys, values, history, positions, out, beams, entries, steps, scale,
    HEADS: tl.constexpr, SIZE: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row, head = tl.program_id(0), tl.program_id(1)
    clip, width = row // beams, HEADS * SIZE
    e = tl.arange(0, PADDED)
    inside = e < SIZE
    own = qkv + row.to(tl.int64) * 3 * width + head * SIZE + e
    query = tl.load(own, mask=inside, other=0).to(tl.float32) * scale
    key = tl.load(own + width, mask=inside, other=0)
    value = tl.load(own + 2 * width, mask=inside, other=0)
    position = tl.load(positions + clip)
    first = clip.to(tl.int64) * entries
    newest = first + tl.minimum(position * beams, entries - beams) + row % beams
    tl.store(keys + newest * width + head * SIZE + e, key, mask=inside)
    tl.store(values + newest * width + head * SIZE + e, value, mask=inside)

    attended = tl.load(history + row * steps + position) >= 0
    peak = tl.where(attended, tl.sum(query * key.to(tl.float32), 0), -1e30)
    total = tl.where(attended, 1.0, 0.0)
    mixed = value.to(tl.float32) * total
    for start in range(0, position, BLOCK):
        t = start + tl.arange(0, BLOCK)
        entry = tl.load(history + row * steps + t, mask=t < position, other=-1)
        seen = entry >= 0
        at = ((first + entry) * width + head * SIZE)[:, None] + e[None, :]
        mask = seen[:, None] & inside[None, :]
        scores = tl.sum(tl.load(keys + at, mask=mask, other=0).to(tl.float32) * query[None, :], 1)
        scores = tl.where(seen, scores, -1e30)
        higher = tl.maximum(peak, tl.max(scores, 0))
        weights = tl.where(seen, tl.exp(scores - higher), 0.0)
        shrink = tl.exp(peak - higher)
        total = total * shrink + tl.sum(weights, 0)
        found = tl.load(values + at, mask=mask, other=0).to(tl.float32)
        mixed = mixed * shrink + tl.sum(weights[:, None] * found, 0)
        peak = higher
    tl.store(out + row.to(tl.int64) * width + head * SIZE + e, mixed / total, mask=inside)


def attend_history(qkv: Tensor, keys: Tensor, values: Tensor, history: Tensor, positions: Tensor, heads: int) -> Tensor:
    """Compute `in_place_step.attend_history`."""
    (rows, width), size = qkv.shape, qkv.shape[1] // 3 // heads
    out = qkv.new_empty(rows, width // 3)
    _attend_kernel[rows, heads](
        qkv, keys, values, history, positions, out, rows // len(keys), keys.shape[1], history.shape[1], size**-0.5,
        HEADS=heads, SIZE=size, PADDED=triton.next_power_of_2(size), BLOCK=BLOCK, num_warps=2,
    )  # fmt: skip
    return out


@triton.jit
def _add_norm_kernel(x, more, gamma, beta, total, normed, epsilon, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, PADDED)
    inside = d < WIDTH
    added = tl.load(x + row * WIDTH + d, mask=inside, other=0) + tl.load(more + row * WIDTH + d, mask=inside, other=0)
    tl.store(total + row * WIDTH + d, added, mask=inside)
    added = added.to(tl.float32)
    mean = tl.sum(added, 0) / WIDTH
    centered = tl.where(inside, added - mean, 0.0)
    scaled = centered * tl.rsqrt(tl.sum(centered * centered, 0) / WIDTH + epsilon)
    scaled = scaled * tl.load(gamma + d, mask=inside, other=0).to(tl.float32)
    tl.store(normed + row * WIDTH + d, scaled + tl.load(beta + d, mask=inside, other=0).to(tl.float32), mask=inside)


def add_norm(x: Tensor, more: Tensor, gamma: Tensor, beta: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Compute `in_place_step.add_norm`."""
    total, normed, width = torch.empty_like(x), torch.empty_like(x), x.shape[1]
    padded = triton.next_power_of_2(width)
    _add_norm_kernel[(len(x),)](x, more, gamma, beta, total, normed, epsilon, WIDTH=width, PADDED=padded, num_warps=4)
    return total, normed


@triton.jit
def _block_maxima_kernel(
    logits, maxima, peaks, sums, vocabulary, blocks, chunks, BLOCK: tl.constexpr, BLOCKS: tl.constexpr
):
    row, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    block = chunk * BLOCKS + tl.arange(0, BLOCKS)
    at = block[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside = at < vocabulary
    found = tl.load(logits + row * vocabulary + at, mask=inside, other=float("-inf")).to(tl.float32)
    highest = tl.max(found, 1)
    tl.store(maxima + row * blocks + block, highest, mask=block < blocks)
    peak = tl.max(highest, 0)
    tl.store(peaks + row * chunks + chunk, peak)
    tl.store(sums + row * chunks + chunk, tl.sum(tl.sum(tl.exp(found - peak), 1), 0))


def block_maxima(logits: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Compute `in_place_step.block_maxima`."""
    rows, vocabulary = logits.shape
    blocks, chunks = vocabulary // block, triton.cdiv(vocabulary, CHUNK)
    maxima, peaks, sums = (logits.new_empty(rows, n, dtype=torch.float32) for n in (blocks, chunks, chunks))
    _block_maxima_kernel[rows, chunks](
        logits, maxima, peaks, sums, vocabulary, blocks, chunks, BLOCK=block, BLOCKS=CHUNK // block, num_warps=4
    )
    peak = peaks.amax(1)
    return maxima, (sums * (peaks - peak[:, None]).exp()).sum(1).log()
