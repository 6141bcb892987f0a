"""Where vectors go: folders are indexes, files are told by their suffix, and what cannot be is refused at once."""

from pathlib import Path

import pytest

from cococli.errors import UsageError
from cococli.retrieval.outputs import Outputs, parse_outputs


@pytest.mark.parametrize("name", ["index/", "index", "v1.0/", "new.npz/", "deep/er/"])
def test_a_folder_is_an_index(tmp_path: Path, name: str) -> None:
    assert parse_outputs([f"{tmp_path}/{name}"], "m") == Outputs(tmp_path / name, (), False)


def test_a_folder_that_is_there_needs_no_slash(tmp_path: Path) -> None:
    (tmp_path / "v1.0").mkdir()
    assert parse_outputs([f"{tmp_path}/v1.0"], "m").index == tmp_path / "v1.0"


def test_all_may_be_named_together(tmp_path: Path) -> None:
    names = [tmp_path / "a.npz", tmp_path / "b.JSONL", tmp_path / "c.parquet"]
    assert parse_outputs([*map(str, names), "-", f"{tmp_path}/index/"], "m") == Outputs(
        tmp_path / "index", tuple(names), True
    )


def test_files_alone_are_gone_on_from_an_index_in_the_cache(tmp_path: Path, home: Path) -> None:
    def index(model: str, *names: str) -> Path | None:
        return parse_outputs([str(tmp_path / name) for name in names], model).index

    first = index("m", "a.npz")
    assert first and first.parent == home / "journals"
    assert index("m", "a.npz") == first
    assert len({first, index("other", "a.npz"), index("m", "b.npz"), index("m", "a.npz", "b.npz")}) == 4


def test_nothing_is_kept_of_what_only_goes_to_stdout() -> None:
    assert parse_outputs(["-"], "m") == Outputs(None, (), True)


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    def refused(*outputs: str) -> tuple[str, str]:
        with pytest.raises(UsageError) as caught:
            parse_outputs(outputs, "m")
        return caught.value.message, caught.value.hint

    assert refused() == ("where are the vectors to go?", "name a folder for an index, as in -o index/")
    assert refused("one/", "two/") == ("-o names two folders: one and two", "one run fills one index")
    assert refused("out.csv") == (
        "cannot tell the format of out.csv",
        "end its name in .npz, .jsonl, .parquet, or in / for an index",
    )
    for parent in ("missing", "file"):
        path = tmp_path / parent / "out.npz"
        assert refused(str(path)) == (
            f"cannot write {path}: {path.parent} is no folder that can be written to",
            "",
        )
