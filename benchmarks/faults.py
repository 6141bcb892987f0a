"""Disturb commands at random moments and compare what they leave with an undisturbed run: docs/robustness.md.

Each command has a workspace: a folder with its inputs, outputs, cache and temporary files. What an undisturbed run
leaves there is the reference. After a disturbance, each visible file is one of the reference, or a log whose lines are
in the reference, each once. Once the command was repeated, the workspace equals the reference.
"""

import argparse
import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "1000"}  # as the processes that are forked need it
ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import httpx2
import numpy as np
from checkpoints.hub_server import Hub
from cli import fork_server
from training.tiny_run import captioned, config_file

PAGE = ROOT / "docs" / "robustness.md"
START, END = "<!-- figures -->", "<!-- end of figures -->"
HANG = 900.0  # seconds
DISK = 200 << 20  # bytes of a file system that is not full
PACE = 1 << 21, 0.02  # of the hub: bytes at a time, and seconds between them
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
CLOCKS = "-3650d", "-1h", "+1h", "+3650d"
IMPORTS = 2.0  # seconds that a fresh process takes longer than a fork
CALLS = "rename,renameat,renameat2,unlink,unlinkat,link,linkat,mkdir,rmdir,ftruncate,fsync,pwrite64"
MOST_FAULTS = 5  # of a command, after which it is disturbed no more

IGNORED = re.compile(r"(^|/)(locks|matplotlib|ray|tmp/torchinductor_[^/]*)(/|$)|(^|/)(written|used|[^/]*\.lock)$")
GROWING = ("vectors.npy", "README.md", "plot.png")  # the last two describe a run up to its end, whatever that was
LEFTOVER = re.compile(r"(^|/)(\.coca-|downloads/|[^/]*\.incomplete$)|^tmp/")
VOLATILE = re.compile(rb'"(seconds|started|date)": "?[^",}]+"?')

CAPTION = "caption videos/ --search greedy --threads 1 -o out.jsonl"
TRAINING = (
    "--name mine --from-scratch --config thin.json --steps 6 --batch-size 4 --lr 0.01 --save-every 2 --keep 9 "
    "--val-frequency 3 --threads 1"
)


class Fault(Exception):
    """A difference from the undisturbed run, or an error without a message."""


@dataclass(frozen=True)
class Command:
    """A command line, what it needs in its workspace, and which of its inputs may change while it runs."""

    line: str
    needs: tuple[str, ...] = ()
    inputs: str = ""


COMMANDS = {
    "fetch": Command("fetch org/coca --name mine"),
    "convert": Command("convert model.safetensors out.ckpt --verify", ("*.safetensors", "open_clip*"), "*.safetensors"),
    "caption": Command(f"{CAPTION} -o out.csv -o srt/ --embed index/ --segments 2", ("videos",), "videos/*"),
    "embed": Command("embed videos/ --threads 1 -o index/ -o out.parquet", ("videos",), "videos/*"),
    "finetune": Command(f"finetune --data data {TRAINING}", ("data", "thin.json"), "data/*.png"),
    "report": Command("report captions.jsonl -o page.html", ("videos", "captions.jsonl"), "videos/*"),
    "review": Command("review captions.jsonl --no-browser", ("videos", "captions.jsonl")),
    "caption --ray": Command(f"{CAPTION} --ray", ("videos",)),
}  # fmt: skip


