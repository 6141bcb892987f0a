"""TensorBoard events, or a run of Weights & Biases, with the metrics of a run."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import time, time_ns
from typing import Any

from ..errors import UsageError
from ..files import io_errors

LogEvent = Callable[[Mapping[str, Any]], None]


@contextmanager
def open_events(folder: Path, after: int = 0) -> Iterator[LogEvent]:
    """Write events to a folder; TensorBoard discards earlier events of later steps.

    Args:
        folder: Created if missing. Every resumed run adds a file.
        after: Step that the run resumes from.

    Yields:
        A function that writes a record, as `RunFolder.log`, without buffering.

    Raises:
        UsageError: tensorboardX is missing.
        CocaError: The disk is full.
    """
    try:
        from tensorboardX.event_file_writer import EventsWriter  # its SummaryWriter loses the last ones when killed
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.proto.summary_pb2 import Summary
        from tensorboardX.summary import scalar, text
    except ImportError:
        raise UsageError("--report-to tensorboard needs tensorboardX", "pip install 'cococli[tensorboard]'") from None

    def log(record: Mapping[str, Any]) -> None:
        parts = [scalar(name, value) for name, value in _scalars(record)]
        if "samples" in record:
            parts.append(text("held-out/captions", _table(record["samples"])))
        values = [value for part in parts for value in part.value]
        with io_errors("write", folder):
            writer.write_event(Event(step=record["step"], wall_time=time(), summary=Summary(value=values)))
            writer.flush()

    with io_errors("write", folder):
        folder.mkdir(parents=True, exist_ok=True)
        writer = EventsWriter(str(folder / "events"), f".{time_ns()}")  # its own names are the same within a second
        writer.write_event(Event(step=after + 1, wall_time=time(), session_log=SessionLog(status=SessionLog.START)))
    try:
        yield log
    finally:
        writer.close()


@contextmanager
def open_wandb(folder: Path, name: str, settings: Mapping[str, Any]) -> Iterator[LogEvent]:
    """Report to Weights & Biases, as the run of this name in the project coca; a resumed run goes on in it.

    Raises:
        UsageError: wandb is missing.
    """
    try:
        import wandb
    except ImportError:
        raise UsageError("--report-to wandb needs wandb", "pip install 'cococli[wandb]'") from None
    with wandb.init(project="coca", id=name, name=name, dir=folder, config=dict(settings), resume="allow") as run:
        yield lambda record: run.log(dict(_scalars(record)), step=record["step"])


def _scalars(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield names, by which TensorBoard groups, and numbers."""
    if "scores" in record:
        found = {f"held-out/{name.replace(' ', '-').replace('@', '-at-')}": it for name, it in record["scores"].items()}
        found["held-out/loss"] = record.get("held_out_loss")
    else:
        found = {f"train/{name}": value for name, value in record.items() if name != "step"}
    return ((name, value) for name, value in found.items() if isinstance(value, int | float))


def _table(samples: list[Mapping[str, str]]) -> str:
    """Format sample captions as a Markdown table, each as code."""
    rows = [" | ".join(_code(sample[column]) for column in ("path", "caption", "reference")) for sample in samples]
    return "\n".join(["file | caption | reference", "--- | --- | ---", *rows])


def _code(text: str) -> str:
    plain = text.encode("utf-8", "backslashreplace").decode()
    return "`" + " ".join(plain.split()).replace("`", "'").replace("|", "¦") + "`"
