"""The made world of shapes, as a data set."""

import json
import sys
from pathlib import Path
from random import Random
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from cococli.datasets.find import find_dataset
from cococli.media.clips import Sampling, read_clip

ROOT = Path(__file__).parents[2]
SHAPES = {  # what the goldens of the bundled checkpoint show
    "a small purple circle on a pink background",
    "a small yellow triangle on a black background",
    "a small purple triangle on a gray background",
    "a large white circle on a gray background",
    "a large yellow circle on a black background",
    "a large purple circle on a pink background",
}


@pytest.fixture(scope="module")
def shapes() -> ModuleType:
    """examples/shapes.py, which imports its neighbor."""
    sys.path.insert(0, str(ROOT / "examples"))
    try:
        import shapes
    finally:
        sys.path.remove(str(ROOT / "examples"))
    return shapes


@pytest.fixture(scope="module")
def made(shapes: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small set."""
    folder = tmp_path_factory.mktemp("shapes")
    run(shapes, folder, "--train", "60", "--val", "150", "--clips", "4")
    return folder


def run(shapes: ModuleType, folder: Path, *arguments: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["shapes.py", str(folder), *arguments])
        shapes.main()


def test_every_scene_has_a_caption_of_its_own(shapes: ModuleType):
    captions = [scene.caption for scene in shapes.scenes()]
    assert len(captions) == len(set(captions)) == 108 + 540
    assert set(captions) >= SHAPES | {"a purple triangle beside a yellow triangle", "a red square above a blue circle"}


def test_captions_are_drawn_equally_often(shapes: ModuleType):
    layouts = shapes.layouts(shapes.scenes()[:10], Random(1))
    captions = [next(layouts).caption for _ in range(30)]
    assert {captions.count(caption) for caption in captions} == {3}
    assert captions[:10] != captions[10:20]


def test_splits_share_no_picture(made: Path):
    train, val = (find_dataset(made, split) for split in ("train", "val"))
    assert [len(train.examples), len(val.examples)] == [60, 150]
    assert len({example.captions for example in val.examples}) == 150
    assert train.left_out == val.left_out == {}
    everything = train.examples + val.examples
    assert (
        len({example.id for example in everything}) == len({example.path.read_bytes() for example in everything}) == 210
    )
    with Image.open(val.examples[0].path) as picture:
        assert (picture.size, picture.mode) == ((64, 64), "RGB")


def test_seed_determines_the_data_set(shapes: ModuleType, made: Path, tmp_path: Path):
    for seed in ("0", "1"):
        run(shapes, tmp_path / seed, "--train", "0", "--val", "5", "--seed", seed)
    again, other = (find_dataset(tmp_path / seed, "val").examples for seed in ("0", "1"))
    first = find_dataset(made, "val").examples[:5]
    assert [example.captions for example in again] == [example.captions for example in first]
    assert all((pixels(a.path) == pixels(b.path)).all() for a, b in zip(again, first, strict=True))
    assert [example.captions for example in other] != [example.captions for example in first]


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture).astype(int)


def test_pictures_show_their_captions(shapes: ModuleType):
    """Read back from the pixels: which colors there are, where, and how much of each."""
    random = Random(2)
    for scene in random.sample(shapes.scenes(), 200):
        layout = shapes.lay_out(scene, random)
        image = shapes.paint(layout)
        centers = []
        for (color, form), shape in zip(scene.kinds, layout.shapes, strict=True):
            mask = (image == shape.color).all(axis=2)
            rows, columns = mask.nonzero()
            assert min(rows.min(), columns.min()) > 0 and max(rows.max(), columns.max()) < 255  # not cut off
            share = mask.sum() / (np.ptp(rows) + 1) / (np.ptp(columns) + 1)  # of its bounding box
            assert share == pytest.approx({"circle": np.pi / 4, "square": 1, "triangle": 1 / 2}[form], abs=0.02)
            assert np.abs(np.subtract(shape.color, shapes.COLORS[color])).max() <= 12
            centers.append((columns.mean(), rows.mean()))
        if len(centers) == 1:
            assert (np.ptp(columns) > 100) == (scene.size == "large")
            assert np.abs(np.subtract(image[0, 0], shapes.COLORS[scene.place])).max() <= 12
        else:
            right, down = np.subtract(centers[1], centers[0])
            assert right > 2 * abs(down) if scene.place == "beside" else down > 2 * abs(right)


def test_clips_show_more_than_their_middle_frame(made: Path):
    clips = find_dataset(made / "clips", "val").examples
    assert [example.path.name for example in clips] == [
        "appears_0000.mp4",
        "vanishes_0001.mp4",
        "appears_0002.mp4",
        "vanishes_0003.mp4",
    ]
    for example in clips:
        assert " beside " in example.captions[0] or " above " in example.captions[0]
        frames = read_clip(example.path, Sampling("multi", 8), 64)[1]  # [8, 3, 64, 64]
        differs = [bool(np.abs(frame - frames[4]).max() > 0.5) for frame in frames]
        late = example.path.name.startswith("appears")
        assert (differs[-1], differs[0]) == (late, not late)
        middle = read_clip(example.path, Sampling("middle"), 64)[1][0]
        assert np.abs(middle - frames[0 if late else -1]).max() < 0.5


def test_clip_records_belong_to_held_out_split(made: Path):
    records = [json.loads(line) for line in (made / "clips/captions.jsonl").read_text().splitlines()]
    assert {record["split"] for record in records} == {"val"}
