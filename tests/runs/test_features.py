"""Features of a frozen tower are computed once, whatever happens, and fed as pixels are."""

import hashlib
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training.tiny_run import RecordingReporter
from training.training_fixtures import ordered, pairs, picture, pictures

from cococli.catalog import CLIP, CocaConfig, Preprocess
from cococli.errors import CocaError, VideoError
from cococli.media.clips import Sampling, read_clip
from cococli.reporting import Progress, Reporter
from cococli.runs import features
from cococli.runs.features import CONTENTS, ROWS, Tower, cached_feed, identity_of, prepare

TOWER = Tower("a" * 64, Sampling(), 8, 3, 64)


class Encoder:
    """Three rows of 64 numbers, each the sum of a part of the pixels; counts what it was shown."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        self.seen += len(pixels)
        return pixels.mean(axis=1, dtype=np.float32).reshape(len(pixels), 3, 64)


class Killed(BaseException):
    """Ends a run in the middle."""


class OnUpdate(Reporter):
    """Calls a function with the number of files encoded."""

    def __init__(self, function: Callable[[int], object]) -> None:
        self.function = function

    @contextmanager
    def progress(self, *_: Any, **__: Any) -> Iterator[Progress]:
        progress = Progress()
        progress.update = lambda done, total=None, detail="": self.function(done)  # type: ignore[method-assign]
        yield progress


def expected(files: list[Path]) -> np.ndarray:
    return np.stack([Encoder()(read_clip(path, Sampling(), 8)[1][None])[0] for path in files])


def shown(found: features.Features) -> np.ndarray:
    return found.images[found.row]


def test_features_are_those_of_the_evaluation_crop_exactly(tmp_path: Path) -> None:
    files = pictures(tmp_path, 5)
    found = prepare(files, TOWER, Encoder())
    np.testing.assert_array_equal(shown(found), expected(files), strict=True)
    assert isinstance(found.images.base, np.memmap)


def test_what_is_computed_is_not_computed_again(tmp_path: Path) -> None:
    files = pictures(tmp_path, 5)
    encoder = Encoder()
    prepare(files[:3], TOWER, encoder)
    reporter = RecordingReporter()
    found = prepare(files[::-1], TOWER, encoder, reporter)
    assert encoder.seen == 5
    assert reporter.moves == [("encoding", 1, 2, ""), ("encoding", 2, 2, "")]
    assert reporter.notes == [f"encoding 2 files once with the frozen vision tower: 1.5 kB in {TOWER.folder}"]
    np.testing.assert_array_equal(shown(found), expected(files)[::-1])


def test_rows_are_keyed_by_content(tmp_path: Path) -> None:
    files = [picture(tmp_path / f"{name}.png", 0) for name in "ab"]
    encoder = Encoder()
    assert prepare(files, TOWER, encoder).row.tolist() == [0, 0]
    picture(files[1], 1)
    found = prepare(files, TOWER, encoder)
    assert (found.row.tolist(), encoder.seen) == ([0, 1], 2)
    np.testing.assert_array_equal(shown(found), expected(files))


def test_file_changed_meanwhile_is_not_stored(tmp_path: Path) -> None:
    files, reporter = pictures(tmp_path, 2), RecordingReporter()

    def encode(pixels: np.ndarray) -> np.ndarray:
        files[1].write_bytes(files[0].read_bytes() + b"changed")
        return Encoder()(pixels)

    assert prepare(files, TOWER, encode, reporter).row.tolist() == [0, -1]
    assert reporter.warnings == [f"{files[1]}: it was changed while it was read"]
    np.testing.assert_array_equal(shown(prepare(files, TOWER, Encoder())), expected(files))


def test_every_tower_has_a_folder_of_its_own(home: Path) -> None:
    towers = [
        TOWER,
        replace(TOWER, identity="b" * 64),
        replace(TOWER, sampling=Sampling("multi", 4)),
        replace(TOWER, sampling=Sampling("multi", 5)),
        replace(TOWER, image_size=16),
        replace(TOWER, queries=4),
        replace(TOWER, dtype="float16"),
    ]
    assert len({tower.folder for tower in towers}) == len(towers)
    assert {tower.folder.parent for tower in towers} == {home / "features"}


def test_identity_depends_on_vision_tower_only() -> None:
    weights = {"visual.a": np.zeros(3, np.float32), "visual.b": np.ones((2, 2), np.float32), "text.a": np.ones(1)}
    identity = identity_of(CocaConfig(), weights)
    assert identity_of(CocaConfig(), {**weights, "text.a": np.zeros(1)}) == identity
    assert identity_of(CocaConfig(), dict(reversed(weights.items()))) == identity
    changed = [
        identity_of(CocaConfig(), {**weights, "visual.a": np.array([0, 0, 1], np.float32)}),
        identity_of(CocaConfig(), {**weights, "visual.a": np.zeros(3, np.float16)}),
        identity_of(CocaConfig(quick_gelu=True), weights),
        identity_of(CocaConfig(preprocess_cfg=Preprocess(resize_mode="squash")), weights),
    ]
    assert len({identity, *changed}) == 5
    assert identity_of(CocaConfig(preprocess_cfg=CLIP), weights) == identity


def test_float16_takes_half_the_room(tmp_path: Path) -> None:
    files = pictures(tmp_path, 3)
    half = replace(TOWER, dtype="float16")
    assert TOWER.row_bytes == 2 * half.row_bytes == 3 * 64 * 4
    found = prepare(files, half, Encoder())
    np.testing.assert_array_equal(shown(found), expected(files).astype(np.float16), strict=True)


# A run that ends in the middle


@pytest.mark.parametrize("batches", [0, 1])
def test_stop_request_returns_finished_features(tmp_path: Path, batches: int) -> None:
    files, encoder = pictures(tmp_path, 5), Encoder()

    class Stopping(Reporter):
        @property
        def stop_requested(self) -> bool:
            return encoder.seen >= 2 * batches

    found = prepare(files, TOWER, encoder, Stopping(), batch_size=2)
    assert encoder.seen == 2 * batches
    assert (found.row >= 0).sum() == 2 * batches


def test_interrupt_keeps_finished_features(tmp_path: Path) -> None:
    files = pictures(tmp_path, 5)

    def interrupt(done: int) -> None:
        if done == 3:
            raise Killed

    encoder = Encoder()
    with pytest.raises(Killed):
        prepare(files, TOWER, encoder, OnUpdate(interrupt), batch_size=1)
    found = prepare(files, TOWER, encoder, batch_size=1)
    assert encoder.seen == 5
    np.testing.assert_array_equal(shown(found), expected(files))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], Path]:
    """Four pictures, and a copy of the folder that their features are in."""
    folder = tmp_path_factory.mktemp("whole")
    files = pictures(folder, 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COCA_HOME", str(folder))
        prepare(files, TOWER, Encoder())
        return files, TOWER.folder


@pytest.mark.parametrize(
    ("rows", "contents"),
    [(0, None), (100, 65), (128, None), (128 + 2 * TOWER.row_bytes + 5, None), (None, 0), (None, 2 * 65 + 7)],
)
def test_cut_anywhere_it_goes_on(whole: tuple[list[Path], Path], rows: int | None, contents: int | None) -> None:
    files, folder = whole
    shutil.copytree(folder, TOWER.folder)
    for name, length in ((ROWS, rows), (CONTENTS, contents)):
        path = TOWER.folder / name
        path.write_bytes(path.read_bytes()[:length])
    np.testing.assert_array_equal(shown(prepare(files, TOWER, Encoder())), expected(files))
    again = Encoder()
    np.testing.assert_array_equal(shown(prepare(files, TOWER, again)), expected(files))
    assert again.seen == 0


@pytest.mark.parametrize("name", [ROWS, CONTENTS])
def test_what_is_lost_is_made_anew(tmp_path: Path, name: str) -> None:
    files = pictures(tmp_path, 3)
    prepare(files, TOWER, Encoder())
    (TOWER.folder / name).unlink()
    np.testing.assert_array_equal(shown(prepare(files[::-1], TOWER, Encoder())), expected(files[::-1]))


def test_rows_are_safe_before_their_lines_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "AT_ONCE", 2)
    files = pictures(tmp_path, 5)

    def check(done: int) -> None:
        lines = (TOWER.folder / CONTENTS).read_text().splitlines()
        assert lines == [hashlib.sha256(path.read_bytes()).hexdigest() for path in files[: done // 2 * 2]]
        np.testing.assert_array_equal(np.load(TOWER.folder / ROWS).reshape(-1, 3, 64), expected(files)[: done // 2 * 2])

    prepare(files, TOWER, Encoder(), OnUpdate(check))


RUN = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from runs.test_features import TOWER, Encoder, OnUpdate
from cococli.runs import features
features.AT_ONCE = 1
def die(done):
    if done == 2:
        os.kill(os.getpid(), 9)
features.prepare([Path(path) for path in sys.argv[2:]], TOWER, Encoder(), OnUpdate(die), batch_size=1)
"""


