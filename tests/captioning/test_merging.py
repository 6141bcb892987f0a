"""Neighboring segments that say the same."""

import numpy as np

from cococli.captioning.merging import merge
from cococli.captioning.records import Record

APART = np.eye(4, dtype=np.float32)


def segments(*captions: str, similarities: tuple[float, ...] = (0.2, 0.2, 0.2, 0.2)) -> list[Record]:
    return [
        Record("a.mp4", 2.0 * i, 2.0 * i + 2, caption, -0.5, similarity, (2.0 * i + 1,), "m")
        for i, (caption, similarity) in enumerate(zip(captions, similarities, strict=False))
    ]


def test_the_same_caption_makes_one_segment_of_several() -> None:
    merged, embeddings = merge(segments("a cat", "A  cat", "a dog", "a cat"), APART, 0.9)
    assert [(record.start, record.end, record.caption) for record in merged] == [
        (0.0, 4.0, "a cat"),
        (4.0, 6.0, "a dog"),
        (6.0, 8.0, "a cat"),
    ]
    assert merged[0].frames == (1.0, 3.0)
    np.testing.assert_allclose(embeddings, [[0.5**0.5, 0.5**0.5, 0, 0], APART[2], APART[3]], atol=1e-6)


def test_close_embeddings_make_one_segment_with_the_best_caption() -> None:
    close = np.array([[1, 0], [0.8, 0.6], [0.28, 0.96]], np.float32)
    merged, _ = merge(segments("a cat", "a kitten", "a cat asleep", similarities=(0.1, 0.3, 0.2)), close, 0.79)
    assert [(record.start, record.end, record.caption) for record in merged] == [(0.0, 6.0, "a kitten")]
    assert len(merge(segments("a cat", "a kitten", "a cat asleep"), close, 0.81)[0]) == 3


def test_nothing_to_merge_stays_as_it_is() -> None:
    merged, embeddings = merge(segments("a cat", "a dog"), APART[:2], 0.9)
    assert merged == segments("a cat", "a dog")
    assert (embeddings == APART[:2]).all()
    assert merge([], np.zeros((0, 4), np.float32), 0.9)[0] == []
