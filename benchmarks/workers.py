"""The two programs that captions.py compares, each in a separate process that reads one JSON request per line.

    python benchmarks/workers.py ours   CHECKPOINT.ckpt ENGINE PRECISION
    python benchmarks/workers.py oracle CHECKPOINT.bin MODEL PRECISION   # with open_clip on PYTHONPATH

A line {"job": "caption", "images": 8} is answered with {"seconds": ..., "tokens": ..., "peak_mb": ...}.
"""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

THREADS = int(os.environ.get("BENCH_THREADS", "2"))


class Worker:
    """A program under test in a separate process, which answers each line of JSON with one.

    Args:
        packages: A folder of packages that come before those of this environment, such as open_clip's.
    """

    def __init__(self, *arguments: object, packages: Path | None = None) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": str(THREADS), "GLOG_v": "3"}
        if packages:
            environment["PYTHONPATH"] = os.pathsep.join([str(packages), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def run(self, request: object) -> dict[str, float]:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args} ended with exit code {self.process.wait()}")
        return json.loads(line)

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def pictures(count: int) -> np.ndarray:
    """Return [count, 3, 224, 224] float32, the same for both programs."""
    return np.random.default_rng(0).standard_normal((count, 3, 224, 224), dtype=np.float32)


class Ours:
    def __init__(self, checkpoint: str, engine: str, precision: str) -> None:
        from cococli.checkpoints.store import find_model
        from cococli.decoding.search_options import SearchOptions
        from cococli.engines.choice import Choice, open_engine

        self.engine = open_engine(find_model(checkpoint), Choice(engine, "cpu", precision, THREADS))
        self.options = SearchOptions()

    def encode(self, images: int) -> int:
        self.engine.encode_clips(pictures(images)[:, None])
        return 0

    def caption(self, images: int) -> int:
        from cococli.decoding.decoder import Decoder

        decoder: Decoder[int] = Decoder(self.engine, self.options, slots=images)
        for index, tokens in enumerate(self.engine.encode_clips(pictures(images)[:, None]).tokens):
            decoder.add(index, tokens, index)
        lengths: list[int] = []
        while decoder.busy:
            lengths += [len(found[0].ids) for found in decoder.step().values()]
        return max(lengths)


class Oracle:
    def __init__(self, checkpoint: str, model: str, precision: str) -> None:
        import torch

        torch.set_num_threads(THREADS)
        without_torchvision_operators(torch)
        import open_clip

        self.dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
        self.torch, self.model = torch, open_clip.create_model(model, pretrained=checkpoint).to(self.dtype).eval()

    def _pixels(self, images: int) -> Any:
        return self.torch.from_numpy(pictures(images)).to(self.dtype)

    def encode(self, images: int) -> int:
        with self.torch.no_grad():
            self.model.encode_image(self._pixels(images))
        return 0

    def caption(self, images: int) -> int:
        return self.model.generate(self._pixels(images)).shape[1]


def without_torchvision_operators(torch: Any) -> None:
    """Allow importing a torchvision built for CUDA with a CPU torch, as its operators are not needed here."""
    register = torch.library.register_fake

    def skip(name: str, *rest: Any, **options: Any) -> Any:
        if name.startswith("torchvision::"):
            return lambda function: function
        return register(name, *rest, **options)

    torch.library.register_fake = skip


def main() -> None:
    kind, *given = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # keep output of the libraries out of the answers
    program = {"ours": Ours, "oracle": Oracle}[kind](*given)
    for line in sys.stdin:
        request = json.loads(line)
        start = time.perf_counter()
        tokens = getattr(program, request["job"])(request["images"])
        answer = {"seconds": time.perf_counter() - start, "tokens": tokens, "peak_mb": peak_mb()}
        print(json.dumps(answer), file=answers, flush=True)


def peak_mb() -> float:
    """Return the peak memory of this process in MB."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


if __name__ == "__main__":
    main()
