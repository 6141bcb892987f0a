"""Runs coca's own parsers under the coverage-guided fuzzer atheris, each in a separate process.

    python benchmarks/fuzz_parsers.py [--seconds 300] [PARSER ...]     all parsers, or some of them
    python benchmarks/fuzz_parsers.py --replay FILE PARSER             one input again

Inputs that led to new code, and those that crashed, stay in build/fuzz/PARSER. A parser may raise a `CocaError`; all
else is a crash.
"""

import argparse
import contextlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "fuzz"
LIMITS = ("-max_len=1000000", "-timeout=30", "-rss_limit_mb=2000", "-len_control=20")

Parser = Callable[[bytes], object]

CLASSES = {
    "label_map.txt": "a\nb\n",
    "LOC_synset_mapping.txt": "n01440764 tench\n",
    "youtube_mapping.txt": "a vid1301\n",
}
COCO = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"id": 1, "image_id": 1, "caption": "a"}]}
KARPATHY = {"images": [{"filename": "a.jpg", "cocoid": 1, "imgid": 1, "split": "test", "sentences": [{"raw": "a"}]}]}
DENSE = {"results": {"a": [{"timestamp": [0, 1], "sentence": "b"}]}}
SHARDS = {"weight_map": {"text_decoder.text_projection": "m-00001-of-00002.bin"}}
MSR_VTT = {"videos": [{"video_id": "a", "split": "test"}], "sentences": [{"video_id": "a", "caption": "b"}]}
NOCAPS = {"images": [{"id": 1, "file_name": "a", "domain": "in"}], "annotations": [{"image_id": 1, "caption": "b"}]}
TENSOR = {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
DIGEST = {"size": 1, "sha256": "0" * 64}
MANIFEST = {
    "source": {"repository": "a/b", "revision": "c", "file": "d", **DIGEST},
    "files": {"model.ckpt": DIGEST, "config.json": DIGEST},
    "dtype": "float32",
    "parameters": 1,
    "program": "1",
    "date": "2026-01-01T00:00:00+00:00",
}
RECORD = {
    "video": "a.mp4",
    "start": 0.0,
    "end": 4.0,
    "caption": "a",
    "logprob": -0.5,
    "similarity": None,
    "frames": [2.0],
}
LINES = [RECORD | {"model": "m", "status": "ok", "key": "0" * 16}, {"video": "a", "status": "error", "error": "b"}]
ENTRIES = [
    {"row": 0, "video": "a", "start": 0.0, "end": 4.0, "frames": [2.0], "status": "ok"},
    {"row": 1, "text": "a", "status": "ok"},
]
EDIT = {
    "video": "a.mp4",
    "start": 0.0,
    "end": 4.0,
    "original": "a",
    "caption": "b",
    "verdict": "accepted",
    "version": 1,
}
# Files of benchmarks; a fuzzed input holds those of one, apart by three NULs.
BENCHMARKS = {
    "msr-vtt": {"test_videodatainfo.json": MSR_VTT, "MSRVTT_JSFUSION_test.csv": "video_id,sentence\na,b\n"},
    "vatex": {"test_list.txt": "a\n", "vatex_data.json": {"a": {"enCap": ["b"]}}},
    "activitynet": {"val_1.json": {"a": {"timestamps": [[0, 1.5]], "sentences": ["b"]}}},
    "nocaps": {"nocaps_val_4500_captions.json": NOCAPS},
    "flickr30k": {"dataset_flickr30k.json": KARPATHY},
    "msvd": {"AllVideoDescriptions.txt": "a a dog\n"},
    "kinetics": {"val.csv": "label,youtube_id,time_start,time_end,split\na,b,1,2,val\n"},
    "imagenet": {"LOC_val_solution.csv": "ImageId,PredictionString\na,n01440764 1 2 3 4\n"},
    "ucf101": {"testlist01.txt": "Yo/a.avi\n", "classInd.txt": "1 Yo\n"},
    "hmdb51": {"walk_test_split1.txt": "a.avi 2\n"},
}


def text(value: Any) -> bytes:
    return value.encode() if isinstance(value, str) else json.dumps(value).encode()


def tar(*names: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as written:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 2
            written.addfile(member, io.BytesIO(b"{}"))
    return file.getvalue()


def parsers(folder: Path) -> dict[str, tuple[Parser, list[bytes]]]:
    """Return what is fuzzed by name, each with valid inputs to start from.

    Args:
        folder: An empty folder for files.
    """
    from cococli.captioning.records import Record, from_json, score_from_json
    from cococli.captioning.subtitles import CueStyle, to_subtitles
    from cococli.catalog import CocaConfig
    from cococli.checkpoints import architecture, bundle, ckpt, source
    from cococli.checkpoints.manifest import Manifest
    from cococli.checkpoints.tensors import open_model
    from cococli.datasets import caption_lists, classes, coco, tars
    from cococli.datasets.benchmarks import read_benchmark
    from cococli.errors import CocaError
    from cococli.evaluation.caption_files import read_events, read_predictions, read_references
    from cococli.files import digest, find_member, find_span, sample_key
    from cococli.journal import Task, preview_journal
    from cococli.media.discover import FileOptions, Filter
    from cococli.media.lists import read_list
    from cococli.media.tars import expand_braces, read_members
    from cococli.parsing import parse_json, read_toml
    from cococli.retrieval.index import _named_rows, parse_entry
    from cococli.retrieval.search import parse_line
    from cococli.retrieval.vectors import map_vectors
    from cococli.review.edits import Review
    from cococli.shards import parse_shard
    from cococli.tokenizer import decode, detokenize, encode
    from cococli.urls import path_of, place_of, public_name

    found: dict[str, tuple[Parser, list[bytes]]] = {}

    def parser(*seeds: bytes) -> Callable[[Parser], Parser]:
        def add(function: Parser) -> Parser:
            found[function.__name__] = function, list(seeds)
            return function

        return add

    def write(content: bytes, *names: str) -> Path:
        """Write an input to a file; of several names, which decide how it is read, its first byte chooses one."""
        path = folder / names[content[0] % len(names) if len(names) > 1 and content else 0]
        path.write_bytes(content[len(names) > 1 :])
        return path

    def read(functions: Iterable[Callable[[Any], object]], value: Any) -> None:
        """Call several functions with a value; some refuse what others take."""
        for function in functions:
            with contextlib.suppress(CocaError):
                function(value)

    weights, vectors_file = io.BytesIO(), io.BytesIO()
    ckpt.write(weights, "text_decoder.text_projection", (2, 3), [np.zeros((2, 3), np.float32)])
    ckpt.write(weights, "visual.attn_pool.query", (), [np.zeros((), np.float32)])
    np.save(vectors_file, np.ones((2, 4), np.float32))

    @parser(weights.getvalue())
    def mindspore(content: bytes) -> None:
        for array in ckpt.read(write(content, "m.ckpt")).values():
            array.sum()

    @parser(weights.getvalue())
    def model(content: bytes) -> None:
        with open_model(write(content, "m.ckpt")) as opened:
            list(opened.parameters)

    @parser(len(text(TENSOR)).to_bytes(8, "little") + text(TENSOR) + bytes(4))
    def safetensors(content: bytes) -> None:
        with source.open_checkpoint(write(content, "m.safetensors")) as tensors:
            for tensor in tensors:
                next(tensor.parts(0, min(tensor.rows, 2)), None)

    @parser(*(start + text(CocaConfig().to_file()) for start in (b"\0", b"\1")), b"\1a: [1, 2]\nb: {c: &x 1, d: *x}\n")
    def configs(content: bytes) -> None:
        read((architecture.load_preprocess, architecture.load_config), write(content, "c.json", "c.yaml"))

    @parser(text(MANIFEST))
    def manifest(content: bytes) -> None:
        Manifest.from_json(content)

    @parser(tar("m/manifest.json", "m/config.json", "m/model.ckpt"))
    def bundles(content: bytes) -> None:
        bundle._inspect(io.BytesIO(content), len(content))

    @parser(*(text(line) + b"\n" for line in LINES))
    def journal(content: bytes) -> None:
        preview_journal(write(content, "o.jsonl"), [Task("a.mp4", "0" * 16)], from_json)

    @parser(*map(text, [*LINES, *ENTRIES]))
    def records(content: bytes) -> None:
        with contextlib.suppress(ValueError):
            fields = parse_json(content)
            for parse in (from_json, score_from_json, parse_entry):
                with contextlib.suppress(KeyError, CocaError):
                    parse(fields | {"status": fields.get("status")}).to_json() if isinstance(fields, dict) else None

    @parser(*(text(line) + b"\n" for line in ENTRIES))
    def rows(content: bytes) -> None:
        _named_rows(Path("entries.jsonl"), content)

    @parser(text(EDIT) + b"\n")
    def reviews(content: bytes) -> None:
        write(text(LINES[0]) + b"\n", "r.jsonl")
        write(content, "r.review.jsonl")
        review = Review(folder / "r.jsonl")
        list(map(review.state, review.records))
        list(review.reviewed())

    @parser(
        b"\0path,caption,split\na.jpg,a dog,val\n", b"\1path\tcaption\na.jpg\ta dog\n", b"\3a.jpg\n", b"\4a.jpg#0\ta\n"
    )
    def lists(content: bytes) -> None:
        path = write(content, "l.csv", "l.tsv", "l.jsonl", "l.txt", "l.token", "l")
        read(
            (caption_lists.read_caption_list, lambda path: list(read_list(str(path))), read_predictions, read_events),
            path,
        )

    @parser(*map(text, (COCO, KARPATHY, DENSE, SHARDS, COCO["annotations"], {"a": ["b"]})))
    def annotations(content: bytes) -> None:
        path = write(content, "a.json")
        read((lambda path: coco.read_coco(path, "val", [folder]), coco.karpathy_entries, source.read_index), path)
        read((read_references, read_predictions, read_events), path)

    @parser(*(bytes([i]) + b"\0\0\0".join(map(text, own.values())) for i, own in enumerate(BENCHMARKS.values())))
    def benchmarks(content: bytes) -> None:
        name = list(BENCHMARKS)[(content or b"\0")[0] % len(BENCHMARKS)]
        place, parts = folder / name, content[1:].split(b"\0\0\0")
        place.mkdir(exist_ok=True)
        for file, lines in CLASSES.items():
            (place / file).write_text(lines)
        for number, file in enumerate(("a.avi", "b.mp4", *BENCHMARKS[name])):
            (place / file).write_bytes(parts[number % len(parts)])
        read_benchmark(name, place)

    @parser(b'\0{"n01440764": "tench"}', b'\0{"0": ["n01440764", "tench"]}', b"\1n01440764 tench, Tinca\n")
    def names(content: bytes) -> None:
        read((classes.read_names, tars._read_class_list), write(content, "n.json", "n.txt"))

    @parser(tar("a.jpg", "a.txt", "b.png", "b.json"))
    def webdataset(content: bytes) -> None:
        list(read_members(io.BytesIO(content), []))
        tars.read_tars([write(content, "t.tar")])

    @parser(b'model = "a"\n[caption]\nbeams = 3\nban = ["a"]\nlength-penalty = 1.5\n')
    def toml(content: bytes) -> None:
        read_toml(write(content, "c.toml"))

    @parser(vectors_file.getvalue())
    def vectors(content: bytes) -> None:
        map_vectors(write(content, "v.npy"))

    @parser(b'a man \'s "hat" , 1 0 : 3 0', "\u4e2d\U0001f600 it's".encode())
    def tokenizer(content: bytes) -> None:
        words = content.decode("utf-8", "surrogatepass" if content[:2] == b"\xed\xa0" else "replace")
        plain = decode(encode(words))
        assert decode(encode(detokenize(plain))) == plain
        for kind in ("srt", "vtt"):
            to_subtitles([Record("a", 0.0, 9.0, words, 0.0, 0.0, (), "m")], kind, CueStyle())

    @parser(
        b"7d", b"2024-05-01T12:00+02:00", b"a dog^2 + b --not c", b"3/16", b"https://u:p@h/a?sig=1&sv=2#x", b"**/*.mov"
    )
    def arguments(content: bytes) -> None:
        words = os.fsdecode(content)
        read(
            (parse_line, parse_shard, public_name, place_of, path_of, find_span, find_member, sample_key, digest), words
        )
        read((lambda words: Filter.of(FileOptions(since=words)), lambda words: Filter.of(FileOptions([words]))), words)
        if not re.search(r"\d{5}|\.\..*\.\.", words):  # patterns may stand for millions of names
            expand_braces(words)

    return found


def run(name: str, folder: Path, seconds: int, replay: Path | None) -> None:
    """Fuzz one parser in this process, which atheris ends."""
    import atheris

    with atheris.instrument_imports(include=["cococli"]):
        parse, seeds = parsers(folder)[name]
        from cococli.errors import CocaError
    if replay:
        parse(replay.read_bytes())
        return
    corpus = BUILD / name
    corpus.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        (corpus / f"seed-{zlib.crc32(seed):08x}").write_bytes(seed)
        with contextlib.suppress(CocaError):
            parse(seed)  # which imports what it needs

    def fuzzed(content: bytes) -> None:
        with contextlib.suppress(CocaError):
            parse(content)

    output = (f"-artifact_prefix={corpus}/", "-print_final_stats=1", f"-max_total_time={seconds}")
    atheris.Setup([sys.argv[0], str(corpus), *output, *LIMITS], fuzzed)
    atheris.Fuzz()


def fuzz(names: list[str], folder: Path, seconds: int) -> int:
    """Fuzz parsers in separate processes, one after the other, and print what came of it."""
    print(f"{'parser':<14}{'executions':>12}{'seconds':>9}{'crashes':>9}", flush=True)
    code = 0
    for name in names:
        command = [sys.executable, __file__, name, "--here", str(folder), "--seconds", str(seconds)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        executions = re.findall(r"^#(\d+)|number_of_executed_units: (\d+)", done.stderr, re.MULTILINE)
        count = max((int(one or other) for one, other in executions), default=0)
        crashes = [path for kind in ("crash-*", "timeout-*", "oom-*") for path in (BUILD / name).glob(kind)]
        print(f"{name:<14}{count:>12,}{seconds:>9}{len(crashes):>9}", flush=True)
        if done.returncode:
            code = 1
            print(done.stderr[-3000:], flush=True)
    return code


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("parsers", nargs="*")
    options.add_argument("--seconds", type=int, default=300)
    options.add_argument("--replay", type=Path)
    options.add_argument("--here", type=Path, help=argparse.SUPPRESS)
    given = options.parse_args()
    sys.path.insert(0, str(ROOT))
    if given.here:
        run(given.parsers[0], given.here, given.seconds, None)
        return 0
    try:
        import atheris  # noqa: F401
    except ImportError:
        print("atheris is not installed: pip install atheris, which has wheels for Linux on x86-64", file=sys.stderr)
        return 1
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        if given.replay:
            run(given.parsers[0], Path(folder), 0, given.replay)
            return 0
        return fuzz(given.parsers or list(parsers(Path(folder))), Path(folder), given.seconds)


if __name__ == "__main__":
    sys.exit(main())
