"""Text beside pictures and videos, and clips with their captions, with the bundled model."""

import json
import shutil
from pathlib import Path

import av
import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[2] / "examples"
needs_ffmpeg = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="needs ffmpeg")


@pytest.fixture(autouse=True)
def bundled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COCA_MODEL", "shapes")


@pytest.fixture
def media(tmp_path: Path) -> Path:
    """A folder with a video, two pictures of one name, a picture in a folder, and a broken picture."""
    folder = tmp_path / "media"
    (folder / "sub").mkdir(parents=True)
    shutil.copy(EXAMPLES / "grows.mp4", folder / "v.mp4")
    for name, color in (("a.jpg", "red"), ("b.jpg", "blue"), ("b.png", "black"), ("sub/c.webp", "white")):
        Image.new("RGB", (64, 64), color).save(folder / name)
    (folder / "broken.jpg").write_bytes(b"not a picture")
    return folder


def texts(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*.txt"))}


def test_text_beside_pictures_and_videos(coca, media: Path, tmp_path: Path) -> None:
    output, tree = tmp_path / "out.jsonl", tmp_path / "tree"
    command = ["caption", media, "--beside", "--as", "txt", "--prefix", "sks, ", "--suffix", ".", "-o", output]
    run = coca(*command, "-o", f"{tree}/")
    assert run.returncode == 1  # the broken picture
    records = [json.loads(line) for line in output.read_text().splitlines()]
    captions = [f"sks, {record['caption']}.\n" for record in records if record["status"] == "ok"]
    names = ["a.txt", "b.jpg.txt", "b.png.txt", "sub/c.txt", "v.txt"]
    assert texts(media) == texts(tree) == dict(zip(names, captions, strict=True))
    scored = coca("score", media / "sub")
    assert json.loads(scored.stdout)["caption"] == captions[3].strip()


def test_segments_are_lines(coca, media: Path) -> None:
    assert coca("caption", media / "v.mp4", "--segments", "1", "--beside", "--as", "txt").returncode == 0
    assert len(texts(media)["v.txt"].splitlines()) == 4


def test_existing_text_is_kept_replaced_or_appended_to(coca, media: Path) -> None:
    (media / "broken.jpg").unlink()
    own = media / "a.txt"
    own.write_text("my tag\n")
    command = ["caption", media / "a.jpg", media / "b.jpg", "--beside", "--as", "txt"]
    refused = coca(*command)
    assert (refused.returncode, texts(media)) == (2, {"a.txt": "my tag\n"})
    assert f"error: {own} was not written by coca" in refused.stderr
    assert "--existing" in refused.stderr

    kept = coca(*command, "--existing", "keep")
    assert kept.returncode == 0
    assert kept.stderr.startswith("1 of 2 files skipped: they have a .txt\n")
    assert "captioned 1 of 1" in kept.stderr
    assert texts(media)["a.txt"] == "my tag\n"

    appended = coca(*command, "--existing", "append")
    assert appended.returncode == 0
    tag, caption = own.read_text().split(", ")
    assert (tag, bool(caption.strip())) == ("my tag", True)
    again = own.read_bytes()
    assert coca(*command, "--existing", "append", "--overwrite").returncode == 0
    assert own.read_bytes() == again  # it has the caption
    own.write_text("edited\n")
    assert coca(*command, "--existing", "append").returncode == 0
    assert own.read_text() == "edited\n"  # nothing was captioned

    assert coca(*command, "--existing", "replace", "--search", "greedy").returncode == 0
    assert own.read_text() == caption
    own.write_text("edited\n")
    output = media.parent / "out.jsonl"
    assert coca(*command, "--existing", "keep", "-o", output).returncode == 0
    assert len(output.read_text().splitlines()) == 2  # captioned for the other output
    assert own.read_text() == "edited\n"


@needs_ffmpeg
def test_clips_are_cut_with_captions(coca, media: Path, tmp_path: Path) -> None:
    cut, output = tmp_path / "cut", tmp_path / "out.jsonl"
    (media / "broken.jpg").unlink()
    command = ["caption", media, "--segments", "2", "--cut-to", f"{cut}/", "--prefix", "sks ", "-o", output]
    run = coca(*command)
    assert (run.returncode, "cut 2 of 2" in run.stderr) == (0, True)
    first, second = cut / "v_0.00-2.00", cut / "v_2.00-4.00"
    assert sorted(cut.iterdir()) == sorted(
        one.with_name(one.name + end) for one in (first, second) for end in (".mp4", ".txt")
    )
    records = [json.loads(line) for line in output.read_text().splitlines()]
    captions = [f"sks {record['caption']}\n" for record in records if record["video"] == str(media / "v.mp4")]
    assert list(texts(cut).values()) == captions
    for name in texts(cut):
        with av.open(str(cut / name.replace(".txt", ".mp4"))) as clip:
            assert abs(clip.duration / 1e6 - 2) < 0.05
    scored = [json.loads(line) for line in coca("score", cut).stdout.splitlines()]
    assert [f"{one['caption']}\n" for one in scored] == captions

    second_clip = Path(f"{second}.mp4")
    second_clip.unlink()
    Path(f"{first}.txt").write_text("edited\n")
    again = coca(*command)
    assert (again.returncode, "already captioned" in again.stderr, "cut 1 of 1" in again.stderr) == (0, True, True)
    assert second_clip.exists()
    assert Path(f"{first}.txt").read_text() == "edited\n"
    refused = coca(*command, "--search", "greedy")
    assert refused.returncode == 1
    assert f"warning: {first}.mp4: {first}.txt was not written by coca, or was changed since" in refused.stderr


def test_invalid_options_exit_with_2(coca, media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = coca("caption", media, "--beside", "--existing", "append")
    assert (run.returncode, "error: --existing append needs --as txt" in run.stderr) == (2, True)
    run = coca("caption", media, "--cut-to", media / "cut")
    assert (run.returncode, "cut is in" in run.stderr) == (2, True)
    monkeypatch.setenv("PATH", "/none")
    run = coca("caption", media, "--cut-to", media.parent / "cut")
    assert (run.returncode, "error: --cut-to needs ffmpeg" in run.stderr) == (2, True)
