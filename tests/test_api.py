"""The Python API, with the bundled model."""

import io
import re
import subprocess
import sys
import traceback
from pathlib import Path

import numpy as np
import pytest
import torch
from media.video_fixtures import damage, make_video
from PIL import Image

import cococli
from cococli.errors import ModelError, UsageError, VideoError
from cococli.media.clips import ReadRequest, Sampling, Segments, read_clips

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def coca():
    return cococli.load("shapes", frames="multi", num_frames=4, engine="torch", precision="fp32", method="greedy")


def test_path_and_string_give_one_caption(coca) -> None:
    caption = coca.caption(ROOT / "examples/grows.mp4")
    assert "circle" in caption.text
    assert caption.text == coca.caption(str(ROOT / "examples/grows.mp4")).text


def test_failing_decoder_is_logged(coca, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = damage(make_video(tmp_path / "damaged.mp4", frames=200))
    assert coca.caption(path).text == next(coca.caption_many([path])).text
    assert caplog.messages == [f"{path}: decord failed; decoding with PyAV instead"] * 2


def test_videos_and_texts_share_one_space(coca) -> None:
    video = coca.embed(ROOT / "examples/grows.mp4")
    caption = coca.caption(ROOT / "examples/grows.mp4")
    right, wrong = coca.embed_text(caption.text), coca.embed_text("a green square above a white square")
    assert video.ndim == 1 and video.shape == right.shape
    assert video.dtype == right.dtype == np.float32
    assert np.linalg.norm(video) == pytest.approx(1, abs=1e-5)
    assert video @ right == pytest.approx(caption.similarity, abs=1e-4)
    assert video @ right > video @ wrong


def as_file(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def test_all_picture_types_give_one_caption(coca) -> None:
    [(_, pixels)] = read_clips(ROOT / "examples/grows.mp4", ReadRequest(Sampling(), Segments(), None))
    [array] = pixels
    picture, tensor = Image.fromarray(array), torch.tensor(array)
    sources = [
        picture,
        as_file(picture),
        bytearray(as_file(picture)),
        io.BytesIO(as_file(picture)),
        array,
        array[None],
        array.astype(np.int64),
        array / 255,
        array.transpose(2, 0, 1),
        tensor,
        tensor.permute(2, 0, 1)[None],
        (tensor / 255).requires_grad_(),
        (tensor.permute(2, 0, 1) / 255).to(torch.bfloat16),
    ]
    assert coca.caption(picture).text.endswith("circle on a black background")
    assert {caption.text for caption in coca.caption(sources)} == {coca.caption(picture).text}
    vectors = coca.embed(iter(sources))
    assert vectors.shape == (len(sources), len(coca.embed(picture)))
    np.testing.assert_allclose(vectors[:-1], np.repeat(coca.embed(array)[None], len(sources) - 1, 0), atol=1e-4)


def test_frames_in_memory_are_sampled_like_a_file(coca) -> None:
    path = ROOT / "examples/appears.mp4"
    everything = ReadRequest(Sampling("multi", 16), Segments(), None)
    [(_, frames)] = read_clips(path, everything)
    content = path.read_bytes()
    with path.open("rb") as file:
        captions = coca.caption([path, content, file, frames, torch.tensor(frames).permute(0, 3, 1, 2)])
    assert {caption.text for caption in captions} == {coca.caption(str(path)).text}


def test_lists_and_texts_are_computed_in_order(coca) -> None:
    paths = sorted((ROOT / "examples").glob("*.mp4")) * 2
    still = np.zeros((64, 64, 3), np.uint8)
    mixed = [*paths, still]
    assert [one.text for one in coca.caption(mixed)] == [coca.caption(one).text for one in mixed]
    assert coca.caption([]) == []
    assert coca.embed([]).shape == (0, coca.embed(still).size)
    texts = ["a red circle", "a blue square"]
    np.testing.assert_allclose(coca.embed_text(texts), [coca.embed_text(text) for text in texts], atol=1e-6)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (3, "int is not a video or picture: pass a path"),
        ({"a": 1}, "dict is not"),
        pytest.param(io.StringIO("x"), "str is not", id="text stream"),
        ([np.zeros((8, 8, 3), np.uint8), None], "NoneType is not"),
        (np.zeros((8, 8)), r"shape \[8, 8\]"),
        (np.zeros((0, 8, 8, 3)), r"shape \[0, 8, 8, 3\]"),
        (np.zeros((3, 8, 3), np.uint8), "may be"),
        (np.full((8, 8, 3), 2.0), "floats of 0 to 1"),
        (np.full((8, 8, 3), np.nan), "floats of 0 to 1"),
        (np.full((8, 8, 3), 256), "integers of 0 to 255"),
        (np.zeros((8, 8, 3), bool), "bool values"),
    ],
    ids=str,
)
def test_unsupported_sources_raise_with_a_hint(coca, source, words: str) -> None:
    with pytest.raises(cococli.UsageError, match=words):
        coca.caption(source)
    with pytest.raises(cococli.UsageError, match="pass a str"):
        coca.embed_text(source if not isinstance(source, str) else 3)


