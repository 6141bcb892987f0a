"""Java that fails, hangs or says nonsense: a script in its place."""

import json
import sys
from pathlib import Path

import pytest

from cococli.evaluation import java
from cococli.evaluation.java import JavaError

FAILED = "java fails, or takes too long"


@pytest.fixture
def archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where pycocoevalcap would keep its archives, with SPICE's models among them, and nobody may write."""
    for name in ("tokenizer", "meteor", "spice/lib"):
        (tmp_path / "archives" / name).mkdir(parents=True)
    for name in ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar"):
        (tmp_path / "archives" / "spice" / "lib" / name).touch()
    monkeypatch.setattr(java, "_folder", lambda: tmp_path / "archives")
    return tmp_path / "archives"


@pytest.fixture
def java_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, archives: Path):
    """Put a Python program in the place of Java."""

    def put(program: str) -> None:
        script = tmp_path / "bin" / "java"
        script.parent.mkdir(exist_ok=True)
        script.write_text(f"#!{sys.executable}\nimport json, sys, time\n{program}\n")
        script.chmod(0o755)
        monkeypatch.setenv("PATH", str(script.parent))

    return put


def refused(score, *arguments: object) -> str:
    with pytest.raises(JavaError) as caught:
        score(*arguments)
    return str(caught.value)


def test_without_java_nothing_runs(monkeypatch: pytest.MonkeyPatch, archives: Path) -> None:
    monkeypatch.setenv("PATH", "")
    assert refused(java.tokenize, ["a"]) == "java is not installed"
    assert refused(java.meteor, ["a"], [["a"]], [[0]]) == "java is not installed"
    assert refused(java.spice, ["a"], [["a"]]) == "java is not installed"


def test_java_that_fails_says_why(java_is) -> None:
    java_is("print('Error: no memory\\nat line 1', file=sys.stderr); sys.exit(1)")
    assert refused(java.tokenize, ["a"]) == "java fails: Error: no memory"
    assert refused(java.spice, ["a"], [["a"]]) == "java fails: Error: no memory"
    assert refused(java.meteor, ["a"], [["a"]], [[0]]) == FAILED
    java_is("sys.exit(7)")
    assert refused(java.tokenize, ["a"]) == "java fails: exit status 7"


def test_java_that_hangs_is_ended(java_is, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(java, "_START_SECONDS", 0.3)
    monkeypatch.setattr(java, "_SECONDS_EACH", 0)
    java_is("time.sleep(60)")
    assert refused(java.tokenize, ["a"]) == FAILED
    assert refused(java.meteor, ["a"], [["a"]], [[0]]) == FAILED
    assert refused(java.spice, ["a"], [["a"]]) == FAILED


def test_missing_lines_of_tokenizer_are_detected(java_is) -> None:
    java_is("print('a')")
    assert refused(java.tokenize, ["a", "b"]) == "the tokenizer returned 1 lines for 2"


def test_meteor_that_dies_halfway_is_left(java_is) -> None:
    java_is("sys.stdin.readline(); print('1.0 2.0', flush=True)")
    assert refused(java.meteor, ["a", "b"], [["a"], ["b"]], [[0, 1]]) == FAILED


def test_meteor_that_answers_nonsense_is_left(java_is) -> None:
    java_is("for line in sys.stdin: print('what?', flush=True)")
    assert refused(java.meteor, ["a"], [["a"]], [[0]]) == FAILED


def test_spice_reads_a_file_and_writes_another(java_is, archives: Path) -> None:
    java_is("""
entries = json.load(open(sys.argv[5]))
scores = [{"image_id": entry["image_id"], "scores": {"All": {"f": len(entry["refs"]) / 4}}} for entry in entries]
json.dump(scores[::-1], open(sys.argv[sys.argv.index("-out") + 1], "w"))
print("done")
""")
    assert java.spice(["a dog", "a “cat”"], [["a"], ["b", "c"]]) == (0.375, [0.25, 0.5])
    assert sorted(path.name for path in archives.rglob("*") if path.is_file()) == [
        "stanford-corenlp-3.6.0-models.jar",
        "stanford-corenlp-3.6.0.jar",
    ]


@pytest.mark.parametrize("scores", [[], [{"image_id": 0}], 7, [{"image_id": 0, "scores": {"All": {"f": None}}}]])
def test_spice_that_leaves_no_scores_is_left(java_is, scores: object) -> None:
    java_is(f"open(sys.argv[sys.argv.index('-out') + 1], 'w').write({json.dumps(scores)!r})")
    assert refused(java.spice, ["a"], [["a"]]) == "SPICE returned no scores"


def test_models_of_spice_are_never_downloaded(java_is, archives: Path) -> None:
    java_is("")
    (archives / "spice" / "lib" / "stanford-corenlp-3.6.0-models.jar").unlink()
    lib = archives / "spice" / "lib"
    assert refused(java.spice, ["a"], [["a"]]) == f"{lib} has no stanford-corenlp-3.6.0-models.jar"
