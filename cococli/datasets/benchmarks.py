"""Public benchmarks in the files of their authors, with the splits that papers report."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..errors import UsageError
from ..files import format_span, span_path
from ..parsing import read_json, validate
from ..reporting import SILENT, Reporter
from ..tables import read_table
from .benchmark_folder import BenchmarkData, BenchmarkFolder, Event, cell, read_names, text_lines
from .class_benchmarks import read_hmdb51, read_imagenet, read_kinetics, read_ucf101
from .coco import karpathy_entries
from .dataset import Dataset, RawExample, Split, image_id, no_split, split_of

CAPTIONS, RETRIEVAL, CLASSES = "captions", "retrieval", "top-1 and top-5"


@dataclass(frozen=True)
class Benchmark:
    """A benchmark that `coca evaluate --benchmark` knows."""

    title: str
    files: str  # that are read
    split: Split  # that papers report, the default
    measures: tuple[str, ...]
    read: "Callable[[BenchmarkFolder], BenchmarkData]"
    templates: str = "openai"  # into which names of classes are put


def read_benchmark(
    name: str,
    data: Path,
    split: Split | None = None,
    images: Path | None = None,
    class_file: Path | None = None,
    reporter: Reporter = SILENT,
) -> BenchmarkData:
    """Read a benchmark in a folder with the files of its authors. Files of which videos are missing count as missing.

    Args:
        name: A key of `BENCHMARKS`.
        split: By default the one that papers report.
        images: Folder of the pictures or videos; by default the folder itself. They are found by name at any depth.
        class_file: File of names of ImageNet's classes; by default one of ImageNet's own lists in the folder.

    Raises:
        UsageError: A file is missing or damaged, or the benchmark has no such split.
    """
    for folder in filter(None, (data, images)):
        if not folder.is_dir():
            raise UsageError(f"{folder} is not a folder", f"--benchmark {name} reads {BENCHMARKS[name].files} in one")
    benchmark = BENCHMARKS[name]
    return benchmark.read(
        BenchmarkFolder(name, benchmark.files, data, split or benchmark.split, images or data, class_file, reporter)
    )


@dataclass(frozen=True)
class _MsrVttVideo:
    video_id: str
    split: str


@dataclass(frozen=True)
class _MsrVttSentence:
    video_id: str
    caption: str


@dataclass(frozen=True)
class _MsrVtt:
    videos: list[_MsrVttVideo]
    sentences: list[_MsrVttSentence]


def _msr_vtt(folder: BenchmarkFolder) -> BenchmarkData:
    """Read captions of the official split, and retrieval of the split 1k-A if its list is there."""
    names = ("train_val_videodatainfo.json", "test_videodatainfo.json", "MSRVTT_data.json")
    files = [path for path in map(folder.find, names) if path]
    single = folder.find("MSRVTT_JSFUSION_test.csv") if folder.split == "test" else None
    captions: dict[str, list[str]] = {}
    splits: dict[str, str] = {}
    for path in files:
        content = validate(read_json(path), _MsrVtt, str(path))
        splits |= {video.video_id: split_of(video.split) for video in content.videos}
        own: dict[str, list[str]] = {}
        for sentence in content.sentences:
            own.setdefault(sentence.video_id, []).append(sentence.caption)
        captions |= own
    entries = [
        RawExample(video, folder.media(video), None, captions.get(video, []))
        for video, split in splits.items()
        if split == folder.split
    ]
    if not entries and not single:
        folder.require(*names[1:] if folder.split == "test" else names)
        raise no_split(folder.path, folder.split, set(splits.values()))
    full = folder.gather(files[0], entries) if entries else None
    if not single:
        return BenchmarkData(full, full, notes=("retrieval is measured on the full split, not on 1k-A",))
    rows = [
        RawExample(cell(row, "video_id", where), folder.media(row["video_id"]), None, [cell(row, "sentence", where)])
        for where, row in read_table(single)
    ]
    notes = () if full else ("captions are not measured: test_videodatainfo.json is missing",)
    return BenchmarkData(full, folder.gather(single, rows), notes=notes)


def _msvd(folder: BenchmarkFolder) -> BenchmarkData:
    """Read MSVD's descriptions of the videos in `test_list.txt`, or in the usual part of `youtube_mapping.txt`."""
    source = folder.require("AllVideoDescriptions.txt")
    captions: dict[str, list[str]] = {}
    for line in text_lines(source):
        if not line.startswith("#") and " " in line:
            video, _, caption = line.partition(" ")
            captions.setdefault(video, []).append(caption)
    if listed := folder.find(f"{folder.split}_list.txt"):
        videos = text_lines(listed)
    else:
        order = text_lines(folder.require("youtube_mapping.txt"))  # video and vid1 to vid1970
        numbers = {"train": range(1, 1201), "val": range(1201, 1301), "test": range(1301, 1971)}[folder.split]
        names = {line.split()[-1]: line.split()[0] for line in order}
        videos = [names[f"vid{number}"] for number in numbers if f"vid{number}" in names]
    entries = [RawExample(video, folder.media(video, suffix=".avi"), None, captions.get(video, [])) for video in videos]
    dataset = folder.gather(source, entries)
    return BenchmarkData(dataset, dataset)


