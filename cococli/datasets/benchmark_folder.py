"""The folder of a public benchmark: finds its files, and its pictures and videos by their names."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from ..errors import UsageError
from ..media.discover import find_media
from ..parsing import read_errors
from ..reporting import Reporter
from ..tables import Row
from .dataset import Dataset, RawExample, Split, gather, no_split


@dataclass(frozen=True)
class Event:
    """A caption of a part of a video. The fields are those of densevid_eval's JSON."""

    timestamp: tuple[float, float]  # start and end in seconds
    sentence: str


@dataclass(frozen=True)
class BenchmarkData:
    """Examples and classes of a benchmark. Captions and retrieval may be measured on different examples."""

    captions: Dataset | None = None
    retrieval: Dataset | None = None
    classes: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)  # example -> its group, whose CIDEr is reported, too
    events: Sequence[Mapping[str, Sequence[Event]]] = ()  # several people's captions of events: each by video
    notes: tuple[str, ...] = ()  # for the user


@dataclass(frozen=True)
class BenchmarkFolder:
    """The folder of a benchmark, and what is read in it.

    Attributes:
        benchmark: Its name.
        files: What it reads, for messages.
        images: Folder of pictures and videos.
        class_file: File of names of ImageNet's classes.
    """

    benchmark: str
    files: str
    path: Path
    split: Split
    images: Path
    class_file: Path | None
    reporter: Reporter

    def find(self, *names: str) -> Path | None:
        """Return the first of these files in the folder, or in the folders in it."""
        found = (
            path for name in names for depth in ("", "*/", "*/*/") for path in sorted(self.path.glob(depth + name))
        )
        return next(found, None)

    def require(self, *names: str) -> Path:
        """Return the first of these files.

        Raises:
            UsageError: There is none.
        """
        if found := self.find(*names):
            return found
        hint = f"--benchmark {self.benchmark} reads {self.files}"
        raise UsageError(f"{self.path} has no {' or '.join(names)}", hint)

    def only(self, *splits: Split) -> None:
        """Refuse a split that the benchmark does not have."""
        if self.split not in splits:
            raise no_split(self.path, self.split, splits)

    @cached_property
    def by_stem(self) -> dict[str, Path]:
        """Pictures and videos by their names without suffix."""
        return {path.stem: path for path in reversed(find_media(self.images, self.reporter))}

    def media(self, *stems: str, suffix: str = ".mp4") -> Path:
        """Return the picture or video with the first of these stems; if there is none, a path in the folder."""
        return next(filter(None, map(self.by_stem.get, stems)), self.images / f"{stems[0]}{suffix}")

    def gather(self, source: Path, entries: Iterable[RawExample]) -> Dataset:
        """Return the examples of the split; see `dataset.gather`."""
        return gather(source, self.split, entries)

    def labeled(self, source: Path, labels: Iterable[tuple[str, str]], names: Iterable[str] = ()) -> BenchmarkData:
        """Return classification.

        Args:
            labels: Class and stem of each file.
            names: All classes, also those without files.
        """
        classes: dict[str, list[Path]] = {words_of(name): [] for name in names}
        for name, stem in labels:
            classes.setdefault(words_of(name), []).append(self.media(stem))
        paths = [path for own in classes.values() for path in own]
        if not paths:
            raise UsageError(f"{source} lists no files of the split {self.split}")
        if not any(path.exists() for path in paths):
            raise UsageError(
                f"none of the {len(paths):,} files in {source} is found (first: {paths[0].name})",
                "pass their folder with --images",
            )
        return BenchmarkData(classes=classes)


def words_of(name: str) -> str:
    """Split the name of a class into words: `ApplyEyeMakeup` and `apply_eye_makeup` are `apply eye makeup`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.replace("_", " ")).lower()


def text_lines(path: Path) -> list[str]:
    """Return the lines of a text, without blank ones."""
    with read_errors(path):
        return [line.strip() for line in path.read_text("utf-8-sig").splitlines() if line.strip()]


def read_names(path: Path) -> list[str]:
    """Return the texts of a NumPy array in an .npy file."""
    import numpy as np

    with read_errors(path, "NumPy array of texts"):
        try:
            return [str(name) for name in np.load(path, allow_pickle=False).astype(str).ravel()]
        except EOFError as error:
            raise ValueError(error) from None


def cell(row: Row, name: str, where: str) -> str:
    """Return a text of a table.

    Raises:
        UsageError: It is missing or empty.
    """
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise UsageError(f"{where} has no {name}")
    return value.strip()
