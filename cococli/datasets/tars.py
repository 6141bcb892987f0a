"""WebDataset: samples in tars, as `000017.jpg` with `000017.txt` or `000017.json` next to it.

Only headers and captions are read here. The path of a picture says where its bytes are, so that the reader processes
read them in any order.
"""

import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..files import member_path
from ..media.discover import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from ..media.tars import clean_name, expand_braces, is_tar, open_tar, read_members
from ..parsing import read_errors, read_json
from ..reporting import SILENT, Reporter
from ..stores import list_files
from ..urls import WEB, RemotePath, is_url, place_of, remote_path, scheme_of
from .caption_lists import SIDECARS, parse_captions
from .dataset import RawExample

_TEXTS = (*SIDECARS, ".cls")  # the first that a sample has is read
_MEDIA = {suffix.removeprefix(".") for suffix in IMAGE_SUFFIXES | VIDEO_SUFFIXES}
_FIRST = 100
_WNID = re.compile(r"n\d{8}\s+")  # of ImageNet
_NUMBER = re.compile(r"\d{1,9}")  # of a class
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")


def find_tars(pattern: str) -> list[Path]:
    """Return the files that a pattern such as `shards/{000..012}.tar` stands for; `::` separates several.

    A URL that ends in a slash stands for the tars below it.

    Raises:
        UsageError: One does not exist, a store cannot be listed, or a package is not installed.
    """
    names = [name for part in pattern.split("::") for name in expand_braces(part)]
    paths = [path for name in names for path in (_tars_below(name) if is_url(name) else [Path(name)])]
    if missing := [path for path in paths if not isinstance(path, RemotePath) and not path.is_file()]:
        raise UsageError(f"{len(missing)} of {len(paths)} files of {pattern} do not exist (first: {missing[0]})")
    return paths


def _tars_below(url: str) -> list[Path]:
    if is_tar(remote := remote_path(url)) or is_tar(f"x{remote.suffix}"):
        return [remote]
    hint = "name .tar files, as {000..012}.tar, or a prefix of a store that ends in a slash"
    if scheme_of(url) in WEB or not url.endswith("/"):
        raise UsageError(f"{remote} is a URL, but not of a tar", hint)
    if not (found := [remote_path(file, version) for file, version, _ in list_files(url) if is_tar(file)]):
        raise UsageError(f"{remote} holds no tar", hint)
    return sorted(found, key=str)


def holds_captions(path: Path) -> bool:
    """Return whether there are captions among the first files of a tar, or it is damaged."""
    try:
        with tarfile.open(path, "r:") as tar:
            return any(member.name.lower().endswith(_TEXTS) for member in islice(tar, _FIRST))
    except (OSError, tarfile.TarError):
        return True


def read_tars(paths: Sequence[Path], reporter: Reporter = SILENT) -> tuple[list[RawExample], dict[str, int], list[str]]:
    """Read the samples of tars, and count what was left out.

    Returns:
        The examples, counts of what was left out, and notes on tars that are damaged or truncated.

    Raises:
        UsageError: A tar is compressed or cannot be read, all are damaged, or the package is not installed.
    """
    _require_webdataset()
    top = os.path.commonpath([place_of(str(path)).rpartition("/")[0] for path in paths])
    entries: list[RawExample] = []
    counts: Counter[str] = Counter()
    notes: list[str] = []
    with reporter.progress("reading tars", len(paths)) as progress:
        for path in paths:
            prefix = os.path.relpath(place_of(str(path)), top)
            problems: list[str] = []
            found = (_entry(path, prefix, sample, counts) for sample in _samples(path, problems, counts))
            entries.extend(filter(None, found))
            if problems:
                counts["damaged tars"] += 1
                notes.append(f"{problems[0]}: the rest of it is left out")
            progress.advance()
    if notes and not entries:
        raise UsageError(notes[0].partition(": the rest")[0])
    return entries, dict(counts), notes


def _require_webdataset() -> None:
    try:
        import webdataset  # noqa: F401
    except ImportError:
        raise UsageError("tars need the package webdataset", "pip install 'cococli[webdataset]'") from None


def _samples(path: Path, problems: list[str], counts: Counter[str]) -> Iterator[dict[str, Any]]:
    """Yield the samples of a tar: the content of captions, and offset and size of other files, by suffix."""
    from webdataset.tariterators import group_by_keys

    def count_repeated(error: Exception) -> bool:
        counts["files repeated in a sample"] += 1
        return True

    yield from group_by_keys(_files(path, problems), handler=count_repeated)


