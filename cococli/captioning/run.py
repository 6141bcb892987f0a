"""One run over many videos: what an earlier one has done already, and where its records go."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import settings
from ..errors import CocaError, UsageError
from ..journal import Failure, Journal, Work, key_of, look, open_journal, told
from ..retrieval.entries import Entry
from ..retrieval.index import About, IndexWriter, indexed, open_index
from .formats import CAPTION_ONLY, STANDARD, write, write_subtitles
from .names import beside, mirrored
from .outputs import STDOUT, is_folder
from .records import Outcome, from_json
from .subtitles import CueStyle


@dataclass(frozen=True)
class Plan:
    """What to caption, and where it goes.

    Attributes:
        videos: In the order of the records.
        options: All that decides what the records of a video say, besides the video.
        outputs: Files by their suffix, folders for subtitles, and `-` for stdout, checked by `outputs.check_outputs`.
        beside: Subtitles go beside each video, too.
        subtitles: Suffix of the subtitles in folders and beside videos.
        folders: Those that the user named, which `names.mirrored` builds its tree on.
        index: A folder that takes the embeddings, what it is made with, and their dimension.
    """

    videos: Sequence[Path]
    options: str
    outputs: tuple[str, ...] = ()
    beside: bool = False
    subtitles: str = ".srt"
    folders: Sequence[Path] = ()
    template: str = CAPTION_ONLY
    style: CueStyle = STANDARD
    overwrite: bool = False
    retry_failed: bool = False
    index: tuple[Path, About, int] | None = None

    @property
    def files(self) -> list[Path]:
        """The outputs that hold the records of all videos."""
        return [Path(output) for output in self.outputs if output != STDOUT and not is_folder(output)]

    @property
    def journal(self) -> Path | None:
        """The file that the run goes on from: its JSONL output, else one in the cache; none when nothing is written."""
        if lines := [path for path in self.files if path.suffix.lower() == ".jsonl"]:
            return lines[0]
        places = [str(Path(output).absolute()) for output in self.outputs if output != STDOUT]
        if self.beside:
            places += ["beside", *(str(folder.absolute()) for folder in self.folders)]
        if not places:
            return None
        digest = hashlib.sha256("\n".join(places).encode("utf-8", "surrogateescape")).hexdigest()[:16]
        return _journals() / f"{digest}.jsonl"


@dataclass
class Run:
    """A run under way. `open_run` makes one."""

    plan: Plan
    works: list[Work]
    journal: Journal[Outcome] | None
    outcomes: dict[str, list[Outcome]]  # of each video, as far as there are any
    subtitles: list[dict[Path, Path]]  # a file for each video, in each place where they go
    index: IndexWriter | None = None
    indexed: Mapping[str, object] | None = None  # the works that the index had before; None: there is no index

    @property
    def todo(self) -> list[Work]:
        """The videos that have no records yet, or no embeddings where these are wanted."""
        return [work for work in self.works if not self.is_done(work)]

    def is_done(self, work: Work) -> bool:
        return work.name in self.outcomes and (self.indexed is None or work.name in self.indexed)

    def take(self, work: Work, outcomes: list[Outcome], embeddings: np.ndarray) -> list[Failure]:
        """Keep what became of a video; returns what of it could not be written.

        Args:
            embeddings: [K, D] float32, L2-normalised, of its K records.

        Raises:
            CocaError: the journal or the index cannot be written.
        """
        if self.index and work.name not in self.index.reused:
            self.index.append(work, [_entry(outcome) for outcome in outcomes], embeddings)
        if self.journal and work.name not in self.journal.reused:
            self.journal.append(work, outcomes)
        self.outcomes[work.name] = outcomes
        return [failure for names in self.subtitles for failure in write_subtitles(names, outcomes, self.plan.style)]

    def finish(self) -> None:
        """Write the outputs that hold all records, and subtitles that an earlier run did not come to.

        Raises:
            CocaError: one cannot be written.
        """
        for path in self.plan.files:
            if path != self.plan.journal:
                write(path, self.in_order(), self.plan.template, self.plan.style)
        for names in self.subtitles:
            missing = {video: path for video, path in names.items() if not path.exists()}
            for failure in write_subtitles(missing, self.in_order(), self.plan.style):
                raise CocaError(failure.error)

    def in_order(self) -> Iterator[Outcome]:
        """All records, video by video."""
        return (outcome for work in self.works for outcome in self.outcomes.get(work.name, ()))


@contextmanager
def open_run(plan: Plan) -> Iterator[Run]:
    """Open the outputs of a run; at its end, however it comes, they hold all that was done.

    Raises:
        UsageError: the journal is another run's, or no journal.
        CocaError: an output cannot be written.
    """
    works = _works(plan)
    with ExitStack() as stack:
        index = stack.enter_context(_open_index(plan, works)) if plan.index else None
        before = index.reused if index else None
        if plan.journal is None:
            yield Run(plan, works, None, {}, [], index, before)
            return
        if plan.journal.parent == _journals():
            with told(plan.journal):
                _journals().mkdir(parents=True, exist_ok=True)
        opened = open_journal(plan.journal, works, from_json, plan.overwrite, plan.retry_failed)
        journal = stack.enter_context(opened)
        run = Run(plan, works, journal, dict(journal.reused), list(_subtitles(plan)), index, before)
        _refuse_foreign(run)
        try:
            yield run
        finally:
            run.finish()


def preview(plan: Plan) -> Run:
    """What a run would find, with nothing changed.

    Raises:
        UsageError, CocaError: as from `open_run`.
    """
    works = _works(plan)
    reused = {} if plan.overwrite or not plan.journal else look(plan.journal, works, from_json, plan.retry_failed)
    before = {} if plan.overwrite or not plan.index else indexed(plan.index[0], works, plan.retry_failed)
    return Run(plan, works, None, reused, [], None, before if plan.index else None)


def _open_index(plan: Plan, works: list[Work]) -> AbstractContextManager[IndexWriter]:
    assert plan.index
    folder, about, dimension = plan.index
    return open_index(folder, about, dimension, works, None, plan.overwrite, plan.retry_failed)


def _entry(outcome: Outcome) -> Entry | Failure:
    """What the index says of it."""
    if isinstance(outcome, Failure):
        return outcome
    return Entry(-1, outcome.video, outcome.start, outcome.end, outcome.frames, outcome.segments, text=outcome.caption)


def _works(plan: Plan) -> list[Work]:
    return [Work(str(path), key_of(path, plan.options)) for path in plan.videos]


def _refuse_foreign(run: Run) -> None:
    """Keep subtitles beside videos that no earlier run has written: they may be a person's own work."""
    if run.plan.beside and not run.plan.overwrite:
        for video, path in run.subtitles[-1].items():
            if path.exists() and str(video) not in run.outcomes:
                raise UsageError(f"{path} is there already", "--overwrite replaces it, -o FOLDER/ leaves it alone")


def _journals() -> Path:
    """Folder of the journals of runs that write no JSONL."""
    return settings.home() / "journals"


def _subtitles(plan: Plan) -> Iterator[dict[Path, Path]]:
    for output in plan.outputs:
        if output != STDOUT and is_folder(output):
            yield mirrored(plan.videos, Path(output), plan.subtitles, plan.folders)
    if plan.beside:
        yield beside(plan.videos, plan.subtitles)