class Lab:
    """Inputs, environment and Ray cluster that all workspaces share."""

    def __init__(self, folder: Path, seed: int, ray: str = "") -> None:
        self.folder, self.seed, self.ray = folder, seed, ray
        self._starting = threading.Lock()
        self.template = folder / "template"
        videos = self.template / "videos"
        videos.mkdir(parents=True)
        for clip in sorted((ROOT / "examples").glob("*.mp4")):
            shutil.copy(clip, videos)
        (videos / "broken.mp4").write_bytes(b"this is not a video")
        config_file(self.template)
        captioned(self.template / "data")
        captions = CAPTION.replace("out", "captions")
        for line in (captions, "convert shapes model.safetensors --to open_clip"):
            self.start(line.split(), self.template).wait()

    def start(self, arguments: Sequence[str], folder: Path, log: str = "", **environment: str) -> Any:
        """Start `coca` in a folder, in a separate process group, with its output in a file beside the folder."""
        for name in ("home", "tmp"):
            with suppress(OSError):
                (folder / name).mkdir(exist_ok=True)
        paths = {"COCA_HOME": "home", "COCA_CONFIG": "config.toml", "HF_HOME": "home/hf", "TMPDIR": "tmp"}
        choices = {"COCA_MODEL": "shapes", "COCA_ENGINE": "torch", "COCA_PRECISION": "fp32", "no_proxy": "*"}
        whole = fork_server.ENVIRONMENT | {name: str(folder / path) for name, path in paths.items()} | choices
        with self._starting, folder.with_name(f"{folder.name}.log{log}").open("w") as file:
            options: dict[str, Any] = {"stdout": file, "stderr": subprocess.STDOUT, "process_group": 0}
            process = fork_server.start(*arguments, cwd=folder, env=whole | environment, **options)
            if isinstance(process, fork_server.Fork):  # which heeds the streams alone
                os.setpgid(process.pid, process.pid)
        return process