@dataclass(frozen=True)
class _VatexCaptions:
    enCap: list[str]


@dataclass(frozen=True)
class _VatexVideo(_VatexCaptions):
    videoID: str


def _vatex_captions(source: Path) -> dict[str, list[str]]:
    """Read VATEX's own files, or those of code for retrieval: vatex_data.json and HGR's ref_captions.json."""
    content = read_json(source)
    if not isinstance(content, dict):
        return {video.videoID: video.enCap for video in validate(content, list[_VatexVideo], str(source))}
    videos = validate(content, dict[str, list[str] | _VatexCaptions], str(source))
    return {name: own if isinstance(own, list) else own.enCap for name, own in videos.items()}


def _vatex(folder: BenchmarkFolder) -> BenchmarkData:
    """Read captions of the official split, and retrieval of HGR's half of the validation set if its list is there.

    HGR is "Fine-grained Video-Text Retrieval with Hierarchical Graph Reasoning", arXiv 2003.00392.
    """
    validation = "vatex_validation_v1.0.json"
    official = {"train": "vatex_training_v1.0.json", "val": validation}
    lists = {"val": ("val_list.txt", "val_names.npy"), "test": ("test_list.txt", "tst_names.npy")}

    def examples(source: Path, captions: dict[str, list[str]], videos: Iterable[str]) -> Dataset:
        return folder.gather(
            source, [RawExample(name, folder.media(name), None, list(captions.get(name, []))) for name in videos]
        )

    name = official.get(folder.split, "vatex_public_test_english_v1.1.json")
    half = folder.find(*lists.get(folder.split, ()))
    source = folder.find(name) if half else folder.require(name)
    full = None
    if source:
        captions = _vatex_captions(source)
        full = examples(source, captions, captions)
    if not half:
        return BenchmarkData(full, full, notes=("retrieval is measured on the full split, not on HGR's half",))
    videos = read_names(half) if half.suffix == ".npy" else text_lines(half)
    captions = _vatex_captions(folder.require(validation, "vatex_data.json", "ref_captions.json"))
    retrieval = examples(half, captions, videos)
    notes = [f"retrieval is measured on HGR's split: {len(retrieval.examples):,} videos of {half.name}"]
    notes += [] if full else [f"captions are not measured: {name} is missing"]
    return BenchmarkData(full, retrieval, notes=tuple(notes))


@dataclass(frozen=True)
class _Events:
    timestamps: list[tuple[float, float]]
    sentences: list[str]

    def each(self) -> list[Event]:
        return [Event(*pair) for pair in zip(self.timestamps, self.sentences, strict=False)]


def _activitynet(folder: BenchmarkFolder) -> BenchmarkData:
    """Read captions of the annotated segments, and retrieval of videos by the paragraph of all their sentences."""
    folder.only("train", "val")
    source = folder.require("train.json" if folder.split == "train" else "val_1.json")
    second = folder.find("val_2.json") if folder.split == "val" else None
    files = {path: validate(read_json(path), dict[str, _Events], str(path)) for path in filter(None, (source, second))}
    videos = files[source]
    paths = {name: folder.media(name, name.removeprefix("v_")) for name in videos}
    segments: dict[str, RawExample] = {}
    for name, events in videos.items():
        for timestamp, sentence in zip(events.timestamps, events.sentences, strict=False):
            start, end = sorted(max(0.0, seconds) for seconds in timestamp)
            path = span_path(paths[name], start, end)
            segments.setdefault(str(path), RawExample(f"{name} {format_span(start, end)}", path, None, []))
            segments[str(path)].captions.append(sentence)
    paragraphs = [
        RawExample(name, paths[name], None, [" ".join(sentence.strip() for sentence in events.sentences)])
        for name, events in videos.items()
    ]
    missing = "dense captions are compared with val_1.json only: val_2.json is missing"
    return BenchmarkData(
        folder.gather(source, segments.values()),
        folder.gather(source, paragraphs),
        events=[{name: own.each() for name, own in people.items()} for people in files.values()],
        notes=() if second or folder.split == "train" else (missing,),
    )


