"""How good a model is while it trains, measured as `coca evaluate` does."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from training.tiny_run import CONFIG
from training.training_fixtures import pictures

from cococli.captioning.captioner import Captioner
from cococli.checkpoints.initial import initial
from cococli.datasets.dataset import Dataset, Example
from cococli.datasets.pairs import pairs_of
from cococli.errors import CocaError
from cococli.evaluation.model import joined, measure_captions, measure_retrieval
from cococli.media.clips import ReadRequest, Sampling, Segments, read_clip
from cococli.training import validation
from cococli.training.objective import Batch, Objective
from cococli.training.torch_trainer import Trainer
from cococli.training.validation import GREEDY, METRICS, validate

REQUEST = ReadRequest(Sampling(), Segments("none"), CONFIG.vision.image_size)
RECALLS = [f"{way} recall@{k}" for way in ("text to image", "image to text") for k in (1, 5, 10)]


@pytest.fixture(scope="module")
def pupil() -> Trainer:
    return Trainer(CONFIG, initial(CONFIG), Objective())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    files = pictures(tmp_path_factory.mktemp("pictures"), 4)
    return Dataset(Path("x.json"), "val", tuple(Example(path, ("a dog", path.stem), path.name) for path in files), {})


def test_scores_use_own_captions_and_vectors(pupil: Trainer, data: Dataset) -> None:
    found = validate(pupil, data, REQUEST)
    captioner = Captioner(pupil.engine(), "", replace(GREEDY, max_length=12))
    pixels = np.stack([read_clip(example.path, Sampling(), 16)[1] for example in data.examples])
    captions = captioner.caption_batch(pixels, range(4))
    predictions = {str(example.path): caption.text for example, caption in zip(data.examples, captions, strict=True)}
    texts = captioner.embed_texts([caption for example in data.examples for caption in example.captions])
    images = np.stack([caption.embedding for caption in captions])
    expected = joined(measure_captions(data, predictions, METRICS), measure_retrieval(data, images, texts)).scores
    assert found.scores == pytest.approx(expected, abs=1e-6)
    assert [*found.scores] == [*METRICS, *RECALLS]
    assert found.score == found.scores["CIDEr"]
    assert [(sample.path, sample.caption, sample.reference) for sample in found.samples] == [
        (example.path, predictions[str(example.path)], "a dog") for example in data.examples[:3]
    ]


def test_held_out_loss_equals_one_large_batch(pupil: Trainer, data: Dataset, monkeypatch) -> None:
    pairs = pairs_of(data, CONFIG.context_length)
    pixels = np.stack([read_clip(example.path, Sampling(), 16)[1] for example in data.examples])
    batch = Batch(pairs.ids, pixels[pairs.file])
    whole = pupil.losses([batch], Objective(contrastive=0))
    assert validate(pupil, data, REQUEST).loss == pytest.approx(whole.caption, abs=1e-3)
    monkeypatch.setattr(validation, "_PAIRS", 3)
    assert validate(pupil, data, REQUEST).loss == pytest.approx(whole.caption, abs=1e-3)


def test_contrastive_models_are_chosen_by_recall(pupil: Trainer, data: Dataset) -> None:
    found = validate(pupil, data, REQUEST, captions=False)
    assert [*found.scores] == RECALLS
    assert found.score == (found.scores[RECALLS[0]] + found.scores[RECALLS[3]]) / 2
    assert 0 < found.loss < 9


def test_caption_models_compute_no_recall(pupil: Trainer, data: Dataset) -> None:
    assert [*validate(pupil, data, REQUEST, retrieval=False).scores] == [*METRICS]


def test_a_broken_file_is_left_out(pupil: Trainer, data: Dataset, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    more = replace(data, examples=(Example(broken, ("a cat",), "broken"), *data.examples))
    assert validate(pupil, more, REQUEST) == validate(pupil, data, REQUEST)


def test_unreadable_held_out_files_are_an_error(pupil: Trainer, tmp_path: Path) -> None:
    with pytest.raises(CocaError) as caught:
        validate(pupil, Dataset(Path("x.json"), "val", (Example(tmp_path / "0.png", ("a",), "0"),), {}), REQUEST)
    assert caught.value.message == "none of the held-out files can be read"
