"""Small sets of pictures are kept in memory, and nothing can be told from reading them."""

from pathlib import Path

import numpy as np
import pytest
from media.video_fixtures import make_video
from PIL import Image
from training.training_fixtures import picture, pictures

from cococli.media.clips import ReadRequest
from cococli.media.events import ClipRead
from cococli.media.pool import read_each
from cococli.media.sampling import Sampling
from cococli.media.segments import Segments
from cococli.training import memory
from cococli.training.memory import fit_in_memory, load, replay


def test_what_is_kept_is_told_as_if_it_were_read(tmp_path: Path) -> None:
    files = [*pictures(tmp_path, 3), tmp_path / "none.png"]
    jobs = [
        (path, ReadRequest(Sampling("multi", 2), Segments("none"), 24, seed))
        for seed in (None, 1, 2)
        for path in reversed(files)
    ]
    kept = load(files, 1, 60.0)
    for ours, theirs in zip(replay(kept, jobs), read_each(jobs), strict=True):
        if isinstance(ours, ClipRead) and isinstance(theirs, ClipRead):
            np.testing.assert_array_equal(ours.pixels, theirs.pixels)
            ours, theirs = ours._replace(pixels=None), theirs._replace(pixels=None)
        assert ours == theirs


def test_pictures_fit_as_long_as_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [*pictures(tmp_path, 3), tmp_path / "none.png"]
    monkeypatch.setattr(memory, "ROOM", 3 * 40 * 30 * 3)
    assert fit_in_memory(files)
    assert not fit_in_memory([*files, picture(tmp_path / "3.png", 3)])


def test_large_pictures_are_not_kept(tmp_path: Path) -> None:
    assert fit_in_memory([picture(tmp_path / "a.png", 0, (256, 256))])
    assert not fit_in_memory([picture(tmp_path / "a.png", 0, (256, 257))])


def test_what_moves_is_not_kept(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (40, 30), (40 * number, 0, 0)) for number in range(2)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], duration=100)
    for moving in (tmp_path / "a.webp", make_video(tmp_path / "a.mp4", frames=1)):
        assert not fit_in_memory([*pictures(tmp_path, 1), moving])
