"""The figures of the pages: those of benchmarks/results.json, or dated."""

import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import cococli

ROOT = Path(__file__).parents[1]
DATED = re.compile(r"\d{4}-\d\d-\d\d,\s+(?:commit )?`[0-9a-f]{7}`")
MEASURED = re.compile(r"\d ?(s|ms|MB|GB|kB|%|clips a second|pictures a second)\b(?!-)")


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import bench

    return bench


@pytest.fixture(scope="module")
def results(bench: ModuleType) -> dict[str, Any]:
    return json.loads(bench.RESULTS.read_text())


def test_pages_show_what_was_measured(bench: ModuleType, results: dict[str, Any]) -> None:
    texts = bench.texts_of(results)
    shown = {f"{page.name} {name}": text for page, name, text in bench.marks(bench.PAGES)}
    assert shown == {place: texts[place.split()[1]] for place in shown}
    assert {place.split()[1].partition(".")[0] for place in shown} == {*bench.PARTS, "open_clip"}


def test_every_part_was_measured_for_this_version(bench: ModuleType, results: dict[str, Any]) -> None:
    assert {name: figure["version"] for name, figure in results.items()} == dict.fromkeys(
        bench.PARTS, cococli.__version__
    )


def test_installation_without_mindspore_is_small(results: dict[str, Any]) -> None:
    assert results["sizes"]["values"]["without"] < 1.6e9


def test_marks_do_not_begin_lines_of_text(bench: ModuleType) -> None:
    """There, they would end the paragraph."""
    for page in bench.PAGES:
        assert not re.findall(r"^[ \t]*<!-- bench:\S+ -->[^\n].*", page.read_text(), re.MULTILINE), page


def test_edited_figures_are_replaced(bench: ModuleType) -> None:
    page = "A query takes <!-- bench:search.plain -->1 s<!-- /bench -->, or <!-- bench:gone -->2 s<!-- /bench -->."
    assert bench.fill(page, {"search.plain": "3 s"}) == page.replace("1 s", "3 s")
    table = "<!-- bench:search.table -->\n\n| old |\n\n<!-- /bench -->"
    assert bench.fill(table, {"search.table": "| a |\n| b |"}) == table.replace("| old |", "| a |\n| b |")


@pytest.mark.parametrize("page", ["design", "engines", "many-machines", "search", "evaluation"])
def test_other_figures_are_dated(bench: ModuleType, page: str) -> None:
    text = bench.MARK.sub("", (ROOT / f"docs/{page}.md").read_text())
    for section in re.split(r"^#{2,3} ", text, flags=re.MULTILINE)[1:]:
        assert DATED.search(section) or not MEASURED.search(section), section.splitlines()[0]


def test_readme_has_no_figures_but_marked_ones(bench: ModuleType) -> None:
    """Except for the sizes of models, which the Hub has."""
    text = bench.MARK.sub("", (ROOT / "README.md").read_text())
    assert [match[0] for match in re.finditer(r"[\d.]+ (s|ms|MB|GB|%|times)\b", text)] == ["2.6 GB"]


def test_failed_part_keeps_its_figures(
    bench: ModuleType, results: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- bench:help.coca -->?<!-- /bench --> <!-- bench:videos.multi -->kept<!-- /bench -->")
    (tmp_path / "results.json").write_text("{}")
    for name, value in (("RESULTS", tmp_path / "results.json"), ("PAGES", [page]), ("WORK", tmp_path)):
        monkeypatch.setattr(bench, name, value)
    monkeypatch.setitem(bench.PARTS, "videos", bench.PARTS["videos"]._replace(limit=0))
    assert bench.run(["videos", "help"], quick=False) == ["videos"]
    written = json.loads((tmp_path / "results.json").read_text())
    assert list(written) == ["help"] and written["help"]["version"] == cococli.__version__
    assert re.fullmatch(r".*-->[\d.]+ m?s<!-- /bench -->.*-->kept<!-- /bench -->", page.read_text())
    assert "videos failed; it is tried once more at the end" in capfd.readouterr().out