def _karpathy(folder: BenchmarkFolder, name: str) -> BenchmarkData:
    source = folder.require(name)
    entries = karpathy_entries(source)
    dataset = folder.gather(source, [it._replace(path=folder.media(it.path.stem, suffix=".jpg")) for it in entries])
    return BenchmarkData(dataset, dataset)


@dataclass(frozen=True)
class _NoCapsImage:
    id: int
    file_name: str
    domain: str


@dataclass(frozen=True)
class _NoCapsCaption:
    image_id: int
    caption: str


@dataclass(frozen=True)
class _NoCaps:
    images: list[_NoCapsImage]
    annotations: list[_NoCapsCaption]


def _nocaps(folder: BenchmarkFolder) -> BenchmarkData:
    folder.only("val")
    source = folder.require("nocaps_val_4500_captions.json")
    content = validate(read_json(source), _NoCaps, str(source))
    captions: dict[int, list[str]] = {}
    for note in content.annotations:
        captions.setdefault(note.image_id, []).append(note.caption)
    entries = [
        RawExample(image_id(it.id), folder.media(Path(it.file_name).stem, suffix=".jpg"), None, captions.get(it.id, []))
        for it in content.images
    ]
    groups = {image_id(it.id): it.domain for it in content.images}
    return BenchmarkData(captions=folder.gather(source, entries), groups=groups)


_BOTH = (CAPTIONS, RETRIEVAL)
_FLICKR, _COCO = "dataset_flickr30k.json", "dataset_coco.json"
BENCHMARKS = {
    "msr-vtt": Benchmark(
        "MSR-VTT; retrieval on 1k-A",
        "train_val_videodatainfo.json, test_videodatainfo.json, MSRVTT_JSFUSION_test.csv",
        *("test", _BOTH, _msr_vtt),
    ),
    "msvd": Benchmark("MSVD", "AllVideoDescriptions.txt, test_list.txt or youtube_mapping.txt", "test", _BOTH, _msvd),
    "vatex": Benchmark(
        "VATEX, English; retrieval on HGR's split",
        "vatex_public_test_english_v1.1.json, vatex_validation_v1.0.json with test_list.txt or tst_names.npy",
        *("test", _BOTH, _vatex),
    ),
    "activitynet": Benchmark(
        "ActivityNet Captions; captions of segments, retrieval by paragraphs",
        "val_1.json, val_2.json",
        *("val", _BOTH, _activitynet),
    ),
    "flickr30k": Benchmark("Flickr30k, Karpathy", _FLICKR, "test", _BOTH, partial(_karpathy, name=_FLICKR)),
    "coco": Benchmark("COCO, Karpathy", _COCO, "test", _BOTH, partial(_karpathy, name=_COCO)),
    "nocaps": Benchmark("NoCaps, by domain", "nocaps_val_4500_captions.json", "val", (CAPTIONS,), _nocaps),
    "imagenet": Benchmark(
        "ImageNet",
        "val/ with wnids, LOC_val_solution.csv or ILSVRC2012_devkit_t12/, LOC_synset_mapping.txt or meta.mat",
        "val",
        (CLASSES,),
        read_imagenet,
    ),
    "kinetics": Benchmark(
        "Kinetics",
        "val.csv, kinetics400_val_list_videos.txt with label_map_k400.txt, or val/ with classes",
        "val",
        (CLASSES,),
        read_kinetics,
        "actions",
    ),
}
for _number in (1, 2, 3):  # papers report the first split, or the mean of all
    _ending = f"-{_number}" if _number > 1 else ""
    BENCHMARKS[f"ucf101{_ending}"] = Benchmark(
        f"UCF101, split {_number}",
        f"classInd.txt, testlist0{_number}.txt",
        *("test", (CLASSES,), partial(read_ucf101, number=_number), "actions"),
    )
    BENCHMARKS[f"hmdb51{_ending}"] = Benchmark(
        f"HMDB51, split {_number}",
        f"CLASS_test_split{_number}.txt",
        *("test", (CLASSES,), partial(read_hmdb51, number=_number), "actions"),
    )
