"""The Java parts of pycocoevalcap, run so that they neither hang, print, nor write into the installation."""

import json
import shutil
import subprocess
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..files import temporary_folder

_TOKENIZER = "stanford-corenlp-3.4.1.jar"
_METEOR = "meteor-1.5.jar"
_SPICE = "spice-1.0.jar"
_SPICE_MODELS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
_START_SECONDS = 120  # for a loaded machine to start Java and read its data
_SECONDS_EACH = 1.0  # more for each picture or caption; what takes longer hangs
_UTF8 = "-Dfile.encoding=UTF-8"  # else what Java up to 17 reads depends on the locale


class JavaError(Exception):
    """A failure of Java, and its cause."""


def tokenize(captions: Sequence[str]) -> list[str]:
    """Tokenize captions of one line each with `PTBTokenizer`: lower case, blanks between tokens.

    Raises:
        JavaError: Java is missing or fails.
    """
    command = [_UTF8, "-cp", _TOKENIZER, "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
    lines = _run(command, "tokenizer", len(captions), "".join(f"{caption}\n" for caption in captions)).split("\n")[:-1]
    if len(lines) != len(captions):
        raise JavaError(f"the tokenizer returned {len(lines)} lines for {len(captions)}")
    return lines


def meteor(
    predictions: Sequence[str], references: Sequence[Sequence[str]], groups: Iterable[Sequence[int]]
) -> list[tuple[float, list[float]]]:
    """Compute METEOR of groups of tokenized captions, as a whole and of each caption.

    Args:
        groups: Indices of the captions in each.

    Raises:
        JavaError: Java is missing or fails.
    """
    command = ["java", _UTF8, "-Xmx2G", "-jar", _METEOR, "-", "-", "-stdio", "-l", "en", "-norm"]
    _check_java()
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    try:
        with subprocess.Popen(command, cwd=_folder() / "meteor", encoding="utf-8", **pipes) as process:
            watchdog = threading.Timer(_seconds(len(predictions)), process.kill)
            watchdog.start()
            try:
                return _ask_meteor(process, predictions, references, groups)
            finally:
                watchdog.cancel()
                process.kill()
    except (OSError, ValueError):
        raise JavaError("java fails, or takes too long") from None


def spice(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, list[float]]:
    """Compute SPICE of all pictures and of each, for tokenized captions. Its models are never downloaded.

    Raises:
        JavaError: Java or the models are missing, or SPICE fails.
    """
    if missing := [name for name in _SPICE_MODELS if not (_folder() / "spice" / "lib" / name).exists()]:
        raise JavaError(f"{_folder() / 'spice' / 'lib'} has no {missing[0]}")
    with temporary_folder() as folder:
        captions, scores = folder / "captions.json", folder / "scores.json"
        pairs = enumerate(zip(predictions, references, strict=True))
        entries = [{"image_id": number, "test": test, "refs": list(refs)} for number, (test, refs) in pairs]
        captions.write_text(json.dumps(entries))
        command = [_UTF8, "-Xmx8G", "-jar", _SPICE, str(captions), "-out", str(scores), "-subset", "-silent"]
        _run(command, "spice", len(predictions))
        try:
            found = {entry["image_id"]: float(entry["scores"]["All"]["f"]) for entry in json.loads(scores.read_text())}
            each = [found[number] for number in range(len(predictions))]
        except (OSError, ValueError, KeyError, TypeError):
            raise JavaError("SPICE returned no scores") from None
    return sum(each) / len(each), each


def _ask_meteor(
    process: subprocess.Popen[str],
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    groups: Iterable[Sequence[int]],
) -> list[tuple[float, list[float]]]:
    assert process.stdin and process.stdout
    statistics = []
    for prediction, own in zip(predictions, references, strict=True):
        process.stdin.write(" ||| ".join(("SCORE", *own, prediction)) + "\n")
        process.stdin.flush()
        statistics.append(process.stdout.readline().strip())
    found = []
    for group in groups:
        process.stdin.write(" ||| ".join(("EVAL", *(statistics[index] for index in group))) + "\n")
        process.stdin.flush()
        *each, whole = [float(process.stdout.readline()) for _ in range(len(group) + 1)]
        found.append((whole, each))
    return found


def _run(arguments: Sequence[str], folder: str, captions: int, text: str = "") -> str:
    """Run Java and return its stdout."""
    _check_java()
    try:
        done = subprocess.run(
            ["java", *arguments],
            cwd=_folder() / folder,
            input=text.encode(errors="replace"),
            capture_output=True,
            timeout=_seconds(captions),
        )
    except (OSError, subprocess.TimeoutExpired):
        raise JavaError("java fails, or takes too long") from None
    if done.returncode:
        message = done.stderr.decode(errors="replace").strip() or f"exit status {done.returncode}"
        raise JavaError(f"java fails: {message.splitlines()[0]}")
    return done.stdout.decode(errors="replace")


def _check_java() -> None:
    if not shutil.which("java"):
        raise JavaError("java is not installed")


def _seconds(captions: int) -> float:
    return _START_SECONDS + _SECONDS_EACH * captions


def _folder() -> Path:
    """Return the folder of pycocoevalcap's archives."""
    import pycocoevalcap

    return Path(next(iter(pycocoevalcap.__path__)))
