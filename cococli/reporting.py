"""Notes, warnings, records and progress of long operations, and requests to stop them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal


class Progress:
    """A stage of work under way. This one shows nothing."""

    def advance(self, ok: bool = True) -> None:
        """Count one item as done.

        Args:
            ok: False counts it as failed.
        """

    def update(self, done: int, total: int | None = None, detail: str = "") -> None:
        """Set how far the work is.

        Args:
            done: Items or bytes that are done.
            total: How many there are in all, where that was not known before or changed.
            detail: What the last item found, such as a loss.
        """

    def current(self, item: str) -> None:
        """Name the item that is under way."""

    def conclude(self, text: str) -> None:
        """Add what is known at the end to the summary."""

    def describe(self, text: str) -> None:
        """Replace the description of what is under way."""


class Reporter:
    """Receives notes, warnings, records and progress. This one ignores them; subclass it to show them."""

    def note(self, text: str) -> None:
        """Report something in passing."""

    def warning(self, text: str) -> None:
        """Report a problem that does not stop the operation."""

    def checked(self) -> None:
        """Learn that the request is valid: from here on the operation reads, computes and writes."""

    def log_to(self, path: Path) -> None:
        """Append what is reported to a file, too.

        Raises:
            UsageError: It cannot be written.
        """

    def record(self, record: object) -> None:
        """Receive a record of the run, or the failure of an input, once it is written."""

    @contextmanager
    def progress(
        self,
        description: str,
        total: int | None = None,
        *,
        unit: Literal["items", "bytes"] = "items",
        done: str = "",
        on_stop: str = "",
    ) -> Iterator[Progress]:
        """Report how far a stage of work is, until the block ends.

        Args:
            description: What is under way, as in "captioning".
            total: Items or bytes of the whole stage; None where that is not known.
            done: The same in the past tense, as in "captioned", for a summary at the end; empty for no summary.
            on_stop: What a request to stop leads to, as in "finishing the batch". While the block runs, the first
                Ctrl-C only sets `stop_requested`. Empty where the stage cannot end early: Ctrl-C raises at once.
        """
        yield Progress()

    @property
    def stop_requested(self) -> bool:
        """True once the operation should end, at the next point from which it can resume."""
        return False


SILENT = Reporter()
