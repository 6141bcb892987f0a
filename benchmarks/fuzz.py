"""Gives coca malformed files of every kind that it reads, and reports whatever is not handled.

    python benchmarks/fuzz.py [--seed 0] [--share 1.0] [--only KIND] [--log FILE]
    python benchmarks/fuzz.py --only KIND --case N    one case again, with the traceback of what it raises

Every input is a valid one with a mutation, which the seed, the kind and the number of the case determine. A command
must end within 30 s (4 minutes while the machine is busy), with its exit code: 0, or 1, 2 or 3 with errors of one line.
It must not print a traceback, die by a signal, take 2 GB of memory in any process, change its inputs, or write outside
of its output and cache folders. Beside damaged videos, the intact one must be captioned.

`fuzz.toml` lists kinds of inputs and the commands that read them, `fuzz_seeds.py` makes valid ones, `mutations.py`
changes them, and `fuzz_parsers.py` is the coverage-guided part.
"""

import argparse
import contextlib
import json
import os
import re
import resource
import shlex
import shutil
import signal
import sys
import tempfile
import threading
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random

from mutations import NUMBERS, TEXTS, mutate, mutate_entry

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from checkpoints.hub_server import Answer, Hub, Request  # noqa: E402
from cli import fork_server  # noqa: E402
from fuzz_seeds import make  # noqa: E402

SECONDS, MEMORY = 30.0, 2_000_000_000  # bytes


@dataclass(frozen=True)
class Kind:
    """A kind of input, as fuzz.toml describes it."""

    name: str
    seed: str
    run: list[str]
    cases: int
    files: str = "in/**/*"
    batch: int = 1
    server: bool = False


def read_kinds() -> dict[str, Kind]:
    """Return the kinds of inputs by name."""
    kinds = {}
    for title, fields in tomllib.loads((Path(__file__).parent / "fuzz.toml").read_text()).items():
        for each in fields.pop("each", [None]):
            name = title.replace("{}", each) if each else title
            run = [command.replace("{}", each or "{}") for command in fields["run"]]
            seed = fields.get("seed", title).replace("{}", each or "{}")
            kinds[name] = Kind(**{"name": name, **fields, "seed": seed, "run": run})
    return kinds


KINDS = read_kinds()


class Server(Hub):
    """A web server whose answers are mutated, from one of its first answers on."""

    def __init__(self, kind: str, random: Random) -> None:
        super().__init__()
        self.kind, self.random, self.spared = kind, random, random.choice((0, 0, 1, 2, 3))
        golden = ROOT / "tests/data/goldens/tiny"
        names = ("open_clip_pytorch_model.bin", "config.json")
        self.add(
            "org/repo",
            {names[0]: (golden / names[0]).read_bytes(), "open_clip_config.json": (golden / names[1]).read_bytes()},
        )

    def answer(self, request: Request) -> Answer:
        right = super().answer(request) if self.kind == "hub" else self._file(request)
        return right if len(self.requests) <= self.spared else self._mutated(right)

    def _file(self, request: Request) -> Answer:
        self.requests.append(request)
        clip = (ROOT / "examples/moves.mp4").read_bytes()
        if "list-type" in request.path:
            entry = (
                "<Contents><Key>videos/{}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
                "<ETag>&quot;1&quot;</ETag><Size>{}</Size></Contents>"
            )
            keys = "".join(entry.format(name, len(clip)) for name in ("moves.mp4", "b.mp4"))
            about = "<Name>bucket</Name><KeyCount>2</KeyCount><IsTruncated>false</IsTruncated>"
            listed = f'<?xml version="1.0"?><ListBucketResult>{about}{keys}</ListBucketResult>'
            return Answer(200, {"Content-Type": "application/xml"}, listed.encode())
        headers = {"ETag": '"1"', "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT", "Content-Type": "video/mp4"}
        if request.method == "HEAD":
            return Answer(200, headers | {"Content-Length": str(len(clip))})
        return Answer(200, headers, clip)

    def _mutated(self, answer: Answer) -> Answer:
        status, headers, body, random = answer.status, dict(answer.headers), answer.body, self.random
        name = random.choice(
            (
                *headers,
                "Content-Length",
                "Content-Type",
                "Location",
                "Retry-After",
                "Content-Range",
                "ETag",
                "X-Repo-Commit",
                "Link",
            )
        )
        odd = random.choice(
            (
                *TEXTS,
                *map(str, NUMBERS),
                "text/html",
                "application/json",
                "application/xml",
                "chunked",
                "bytes 0-1/2",
                "bytes */*",
            )
        )
        match random.randrange(8):
            case 0:
                status = random.choice(
                    (204, 206, 301, 302, 304, 307, 400, 401, 403, 404, 408, 416, 418, 429, 500, 503, 599, 999)
                )
            case 1 | 2 | 3:
                headers[name] = re.sub("[\r\n\0]", "", odd).encode("latin-1", "replace").decode("latin-1")
            case 4:
                headers.pop(name, None)
                body = body[: random.randrange(len(body) + 1)]
            case 5:
                places = ("/", self.url, "http://127.0.0.1:9/", "file:///etc/passwd", "x" * 9000)
                status, headers = 302, {"Location": random.choice(places)}
            case _:
                kind = headers.get("Content-Type", "json").rpartition("/")[2]
                body = mutate(f"a.{kind}", body, random)
        return Answer(status, headers, body)


