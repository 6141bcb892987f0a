"""Export of reviewed captions as data that `coca finetune` takes."""

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ..captioning.records import Record
from ..errors import CocaError, UsageError, VideoError
from ..files import io_errors
from ..overwrite import refuse_foreign, write_output
from ..reporting import SILENT, Reporter
from ..urls import is_url
from .edits import Review, id_of
from .frames import read_frames

Form = Literal["csv", "json", "folder"]

_FORMULA = ("=", "+", "-", "@")  # a spreadsheet would run it; `coca finetune` strips a space before it
_FRAME_MS = 1000  # a frame of a moving picture, whatever the time between frames was


def form_of(destination: str) -> Form:
    """Return the format of an export.

    Raises:
        UsageError: It is neither a .csv or .json file nor a folder.
    """
    path = Path(destination)
    if destination.endswith(("/", os.sep)) or path.is_dir():
        return "folder"
    if path.suffix.lower() not in (".csv", ".json"):
        raise UsageError(f"unknown format: {destination}", "use data.csv, data.json, or folder/ for sidecars")
    return "csv" if path.suffix.lower() == ".csv" else "json"


def export(review: Review, destination: str, overwrite: bool = False, reporter: Reporter = SILENT) -> int:
    """Write the captions that were corrected or accepted, with paths that hold from any folder.

    An example of a data set is a whole file: a segment becomes a picture, or a moving one, of the frames that the model
    saw, in a folder beside the list.

    Args:
        destination: A .csv file; a .json file with COCO's annotations; or a folder, which ends in a slash, for a link
            to each file with its caption beside it.
        overwrite: Replace files that coca did not write.

    Returns:
        Number of captions.

    Raises:
        UsageError: Nothing was reviewed, the format is unknown, or a file is not coca's.
        CocaError: A file cannot be read or written.
    """
    form, path = form_of(destination), Path(destination)
    reviewed = list(review.reviewed())
    if not reviewed:
        raise UsageError("no caption was corrected or accepted yet", f"coca review {review.path}")
    if remote := [record.video for record, _ in reviewed if is_url(record.video)]:
        what = f"{len(remote)} of {len(reviewed)} captions are of URLs (first: {remote[0]})"
        raise UsageError(f"{what}, which coca finetune does not read", "download the files, and caption those")
    folder = path if form == "folder" else path.with_name(f"{path.stem}_segments")
    folder = folder.absolute()
    files = [_place(record, folder, form) for record, _ in reviewed]
    if not overwrite:
        refuse_foreign(*([file.with_suffix(".txt") for file in files] if form == "folder" else [path]))
    with io_errors("write", path), reporter.progress("exporting", len(reviewed), done="exported") as progress:
        for (record, caption), file in zip(reviewed, files, strict=True):
            if file.parent == folder:
                folder.mkdir(parents=True, exist_ok=True)
                _write_segment(record, file) if _is_part(record) else _link(file, Path(record.video))
            if form == "folder":
                with write_output(file.with_suffix(".txt")) as (text,):
                    text.write(caption.encode())
            progress.advance()
        captions = [caption for _, caption in reviewed]
        if form != "folder":
            with write_output(path) as (table,):
                table.write(_csv(files, captions) if form == "csv" else _coco(files, captions))
    return len(reviewed)


def _is_part(record: Record) -> bool:
    return record.segments > 1 or record.start > 0


def _place(record: Record, folder: Path, form: Form) -> Path:
    """Return the absolute path of the file of an example."""
    video = Path(record.video)
    if _is_part(record):
        return folder / f"{id_of(record)}.webp"
    return folder / f"{id_of(record)}{video.suffix}" if form == "folder" else video.absolute()


def _write_segment(record: Record, file: Path) -> None:
    """Write the frames that the model saw as a picture, still or moving.

    Raises:
        CocaError: The video cannot be read.
    """
    from PIL import Image

    try:
        frames = [Image.fromarray(pixels) for pixels in read_frames(record.video, record.frames)]
    except VideoError as error:
        raise CocaError(f"{record.video}: {error.message}") from None
    with write_output(file) as (picture,):
        options = {"append_images": frames[1:], "duration": _FRAME_MS} if len(frames) > 1 else {}
        frames[0].save(picture, "WEBP", quality=95, save_all=len(frames) > 1, **options)


def _link(link: Path, target: Path) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(target.absolute())


def _csv(files: Sequence[Path], captions: Sequence[str]) -> bytes:
    table = io.StringIO()
    safe = (f" {caption}" if caption.startswith(_FORMULA) else caption for caption in captions)
    csv.writer(table).writerows([("path", "caption"), *zip(files, safe, strict=True)])
    return table.getvalue().encode("utf-8", "surrogateescape")


def _coco(files: Sequence[Path], captions: Sequence[str]) -> bytes:
    """Return COCO's annotations. Captions of one file belong to one image."""
    ids = {file: number for number, file in enumerate(dict.fromkeys(files), start=1)}
    content = {
        "info": {"description": "captions reviewed with coca"},
        "images": [{"id": number, "file_name": str(file)} for file, number in ids.items()],
        "annotations": [
            {"id": number, "image_id": ids[file], "caption": caption}
            for number, (file, caption) in enumerate(zip(files, captions, strict=True), start=1)
        ],
    }
    return json.dumps(content, indent=1).encode()
