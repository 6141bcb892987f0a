"""Public benchmarks of classification: ImageNet, Kinetics, UCF101 and HMDB51."""

import re
import reprlib
from pathlib import Path

from ..errors import UsageError
from ..parsing import read_json, validate
from ..tables import Row, read_table
from .benchmark_folder import BenchmarkData, BenchmarkFolder, cell, text_lines
from .classes import IMAGENET_LISTS, class_folders, class_names, read_synsets
from .dataset import split_named, split_of

_NUMBERED = re.compile(r"(.+?)[ ,\t]+(\d{1,9})")  # a file and the number of its class


def read_imagenet(folder: BenchmarkFolder) -> BenchmarkData:
    """Read folders named by wnids, or pictures in one folder with Kaggle's or the development kit's classes of each."""
    folder.only("val")
    names = folder.class_file or folder.find(*IMAGENET_LISTS)
    places = ("val", "validation", "ILSVRC2012_img_val", "ILSVRC/Data/CLS-LOC/val", "Data/CLS-LOC/val", "")
    place = next(place for place in map(folder.images.joinpath, places) if place.is_dir())
    labels: list[tuple[str, str]] = []
    if solution := folder.find("LOC_val_solution.csv"):
        labels = [
            (cell(row, "PredictionString", where).split()[0], cell(row, "ImageId", where))
            for where, row in read_table(solution)
        ]
    elif not any(place.glob("n[0-9]*/")) and (truth := folder.find("ILSVRC2012_validation_ground_truth.txt")):
        synsets = read_synsets(folder.require("meta.mat"))
        for number, line in enumerate(text_lines(truth), start=1):
            if not line.isdecimal() or int(line) not in synsets:
                raise UsageError(
                    f"line {number} of {truth} is not the number of a class", "take that of meta.mat's kit"
                )
            labels.append((synsets[int(line)][0], f"ILSVRC2012_val_{number:08}"))
    if labels:
        called = class_names(folder.path, sorted({wnid for wnid, _ in labels}), names)
        classes: dict[str, list[Path]] = {}
        for wnid, stem in labels:
            classes.setdefault(called[wnid], []).append(folder.media(stem, suffix=".JPEG"))
        return BenchmarkData(classes=classes)
    return BenchmarkData(classes=class_folders(place, names, folder.reporter))


def read_kinetics(folder: BenchmarkFolder) -> BenchmarkData:
    """Read the authors' table of the split, a list of files with numbers of classes, or folders named by classes."""
    tables = [path for pattern in ("*.csv", "*.txt", "*/*.csv") for path in sorted(folder.path.glob(pattern))]
    if source := next((path for path in tables if split_named(path.stem) == folder.split), None):
        lines = text_lines(source)
        if lines and _NUMBERED.fullmatch(lines[0]):
            return _read_numbered(folder, source, lines)
        labels = []
        for where, row in read_table(source):
            video = cell(row, "youtube_id", where)
            start, end = (_seconds(row, name, where) for name in ("time_start", "time_end"))
            clip = f"{video}_{start:06d}_{end:06d}"
            labels.append((cell(row, "label", where), clip if clip in folder.by_stem else video))
        return folder.labeled(source, labels)
    places = [entry for entry in sorted(folder.images.iterdir()) if entry.is_dir()]
    if place := next((entry for entry in places if split_of(entry.name) == folder.split), None):
        return BenchmarkData(classes=class_folders(place, folder.class_file, folder.reporter))
    found = folder.require(f"{folder.split}.csv", f"{folder.split}/")
    raise UsageError(f"{found} is not beside the folders of the classes", "pass their folder with --images")


def _seconds(row: Row, name: str, where: str) -> int:
    """Return a time of a table in whole seconds."""
    try:
        return int(float(cell(row, name, where)))
    except (ValueError, OverflowError):
        raise UsageError(f"{where} has {reprlib.repr(row[name])} instead of a time in {name}") from None


def _read_numbered(folder: BenchmarkFolder, source: Path, lines: list[str]) -> BenchmarkData:
    """Read a list as SlowFast's and MMAction2's, `abseiling/clip.mp4 0`, and their names of classes."""
    names = folder.require("kinetics_classnames.json", "label_map*.txt")
    if names.suffix == ".json":  # {"\"abseiling\"": 0}
        numbers = validate(read_json(names), dict[str, int], str(names))
        called = [name.strip('"') for name in sorted(numbers, key=numbers.__getitem__)]
    else:
        called = text_lines(names)
    labels = []
    for line in lines:
        found = _NUMBERED.fullmatch(line)
        if not found or int(found[2]) >= len(called):
            raise UsageError(f"{source} has the line {line!r}", f"a file and the number of its class in {names.name}")
        labels.append((called[int(found[2])], Path(found[1]).stem))
    return folder.labeled(source, labels, called)


def read_ucf101(folder: BenchmarkFolder, number: int) -> BenchmarkData:
    """Read one of three splits into train and test."""
    folder.only("train", "test")
    names = [line.split()[-1] for line in text_lines(folder.require("classInd.txt"))]
    source = folder.require(f"{folder.split}list0{number}.txt")
    files = [line.split()[0] for line in text_lines(source)]
    return folder.labeled(source, [(file.partition("/")[0], Path(file).stem) for file in files], names)


def read_hmdb51(folder: BenchmarkFolder, number: int) -> BenchmarkData:
    """Read one of three splits into train and test; each class has its own list."""
    folder.only("train", "test")
    ending = f"_test_split{number}.txt"
    source = folder.require(f"*{ending}").parent
    part = {"train": "1", "test": "2"}[folder.split]  # 0 is in neither
    labels = [
        (list_.name.removesuffix(ending), Path(line.rsplit(None, 1)[0]).stem)
        for list_ in sorted(source.glob(f"*{ending}"))
        for line in text_lines(list_)
        if line.endswith(f" {part}")
    ]
    return folder.labeled(source, labels)