def test_videos_can_be_read_before_loading() -> None:
    """decord before MindSpore: two C++ libraries that do not get on by themselves."""
    code = f"""
from pathlib import Path
import cococli
from cococli.media.clips import read_clip
from cococli.media.clips import Sampling
clip = Path({str(ROOT / "examples/grows.mp4")!r})
read_clip(clip, Sampling(), 64)
import sys
assert "decord" in sys.modules and "mindspore" not in sys.modules
print(cococli.load("shapes", engine="mindspore").caption(clip).text)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "circle" in done.stdout, done.stderr[-500:]


def test_engines_agree(coca) -> None:
    clip = ROOT / "examples/grows.mp4"
    other = cococli.load("shapes", frames="multi", num_frames=4, engine="mindspore", method="greedy")
    assert other.caption(clip).text == coca.caption(clip).text
    np.testing.assert_allclose(other.embed(clip), coca.embed(clip), atol=1e-5)


def test_unreadable_files_raise(coca, tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"missing\.mp4: no such file"):
        coca.caption([ROOT / "examples/grows.mp4", tmp_path / "missing.mp4"])
    for damaged in (b"", b"no picture"):
        with pytest.raises(VideoError):
            coca.caption(damaged)


def test_invalid_options_fail_before_loading() -> None:
    with pytest.raises(UsageError):
        cococli.load("shapes", beams=0)
    with pytest.raises(UsageError):
        cococli.load("shapes", frames="all")
    with pytest.raises(UsageError):
        cococli.load("shapes", engine="mindspore", precision="bf16")
    with pytest.raises(ModelError):
        cococli.load("no-such-model")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_frames": 0}, "num_frames must be 1 to 1024"),
        ({"num_frames": "many"}, "'num_frames'"),
        ({"max_length": 999}, "max_length 999 exceeds the 76 tokens"),
        ({"method": "legacy", "beams": 4}, "groups of method legacy"),
        ({"beam": 3}, "no argument 'beam'"),
        ({"ban": "logo"}, "'ban'"),
        ({"device": 0}, "'device'"),
        ({"model": 3}, "'model'"),
        ({"prompt": None}, "'prompt'"),
    ],
    ids=str,
)
def test_errors_name_arguments_as_python_does(arguments: dict, words: str) -> None:
    with pytest.raises(cococli.CocaError, match=words) as caught:
        cococli.load(**arguments)
    assert "--" not in f"{caught.value.message} {caught.value.hint}"


def test_many_files_are_captioned_in_order(coca, tmp_path: Path) -> None:
    paths = sorted((ROOT / "examples").glob("*.mp4")) * 2
    assert [one.text for one in coca.caption_many(paths)] == [one.text for one in coca.caption(paths)]
    assert [type(one) for one in coca.caption_many([tmp_path / "missing.mp4", paths[0]], errors="return")] == [
        VideoError,
        cococli.Caption,
    ]
    with pytest.raises(VideoError, match=r"missing\.mp4: no such file"):
        list(coca.caption_many([paths[0], tmp_path / "missing.mp4"]))
    with pytest.raises(UsageError, match="takes a path or a list of paths, not int"):
        next(coca.caption_many([3]))


def test_run_resumes_and_its_index_is_searched(coca, tmp_path: Path) -> None:
    clips, index, output = ROOT / "examples", tmp_path / "index", tmp_path / "out.jsonl"
    heard = Heard()
    first = coca.run(clips, output, embed=index, reporter=heard)
    assert (first.total, first.exit_code, len(heard.records)) == (5, 0, 5)
    assert {record.caption for record in heard.records} == {
        caption.text for caption in coca.caption_many(clips.glob("*.mp4"))
    }
    written = output.read_bytes()
    again = Heard()
    coca.run(str(clips), output, embed=index, reporter=again)
    assert again.records == [] and output.read_bytes() == written
    best, *_ = coca.search(heard.records[0].caption, index, count=2)
    assert Path(best.entry.video).samefile(heard.records[0].video)
    (same,) = coca.search([clips / "grows.mp4"], index, count=1)
    assert same.entry.video.endswith("grows.mp4") and same.score > 0.999


def test_run_takes_one_shard(coca, tmp_path: Path) -> None:
    totals = [coca.run(ROOT / "examples", tmp_path / "out.jsonl", shard=f"{index}/2").total for index in range(2)]
    assert sum(totals) == len(list((ROOT / "examples").glob("*.mp4")))
    written = [(tmp_path / f"out-0000{index}-of-00002.jsonl").read_text().splitlines() for index in range(2)]
    assert [*map(len, written)] == totals


class Heard(cococli.Reporter):
    """Keeps the records of a run."""

    def __init__(self) -> None:
        self.records: list[cococli.Record] = []

    def record(self, record: object) -> None:
        self.records.append(record)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"merge": 3.0}, r"run\(\): 'merge': input should be less than or equal to 1"),
        ({"batch_size": 0}, "'batch_size'"),
        ({"nonsense": 1}, r"run\(\) has no argument 'nonsense'"),
        ({"model": "other"}, "cannot change 'model'"),
        ({"segments": "x"}, "segments cannot be 'x'"),
        ({"output": "no/such/folder/out.jsonl"}, "no folder no/such/folder"),
        ({"output": 3}, "a path or a list of paths, not int"),
    ],
    ids=str,
)
def test_run_checks_its_options(coca, options: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        coca.run(ROOT / "examples", **options)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda coca: coca.caption(""), "a path is empty"),
        (lambda coca: coca.caption(Image.new("RGB", (0, 9))), "no pixels"),
        (lambda coca: coca.score(["a.jpg", "b.jpg"], ["a", "b"]), "list is not a video or picture"),
        (lambda coca: coca.search("a", "index", count=-1), r"search\(\): 'count'"),
        (lambda coca: coca.search("a", "index", per_video=1.5), "'per_video'"),
        (lambda coca: list(coca.caption_many([], errors="ignore")), "errors cannot be 'ignore'"),
        (lambda coca: coca.run("a.jpg", readers=0), "'readers': '0' is neither auto nor"),
        (lambda coca: cococli.SearchOptions(beams="3"), "beams must be a number, not '3'"),
    ],
    ids=["path", "pixels", "score", "count", "per_video", "errors", "readers", "beams"],
)
def test_wrong_arguments_are_errors_of_coca(coca, call, words: str) -> None:
    with pytest.raises(cococli.CocaError, match=words):
        call(coca)


def test_closed_file_cannot_be_read(coca) -> None:
    with (ROOT / "examples/moves.mp4").open("rb") as file:
        pass
    with pytest.raises(VideoError, match="closed file"):
        coca.caption(file)


def test_closed_model_says_so() -> None:
    with cococli.load("shapes", engine="torch", precision="fp32") as model:
        assert repr(model) == "<Coca shapes: TorchEngine, frames=middle>"
    assert repr(model) == "<Coca: closed>"
    with pytest.raises(UsageError, match="this model was closed"):
        model.caption(ROOT / "examples/grows.mp4")


def test_every_public_name_can_be_imported() -> None:
    assert [name for name in cococli.__all__ if not hasattr(cococli, name)] == []
    assert set(cococli.__all__) <= set(dir(cococli))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        cococli.nonsense  # noqa: B018


def test_hints_are_shown_in_tracebacks() -> None:
    with pytest.raises(cococli.UsageError) as caught:
        cococli.load(num_frames=0)
    assert "hint: 8 is the default" in traceback.format_exception(caught.value)[-1]


def test_the_readme_example_works(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COCA_ENGINE", "torch")
    code = "\n".join(re.findall(r"```python\n(.+?)```", (ROOT / "README.md").read_text(), re.DOTALL))
    exec(code, {})
    assert capsys.readouterr().out.startswith("a purple triangle beside a yellow triangle\n")