class Workspace:
    """A folder in which a command runs again and again.

    Attributes:
        begin, duration: Seconds after which the undisturbed run wrote first, and ended.
        growth: Bytes that it wrote.
        calls: Threads and names of its `CALLS`, in order, once they were traced.
        acknowledged: Edits that the review server has confirmed.
    """

    def __init__(self, lab: Lab, kind: str, name: str, stack: ExitStack) -> None:
        self.lab, self.name, self.command = lab, name, COMMANDS[name]
        self.random = random.Random(f"{lab.seed} {kind} {name}")
        self.folder = lab.folder / re.sub(r"\W+", "-", f"{kind} {name}")
        self.arguments = self.command.line.split() + ([lab.ray] if name == "caption --ray" else [])
        self.environment: dict[str, str] = {}
        self.runs = 0
        self.calls: list[tuple[str, str]] = []
        self.acknowledged: list[str] = []
        self.ordered = kind != "inputs changed" and name != "caption --ray"  # else records come as they are done
        self.folder.mkdir()
        if SCENARIOS[kind].obstacle is needs_root:
            mount("-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(self.folder))
            stack.callback(subprocess.run, ["umount", "-l", self.folder])
        if name == "fetch":
            self.hub = stack.enter_context(Hub())
            names = {
                "open_clip_model.safetensors": "model.safetensors",
                "open_clip_config.json": "open_clip_config.json",
            }
            self.hub.add("org/coca", {name: (lab.template / file).read_bytes() for name, file in names.items()})
            self.hub.piece, self.hub.pause = PACE
            self.environment = {"HF_ENDPOINT": self.hub.url, "HF_HUB_DOWNLOAD_TIMEOUT": "30"}
        self._learn()

    def _learn(self) -> None:
        """Run the command without a disturbance, and remember what it leaves and when it wrote first."""
        self.reset()
        used, began, process = shutil.disk_usage(self.folder).used, time.monotonic(), self.start()
        before = set(self.folder.rglob("*"))
        finished = threading.Event()

        def watch() -> None:
            while set(self.folder.rglob("*")) == before and not finished.wait(0.01):
                pass
            self.begin = time.monotonic() - began

        (watcher := threading.Thread(target=watch)).start()
        self.code = self.finish(process)
        self.duration = time.monotonic() - began
        finished.set()
        watcher.join()
        self.growth = max(shutil.disk_usage(self.folder).used - used, 1 << 14)
        self.reference = self.snapshot()
        self.check_complete(self.code, (0, 1))

    def reset(self) -> None:
        """Remove everything but the inputs."""
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(self.lab.template / "home" / "bundled", self.folder / "home" / "bundled")
        for path in [path for pattern in self.command.needs for path in self.lab.template.glob(pattern)]:
            (shutil.copytree if path.is_dir() else shutil.copy2)(path, self.folder / path.name)
        self.acknowledged.clear()

    def moment(self) -> float:
        """Return a random moment of the command, from shortly before it writes first to its end."""
        return self.random.uniform(0.8 * self.begin, self.duration)

    def start(self, log: str = "", **environment: str) -> Any:
        self.runs += 1
        return self.lab.start(self.arguments, self.folder, log, **(self.environment | environment))

    def finish(self, process: Any, kill_after: float | None = None) -> int:
        """Wait for the end, or kill the process group after some seconds. Return the exit code."""
        client = threading.Thread(target=self._edit, args=(process,))
        if self.name == "review":
            client.start()
        try:
            return process.wait(HANG if kill_after is None else kill_after)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
            if kill_after is None:
                raise Fault(f"it hangs: {self.log()}") from None
            return code
        finally:
            if client.ident:
                client.join()

    def run(self, kill_after: float | None = None, **environment: str) -> int:
        return self.finish(self.start(**environment), kill_after)

    def _edit(self, process: Any) -> None:
        """Correct and accept all captions of a review twice, export them, and end the server."""
        while not (url := re.match("(http://.*/)\n", self.log())):
            if process.poll() is not None:
                return
            time.sleep(0.01)
        with suppress(httpx2.HTTPError), httpx2.Client(base_url=url[1]) as client:
            for version in range(2):
                for record in client.get("records").json()["records"]:
                    if record["status"] == "ok" and record["version"] == version:
                        caption = f"caption {version} of {record['video']}"
                        edit = {"version": version, "correction": caption, "verdict": "accepted"}
                        if client.put(f"records/{record['id']}", json=edit).status_code == 200:
                            self.acknowledged.append(caption)
            client.post("export", json={"form": "csv"})
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)

    def log(self, log: str = "") -> str:
        return self.folder.with_name(f"{self.folder.name}.log{log}").read_text(errors="replace")

    def snapshot(self) -> dict[str, list[bytes]]:
        """Return the lines of logs and the digests of other files, without what depends on the time."""
        found = {}
        for path in sorted(self.folder.rglob("*")):
            name = str(path.relative_to(self.folder))
            with suppress(FileNotFoundError):  # a reader process may still end
                if path.is_file() and not IGNORED.search(name):
                    content = path.read_bytes()
                    if path.suffix in (".json", ".jsonl"):
                        content = VOLATILE.sub(b"", content)
                    if path.suffix == ".jsonl":
                        lines = content.splitlines(keepends=True)
                        found[name] = (
                            lines if self.ordered else sorted(re.sub(rb'"row": \d+, ', b"", it) for it in lines)
                        )
                    elif path.suffix == ".npy" and not self.ordered:
                        found[name] = sorted(map(bytes, np.load(path)))
                    else:
                        found[name] = [hashlib.sha256(content).digest()]
        return found

    def check_visible(self) -> None:
        """Raise a Fault for a visible file that is partial, and for records that are wrong, twice or lost."""
        known: dict[str, list[list[bytes]]] = {}
        for name, content in self.reference.items():
            known.setdefault(Path(name).name, []).append(content)
        for name, content in self.snapshot().items():
            same = known.get(Path(name).name, [])
            if LEFTOVER.search(name) or content in same or name.endswith(GROWING):
                continue
            if not name.endswith(".jsonl"):
                raise Fault(f"{name} is partial")
            lines = [line for line in content if line.endswith(b"\n")]
            if wrong := [line for line in lines if not any(line in reference for reference in same)]:
                raise Fault(f"{name} has a line that the undisturbed run lacks: {wrong[0].decode()}")
            if len(set(lines)) < len(lines):
                raise Fault(f"{name} has a line twice")
        edits = self.folder / "captions.review.jsonl"
        text = edits.read_text() if edits.exists() else ""
        if lost := [caption for caption in self.acknowledged if text.count(f'"{caption}"') != 1]:
            raise Fault(f"the edit {lost[0]!r} was acknowledged and is there {text.count(lost[0])} times")

    def check_messages(self, code: int, expected: Sequence[int] = range(4), log: str = "") -> None:
        """Raise a Fault for a traceback, an end by a signal, or a failure without one clear line."""
        text = self.log(log)
        errors = re.findall("^error: ", text, re.MULTILINE)
        if "Traceback" in text or code not in expected or len(errors) > 1 or (code > 1 and not errors):
            raise Fault(f"it exits with {code}: {text[-2000:]}")

    def check_complete(self, code: int, expected: Sequence[int] = ()) -> None:
        """Raise a Fault unless a run that was not disturbed has completed the workspace."""
        self.check_messages(code, expected or [self.code])
        found, names = self.snapshot(), (str(path.relative_to(self.folder)) for path in self.folder.rglob("*"))
        if different := [name for name in self.reference.keys() | found if found.get(name) != self.reference.get(name)]:
            details = "".join(f"\n{name}:\n{found.get(name)}\n{self.reference.get(name)}" for name in different)
            raise Fault(f"other files than an undisturbed run leaves: {details[:2000]}")
        if left := [name for name in names if LEFTOVER.search(name) and not IGNORED.search(name)]:
            raise Fault(f"left behind: {left}")


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


