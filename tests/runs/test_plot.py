"""The curves of a run as a picture."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cococli.errors import CocaError
from cococli.runs.plot import COLORS, curve, draw, smoothed

ROOT = Path(__file__).parents[2]
STEPS = [{"step": step, "loss": 5 / step, "caption": 1.0} for step in range(1, 101)]
SCORES = [
    {"step": step, "score": step / 20, "scores": {"CIDEr": step / 20, "BLEU-4": step / 200, "odd name": None}}
    for step in (50, 100)
]


def colors(file: Path) -> set[tuple[int, ...]]:
    with Image.open(file) as picture:
        return {color for _, color in picture.convert("RGB").getcolors(1 << 24)}


def rgb(color: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(color[1:]))


def test_plot_has_a_line_per_score(tmp_path: Path) -> None:
    file = tmp_path / "plot.png"
    assert draw([*STEPS, *SCORES], file, best=100) == ""
    with Image.open(file) as picture:
        assert (picture.format, picture.size) == ("PNG", (1200, 900))
    cider, bleu, *others = map(rgb, COLORS)
    assert {cider, bleu} <= colors(file)
    assert not {*others} & colors(file)
    assert list(tmp_path.iterdir()) == [file]


def test_the_best_step_is_marked(tmp_path: Path) -> None:
    for name, best in (("marked", 100), ("plain", None)):
        draw([*STEPS, *SCORES], tmp_path / name, best)
    marked, plain = (np.asarray(Image.open(tmp_path / name).convert("RGB")) for name in ("marked", "plain"))
    stars = [np.sum(np.all(picture == rgb(COLORS[0]), axis=-1)) for picture in (marked, plain)]
    assert stars[0] > stars[1] + 100  # pixels


def test_run_without_scores_plots_losses(tmp_path: Path) -> None:
    assert draw(STEPS, tmp_path / "plot.png") == ""
    assert not {*map(rgb, COLORS)} & colors(tmp_path / "plot.png")


def test_nothing_is_drawn_of_nothing(tmp_path: Path) -> None:
    assert draw([{"step": 1, "loss": None}], tmp_path / "plot.png") == "there are no curves to draw yet"
    assert list(tmp_path.iterdir()) == []


def test_unwritable_plot_fails_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(CocaError) as caught:
        draw(STEPS, tmp_path / "none" / "plot.png")
    assert caught.value.message == f"cannot write {tmp_path}/none/plot.png: No such file or directory"


def test_curves_leave_out_what_is_no_number() -> None:
    steps, values = curve([*SCORES, {"step": 101, "loss": None}], "scores", "CIDEr")
    assert (steps.tolist(), values.tolist()) == ([50, 100], [2.5, 5])
    assert [len(part) for part in curve(SCORES, "scores", "odd name")] == [0, 0]


def test_smoothing_averages_around_each_value() -> None:
    np.testing.assert_allclose(smoothed(np.array([0.0, 3, 6, 0, 9]), 3), [1.5, 3, 3, 5, 4.5])
    np.testing.assert_allclose(smoothed(np.full(50, 7.0), 9), np.full(50, 7.0))


DRAW = """
import sys
from pathlib import Path
from cococli.runs.plot import draw
print(draw([{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}], Path(sys.argv[1])))
"""


def alone(tmp_path: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Draw in a separate process, with an empty home folder and no display."""
    kept = {"PATH": os.environ["PATH"], "COCA_HOME": os.environ["COCA_HOME"], "PYTHONPATH": str(ROOT)}
    (tmp_path / "home").mkdir()
    command = [sys.executable, "-c", DRAW, str(tmp_path / "plot.png")]
    return subprocess.run(
        command, capture_output=True, text=True, env={**kept, "HOME": f"{tmp_path}/home"} | environment
    )


def test_plotting_is_silent_and_leaves_no_files(tmp_path: Path, home: Path) -> None:
    run = alone(tmp_path)
    assert (run.stdout, run.stderr, run.returncode) == ("\n", "", 0)
    assert list((tmp_path / "home").iterdir()) == []
    assert {path.name for path in home.iterdir()} == {"bundled", "matplotlib"}


def test_without_matplotlib_there_is_a_note(tmp_path: Path) -> None:
    (tmp_path / "matplotlib.py").write_text("raise ImportError")
    run = alone(tmp_path, PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert (run.stdout, run.stderr) == ("the curves are not drawn: pip install 'cococli[train]'\n", "")
    assert not (tmp_path / "plot.png").exists()
