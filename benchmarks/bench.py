"""Measure the figures of the documentation and write them into its pages, between `<!-- bench:name -->` marks.

    make bench                           # all, in 25 minutes on two idle cores
    make bench ONLY=search,help          # some, or those that a run did not get to
    python benchmarks/bench.py --quick   # small sizes, printed only

Each part runs in a separate process and is kept in results.json when it is done. A part that fails is tried once more
at the end; then its former figures stay, and the exit code is 1. open_clip 3.3.0 is installed into build/bench.
"""

import argparse
import importlib
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results.json"
WORK = ROOT / "build/bench"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MARK = re.compile(r"<!-- bench:(\S+) -->(.*?)<!-- /bench -->", re.DOTALL)
OPEN_CLIP = ("open_clip_torch==3.3.0", "transformers==4.50.3", "tokenizers==0.21.4", "huggingface_hub==0.36.0",
             "timm==1.0.20")  # fmt: skip


class Part(NamedTuple):
    """Figures that are measured together: functions of a module, and how long that takes and may take."""

    module: str
    measure: str
    render: str
    seconds: int
    limit: int


PARTS = {
    "help": Part("captions", "measure_help", "render_help", 5, 120),
    "videos": Part("quality", "measure_videos", "render_videos", 20, 180),
    "conversion": Part("captions", "measure_conversion", "render_conversion", 60, 400),
    "captions": Part("captions", "measure", "render", 850, 1800),
    "training": Part("finetune", "measure", "render", 220, 600),
    "search": Part("search", "measure", "render", 120, 600),
    "quality": Part("quality", "measure", "render", 70, 600),
    "sizes": Part("sizes", "measure", "render", 110, 600),
}


def texts_of(results: dict[str, Any]) -> dict[str, str]:
    """Return what the pages show, by the name in their marks."""
    texts = {"open_clip": OPEN_CLIP[0].partition("==")[2]}
    for name, figure in results.items():
        part = PARTS[name]
        rendered = getattr(importlib.import_module(part.module), part.render)(figure["values"])
        texts |= {f"{name}.{key}": text for key, text in rendered.items()}
        texts[f"{name}.when"] = f"{figure['date']}, commit `{figure['commit']}`, {figure['machine']}"
    return texts


def fill(page: str, texts: dict[str, str]) -> str:
    """Return a page with the texts of its marks; those of figures without a text stay."""

    def replace(match: re.Match[str]) -> str:
        name = match[1]
        text = texts.get(name)
        if text is None:
            return match[0]
        return f"<!-- bench:{name} -->{f'{chr(10) * 2}{text}{chr(10) * 2}' if chr(10) in text else text}<!-- /bench -->"

    return MARK.sub(replace, page)


def machine() -> str:
    """Describe the processor in a few words."""
    name, flags = platform.processor() or platform.machine(), ""
    if (info := Path("/proc/cpuinfo")).exists():
        fields = dict(re.findall(r"^(model name|flags)\s*: (.*)$", info.read_text(), re.MULTILINE))
        name, flags = fields.get("model name", name), fields.get("flags", "")
    bf16 = next((f" with {label}" for flag, label in (("amx_bf16", "AMX"), ("avx512_bf16", "AVX-512 bf16"))
                 if flag in flags.split()), "")  # fmt: skip
    return f"{os.cpu_count()} cores of {name}{bf16}, Python {platform.python_version()}, torch {version('torch')}"


def commit() -> str:
    """Return the commit of the program, with a plus sign if it was changed since; pages and results do not count."""
    git = ["git", "-C", str(ROOT)]
    found = subprocess.run([*git, "rev-parse", "--short=7", "HEAD"], capture_output=True, text=True).stdout.strip()
    changed = subprocess.run(
        [*git, "status", "--porcelain", "--", "cococli", "benchmarks", ":!benchmarks/results.json"],
        capture_output=True,
        text=True,
    ).stdout
    return (found or "unknown") + "+" * bool(changed)


