"""What a data set lacks."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from cococli.datasets.check import Lacks, check
from cococli.datasets.dataset import Dataset, Example
from cococli.tokenizer import encode


def dataset(*examples: tuple[Path, str]) -> Dataset:
    return Dataset(Path("x.json"), "val", tuple(Example(path, (text,), str(path)) for path, text in examples), {})


def test_files_that_are_not_there_or_empty_are_missing(tmp_path: Path):
    whole, empty, link = tmp_path / "a.jpg", tmp_path / "b.jpg", tmp_path / "c.jpg"
    whole.write_bytes(b"x")
    empty.touch()
    link.symlink_to("gone.jpg")
    lost = [empty, link, tmp_path, tmp_path / "gone.jpg", whole / "d.jpg", tmp_path / ("x" * 300), Path("a\0b")]
    made = dataset((whole, "a dog"), *((path, "a dog") for path in lost))
    assert check(made, 76) == Lacks(tuple(lost), 0)


@given(st.text(max_size=40), st.integers(2, 30))
def test_captions_are_too_long_when_their_tokens_are_more_than_there_is_room_for(caption: str, context: int):
    assert check(dataset((Path("a.jpg"), caption)), context).too_long == (len(encode(caption)) > context - 2)


def test_a_caption_of_few_words_and_many_letters_is_not_too_long():
    assert check(dataset((Path("a.jpg"), "photograph " * 5), (Path("b.jpg"), "photograph " * 6)), 7).too_long == 1
