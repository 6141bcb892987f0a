"""METEOR of dense captions, held against densevid_eval's."""

from pathlib import Path

import pytest
from evaluation.benchmark_fixtures import dense_events
from evaluation.results_fixtures import needs_java

from cococli.datasets.benchmarks import read_benchmark
from cococli.evaluation.caption_files import read_events
from cococli.evaluation.dense import score_dense

# Written down from densevid_eval of 2019-06-11, ported to Python 3, with the scorers of pycocoevalcap 1.2.
METEOR = [0.3021978021978022, 0.5, 0.5, 0.3618421052631579]


@needs_java
def test_meteor_is_that_of_densevid_eval(tmp_path: Path) -> None:
    dense_events(tmp_path)
    predictions = read_events(tmp_path / "submission.json")
    assert predictions
    scores = score_dense(predictions, read_benchmark("activitynet", tmp_path).events, java_tokens=False)
    assert scores.at["METEOR"] == pytest.approx(METEOR, abs=1e-12)