@contextmanager
def ray_cluster() -> Iterator[str]:
    """Start a Ray cluster of one node that outlives the commands. Yield its address."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 4, "object_store_memory": 80_000_000, "include_dashboard": False}
    cluster = Cluster(True, head_node_args=node)
    try:
        yield cluster.address
    finally:
        cluster.shutdown()


# Scenarios, which begin in a workspace with only the inputs. Each yields after disturbances whose consequences were
# checked, and raises a Fault.


def kills(work: Workspace) -> Iterator[None]:
    """Kill a command and repeat it until it ends before it is killed."""
    while (code := work.run(work.moment())) == -signal.SIGKILL:
        work.check_visible()
        yield
    work.check_complete(code)


def operations(work: Workspace) -> Iterator[None]:
    """Kill a command just before a random system call that changes names or flushes files, and repeat it."""
    injected: tuple[str, ...] = ()
    trace = work.folder.with_suffix(".trace")
    if work.calls:
        index = work.random.randrange(len(work.calls))
        (_, name), number = (
            work.calls[index],
            work.calls[: index + 1].count(work.calls[index]),
        )  # strace counts by thread
        injected = "-e", f"inject={name}:signal=SIGKILL:when={number}"
    process = work.start()
    command = ["strace", "-f", "-qq", "-o", str(trace), "-e", f"trace={CALLS}", *injected, "-p", str(process.pid)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL):
        code = work.finish(process)
    if not injected:  # the first time, they are counted
        work.calls = re.findall(r"^(\d+) +(\w+)\(", trace.read_text(), re.MULTILINE)
    if code == -signal.SIGKILL:
        work.check_visible()
        code = work.run()
        yield
    work.check_complete(code)


def full_disk(work: Workspace) -> Iterator[None]:
    """Let the disk fill up by what the command writes, or by another program at a random moment; then make room."""
    if work.random.random() < 0.5:
        size = shutil.disk_usage(work.folder).used + work.random.randrange(4096, work.growth * 5 // 4)
        mount("-o", f"remount,size={size}", str(work.folder))
        code = work.run()
        mount("-o", f"remount,size={DISK}", str(work.folder))
    else:
        process = work.start()
        time.sleep(work.moment())
        ballast = work.folder / "ballast"
        with ballast.open("wb") as file, suppress(OSError):
            while free := shutil.disk_usage(work.folder).free:
                os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), free)
        code = work.finish(process)
        ballast.unlink()
    work.check_messages(code)
    work.check_visible()
    work.check_complete(work.run())
    yield


def read_only(work: Workspace) -> Iterator[None]:
    """Kill a command, repeat it while nothing can be written, and once more."""
    work.run(work.moment())
    before = work.snapshot()
    mount("-o", "remount,ro", str(work.folder))
    code = work.run()
    mount("-o", "remount,rw", str(work.folder))
    work.check_messages(code, (1, 2, 3))
    if work.snapshot() != before:
        raise Fault("a read-only folder has changed")
    work.check_complete(work.run())
    yield


def clocks(work: Workspace) -> Iterator[None]:
    """Change the clock between a run that is killed and those that follow."""
    fake = {"LD_PRELOAD": str(FAKETIME), "NO_FAKE_STAT": "1"}
    work.run(work.moment() + IMPORTS, **fake, FAKETIME=work.random.choice(CLOCKS))
    work.check_visible()
    for _ in range(2):
        work.check_complete(work.run(**fake, FAKETIME=work.random.choice(CLOCKS)))
    yield


def network(work: Workspace) -> Iterator[None]:
    """Cut connections after random numbers of bytes, or let them stall for longer than the command waits."""
    size = (work.lab.template / "model.safetensors").stat().st_size
    work.hub.cuts = iter([work.random.randrange(size) for _ in range(work.random.randrange(1, 6))])
    if work.random.random() < 0.3:
        work.hub.piece, work.hub.pause = work.random.randrange(size // 3, size), 8.0
    code = work.run(HF_HUB_DOWNLOAD_TIMEOUT="4")
    work.hub.cuts, work.hub.piece, work.hub.pause = iter(()), *PACE
    work.check_messages(code, (0, 3))
    work.check_visible()
    work.check_complete(work.run())
    yield


def pairs(work: Workspace) -> Iterator[None]:
    """Start a command twice. One of them may be refused."""
    one = work.start()
    time.sleep(work.random.uniform(0, work.duration))
    other = work.start(log=".other")
    codes = work.finish(one), work.finish(other)
    if work.code not in codes:
        raise Fault(f"both fail: {codes} {work.log()} {work.log('.other')}")
    for code, log in zip(codes, ("", ".other"), strict=True):
        work.check_messages(code, (work.code, 2, 3), log)
    work.check_visible()
    work.check_complete(work.run())
    yield


def inputs(work: Workspace) -> Iterator[None]:
    """Change or remove an input while a command runs, and put it back as it was, with its time of modification."""
    path = work.random.choice(sorted(work.folder.glob(work.command.inputs)))
    original, status = path.read_bytes(), path.stat()
    change = work.random.choice(("removed", "replaced", "truncated", "grown"))
    process = work.start()
    time.sleep(work.moment())
    if change == "removed":
        path.unlink()
    elif change == "replaced":
        path.unlink()
        path.write_bytes(original[::-1])
    else:
        os.truncate(path, len(original) // 2 if change == "truncated" else len(original) * 2)
    code = work.finish(process)
    path.write_bytes(original)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    try:
        work.check_messages(code)
        code = work.run()
        if work.name == "finetune":  # which has trained on what it read
            work.check_messages(code)
        else:
            work.check_complete(code)
    except Fault as fault:
        raise Fault(f"{path.name} {change}: {fault}") from None
    yield


@dataclass(frozen=True)
class Scenario:
    """A kind of disturbance, and the commands that suffer it."""

    disturb: Callable[[Workspace], Iterator[None]]
    commands: tuple[str, ...]
    obstacle: Callable[[], str] = str  # why it cannot be tried here


def needs_root() -> str:
    return "" if os.geteuid() == 0 and sys.platform == "linux" else "needs root on Linux, to mount file systems"


def needs_strace() -> str:
    found = shutil.which("strace") and not subprocess.run(["strace", "-qqo", os.devnull, "true"]).returncode
    return "" if found else "needs strace"


def needs_faketime() -> str:
    return "" if FAKETIME.exists() else "needs libfaketime"


MOST = "finetune", "caption", "embed", "fetch", "convert", "report"
SCENARIOS = {
    "killed": Scenario(kills, ("caption --ray", *MOST, "review")),
    "killed at a system call": Scenario(operations, (*MOST, "review"), needs_strace),
    "full disk": Scenario(full_disk, MOST, needs_root),
    "read-only folders": Scenario(read_only, MOST, needs_root),
    "changed clock": Scenario(clocks, MOST, needs_faketime),
    "network cut": Scenario(network, ("fetch",)),
    "two at once": Scenario(pairs, MOST),
    "inputs changed": Scenario(inputs, ("finetune", "caption", "embed", "convert", "report")),
}


@dataclass
class Row:
    """A line of the table."""

    kind: str
    name: str
    times: int = 0  # disturbances
    runs: int = 0
    faults: int = 0
    skipped: str = ""

    def __str__(self) -> str:
        result = f"{self.faults} faults" if self.faults else "as undisturbed"
        cells = self.kind, f"`coca {self.name}`", self.times, self.runs, self.skipped or result
        return f"| {' | '.join(map(str, cells))} |"


def examine(lab: Lab, kind: str, name: str, times: int) -> Row:
    """Disturb a command so many times, and print each fault."""
    row, began = Row(kind, name), time.monotonic()
    if obstacle := SCENARIOS[kind].obstacle():
        row.skipped = f"skipped: {obstacle}"
        return row
    with ExitStack() as stack:
        work = None
        while row.times < times and row.faults < MOST_FAULTS and row.runs < 20 * (times + 1):
            try:
                work = work or Workspace(lab, kind, name, stack)
                work.reset()
                for _ in SCENARIOS[kind].disturb(work):
                    row.times += 1
            except Fault as fault:
                row.faults += 1
                print(f"FAULT {kind}, {name}: {fault}", flush=True)
                if not work:
                    break
            row.runs = work.runs
    print(f"{time.monotonic() - began:4.0f} s {row}", flush=True)
    return row


def write_table(rows: Sequence[Row], seconds: float) -> None:
    """Put the results between the markers of the page."""
    lines = ["| disturbance | command | times | runs | result |", "| --- | --- | --- | --- | --- |", *map(str, rows)]
    about = f"Run on {time.strftime('%Y-%m-%d')}, in {seconds / 60:.0f} minutes on {os.cpu_count()} cores:"
    text = PAGE.read_text()
    PAGE.write_text("\n".join([text[: text.index(START) + len(START)], about, "", *lines, text[text.index(END) :]]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="random moments at which each command is killed")
    parser.add_argument("--rounds", type=int, default=5, help="times that each command is disturbed in other ways")
    parser.add_argument("--only", action="append", default=[], help="a disturbance, a command or both: 'killed embed'")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="workspaces at once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help=f"write the table into {PAGE.relative_to(ROOT)}")
    options = parser.parse_args()
    chosen = [
        (kind, name, options.kills if kind == "killed" else options.rounds)
        for kind, scenario in SCENARIOS.items()
        for name in scenario.commands
        if not options.only or {kind, name, f"{kind} {name}"} & set(options.only)
    ]
    began = time.monotonic()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="coca-faults-")))
        on_ray = any(name == "caption --ray" for _, name, _ in chosen)
        lab = Lab(folder, options.seed, stack.enter_context(ray_cluster()) if on_ray else "")
        pool = stack.enter_context(ThreadPoolExecutor(options.jobs))
        rows = list(pool.map(lambda one: examine(lab, *one), chosen))
    if options.write:
        write_table(rows, time.monotonic() - began)
    return int(any(row.faults for row in rows))


if __name__ == "__main__":
    sys.exit(main())