def test_killed_run_resumes(tmp_path: Path) -> None:
    files = pictures(tmp_path, 4)
    command = [sys.executable, "-c", RUN, str(Path(__file__).parents[1]), *map(str, files)]
    assert subprocess.run(command).returncode == -9
    encoder = Encoder()
    np.testing.assert_array_equal(shown(prepare(files, TOWER, encoder)), expected(files))
    assert encoder.seen == 2


def test_concurrent_runs_share_features(tmp_path: Path) -> None:
    from filelock import FileLock

    files = pictures(tmp_path, 2)
    prepare(files, TOWER, Encoder())
    lock = FileLock(TOWER.folder / "lock")
    lock.acquire()
    notes: list[str] = []

    class Releasing(Reporter):
        def note(self, text: str) -> None:
            notes.append(text)
            lock.release()

    encoder = Encoder()
    prepare(files, TOWER, encoder, Releasing())
    assert (notes, encoder.seen) == (["waiting for another run that encodes files with this tower"], 0)


# A disk that is full


def test_missing_space_is_reported_before_computing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = pictures(tmp_path, 2)
    encoder = Encoder()
    full = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: full)
    with pytest.raises(CocaError) as caught:
        prepare(files, replace(TOWER, queries=256, width=1024), encoder)
    assert caught.value.message.startswith("cannot store the image features of 2 files: it needs ")
    assert caught.value.hint == "set COCA_HOME to a folder on another disk, or do not freeze the vision tower"
    assert encoder.seen == 0


