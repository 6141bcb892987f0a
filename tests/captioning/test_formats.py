"""Records as files, whole or not at all."""

import csv
import json
import math
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from cococli.captioning.formats import check_template, default_template, text_line, write, write_sidecars
from cococli.captioning.records import Candidate, Outcome, Record
from cococli.errors import CocaError, UsageError
from cococli.journal import Failure

CAT = Record("trip/a.b.mp4", 0.0, 7.20049, "a cat, on a mat", -0.41239, 0.29, (0.5, 1.39951), "shapes")
FAILED = Failure("broken.mp4", "no video stream")
NOT_UTF8 = os.fsdecode(b"caf\xe9.mp4")


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_jsonl_is_a_line_for_each_outcome(tmp_path: Path) -> None:
    write(tmp_path / "out.JSONL", [CAT, FAILED])
    assert (tmp_path / "out.JSONL").read_text() == f"{CAT.to_json()}\n{FAILED.to_json()}\n"


def test_csv_has_a_header_and_rows(tmp_path: Path) -> None:
    write(tmp_path / "out.csv", [CAT, FAILED])
    assert (tmp_path / "out.csv").read_bytes() == (
        b"video,start,end,caption,logprob,similarity,weak,candidates,frames,model,status,error\r\n"
        b'trip/a.b.mp4,0.0,7.2,"a cat, on a mat",-0.4124,0.29,False,[],"[0.5, 1.4]",shapes,ok,\r\n'
        b"broken.mp4,,,,,,,,,,error,no video stream\r\n"
    )


def test_csv_escapes_formulas(tmp_path: Path) -> None:
    write(tmp_path / "out.csv", [replace(CAT, video="=1+1.mp4", caption=text) for text in ("=1+1", "@x", "a - b")])
    rows = read_csv(tmp_path / "out.csv")
    assert [row["caption"] for row in rows] == ["'=1+1", "'@x", "a - b"]
    assert {row["video"] for row in rows} == {"./=1+1.mp4"}  # the same file
    assert {row["logprob"] for row in rows} == {"-0.4124"}  # a number stays one


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_every_text_comes_back_from_a_csv(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("csv") / "out.csv"
    write(path, [replace(CAT, caption=text), CAT])
    first, second = read_csv(path)
    assert first["caption"] in (text, f"'{text}")
    assert second["caption"] == CAT.caption


def test_parquet_has_typed_columns_and_the_same_values(tmp_path: Path) -> None:
    weak = replace(CAT, logprob=-math.inf, weak=True, candidates=(Candidate("a dog", -0.5, 0.25),))
    write(tmp_path / "out.parquet", [CAT, FAILED, weak])
    table = parquet.read_table(tmp_path / "out.parquet")
    assert {name: str(table.schema.field(name).type) for name in ("start", "caption", "frames", "error")} == {
        "start": "double", "caption": "string", "frames": "list<element: double>", "error": "string",
    }  # fmt: skip
    first, second, third = table.to_pylist()
    assert first == json.loads(CAT.to_json()) | {"weak": False, "candidates": [], "error": None}
    assert {name: value for name, value in second.items() if value is not None} == json.loads(FAILED.to_json())
    assert (third["logprob"], third["weak"]) == (None, True)
    assert third["candidates"] == [{"caption": "a dog", "logprob": -0.5, "similarity": 0.25}]


def test_parquet_of_nothing_has_its_columns(tmp_path: Path) -> None:
    write(tmp_path / "out.parquet", [])
    assert parquet.read_table(tmp_path / "out.parquet").column_names[:3] == ["video", "start", "end"]


def test_without_pyarrow_parquet_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError) as caught:
        write(tmp_path / "out.parquet", [CAT])
    assert (caught.value.message, caught.value.hint) == ("Parquet needs pyarrow", "pip install 'cococli[parquet]'")
    assert not list(tmp_path.iterdir())


def test_text_is_a_caption_on_each_line(tmp_path: Path) -> None:
    write(tmp_path / "out.txt", [CAT, FAILED, replace(CAT, caption="a\ndog")])
    assert (tmp_path / "out.txt").read_text() == "a cat, on a mat\n\na\\ndog\n"


def test_lines_of_several_videos_name_them(tmp_path: Path) -> None:
    assert default_template([Path("a.mp4")]) == "{caption}"
    videos = [CAT, FAILED, replace(CAT, video="tab\there.mp4")]
    write(tmp_path / "out.txt", videos, default_template([Path(outcome.video) for outcome in videos]))
    assert (tmp_path / "out.txt").read_text().splitlines() == [
        f"{CAT.video}\ta cat, on a mat",
        f"{FAILED.video}\t",
        "tab\\there.mp4\ta cat, on a mat",
    ]
    assert text_line(FAILED, "{stem} {start:.1f} {logprob:>6} {weak}|{caption}") == "broken nan    nan False|"


@pytest.mark.parametrize(
    ("template", "line"),
    [
        (r"{video}\t{caption}", "trip/a.b.mp4\ta cat, on a mat"),
        (r"{folder}|{name}|{stem}\n\\n{{}}", "trip|a.b.mp4|a.b\n\\n{}"),
        ("{start:.1f}-{end:.1f} {logprob:+.2f} {frames} {model:>8} {weak}", "0.0-7.2 -0.41 [0.5, 1.4]   shapes False"),
        ("ü 猫 {caption!r}", "ü 猫 'a cat, on a mat'"),
        ("", ""),
    ],
)
def test_a_template_is_filled_in(template: str, line: str) -> None:
    check_template(template)
    assert text_line(CAT, template) == line