@dataclass(frozen=True)
class Finding:
    """A case that failed, and how."""

    kind: str
    case: int
    problem: str
    detail: str


class Fuzzer:
    """Runs cases in folders below one folder."""

    def __init__(
        self, folder: Path, seed: int, keep: bool = False, log: Callable[[str], object] = lambda _: None
    ) -> None:
        self.folder, self.seed, self.keep, self.log = folder, seed, keep, log
        self._lock = threading.Lock()  # the server of forks answers one at a time
        self._seeds: dict[str, Path] = {}

    def seed_of(self, name: str) -> Path:
        """Return the folder of a valid input, made when it is first needed."""
        with self._lock:
            if name not in self._seeds:
                self._seeds[name] = self.folder / "seeds" / name
                for part in ("in", "out", "home"):
                    (self._seeds[name] / part).mkdir(parents=True)
                shared = self.folder / "bundled"  # the bundled model is unpacked once
                shared.mkdir(exist_ok=True)
                (self._seeds[name] / "home/bundled").symlink_to(shared)
                make(name, self._seeds[name])
            return self._seeds[name]

    def run(self, name: str, number: int, limit: float = SECONDS) -> list[Finding]:
        """Mutate an input, run a command that reads it, and return what went wrong."""
        kind, random = KINDS[name], Random(f"{self.seed} {name} {number}")
        folder = self.folder / f"case-{name.replace(' ', '-')}-{number}"
        shutil.copytree(self.seed_of(kind.seed), folder, symlinks=True)
        mutated = [] if kind.server else self._mutate(kind, folder, random)
        before = _files(folder / "in")
        command = kind.run[number % len(kind.run)]
        with Server(name, random) if kind.server else contextlib.nullcontext() as server:
            url = server.url if server else ""
            arguments = [part.replace("{url}", url) for part in shlex.split(command)]
            code, memory, errors = self._run(arguments, folder, url, limit)
            problems = list(_problems(code, errors, memory))
            problems += _outcome_problems(folder, kind.batch > 1)
        if before != _files(folder / "in"):
            problems.append("changed its inputs")
        if others := _names(folder) - _names(self.seed_of(kind.seed)) - {"user"}:
            problems.append(f"wrote {others} outside")
        if problems and self.keep and not server:
            self._run(arguments, folder, url, limit, COCA_DEBUG="1", stderr=None)
        if not self.keep:
            shutil.rmtree(folder)
        self.log(
            f"{name} {number} {code} {memory >> 20} MB: {command} {mutated}\n  "
            + "\n  ".join(errors.splitlines()[-4:])
            + "\n"
        )
        detail = f"{command}  [{' '.join(mutated)}]\n    " + "\n    ".join(errors.strip().splitlines()[-6:])
        return [Finding(name, number, problem, detail) for problem in problems]

    def _mutate(self, kind: Kind, folder: Path, random: Random) -> list[str]:
        """Mutate files of a case; return their names."""
        paths = sorted(path for path in folder.glob(kind.files) if path.is_file() and not path.is_symlink())
        if kind.batch > 1:
            for number in range(kind.batch):
                path = random.choice(paths)
                (path.with_name(f"{number:02}{path.suffix}")).write_bytes(mutate(path.name, path.read_bytes(), random))
            for path in paths:
                path.unlink()
            shutil.copy(folder / "ok.mp4", folder / "in")
            return ["a batch"]
        path = random.choice(paths)
        if random.random() < 0.04:
            return [path.name, mutate_entry(path, random)]
        path.write_bytes(mutate(path.name, path.read_bytes(), random))
        return [path.name]

    def _run(
        self, arguments: list[str], folder: Path, url: str, limit: float, stderr: int | None = -1, **more: str
    ) -> tuple[int | None, int, str]:
        """Run a command; return its exit code, None if it hangs, the memory of its largest process, and stderr."""
        (folder / "user").mkdir(exist_ok=True)
        variables = {
            "HOME": folder / "user",
            "PATH": Path(sys.executable).parent,  # without Java, whose metrics take seconds
            "COCA_HOME": folder / "home",
            "COCA_CONFIG": folder / "config.toml",
            "COCA_MODEL": "shapes",
            "COCA_ENGINE": "torch",
            "COCA_PRECISION": "fp32",
            "HF_ENDPOINT": url,
            "HF_HOME": folder / "home/hf",
            "no_proxy": "*",
            "AWS_ENDPOINT_URL": url,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
        }
        env = fork_server.ENVIRONMENT | {key: str(value) for key, value in variables.items()} | more
        queries = folder / "queries.txt"
        typing = queries if queries.is_file() else Path(os.devnull)
        with tempfile.TemporaryFile() as written, typing.open("rb") as typed:
            streams = {"stdout": written, "stderr": written if stderr else stderr, "stdin": typed}
            with self._lock:
                process = fork_server.start(*arguments, cwd=folder, env=env, **streams)
            resource.prlimit(process.pid, resource.RLIMIT_AS, (4 * MEMORY, 4 * MEMORY))  # to spare this machine
            limit *= max(1.0, 8.0 * (os.getloadavg()[0] > (os.cpu_count() or 1)))  # others compute here, too
            end = time.monotonic() + limit
            while not (ended := os.wait4(process.pid, os.WNOHANG))[0] and time.monotonic() < end:
                time.sleep(0.02)
            hangs = not ended[0]
            if hangs:
                os.kill(process.pid, signal.SIGKILL)
                ended = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(ended[1])
            written.seek(0)
            errors = written.read().decode(errors="replace")
        return None if hangs else process.returncode, ended[2].ru_maxrss * 1024, errors


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def _files(folder: Path) -> dict[str, tuple[int, int]]:
    stats = ((path, path.lstat()) for path in folder.rglob("*"))
    return {str(path): (status.st_size, status.st_mtime_ns if path.is_file() else 0) for path, status in stats}