def test_full_disk_keeps_finished_features(tmp_path: Path) -> None:
    files = pictures(tmp_path, 4)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (128 + 5 * TOWER.row_bytes // 2, limits[1]))
    try:
        with pytest.raises(CocaError) as caught:
            prepare(files, TOWER, Encoder())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.message == f"cannot write {TOWER.folder / ROWS}: File too large"
    np.testing.assert_array_equal(shown(prepare(files, TOWER, Encoder())), expected(files))


# Files that cannot be read


def test_unreadable_files_are_replaced(tmp_path: Path) -> None:
    files = pictures(tmp_path, 4)
    files[1].write_bytes(b"no picture")
    files[3].unlink()
    reporter = RecordingReporter()
    found = prepare(files, TOWER, Encoder(), reporter)
    assert found.row.tolist() == [0, -1, 1, -1]
    assert sorted(reporter.warnings) == [
        f"{files[1]}: not a video or picture in a supported format",
        f"{files[3]}: no such file",
    ]
    made = pairs(files)
    order = ordered(made, 1, 4)
    for batch in cached_feed(made, order, range(4), found):
        assert batch.pairs.tolist() == [made.readable(pair, {1, 3}) for pair in order.batch(batch.step)]


def test_one_broken_file_stops_a_strict_run(tmp_path: Path) -> None:
    with pytest.raises(VideoError) as caught:
        prepare([tmp_path / "a.png"], TOWER, Encoder(), strict=True)
    assert caught.value.message == f"{tmp_path / 'a.png'}: no such file"


def test_nothing_to_read_is_told(tmp_path: Path) -> None:
    made = pairs([tmp_path / "a.png"])
    found = prepare(made.files, TOWER, Encoder())
    with pytest.raises(VideoError) as caught:
        next(cached_feed(made, ordered(made, 1, 2), range(1), found))
    assert caught.value.message == "none of 1 files can be read"


# Feeding


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_batch_holds_the_features_of_its_pairs(tmp_path: Path, dtype: str) -> None:
    made = pairs(pictures(tmp_path, 5))
    order = ordered(made, 1, 4)
    found = prepare(made.files, replace(TOWER, dtype=dtype), Encoder())
    wanted = expected(list(made.files)).astype(dtype).astype(np.float32)
    batches = list(cached_feed(made, order, range(2, 5), found, slice(1, None, 2)))
    assert [batch.step for batch in batches] == [2, 3, 4]
    for batch in batches:
        np.testing.assert_array_equal(batch.pairs, order.batch(batch.step)[1::2])
        np.testing.assert_array_equal(batch.ids, made.ids[batch.pairs], strict=True)
        np.testing.assert_array_equal(batch.images, wanted[made.file[batch.pairs]], strict=True)
        assert batch.pixels is None
