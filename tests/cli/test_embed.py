"""`coca embed`, as a user runs it, with the bundled model."""

import json
import re
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from checkpoints import stored_models
from cli.fork_server import start
from pyarrow import parquet

import cococli
from cococli.retrieval.index import About, Index, open_index

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(autouse=True)
def bundled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COCA_MODEL", "shapes")


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """A folder of two videos and a broken file."""
    folder = tmp_path / "few"
    folder.mkdir()
    for name in ("moves", "grows"):
        (folder / f"{name}.mp4").symlink_to(EXAMPLES / f"{name}.mp4")
    (folder / "broken.mp4").write_bytes(b"this is not a video")
    return folder


def content(folder: Path) -> dict[str, list[bytes]]:
    """Return the vectors of each video and text."""
    index, found = Index(folder), dict[str, list[bytes]]()
    for entry in map(index.entry, index.rows.tolist()):
        found.setdefault(entry.name, []).append(index.vectors[entry.row].tobytes())
    return found


def vectors_of(rows: list[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(rows), np.float32).reshape(len(rows), -1)


def test_index_files_and_stdout_in_one_pass(coca, few: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("a red circle\n\na blue square\n")
    index, npz = tmp_path / "index", tmp_path / "out.npz"
    command = ["embed", few, "--texts", tmp_path / "texts.txt", "--segments", "2", "-o", f"{index}/", "-o", npz]
    run = coca(*command, "-o", "-")
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    assert [Path(line.get("video", "-")).stem + line.get("text", "") for line in lines] == [
        *("grows", "grows", "moves", "moves"),
        *("-a red circle", "-a blue square"),
    ]
    vectors = np.array([line["vector"] for line in lines], np.float32)
    np.testing.assert_array_equal(vectors, Index(index).vectors)
    np.testing.assert_array_equal(vectors, np.load(npz)["vectors"])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert Index(index).about.model == "shapes"
    assert run.returncode == 1
    warning, summary, reasons = run.stderr.splitlines()  # and nothing from other libraries
    assert warning.startswith(f"warning: {few}/broken.mp4: ")
    pace = r"4 clips, \d+% computing, \d+% waiting for frames"
    assert re.fullmatch(rf"embedded 4 of 5, 1 failed, in \S+ \(\S+\); {pace}", summary)
    assert re.fullmatch(r"failed: 1 not a video: .+", reasons)

    again = coca(*command, "-o", "-")
    assert (again.stdout, again.returncode) == (run.stdout, 1)
    assert again.stderr.splitlines() == [
        "5 of 5 inputs already embedded (use --overwrite to redo them)",
        reasons,
    ]


def test_files_resume_without_an_index(coca, tmp_path: Path, home: Path) -> None:
    texts, output = tmp_path / "texts.txt", tmp_path / "out.jsonl"
    texts.write_text("a red circle\n")
    assert coca("embed", "--texts", texts, "-o", output, "--half").returncode == 0
    texts.write_text("a blue square\na red circle\n")
    run = coca("embed", "--texts", texts, "-o", output, "--half", "--quiet")
    assert (run.stdout, run.stderr, run.returncode) == ("", "", 0)
    assert [json.loads(line)["text"] for line in output.open()] == ["a blue square", "a red circle"]
    (folder,) = (home / "journals").iterdir()
    index = Index(folder)
    assert index.vectors.dtype == np.float16
    assert [index.entry(row).text for row in index.rows.tolist()] == ["a red circle", "a blue square"]
    again = coca("embed", "--texts", texts, "-o", output)
    assert again.stderr.startswith("embedded 2 of 2 in ")  # float32, not converted from float16


def test_killed_run_resumes(coca, many: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    command = ["embed", many, "-o", f"{index}/", "--batch-size", "4", "--segments", "2"]
    run = start(*command, stderr=subprocess.DEVNULL)
    while not ((index / "entries.jsonl").exists() and (index / "entries.jsonl").stat().st_size):
        assert run.poll() is None
        time.sleep(0.001)
    done = content(index)  # during the run
    run.send_signal(signal.SIGKILL)
    assert run.wait(900) == -signal.SIGKILL
    assert 0 < len(done) < 30
    again = coca(*command)
    assert re.match(r"\d+ of 30 inputs already embedded \(use --overwrite to redo them\)\n", again.stderr)
    whole = content(index)
    assert list(whole) == sorted(map(str, many.iterdir()))
    assert Index(index).vectors.shape == np.load(index / "vectors.npy").shape == (60, 96)
    first = vectors_of(whole.pop(str(many / "00.mp4")))
    for vectors in whole.values():  # of identical clips
        np.testing.assert_allclose(vectors_of(vectors), first, atol=1e-5)


def test_captions_and_vectors_in_one_pass(coca, tmp_path: Path) -> None:
    output, index = tmp_path / "out.jsonl", tmp_path / "index"
    command = ["caption", EXAMPLES, "--search", "greedy", "-o", output, "--embed", index]
    assert coca(*command).returncode == 0
    records, kept = [json.loads(line) for line in output.open()], Index(index)
    entries = map(kept.entry, kept.rows.tolist())
    assert [(str(Path(entry.video).absolute()), entry.start, entry.text) for entry in entries] == [
        (record["video"], record["start"], record["caption"]) for record in records
    ]
    library = cococli.load("shapes", engine="torch", precision="fp32")
    for name, vectors in content(index).items():
        np.testing.assert_allclose(vectors_of(vectors), [library.embed(name)], atol=1e-5)
    again = coca(*command)
    assert again.stderr.splitlines()[0] == "5 of 5 files already captioned (use --overwrite to redo them)"


def test_useless_embeddings_are_warned_of(coca, few: Path, tmp_path: Path) -> None:
    stored_models.add("vit-b-32-coco")
    run = coca("embed", few / "moves.mp4", "-o", f"{tmp_path}/index/", "--model", "vit-b-32-coco")
    assert run.stderr.splitlines()[0] == (
        "warning: vit-b-32-coco: its embeddings are useless: use another model for vectors, search and similarity"
    )
    assert run.returncode == 0


def test_other_models_are_refused_before_loading(coca, few: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    with open_index(index, About("vit-l-14", "other"), 768, []):
        pass
    for command in (["embed", few, "-o", index], ["caption", few, "--embed", index]):
        run = coca(*command)
        assert (run.stdout, run.returncode) == ("", 2)
        assert run.stderr == (
            f"error: {index} holds vectors of vit-l-14, not shapes\n"
            "hint: vectors of two models cannot be compared: name another folder\n"
        )


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["-o", "index/"], "nothing to embed", "name videos, pictures or folders, or --texts FILE"),
        (["few"], "no output given", "name a folder for an index, as in -o index/"),
        (["few", "-o", "one/", "-o", "two/"], "-o names two folders: one and two", "one run fills one index"),
        (
            ["few", "-o", "out.csv"],
            "cannot tell the format of out.csv",
            "end its name in .npz, .jsonl, .parquet, .lance, or in / for an index",
        ),
        (["few", "-o", "."], ". is not an index, and not empty", "name a new folder"),
        (["--texts", "none.txt", "-o", "index/"], "cannot read none.txt: No such file or directory", ""),
    ],
    ids=["nothing", "nowhere", "two folders", "format", "other things", "no texts"],
)
def test_invalid_options_fail_before_loading(coca, few: Path, arguments: list[str], message: str, hint: str) -> None:
    before = sorted(few.parent.rglob("*"))
    run = coca("embed", *arguments, cwd=few.parent)
    assert run.stderr == f"error: {message}\n" + f"hint: {hint}\n" * bool(hint)
    assert (run.stdout, run.returncode) == ("", 2)
    assert sorted(few.parent.rglob("*")) == before


def test_lancedb_finds_vectors(coca, few: Path, tmp_path: Path) -> None:
    lancedb = pytest.importorskip("lancedb")
    (few / "broken.mp4").unlink()
    (tmp_path / "db").mkdir()
    index, table = tmp_path / "index", tmp_path / "db" / "clips.lance"
    command = ["embed", few, "-o", table]
    for _ in range(2):
        run = coca(*command, "-o", f"{index}/")
        assert (run.returncode, "WARN" in run.stderr) == (0, False)
    written = lancedb.connect(tmp_path / "db").open_table("clips")
    vectors = Index(index).vectors
    rows = written.to_arrow().to_pylist()
    assert [Path(row["video"]).stem for row in rows] == ["grows", "moves"]
    np.testing.assert_array_equal(np.array([row["vector"] for row in rows], np.float32), vectors)
    found = written.search(vectors[1]).metric("cosine").limit(1).to_list()
    assert Path(found[0]["video"]).stem == "moves"
    assert json.loads(written.schema.metadata[b"coca"])["model"] == "shapes"

    model = cococli.load("shapes")
    assert [Path(found.entry.video).stem for found in model.search(few / "grows.mp4", table)] == ["grows", "moves"]
    written.add(written.to_arrow())
    assert len(model.search(few / "grows.mp4", table)) == 4
    lancedb.connect(tmp_path / "db").create_table("other", [{"text": "a circle", "vector": [0.0, 1.0]}])
    other = coca("search", "a circle", tmp_path / "db" / "other.lance")
    assert f"error: {tmp_path}/db/other.lance is not a table that coca embed wrote\n" in other.stderr
    refused = coca(*command)
    assert (refused.returncode, f"error: {table} was not written by coca" in refused.stderr) == (2, True)
    assert coca(*command, "--overwrite").returncode == 0
    assert lancedb.connect(tmp_path / "db").open_table("clips").count_rows() == 2


def test_clip_retrieval_layout(coca, few: Path, tmp_path: Path) -> None:
    (few / "broken.mp4").unlink()
    folder, index, texts = tmp_path / "emb", tmp_path / "index", tmp_path / "texts.txt"
    texts.write_text("a red circle\na blue square\n")
    command = ["embed", few, "-o", f"{folder}/", "--as", "clip-retrieval"]
    assert coca(*command).returncode == 0
    assert coca("embed", few, "-o", f"{index}/").returncode == 0
    np.testing.assert_array_equal(np.load(folder / "img_emb" / "img_emb_0.npy"), Index(index).vectors)
    metadata = parquet.read_table(folder / "metadata" / "metadata_0.parquet").to_pydict()
    assert metadata["image_path"] == [str(few / "grows.mp4"), str(few / "moves.mp4")]
    assert (metadata["caption"], metadata["end"]) == (["", ""], [4.0, 4.0])
    again = coca(*command)
    assert again.stderr.startswith("2 of 2 inputs already embedded")

    other = tmp_path / "text"
    assert coca("embed", "--texts", texts, "-o", f"{other}/", "--as", "clip-retrieval").returncode == 0
    assert np.load(other / "text_emb" / "text_emb_0.npy").shape == (2, 96)
    assert parquet.read_table(other / "metadata" / "metadata_0.parquet").to_pydict() == {
        "caption": ["a red circle", "a blue square"]
    }
    (folder / "metadata" / "metadata_0.parquet").write_bytes(b"mine")
    refused = coca(*command)
    assert (refused.returncode, f"error: {folder} was not written by coca" in refused.stderr) == (2, True)
    assert coca(*command, "--texts", texts).returncode == 2
    refused = coca("embed", few, "-o", tmp_path / "a.npz", "--as", "clip-retrieval")
    assert (refused.returncode, "error: --as clip-retrieval needs a folder" in refused.stderr) == (2, True)