def _problems(code: int | None, errors: str, memory: int) -> Iterator[str]:
    if code is None:
        yield f"ran for more than {SECONDS:.0f} s"
    elif code not in (0, 1, 2, 3):
        yield f"exit code {code}"
    elif code and not any(line.startswith(("error: ", "warning: ")) for line in errors.splitlines()):
        yield f"exit code {code} without an error"
    if memory > MEMORY:
        yield f"took {memory / 1e9:.1f} GB"
    if found := re.search(r".*(Traceback \(most|unexpected:? [A-Z]\w+: |this is a bug in coca).*", errors):
        yield f"unhandled: {found[0][:150]}"


def _outcome_problems(folder: Path, batch: bool) -> Iterator[str]:
    """Yield what is wrong with the records of a run."""
    journal = folder / "out/o.jsonl"
    if not batch or not journal.exists():
        return
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    by_video = {line["video"]: line for line in lines}
    missing = {f"in/{path.name}" for path in (folder / "in").iterdir()} - by_video.keys()
    if missing or by_video["in/ok.mp4"]["status"] != "ok":
        yield f"no record of {missing or 'the intact video'}"
    for line in lines:
        if line["status"] == "error" and re.search("unexpected:|gave up|crashed", line["error"]):
            yield f"{line['video']}: {line['error'][:150]}"


def fuzz(
    folder: Path,
    seed: int = 0,
    share: float = 1.0,
    cases: int | None = None,
    only: Sequence[str] = (),
    jobs: int = 1,
    report: Callable[[str], None] = print,
    log: Callable[[str], object] = lambda _: None,
) -> list[Finding]:
    """Run cases of each kind, a share of all or a number; report what went wrong, and a table of the kinds."""
    fuzzer = Fuzzer(folder, seed, log=log)
    chosen = {name: kind for name, kind in KINDS.items() if not only or name in only}
    every = [
        (name, number) for name, kind in chosen.items() for number in range(cases or max(1, round(share * kind.cases)))
    ]
    findings: list[Finding] = []
    done: Counter[str] = Counter()
    with ThreadPoolExecutor(jobs) as pool:
        for (name, _), found in zip(every, pool.map(lambda case: fuzzer.run(*case), every), strict=True):
            done[name] += KINDS[name].batch
            findings += found
            for finding in found:
                report(f"{finding.kind} {finding.case}: {finding.problem}\n    {finding.detail}")
    report(f"{'kind':<24}{'inputs':>8}{'findings':>10}")
    wrong = Counter(finding.kind for finding in findings)
    for name, count in done.items():
        report(f"{name:<24}{count:>8}{wrong[name]:>10}")
    report(f"{'all':<24}{done.total():>8}{len(findings):>10}")
    return findings


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--only", action="append", default=[], choices=list(KINDS), metavar="KIND")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--log", type=argparse.FileType("w", 1), help="file that takes the errors of every case")
    parser.add_argument("--case", type=int)
    options = parser.parse_args()
    if options.case is not None:
        folder = Path(tempfile.mkdtemp())
        print(folder)
        for finding in Fuzzer(folder, options.seed, keep=True).run(options.only[0], options.case):
            print(finding.problem, finding.detail, sep="\n")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        log = options.log.write if options.log else lambda _: None
        found = fuzz(Path(folder), options.seed, options.share, None, options.only, options.jobs, log=log)
        print(f"{time.monotonic() - start:.0f} s")
        return bool(found)


if __name__ == "__main__":
    sys.exit(main())