def install_open_clip() -> None:
    """Install open_clip beside the packages of this environment, into a folder that comes before them."""
    folder = WORK / "open_clip"
    if (folder / "done").exists():
        return
    print(f"installing {OPEN_CLIP[0]} in {folder}", flush=True)
    numbers = version("torch").partition("+")[0].split(".")  # torchvision 0.28 is for torch 2.13, and so on
    vision = f"torchvision==0.{int(numbers[1]) + 15}.{numbers[2]}"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*install, "--upgrade", "--target", folder, *OPEN_CLIP, vision], check=True)
    (folder / "done").touch()


def measure(name: str, quick: bool) -> dict[str, Any] | None:
    """Measure a part in a separate process; return None if it fails or takes too long."""
    part, found = PARTS[name], WORK / f"{name}.json"
    found.unlink(missing_ok=True)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("COCA_", "OMP_"))}
    environment |= {"COCA_HOME": str(WORK / "home"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, __file__, "--measure", name, str(found), *["--quick"] * quick]
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        process.wait(part.limit)
    except subprocess.TimeoutExpired:
        print(f"  {name} took more than {part.limit} s", flush=True)
    finally:  # its own processes, too
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return json.loads(found.read_text()) if process.returncode == 0 else None


def run(names: list[str], quick: bool) -> list[str]:
    """Measure parts, write each where it belongs, and return those that failed twice."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    started, (waiting, failed) = time.perf_counter(), (list(names), [])
    while waiting:
        name = waiting.pop(0)
        load = os.getloadavg()[0]
        about = 0 if quick else sum(PARTS[one].seconds for one in [name, *waiting])
        print(f"[{time.perf_counter() - started:.0f} s] {name}; about {about} s to go, load {load:.1f}", flush=True)
        begun = time.perf_counter()
        values = measure(name, quick)
        if values is None:
            again = name not in failed
            print(f"  {name} failed{'; it is tried once more at the end' if again else ''}", flush=True)
            if again:
                failed.append(name)
                waiting.append(name)
            continue
        if name in failed:
            failed.remove(name)
        figure = {
            "version": re.search('__version__ = "(.*)"', (ROOT / "cococli/__init__.py").read_text())[1],
            "date": datetime.now(UTC).date().isoformat(),
            "commit": commit(),
            "machine": machine(),
            "command": f"make bench ONLY={name}",
            "load": round(load, 1),
            "seconds": round(time.perf_counter() - begun),
            "values": values,
        }
        if quick:
            print(json.dumps(figure, indent=1), flush=True)
            continue
        results[name] = figure
        write(results)
        print(f"  {name} took {figure['seconds']} s", flush=True)
    return failed


def write(results: dict[str, Any]) -> None:
    """Keep results, and fill the pages."""
    results = {name: results[name] for name in PARTS if name in results}
    part = RESULTS.with_suffix(".part")
    part.write_text(json.dumps(results, indent=1) + "\n")
    part.replace(RESULTS)
    texts = texts_of(results)
    for page in PAGES:
        text = page.read_text()
        if (filled := fill(text, texts)) != text:
            page.write_text(filled)


def marks(pages: list[Path]) -> Iterator[tuple[Path, str, str]]:
    """Yield the marks of pages: the page, the name and the text."""
    for page in pages:
        for name, text in MARK.findall(page.read_text()):
            yield page, name, text.strip()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help=f"some of {','.join(PARTS)}")
    parser.add_argument("--quick", action="store_true", help="measure little, and change no page")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # which ends the part under way
    WORK.mkdir(parents=True, exist_ok=True)
    if options.measure:
        part = PARTS[options.measure[0]]
        values = getattr(importlib.import_module(part.module), part.measure)(WORK, options.quick)
        Path(options.measure[1]).write_text(json.dumps(values))
        return 0
    names = [name for name in options.only.split(",") if name] or list(PARTS)
    if unknown := set(names) - set(PARTS):
        parser.error(f"--only takes some of {','.join(PARTS)}, not {', '.join(sorted(unknown))}")
    if {"captions", "training"} & set(names):
        install_open_clip()
    failed = run(names, options.quick)
    if failed:
        print(f"failed, with former figures kept: {','.join(failed)}; repeat with make bench ONLY={','.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
