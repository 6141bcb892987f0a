"""Data sets as users have them, read by `coca evaluate`; `training/test_containers.py` trains on tars and Parquet."""

import csv
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pyarrow as pa
import pytest
from media.tar_fixtures import write_tar
from PIL import Image
from pyarrow import parquet
from remote_servers import S3

CAPTIONS = {
    "1000268201_693b08cb0e.jpg": ["A red thing .", "It is red, all of it ."],
    "1001773457_577c3a7d70.jpg": ["A green thing .", "It is green ."],
    "1002674143_1b742ab4b8.jpg": ["A blue thing .", "It is blue ."],
}
COLOURS = dict(zip(CAPTIONS, ("red", "green", "blue"), strict=True))
PAIRS = [(name, caption) for name, captions in CAPTIONS.items() for caption in captions]


@pytest.fixture(autouse=True)
def bundled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COCA_MODEL", "shapes")


@pytest.fixture
def read(coca, tmp_path: Path) -> Callable[..., tuple[set[str], set[str], list[str], int]]:
    """Run `coca evaluate`; return the names of the pictures, the captions, the notes, and the exit code."""

    def read(data: object, *options: object) -> tuple[set[str], set[str], list[str], int]:
        report = tmp_path / "report"
        run = coca("evaluate", "--data", data, "--only", "retrieval", "-o", report, "--overwrite", *options)
        if not report.exists():
            return set(), set(), run.stderr.splitlines(), run.returncode
        entries = [json.loads(line) for line in (report / "index" / "entries.jsonl").read_text().splitlines()]
        videos = {Path(entry["video"]).name for entry in entries if entry.get("video") and entry["status"] == "ok"}
        texts = {entry["text"] for entry in entries if "text" in entry}
        return videos, texts, run.stderr.splitlines(), run.returncode

    return read


def picture(name: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (48, 32), COLOURS[name]).save(file, "JPEG")
    return file.getvalue()


