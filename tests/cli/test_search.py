"""`coca search`, as a user runs it, with the bundled model."""

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path

import av
import imageio_ffmpeg
import pytest
from cli.fork_server import COMMAND, run

from cococli.retrieval.index import About, open_index

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
YELLOW = "a large yellow circle on a black background"


@pytest.fixture(autouse=True)
def another(coca, monkeypatch: pytest.MonkeyPatch) -> None:
    """Choose another model; searches use that of the index."""
    monkeypatch.setenv("COCA_MODEL", "vit-l-14")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of the example clips in two segments each, with captions, and of two texts. It is never changed.

    A LanceDB table beside it has the same vectors.
    """
    folder = tmp_path_factory.mktemp("made")
    (folder / "texts.txt").write_text(f"{YELLOW}\na small red triangle on a pink background\n")
    command = ["embed", EXAMPLES, "--texts", "texts.txt", "--segments", "2", "-m", "shapes", "-o", "index/", "-q"]
    command += ["-o", "clips.lance"] if find_spec("lancedb") else []
    assert run(*command, cwd=folder, env=os.environ | {"COCA_HOME": str(folder / "home")}).returncode == 0
    entries = folder / "index" / "entries.jsonl"
    entries.write_text(entries.read_text().replace('"frames"', '"caption": "what was said", "frames"'))
    return folder / "index"


def test_table_json_and_cuts_agree(coca, made: Path, tmp_path: Path) -> None:
    query = [YELLOW, EXAMPLES / "moves.mp4^0.5", "--not", "a triangle", made, "-k", "2"]
    moments = json.loads(coca("search", *query, "--json").stdout)
    assert [(Path(found["video"]).name, found["start"], found["end"]) for found in moments] in (
        [("moves.mp4", 0.0, 2.0), ("moves.mp4", 2.0, 4.0)],
        [("moves.mp4", 2.0, 4.0), ("moves.mp4", 0.0, 2.0)],
    )
    assert list(moments[0]) == ["score", "video", "start", "end", "segments", "caption", "frames"]

    table = coca("search", *query)
    assert (table.stderr, table.returncode) == ("", 0)
    head, *rows = table.stdout.splitlines()
    assert head.split() == ["score", "file", "time", "caption"]
    for row, found in zip(rows, moments, strict=True):
        time = {0.0: "0:00.0-0:02.0", 2.0: "0:02.0-0:04.0"}[found["start"]]
        assert row == f"{found['score']:.3f}  {found['video']}  {time}  {found['caption']}"

    cuts = coca("search", *query, "--cut", cwd=tmp_path).stdout.splitlines()
    assert [cut.split()[-1] for cut in cuts] == [
        f"./moves_{found['start']:.2f}-{found['end']:.2f}.mp4" for found in moments
    ]
    (tmp_path / "ffmpeg").symlink_to(imageio_ffmpeg.get_ffmpeg_exe())
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run(["bash"], input="\n".join(cuts).encode(), cwd=tmp_path, env=environment, capture_output=True)
    assert {path.name for path in tmp_path.glob("*.mp4")} == {"moves_0.00-2.00.mp4", "moves_2.00-4.00.mp4"}


def test_paths_are_printed_byte_for_byte(coca, tmp_path: Path) -> None:
    name = "two\nlines \udcff.mp4"
    (tmp_path / name).symlink_to(EXAMPLES / "moves.mp4")
    assert coca("embed", tmp_path / name, "--segments", "2", "-m", "shapes", "-o", tmp_path / "index").returncode == 0
    search = f"{sys.executable} -m cococli search {tmp_path / name!s} {tmp_path}/index".replace(name, "*.mp4")
    run = subprocess.run(
        ["bash", "-c", f"{search} --paths0 | xargs -0 basename -a -z"], capture_output=True, check=True
    )
    assert run.stdout == os.fsencode(name) + b"\0"  # once, for two moments
    assert run.stderr == b""


def test_indexes_and_videos_may_move(coca, tmp_path: Path) -> None:
    (tmp_path / "lib/videos").mkdir(parents=True)
    shutil.copy(EXAMPLES / "moves.mp4", tmp_path / "lib/videos/a.mp4")
    embed = ["embed", "--engine", "torch", "-m", "shapes", "-o"]
    assert coca(*embed, "index/", "videos", cwd=tmp_path / "lib").returncode == 0
    again = coca(*embed, "lib/index/", "lib/videos/a.mp4", cwd=tmp_path)
    assert again.stderr == "1 of 1 inputs already embedded (use --overwrite to redo them)\n"

    search = ["search", YELLOW, "--engine", "torch", "--quiet"]
    (tmp_path / "lib").rename(tmp_path / "moved")
    for here, index, video in (("moved", "index", "videos/a.mp4"), ("home", "../moved/index", None)):
        (tmp_path / here).mkdir(exist_ok=True)
        run = coca(*search, index, "-0", cwd=tmp_path / here)
        assert (run.stdout, run.returncode) == (f"{video or tmp_path / 'moved/videos/a.mp4'}\0", 0)

    (tmp_path / "moved/videos").rename(tmp_path / "clips")
    for printed in ("-0", "--cut"):
        gone = coca(*search, "moved/index", printed, cwd=tmp_path)
        assert (gone.stdout, gone.returncode) == ("", 1)
        advice = "--root FOLDER says where they were moved"
        assert gone.stderr == f"warning: 1 of 1 files are missing (first: moved/videos/a.mp4); {advice}\n"
    found = coca(*search, "moved/index", "--cut", "--root", "clips", cwd=tmp_path)
    assert " -i ./clips/a.mp4 " in found.stdout
    assert (found.stderr, found.returncode) == ("", 0)


def test_fields_of_wrong_types_are_named(coca, made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "index")
    for name, wrong in (("index.json", {"model": ["x"]}), ("entries.jsonl", {"start": "soon"})):
        path = tmp_path / "index" / name
        before = path.read_text()
        if name == "index.json":
            path.write_text(json.dumps({**json.loads(before), **wrong}))
        else:
            path.write_text("".join(json.dumps({**json.loads(line), **wrong}) + "\n" for line in before.splitlines()))
        run = coca("search", YELLOW, tmp_path / "index", "--engine", "torch")
        path.write_text(before)
        assert re.search(rf"error: (line \d+ of )?{path}: (damaged entry: )?'{next(iter(wrong))}': input ", run.stderr)
        assert (run.stdout, run.returncode) == ("", 2)


def test_lancedb_tables_are_searched_as_indexes(coca, made: Path, tmp_path: Path) -> None:
    pytest.importorskip("lancedb")
    table = made.parent / "clips.lance"
    options = ["--not", "a triangle", "-k", "3", "--per-video", "1", "--min-score", "0.05", "--json"]
    command = ["search", YELLOW, EXAMPLES / "moves.mp4^0.5", *options]
    expected, found = (json.loads(coca(*command, where, cwd=tmp_path).stdout) for where in (made, table))
    for entry in (*expected, *found):
        del entry["frames"]
        entry.pop("caption", None)
    assert found == expected and found
    assert YELLOW in coca("search", YELLOW, table, "--among", "texts", "-k", "1").stdout
    assert coca("search", "--duplicates", "--threshold", "0", table).stdout.startswith("group  score  file\n")
    refused = coca("search", YELLOW, table, "--approximate")
    assert refused.stderr.startswith(f"error: {table} is searched exactly\n")
    (tmp_path / "x.lance").mkdir()
    refused = coca("search", YELLOW, tmp_path / "x.lance")
    assert refused.stderr.startswith(f"error: {tmp_path}/x.lance is not a LanceDB table\n")


def test_missing_lancedb_names_its_extra(coca, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as util\n"
        "find = util.find_spec\n"
        "util.find_spec = lambda name, package=None: None if name == 'lancedb' else find(name, package)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    run = coca("search", YELLOW, "clips.lance")
    assert (run.returncode, run.stderr) == (2, "error: .lance needs LanceDB\nhint: pip install 'cococli[lance]'\n")


def test_texts_on_request_and_minimum_scores(coca, made: Path) -> None:
    (text, _) = json.loads(coca("search", EXAMPLES / "moves.mp4", made, "--among", "texts", "--json").stdout)
    assert (text["text"], list(text)) == (YELLOW, ["score", "text"])
    none = coca("search", YELLOW, made, "--min-score", "1")
    assert (none.stdout, none.stderr, none.returncode) == ("", "nothing matches\n", 0)


def test_programs_ask_one_query_per_line(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "utf-8:strict")
    command = [*COMMAND, "search", "--interactive", made, "--json", "-k", "1", "--approximate"]
    with subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1) as run:
        assert run.stdin and run.stdout and run.stderr

        def ask(line: bytes) -> list[dict]:
            run.stdin.write(line + b"\n")
            run.stdin.flush()
            return json.loads(run.stdout.readline())

        assert Path(ask(YELLOW.encode())[0]["video"]).stem == "moves"
        assert Path(ask(f"{EXAMPLES}/grows.mp4 + {YELLOW}^0.1".encode())[0]["video"]).stem == "grows"
        assert ask(b"gone.mp4") == []  # an answer to every query
        assert ask(b"\xff --not " + YELLOW.encode())[0]["score"] < 1
        assert ask(b"\n\n" + YELLOW.encode())  # and none to an empty line
        run.send_signal(signal.SIGINT)
        assert run.wait(900) == 130
        assert (run.stdout.read(), run.stderr.readline()) == (b"", b"warning: no such file: gone.mp4\n")
        assert run.stderr.readline() == b"error: interrupted\n"


def test_interactive_search_on_a_terminal(made: Path) -> None:
    child, terminal = pty.fork()
    if child == 0:
        os.environ |= {"COLUMNS": "80", "TERM": "xterm"}
        os.execv(COMMAND[0], [*COMMAND, "search", "-i", str(made), "-k", "2"])
    shown = b""

    def read_to(prompt: bytes) -> None:
        nonlocal shown
        while not shown.endswith(prompt):
            shown += os.read(terminal, 65536)

    read_to(b"search> ")
    for line in (YELLOW.encode(), b"\x1b[A^2"):  # the second is the first, recalled with the arrow key and edited
        os.write(terminal, line + b"\n")
        shown += os.read(terminal, 1)
        read_to(b"search> ")
    os.write(terminal, b"\4")
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    lines = [line.rsplit("\r", 1)[-1].rstrip() for line in text.replace("\r\n", "\n").split("\n")]
    assert f"search> {YELLOW}^2" in lines
    assert "one query a line; Ctrl-D ends" in lines
    assert len([line for line in lines if re.fullmatch("score +file +time +caption", line)]) == 2
    assert len([line for line in lines if re.match(r"0\.\d{3}  \S", line)]) == 4
    assert max(map(len, lines)) <= 80


def test_copies_in_other_encodings_are_grouped(coca, tmp_path: Path) -> None:
    encode(EXAMPLES / "moves.mp4", tmp_path / "small.mkv", "mpeg4", 96)
    encode(EXAMPLES / "moves.mp4", tmp_path / "again.webm", "libvpx", 160)
    index = tmp_path / "index"
    copies = [tmp_path / "small.mkv", tmp_path / "again.webm"]
    assert coca("embed", EXAMPLES, *copies, "-m", "shapes", "-o", index).returncode == 0
    run = coca("search", "--duplicates", index)
    assert (run.stderr, run.returncode) == ("2 of 7 are copies of another\n", 0)
    head, *rows = map(str.split, run.stdout.splitlines())
    assert head == ["group", "score", "file"]
    assert {Path(row[2]).name for row in rows} == {"moves.mp4", "small.mkv", "again.webm"}
    assert {row[0] for row in rows} == {"1"}
    (group,) = json.loads(coca("search", "--duplicates", index, "--json").stdout)
    assert {f"{group['score']:.3f}"} == {row[1] for row in rows}
    assert group["videos"] == [row[2] for row in rows]
    alone = coca("search", "--duplicates", index, "--threshold", "1")
    assert (alone.stdout, alone.stderr) == ("", "no two are the same\n")


def encode(source: Path, target: Path, codec: str, size: int) -> None:
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream(codec, rate=12)
        stream.width = stream.height = size
        for number, frame in enumerate(old.decode(video=0)):
            picture = frame.reformat(size, size, "yuv420p")
            picture.pts, picture.time_base = number, Fraction(1, 12)
            new.mux(stream.encode(picture))
        new.mux(stream.encode(None))


def test_closed_pipe_ends_the_search(coca, made: Path) -> None:
    search = f"{sys.executable} -m cococli search 'a dog' {made} -k 100"
    run = subprocess.run(["bash", "-c", f"{search} | head -1; echo ${{PIPESTATUS[0]}}"], capture_output=True, text=True)
    assert [line.split()[0] for line in run.stdout.splitlines()] in (["score", "0"], ["score", "1"])
    assert run.stderr == ""


def test_index_of_other_weights_is_refused(coca, tmp_path: Path) -> None:
    index = tmp_path / "index"
    with open_index(index, About("shapes", "other"), 64, []):
        pass
    run = coca("search", "a dog", index)
    assert (run.stdout, run.returncode) == ("", 2)
    assert run.stderr == (
        f"error: {index} holds vectors of another model named shapes\n"
        "hint: vectors of two models cannot be compared: name another folder\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["index/"], "no query given", "coca search 'a dog jumps' index/"),
        (["a dog", "index/"], "index is not an index", "coca embed PATHS -o FOLDER/ creates one"),
        (["dog.jpg", "index/"], "no such file: dog.jpg", ""),
        (["a dog", "--json", "--cut", "index/"], "--json, --paths0, --cut and --show exclude each other", "choose one"),
        (["a dog", "--duplicates", "index/"], "--duplicates takes an index and no query", ""),
        (["--not", "a dog", "-i", "index/"], "--interactive takes an index and no query", ""),
        (
            ["--duplicates", "--cut", "index/"],
            "--duplicates cannot be combined with --interactive, --paths0, --cut or --show",
            "",
        ),
        (["", "index/"], "the query is empty", "coca search 'a dog jumps' index/"),
    ],
    ids=["no query", "no index", "no file", "two formats", "duplicates", "interactive", "cut duplicates", "empty"],
)
def test_invalid_options_fail_before_loading(
    coca, tmp_path: Path, arguments: list[str], message: str, hint: str
) -> None:
    run = coca("search", *arguments, cwd=tmp_path)
    assert run.stderr == f"error: {message}\n" + f"hint: {hint}\n" * bool(hint)
    assert (run.stdout, run.returncode) == ("", 2)
