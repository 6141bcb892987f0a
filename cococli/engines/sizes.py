"""Sizes of a run that fit the machine: clips encoded and decoded at once, and processes that read videos."""

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..catalog import CocaConfig
from ..options import AUTO, ModelOptions
from .choice import Choice, usable_cores

GPU_FRAMES, GPU_CLIPS = 64, 128  # encoded and decoded at once: more are not faster
OTHER_FRAMES, OTHER_CLIPS = 16, 32  # MPS and Ascend
SHARE = 0.3  # of the free memory, for each of the two
MOST_READERS = 32


@dataclass(frozen=True)
class Sizes:
    """Batch sizes of a run, and its number of readers."""

    batch: int = 8  # clips that are encoded
    slots: int = 8  # clips that are decoded
    readers: int = 2  # processes that read videos


SMALL = Sizes()


def choose_sizes(
    config: CocaConfig,
    choice: Choice,
    options: ModelOptions,
    videos: int,
    frames: int = 1,
    beams: int = 0,
    max_length: int = 0,
    devices: int = 1,
    free: float | None = None,
) -> Sizes:
    """Return the sizes of a run. Call it when the model is loaded, as they depend on the memory that is left.

    Args:
        videos: Number of inputs, including pictures.
        frames: Frames of a clip.
        beams: Sequences per clip; 0 if nothing is decoded.
        max_length: Most tokens of a caption.
        devices: Number of devices that share the work.
        free: Memory that each device has left, in bytes; by default that of the device of the choice.
    """
    readers = min(_idle_readers(choice, devices), videos or 1) if options.readers == AUTO else options.readers
    if options.batch_size != AUTO:
        return Sizes(options.batch_size, options.batch_size, readers)
    kind = choice.device.partition(":")[0]
    most_frames, most_clips = {
        "cpu": (8, _power_of_two(min(64, max(32, 2 * choice.threads)))),
        "cuda": (GPU_FRAMES, GPU_CLIPS),
    }.get(kind, (OTHER_FRAMES, OTHER_CLIPS))
    item = 4 if choice.precision in ("fp32", "tf32") or kind == "cpu" else 2
    memory = SHARE * (free_memory(choice.device) if free is None else free)
    batch = min(max(1, most_frames // frames), memory // encoding_bytes(config, frames, item))
    slots = min(most_clips, memory // decoding_bytes(config, beams, max_length, item))
    return Sizes(_power_of_two(int(batch)), _power_of_two(int(slots)), readers)


def encoding_bytes(config: CocaConfig, frames: int, item: int) -> int:
    """Return about how much memory a clip takes while it is encoded, with `item` bytes per number."""
    vision = config.vision
    pixels = 3 * vision.image_size**2 * (1 + 4 + item)
    tokens = vision.tokens * (4 * vision.width + 2 * config.embed_dim) * item  # one layer, and keys of the pooler
    return frames * (pixels + tokens) + 8 * vision.pooler_queries * config.embed_dim


def decoding_bytes(config: CocaConfig, beams: int, max_length: int, item: int) -> int:
    """Return about how much memory a clip takes while it is decoded, with `item` bytes per number."""
    text, decoder = config.text, config.decoder
    own = beams * max_length * (text.layers * text.width + decoder.layers * decoder.width)
    image = decoder.layers * decoder.width * config.vision.pooler_queries
    twice = 2  # while slots are added
    return twice * 2 * (own + image) * item + 8 * beams * decoder.vocab_size


def _power_of_two(number: int) -> int:
    """Round down to a power of two, at least 1."""
    return 1 << max(number, 1).bit_length() - 1


def _idle_readers(choice: Choice, devices: int) -> int:
    """Return how many processes can read videos.

    On CPUs, reading takes a twentieth of the time of computing, so a few processes are enough.
    """
    cores = usable_cores()
    if choice.device == "cpu":
        return max(2, choice.threads // 16, min(8, cores - choice.threads))
    return min(MOST_READERS, max(2, cores - 1 - devices))


def free_memory(device: str) -> float:
    """Return the memory that a device has left, in bytes; infinity if it does not say."""
    if device == "cpu":
        return free_ram()
    if device.startswith("ascend"):
        return float("inf")
    import torch

    if device == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused


def free_ram(root: Path = Path("/")) -> float:
    """Return the memory that this process may still take: what the machine has and what its cgroups allow."""
    return min([*_machine_memory(root), *_cgroup_memory(root)], default=float("inf"))


def _machine_memory(root: Path) -> Iterator[int]:
    with suppress(OSError):
        facts = dict(line.split(":") for line in (root / "proc/meminfo").read_text().splitlines())
        yield 1024 * int(facts["MemAvailable"].split()[0])
        return
    if sys.platform != "win32":
        with suppress(OSError, ValueError):  # on macOS
            yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _cgroup_memory(root: Path) -> Iterator[int]:
    """Yield what each cgroup of this process has left. Pages of files are not counted: the kernel drops them."""
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers not in ("", "memory"):
                continue
            mount = root / "sys/fs/cgroup" / controllers
            names = (
                ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
            )
            groups = PurePosixPath(path.lstrip("/"))
            for group in (groups, *groups.parents):
                with suppress(OSError, ValueError):  # a group without a limit says `max`
                    limit, usage = (int((mount / group / name).read_text()) for name in names)
                    facts = dict(line.split() for line in (mount / group / "memory.stat").read_text().splitlines())
                    files = int(facts.get("active_file", 0)) + int(facts.get("inactive_file", 0))
                    yield max(0, limit - usage + files)