def pictures(folder: Path, names: Iterable[str] = CAPTIONS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(picture(name))
    return folder


def tar_of_pictures(folder: Path) -> Path:
    """A list and its pictures, still packed, which is not WebDataset."""
    tsv(folder)
    write_tar(folder / "images.tar", [(name, picture(name)) for name in CAPTIONS])
    return folder


def table(path: Path, rows: Iterable[Iterable[str]], delimiter: str = ",") -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return path


def open_clip_csv(folder: Path) -> Path:
    pictures(folder / "images")
    return table(folder / "train.csv", [("filepath", "title"), *((f"images/{name}", text) for name, text in PAIRS)])


def open_clip_tabs(folder: Path) -> Path:
    """open_clip's default separator is a tab, also in .csv files."""
    pictures(folder)
    return table(
        folder / "any.csv", [("filepath", "title"), *((str(folder / name), text) for name, text in PAIRS)], "\t"
    )


def tsv(folder: Path) -> Path:
    pictures(folder)
    table(folder / "mine.tsv", [("image", "caption"), *PAIRS], "\t")
    return folder


def parquet_of_paths(folder: Path) -> Path:
    pictures(folder)
    names, captions = zip(*PAIRS, strict=True)
    parquet.write_table(pa.table({"image_path": names, "caption": captions}), folder / "mine.parquet")
    return folder / "mine.parquet"


def parquet_of_pictures(folder: Path) -> Path:
    """The layout of Hugging Face's repositories: pictures are embedded, captions are lists."""
    (folder / "data").mkdir(parents=True)
    rows = [
        {"image": {"bytes": picture(name), "path": name}, "caption": captions} for name, captions in CAPTIONS.items()
    ]
    for part in (0, 1):
        some = pa.Table.from_pylist(rows[part::2])
        parquet.write_table(some, folder / "data" / f"validation-0000{part}-of-00002.parquet", row_group_size=1)
    return folder


def parquet_of_bytes(folder: Path) -> Path:
    folder.mkdir(parents=True)
    columns = {"jpg": [picture(name) for name, _ in PAIRS], "file": [name for name, _ in PAIRS]}
    parquet.write_table(pa.table({**columns, "txt": [text for _, text in PAIRS]}), folder / "bytes.parquet")
    return f"{folder}/bytes.parquet:txt"  # type: ignore[return-value]


def texts_beside_pictures(folder: Path) -> Path:
    pictures(folder / "0000")
    for (name, captions), suffix in zip(CAPTIONS.items(), (".txt", ".caption", ".json"), strict=True):
        text = json.dumps({"caption": captions}) if suffix == ".json" else "\n".join(captions)
        (folder / "0000" / name).with_suffix(suffix).write_text(text)
    return folder


def flickr8k_tokens(folder: Path) -> Path:
    pictures(folder / "Flicker8k_Dataset")
    lines = [f"{name}#{n}\t{text}" for name, texts in CAPTIONS.items() for n, text in enumerate(texts)]
    (folder / "Flickr8k.token.txt").write_text("\n".join(lines) + "\n")
    return folder


def flickr8k_of_kaggle(folder: Path) -> Path:
    """Its captions.txt is a CSV whose first line is image,caption."""
    pictures(folder / "Images")
    table(folder / "captions.txt", [("image", "caption"), *PAIRS])
    return folder


def flickr30k_tokens(folder: Path) -> Path:
    flickr8k_tokens(folder)
    (folder / "Flicker8k_Dataset").rename(folder / "flickr30k_images")
    (folder / "Flickr8k.token.txt").rename(folder / "results_20130124.token")
    return folder / "results_20130124.token"


def flickr30k_of_kaggle(folder: Path) -> Path:
    pictures(folder / "flickr30k_images")
    lines = [f"{name}| {n}| {text}" for name, texts in CAPTIONS.items() for n, text in enumerate(texts)]
    (folder / "results.csv").write_text("\n".join(["image_name| comment_number| comment", *lines]) + "\n")
    return folder


def imagefolder_of_lines(folder: Path) -> Path:
    pictures(folder / "validation")
    lines = [json.dumps({"file_name": name, "captions": captions}) for name, captions in CAPTIONS.items()]
    (folder / "validation" / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def imagefolder_of_table(folder: Path) -> Path:
    pictures(folder)
    table(folder / "metadata.csv", [("file_name", "text"), *PAIRS])
    return folder


def sample(name: str, suffix: str = ".txt") -> list[tuple[str, bytes]]:
    text = json.dumps({"captions": CAPTIONS[name]}) if suffix == ".json" else "\n".join(CAPTIONS[name])
    return [(name, picture(name)), (name.removesuffix(".jpg") + suffix, text.encode())]


def one_tar(folder: Path) -> Path:
    return write_tar(folder / "00000.tar", [file for name in CAPTIONS for file in sample(name)])


def tars_by_pattern(folder: Path) -> Path:
    for number, name in enumerate(CAPTIONS):
        write_tar(folder / f"{number:03}.tar", sample(name, ".json"))
    return folder / "{000..002}.tar"


def folder_of_tars(folder: Path) -> Path:
    for number, name in enumerate(CAPTIONS):
        write_tar(folder / f"flickr-val-{number}.tar", sample(name))
    write_tar(folder / "flickr-train-0.tar", [("other.jpg", picture("1001773457_577c3a7d70.jpg")), ("other.txt", b"x")])
    return folder


COCO = {
    "images": [{"id": number, "file_name": name} for number, name in enumerate(CAPTIONS)],
    "annotations": [{"image_id": list(CAPTIONS).index(name), "caption": text} for name, text in PAIRS],
}


def coco_annotations(folder: Path) -> Path:
    """The file is passed where the folder was expected."""
    pictures(folder / "val2017")
    (folder / "annotations").mkdir()
    (folder / "annotations" / "captions_val2017.json").write_text(json.dumps(COCO))
    return folder / "annotations" / "captions_val2017.json"


def annotations_folder(folder: Path) -> Path:
    return coco_annotations(folder).parent


def karpathy_file(folder: Path) -> Path:
    pictures(folder / "images")
    images = [
        {"imgid": n, "filename": name, "split": "val", "sentences": [{"raw": text} for text in texts]}
        for n, (name, texts) in enumerate(CAPTIONS.items())
    ]
    (folder / "dataset_flickr8k.json").write_text(json.dumps({"images": images, "dataset": "flickr8k"}))
    return folder / "dataset_flickr8k.json"


FORMATS = [
    open_clip_csv, open_clip_tabs, tsv, parquet_of_paths, parquet_of_pictures, parquet_of_bytes, texts_beside_pictures,
    flickr8k_tokens, flickr8k_of_kaggle, flickr30k_tokens, flickr30k_of_kaggle, imagefolder_of_lines,
    imagefolder_of_table, tar_of_pictures, one_tar, tars_by_pattern, folder_of_tars, coco_annotations,
    annotations_folder, karpathy_file,
]  # fmt: skip


@pytest.mark.parametrize("write", FORMATS, ids=lambda write: write.__name__)
def test_evaluation_reads_the_format(read, tmp_path: Path, write: Callable[[Path], Path]) -> None:
    videos, texts, notes, code = read(write(tmp_path / "data"))
    assert (videos, code) == (set(CAPTIONS), 0), notes
    assert texts == {text for _, text in PAIRS}
    assert not [line for line in notes if "left out" in line]


def test_pictures_in_parquet_are_copied_once(read, tmp_path: Path, home: Path) -> None:
    data = parquet_of_pictures(tmp_path / "data")
    notes = read(data)[2]
    said = f"copying the files in {data}/data/validation-00000-of-00002.parquet once: "
    assert any(line.startswith(said) for line in notes)
    copies = {copy: copy.stat().st_ino for copy in (home / "datasets").glob("validation*")}
    assert len(copies) == 2
    assert read(data)[3] == 0
    assert {copy: copy.stat().st_ino for copy in (home / "datasets").glob("validation*")} == copies
    rows = [{"image": {"bytes": picture(name), "path": None}, "text": "new"} for name in CAPTIONS]
    (data / "data" / "validation-00001-of-00002.parquet").unlink()
    parquet.write_table(pa.Table.from_pylist(rows), data / "data" / "validation-00000-of-00002.parquet")
    assert read(data)[:2] == ({"1.jpg", "2.jpg", "3.jpg"}, {"new"})
    assert len([*(home / "datasets").glob("validation-00000*")]) == 1


@pytest.mark.parametrize("write", [open_clip_csv, flickr8k_tokens, imagefolder_of_lines, coco_annotations])
def test_missing_pictures_are_reported(read, tmp_path: Path, write: Callable[[Path], Path]) -> None:
    data = write(tmp_path / "data")
    gone = next((tmp_path / "data").rglob("1001773457_577c3a7d70.jpg"))
    gone.unlink()
    videos, texts, notes, code = read(data)
    assert (len(videos), len(texts), code) == (2, 4, 1)
    (warning,) = (line for line in notes if line.startswith("warning: "))
    assert warning.startswith(f"warning: no pictures found for 2 of 6 captions (first: {tmp_path}/data/")
    assert warning.endswith(f"{gone.name}); pass the picture folder with --images")


def test_damaged_pictures_in_containers_fail_alone(read, tmp_path: Path) -> None:
    first, second, third = CAPTIONS
    rows = [{"image": {"bytes": content, "path": name}, "caption": name} for name, content in (
        (first, picture(first)), (second, b"\0not a picture"), (third, None),
    )]  # fmt: skip
    (tmp_path / "data").mkdir()
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "data" / "a.parquet")
    tar = write_tar(tmp_path / "a.tar", [*sample(first), (second, b"\0no"), ("1001773457_577c3a7d70.txt", b"x")])
    for data, missing in ((tmp_path / "data", 1), (tar, 0)):
        videos, _, notes, code = read(data)
        assert (videos, code) == ({first}, 1), notes
        assert any("1 of 2 files cannot be read (first: " in line and second in line for line in notes)
        assert any("no pictures found for 1 of 3 captions" in line for line in notes) == bool(missing)


def test_samples_without_a_picture_are_counted(read, tmp_path: Path) -> None:
    first, second, third = CAPTIONS
    files = [*sample(first), *sample(second)[1:], *sample(third)[:1], *sample(first, ".json")[:1]]
    files += [("broken.jpg", picture(first)), ("broken.json", b"{"), ("__meta__.txt", b"x")]
    _, _, notes, code = read(write_tar(tmp_path / "a.tar", files))
    for count in ("1 captions without a picture", "2 files without a caption", "1 captions that cannot be read"):
        assert f"{count} are left out" in notes
    assert code == 0
    folder = texts_beside_pictures(tmp_path / "folder")
    (folder / "0000" / "1000268201_693b08cb0e.jpg").unlink()
    (folder / "0000" / "README.txt").write_text("not a caption")
    videos, _, notes, code = read(folder)
    assert (len(videos), code) == (2, 0)
    assert "1 captions without a picture are left out" in notes


def test_truncated_tars_are_read_to_their_end(read, tmp_path: Path) -> None:
    first, second, third = CAPTIONS
    tar = one_tar(tmp_path)
    with tarfile.open(tar) as opened:
        start = opened.getmember(third).offset_data
    for size in (start - 200, start + 100, start - 512):  # within a header, within a picture, between two files
        os.truncate(tar, size)
        videos, _, notes, code = read(tar)
        assert (videos, code) == ({first, second}, 0)
        assert "1 damaged tars are left out" in notes
        assert any(line.startswith(f"{tar} is truncated at byte ") for line in notes)
        one_tar(tmp_path)
    with tar.open("r+b") as file:
        file.seek(start - 512)
        file.write(b"x" * 512)
    videos, _, notes, _ = read(tar)
    assert videos == {first, second}
    assert f"{tar} is damaged at byte {start - 512:,}: the rest of it is left out" in notes


def test_files_in_tars_are_captioned_by_path(coca, read, tmp_path: Path) -> None:
    moves = Path(__file__).parents[2] / "examples" / "moves.mp4"
    tar = write_tar(tmp_path / "clips.tar", [("0.mp4", moves.read_bytes()), ("0.txt", b"a circle")])
    with tarfile.open(tar) as opened:
        member = opened.getmember("0.mp4")
    path = f"{tar}/@{member.offset_data}+{member.size}/0.mp4"
    assert read(tar)[0] == {"0.mp4"}
    inside, outside = (coca("caption", path, "--json", "--quiet") for path in (path, moves))
    records = [json.loads(run.stdout) for run in (inside, outside)]
    assert [record.pop("video") for record in records] == [path, str(moves)]
    assert records[0].pop("__key__") == "0"
    assert records[0] == records[1]


def refused(read, data: object, *options: object) -> tuple[str, ...]:
    _, _, notes, code = read(data, *options)
    assert code == 2, notes
    return tuple(line.removeprefix("error: ").removeprefix("hint: ") for line in notes[-2:])


def test_bad_rows_are_named(read, tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("filepath\ttitle\tid\na.jpg\tx\t1\nb.jpg\ty\t2\tz\n")
    assert refused(read, path)[0] == f"line 3 of {path} has 4 fields, but the first line names 3"
    path = tmp_path / "Flickr8k.token.txt"
    path.write_text("a.jpg#0\ta dog\nb.jpg a cat\n")
    expected = f"line 2 of {path} is not a name, a tab and a caption, as in 'dog.jpg#0<tab>a dog'"
    assert refused(read, tmp_path)[-1] == expected
    listed = flickr30k_of_kaggle(tmp_path / "flickr30k") / "results.csv"
    damaged = listed.read_text().replace("jpg| 1| It is red", "jpg| 4   It is red")  # as its line 20001 is
    listed.write_text(damaged)
    _, texts, notes, code = read(listed.parent)
    assert (len(texts), code) == (5, 0)
    assert f"{listed}: 1 rows have fewer fields than the first line (first: line 3)" in notes
    assert "1 empty captions are left out" in notes
    path = tmp_path / "metadata.jsonl"
    path.write_text('{"file_name": "a.jpg", "text": "x"}\n{"file_name": ')
    assert refused(read, tmp_path)[-1] == f"line 2 of {path} is not valid JSON: Expecting value"
    path = tmp_path / "cut.parquet"
    parquet.write_table(pa.table({"path": ["a"], "caption": ["x"]}), path)
    path.write_bytes(path.read_bytes()[:-9])
    assert refused(read, path)[-1].startswith(f"{path} is damaged: Parquet magic bytes not found")


def test_training_urls_must_be_downloaded_first(coca, tmp_path: Path) -> None:
    path = tmp_path / "laion.parquet"
    for column in ("URL", "image"):
        parquet.write_table(pa.table({column: ["https://example.org/a.jpg"], "caption": ["x"]}), path)
        run = coca("finetune", "--data", path, "--model", "shapes")
        assert run.returncode == 2
        assert run.stderr.splitlines() == [
            f"error: {path} has the URL https://example.org/a.jpg",
            "hint: download the pictures first, for example with img2dataset, and name its output folder",
        ]


def test_files_and_folders_are_told_apart(read, tmp_path: Path) -> None:
    folder = coco_annotations(tmp_path / "coco").parents[1]
    pictures_only = folder / "val2017"
    expected = (f"{pictures_only} holds pictures, but no captions", f"their captions are in --data {folder}")
    assert refused(read, pictures_only) == expected
    listed = open_clip_csv(tmp_path / "list")
    expected = (f"--images {listed} is not a folder", "it takes the folder of the pictures, --data their list")
    assert refused(read, listed.parent, "--images", listed) == expected
    expected = (f"--karpathy {folder} is a folder", "name the file, such as dataset_coco.json")
    assert refused(read, folder, "--karpathy", folder) == expected
    single = next(pictures_only.iterdir())
    expected = (f"{single} is a single file, not a data set", "name its folder, or a list with captions")
    assert refused(read, single) == expected
    archive = tmp_path / "coco.zip"
    archive.write_bytes(b"PK\x03\x04")
    assert refused(read, archive)[0] == f"{archive} is an archive"
    other = tmp_path / "other.json"
    other.write_text('[{"image": "a.jpg", "caption": "x"}]')
    assert refused(read, other)[0] == f"{other} holds neither COCO's annotations nor a Karpathy split"
    (listed.parent / "other.csv").write_text("x")
    assert refused(read, listed.parent)[0] == f"{listed.parent} has no val split, only train"
    listed.rename(listed.with_name("mine.csv"))
    expected = (f"{listed.parent} has several lists: mine.csv, other.csv", f"--data {listed.parent}/mine.csv")
    assert refused(read, listed.parent) == expected


def test_unusable_tars_are_refused(read, tmp_path: Path) -> None:
    pattern = tars_by_pattern(tmp_path)
    (tmp_path / "001.tar").unlink()
    assert refused(read, pattern)[-1] == f"1 of 3 files of {pattern} do not exist (first: {tmp_path}/001.tar)"
    with tarfile.open(tmp_path / "small.tar", "w:gz"):
        pass
    hint = "decompress it first: its samples are read in random order"
    assert refused(read, tmp_path / "small.tar") == (f"{tmp_path}/small.tar is compressed", hint)
    (tmp_path / "text.tar").write_text("no tar" * 1000)
    assert refused(read, tmp_path / "text.tar")[-1] == f"{tmp_path}/text.tar is damaged at byte 0"


def test_missing_package_for_tars_is_named(read, tmp_path: Path) -> None:
    tar = one_tar(tmp_path)
    (tmp_path / "lacking").mkdir()
    (tmp_path / "lacking" / "webdataset.py").write_text("raise ImportError")
    path = os.pathsep.join([str(tmp_path / "lacking"), os.environ["PYTHONPATH"]])
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTHONPATH", path)
        assert refused(read, tar) == ("tars need the package webdataset", "pip install 'cococli[webdataset]'")


def test_remote_tars_are_evaluated_and_trained_on(coca, read, tmp_path: Path, s3: S3) -> None:
    for tar in folder_of_tars(tmp_path).glob("*.tar"):
        s3.client.upload_file(str(tar), "bucket", f"shards/{tar.name}")
    videos, texts, _, code = read("s3://bucket/shards/")
    assert (videos, code) == (set(CAPTIONS), 0)
    assert texts == {caption for _, caption in PAIRS}
    videos, *_, code = read("s3://bucket/shards/flickr-val-{0,1}.tar")
    assert (len(videos), code) == (2, 0)
    for url, problem in (("s3://bucket/videos/", "holds no tar"), ("s3://bucket/a.zip", "is a URL, but not of a tar")):
        _, _, notes, code = read(url)
        assert (notes[0], code) == (f"error: {url} {problem}", 2)
    options = ("--steps", 1, "--batch-size", 2, "--hold-out", 0, "--name", "mine")
    run = coca("finetune", "--data", "s3://bucket/shards/flickr-val-{0..2}.tar", *options)
    assert run.returncode == 0, run.stderr
    assert "all: 3 files, 6 captions" in run.stderr