def test_text_lines_escape_names_and_write_nan() -> None:
    odd = replace(CAT, video="a\nb\u2028\t.mp4", similarity=math.nan)
    assert text_line(odd, "{video} {similarity:.2f}") == r"a\nb\u2028\t.mp4 nan"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{captoin}", "--template has no field {captoin}"),
        ("{}", "--template has no field {}"),
        ("{video.name}", "--template has no field {video.name}"),
        ("{frames[7]}", "--template has no field {frames[7]}"),
        ("{caption", "cannot read --template '{caption': expected '}' before end of string"),
        ("{caption:.1f}", "cannot read --template '{caption:.1f}': Unknown format code 'f' for object of type 'str'"),
        ("{caption:{width}}", "--template cannot format {caption} as '{width}'"),
        ("{caption:{start}}", "--template cannot format {caption} as '{start}'"),
        ("{caption:>9999999999}", "--template cannot format {caption} as '>9999999999'"),
        ("{start:.2000000000f}", "--template cannot format {start} as '.2000000000f'"),
    ],
)
def test_invalid_templates_are_refused(template: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_template(template)
    assert caught.value.message == message
    assert caught.value.hint


def test_unknown_field_lists_the_known_ones() -> None:
    with pytest.raises(UsageError) as caught:
        check_template("{x}")
    assert caught.value.hint == (
        "its fields are video, start, end, caption, logprob, similarity, weak, frames, model, stem, name, folder"
    )


@pytest.mark.parametrize("name", ["out.csv", "out.txt", "out.parquet", "out.srt", "out.vtt"])
def test_undecodable_names_leave_files_readable(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, [replace(CAT, video=NOT_UTF8)], template="{video}")
    if name == "out.parquet":
        assert parquet.read_table(tmp_path / name).to_pylist()[0]["video"] == r"caf\udce9.mp4"
    elif name in ("out.csv", "out.txt"):
        assert r"caf\udce9.mp4" in (tmp_path / name).read_text(encoding="utf-8")


def test_subtitles_of_a_video(tmp_path: Path) -> None:
    write(tmp_path / "a.srt", [CAT])
    assert (tmp_path / "a.srt").read_bytes() == b"1\n00:00:00,000 --> 00:00:07,000\na cat, on a mat\n\n"
    write(tmp_path / "a.vtt", [CAT])
    assert (tmp_path / "a.vtt").read_text().startswith("WEBVTT\n\n1\n00:00:00.000 --> ")


def test_failed_videos_keep_their_old_subtitles(tmp_path: Path) -> None:
    (tmp_path / "a.srt").write_text("old")
    write(tmp_path / "a.srt", [FAILED])
    assert (tmp_path / "a.srt").read_text() == "old"


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".txt", ".parquet", ".srt"])
def test_files_are_replaced_as_a_whole(tmp_path: Path, suffix: str) -> None:
    def interrupted() -> Iterator[Outcome]:
        yield CAT
        raise KeyboardInterrupt

    path = tmp_path / f"out{suffix}"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        write(path, interrupted())
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "out.txt").symlink_to("real.txt")
    write(tmp_path / "out.txt", [CAT])
    assert (tmp_path / "real.txt").read_text() == "a cat, on a mat\n"
    assert (tmp_path / "out.txt").is_symlink()


def test_missing_folder_is_reported_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(CocaError) as caught:
        write(tmp_path / "gone" / "out.csv", [CAT])
    assert caught.value.message == f"cannot write {tmp_path / 'gone' / 'out.csv'}: No such file or directory"


def test_each_video_has_subtitles_of_its_own_segments(tmp_path: Path) -> None:
    names = {
        Path("a.mp4"): tmp_path / "x/a.srt",
        Path("b.mp4"): tmp_path / "y/b.vtt",
        Path("c.mp4"): tmp_path / "c.srt",
    }
    outcomes = [
        replace(CAT, video="a.mp4", end=3.0),
        replace(CAT, video="a.mp4", start=3.0, end=6.0),
        replace(CAT, video="picture.png"),
        replace(CAT, video="b.mp4"),
        Failure("c.mp4", "no video stream"),
    ]
    assert write_sidecars(names, outcomes) == []
    assert (tmp_path / "x/a.srt").read_text().count("-->") == 2
    assert (tmp_path / "y/b.vtt").read_text().count("-->") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x", "y"]


def test_unwritable_subtitles_do_not_stop_others(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    long = tmp_path / f"{'x' * 300}.srt"
    names = {Path("a.mp4"): tmp_path / "file/a.srt", Path("b.mp4"): long, Path("c.mp4"): tmp_path / "c.srt"}
    assert write_sidecars(names, [replace(CAT, video=str(video)) for video in names]) == [
        Failure("a.mp4", f"cannot write {tmp_path / 'file/a.srt'}: File exists"),
        Failure("b.mp4", f"cannot write {long}: File name too long"),
    ]
    assert (tmp_path / "c.srt").exists()