def _files(path: Path, problems: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the files in a tar as WebDataset groups them, up to where the tar is damaged or ends."""
    found: list[str] = []
    with read_errors(path), open_tar(path) as (file, _):
        if file.read(6).startswith(_COMPRESSED):
            raise UsageError(f"{path} is compressed", "decompress it first: its samples are read in random order")
        for member in read_members(file, found):
            if not member.name.startswith("__"):
                caption = member.name.lower().endswith(_TEXTS)
                data: Any = member.head(file, member.size) if caption else (member.offset, member.size)
                yield {"fname": member.name, "data": data, "__url__": ""}
    problems += [f"{path} {problem}" for problem in found]


def _entry(path: Path, prefix: str, sample: dict[str, Any], counts: Counter[str]) -> RawExample | None:
    """Return the example of a sample; None without a picture or video."""
    file = _media(path, sample)
    text = next((suffix for suffix in _TEXTS if suffix[1:] in sample), None)
    if not file:
        counts["captions without a picture"] += text is not None
        return None
    captions: list[Any] = []
    if text:
        try:
            captions = parse_captions(text, sample[text[1:]])
        except ValueError:
            counts["captions that cannot be read"] += 1
    if text == ".cls" and any(caption.strip().isdigit() for caption in captions):
        counts["classes that are numbers"] += 1
        return None
    return RawExample(f"{prefix}/{sample['__key__']}", file, None, captions)


def _media(path: Path, sample: dict[str, Any]) -> Path | None:
    """Return the path of the first picture or video of a sample."""
    media = next((suffix for suffix in sample if suffix.rpartition(".")[2] in _MEDIA), None)
    if not media:
        return None
    offset, size = sample[media]
    return member_path(path, offset, size, clean_name(f"{sample['__key__']}.{media}"))


def read_class_tars(
    paths: Sequence[Path], names_file: Path | None = None, reporter: Reporter = SILENT
) -> dict[str, list[Path]]:
    """Return the pictures and videos of each class from tars in which `.cls` holds the class, or its number from 0.

    Numbered classes without a picture stay, as they can be mistaken for others.

    Args:
        names_file: Names of numbered classes, one a line, or as in ImageNet's lists; by default `classnames.txt` in the
            folder of the tars, or in the one above.

    Raises:
        UsageError: A tar cannot be read, there are fewer than two classes, or numbers have no names.
    """
    _require_webdataset()
    labels: dict[str, list[Path]] = {}
    with reporter.progress("reading tars", len(paths)) as progress:
        for path in paths:
            problems: list[str] = []
            for sample in _samples(path, problems, Counter()):
                if (file := _media(path, sample)) and "cls" in sample:
                    label = sample["cls"].decode("utf-8", "replace").strip()
                    labels.setdefault(label, []).append(file)
            if problems:
                raise UsageError(problems[0], "its classes would be incomplete")
            progress.advance()
    if len(labels) < 2:
        raise UsageError(f"{paths[0]} has fewer than two classes", "each sample needs a .cls beside its picture")
    if not all(map(_NUMBER.fullmatch, labels)):
        return {label.replace("_", " "): files for label, files in sorted(labels.items())}
    places = [folder / "classnames.txt" for folder in paths[0].absolute().parents[:2]]
    if not (source := names_file or next((place for place in places if place.is_file()), None)):
        raise UsageError(f"the classes in {paths[0]} are numbers", "give their names by --class-names FILE, one a line")
    classes: dict[str, list[Path]] = {name: [] for name in _read_class_list(source)}
    for label, files in labels.items():
        if int(label) >= len(classes):
            raise UsageError(f"{source} has {len(classes)} names, and none for class {label}")
        classes[list(classes)[int(label)]] += files
    return classes


def _read_class_list(path: Path) -> list[str]:
    """Read the names of numbered classes: lines, a list, or an object as `imagenet_class_index.json`."""
    names: list[Any]
    if path.suffix.lower() == ".json":
        content = read_json(path)
        if isinstance(content, dict) and all(map(_NUMBER.fullmatch, content)):
            content = [content[number] for number in sorted(content, key=int)]
        names = content if isinstance(content, list) else []
        names = [name[-1] if isinstance(name, list) and name else name for name in names]
    else:
        with read_errors(path):
            names = [_WNID.sub("", line) for line in path.read_text("utf-8-sig").splitlines()]
    names = [name.split(",")[0].replace("_", " ").strip() if isinstance(name, str) else "" for name in names]
    if not names or not all(names) or len(set(names)) < len(names):
        raise UsageError(f"{path} does not hold a different name for each class", "one a line, in their order")
    return names
