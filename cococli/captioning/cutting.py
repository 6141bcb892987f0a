"""Clips that are cut out of videos, each with its caption beside it."""

import os
import shutil
import subprocess
from collections.abc import Iterable, Set
from pathlib import Path

from ..errors import CocaError, UsageError
from ..files import find_member, io_errors
from ..overwrite import find_foreign, refuse_foreign, write_output
from ..reporting import SILENT, Reporter
from ..retrieval.cut import cut_words
from ..urls import RemotePath, path_of
from .formats import TEXT, SidecarText
from .outputs import check_folder, mirrored
from .records import Record
from .resume import EXISTING_HINT, Run


def check_cutting(folder: Path, videos: Iterable[Path], folders: Iterable[Path]) -> None:
    """Check that clips can be cut and written.

    Args:
        folders: Folders whose videos are captioned.

    Raises:
        UsageError: ffmpeg is not installed or cannot read some videos, or the folder is among those or cannot be
            written.
    """
    place = Path(os.path.realpath(folder))
    if above := next((other for other in folders if place.is_relative_to(os.path.realpath(other))), None):
        raise UsageError(
            f"--cut-to {folder} is in {above}: the next run would caption the clips", "name another folder"
        )
    if inside := next((path for path in videos if isinstance(path, RemotePath) or find_member(path)), None):
        raise UsageError(f"--cut-to cannot read {inside}", "it cuts videos that are files of their own")
    if not shutil.which("ffmpeg"):
        raise UsageError("--cut-to needs ffmpeg", "apt install ffmpeg, or brew install ffmpeg")
    try:
        check_folder(folder)
    except OSError as error:
        raise UsageError(f"cannot write {folder}: {error.strerror}") from None


def cut_clips(run: Run, fresh: Set[str], reporter: Reporter = SILENT) -> bool:
    """Cut the clips of all records of videos, in a tree that mirrors that of the videos.

    `trip/a.mp4` becomes `trip/a_0.00-4.00.mp4` and `trip/a_0.00-4.00.txt`. Clips of earlier runs are kept.

    Args:
        fresh: Names of tasks that this run has captioned, whose clips are cut again.

    Returns:
        Whether all clips were cut.
    """
    assert run.plan.cut_to
    names = mirrored(run.plan.videos, run.plan.cut_to, ".mp4", run.plan.folders)
    clips: list[tuple[Record, Path]] = []
    for record in run.in_order():
        if isinstance(record, Record) and (name := names.get(path_of(record.video))):
            clip = name.with_name(f"{name.stem}_{record.start:.2f}-{record.end:.2f}.mp4")
            if record.video in fresh or not clip.exists():
                clips.append((record, clip))
    failed = 0
    with reporter.progress("cutting clips", len(clips), done="cut", on_stop="finishing the clip") as progress:
        for record, clip in clips:
            if reporter.stop_requested:
                break
            try:
                _cut(record, clip, run.plan.text, run.plan.overwrite)
            except CocaError as error:
                reporter.warning(f"{clip}: {error.message}")
                failed += 1
                progress.advance(ok=False)
            else:
                progress.advance()
    return not failed


def _cut(record: Record, clip: Path, text: SidecarText, overwrite: bool) -> None:
    """Write a clip and its caption, both or none.

    Raises:
        CocaError: The video cannot be read, ffmpeg fails, or a file exists that coca did not write.
    """
    caption = clip.with_suffix(TEXT)
    if not overwrite:
        refuse_foreign(clip)
    if text.existing is None and not overwrite:
        refuse_foreign(caption, hint=EXISTING_HINT)
    words = [*cut_words(Path(record.video), record.start, record.end), "-loglevel", "error", "-y", "-f", "mp4"]
    with io_errors("write", clip):
        clip.parent.mkdir(parents=True, exist_ok=True)
        kept = text.existing == "keep" and find_foreign([caption])
        content = b"" if kept else text.content(caption, [record])
        with write_output(*([clip] if kept else [clip, caption])) as files:
            ran = subprocess.run([*words, files[0].name], stdin=subprocess.DEVNULL, capture_output=True)
            if ran.returncode:
                reason = ran.stderr.decode(errors="replace").strip().rpartition("\n")[2]
                raise CocaError(f"ffmpeg failed: {reason or ran.returncode}")
            for file in files[1:]:
                file.write(content)
