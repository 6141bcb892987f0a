"""The Python API, with the bundled model."""

import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

import cococli
from cococli.errors import ModelError, UsageError, VideoError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def coca():
    return cococli.load("shapes", frames="multi", num_frames=4, engine="mindspore", method="greedy")


def test_three_lines_caption_a_video(coca) -> None:
    caption = coca.caption(ROOT / "examples/grows.mp4")
    assert "circle" in caption.text
    assert caption.text == coca.caption(str(ROOT / "examples/grows.mp4")).text


def test_videos_and_texts_share_one_space(coca) -> None:
    video = coca.embed(ROOT / "examples/grows.mp4")
    caption = coca.caption(ROOT / "examples/grows.mp4")
    right, wrong = coca.embed_text(caption.text), coca.embed_text("a green square above a white square")
    assert video.ndim == 1 and video.shape == right.shape
    assert video.dtype == right.dtype == np.float32
    assert np.linalg.norm(video) == pytest.approx(1, abs=1e-5)
    assert video @ right == pytest.approx(caption.similarity, abs=1e-4)
    assert video @ right > video @ wrong


def test_a_video_can_be_read_before_a_model_is_loaded() -> None:
    """decord before MindSpore: two C++ libraries that do not get on by themselves."""
    code = f"""
from pathlib import Path
import cococli
from cococli.video.clips import read_clip
from cococli.video.sampling import Sampling
clip = Path({str(ROOT / "examples/grows.mp4")!r})
read_clip(clip, Sampling(), 64)
import sys
assert "decord" in sys.modules and "mindspore" not in sys.modules
print(cococli.load("shapes", engine="mindspore").caption(clip).text)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "circle" in done.stdout, done.stderr[-500:]


def test_another_engine_says_the_same(coca) -> None:
    clip = ROOT / "examples/grows.mp4"
    other = cococli.load("shapes", frames="multi", num_frames=4, engine="torch", precision="fp32", method="greedy")
    assert other.caption(clip).text == coca.caption(clip).text
    np.testing.assert_allclose(other.embed(clip), coca.embed(clip), atol=1e-5)


def test_a_file_that_cannot_be_read_raises(coca, tmp_path: Path) -> None:
    with pytest.raises(VideoError):
        coca.caption(tmp_path / "missing.mp4")


def test_wrong_options_and_unknown_models_raise_before_anything_is_loaded() -> None:
    with pytest.raises(UsageError):
        cococli.load("shapes", beams=0)
    with pytest.raises(UsageError):
        cococli.load("shapes", frames="all")
    with pytest.raises(UsageError):
        cococli.load("shapes", engine="mindspore", precision="bf16")
    with pytest.raises(ModelError):
        cococli.load("no-such-model")


def test_the_version_is_the_packages() -> None:
    assert cococli.__version__ == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
