"""Plot of a run: the loss of its steps, and the scores on held-out examples."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import settings
from ..files import io_errors, write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INCHES, DPI = (8, 6), 150
BLUE, GREY = "#2563a8", "#667085"
COLORS = ("#c2410c", "#15803d", "#7e22ce", "#0e7490")
CIDER = "CIDEr"  # 0 to 10, and the other scores 0 to 1
SHOWN = (CIDER, "BLEU-4", "text to image recall@1", "image to text recall@1")  # first, of many scores
STYLE = {
    "font.size": 10,
    "axes.edgecolor": GREY,
    "axes.labelcolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "grid.color": "#e4e7ec",
    "xtick.color": GREY,
    "ytick.color": GREY,
}

Records = Sequence[Mapping[str, Any]]
Curves = dict[str, tuple[np.ndarray, np.ndarray]]  # steps and values by name


def draw(records: Records, file: Path, best: int | None = None) -> str:
    """Plot the metrics of a run.

    Args:
        records: Lines of metrics.jsonl.
        file: PNG file to write.
        best: Step whose scores are marked.

    Returns:
        Why nothing was drawn, or an empty string.

    Raises:
        CocaError: The file cannot be written.
    """
    curves = _curves(records)
    if not curves and not len(curve(records, "loss")[0]):
        return "there are no curves to draw yet"
    # matplotlib caches a list of fonts, and logs it.
    os.environ.setdefault("MPLCONFIGDIR", str(settings.home() / "matplotlib"))
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    try:
        import matplotlib
        from matplotlib.figure import Figure  # pyplot would search for a display
    except ImportError:
        return "the curves are not drawn: pip install 'cococli[train]'"
    with matplotlib.rc_context(STYLE):
        figure = Figure(INCHES, DPI, layout="constrained")
        panels = figure.subplots(2 if curves else 1, sharex=True, squeeze=False)[:, 0]
        _draw_loss(panels[0], records)
        if curves:
            _draw_scores(panels[1], curves, best)
        panels[-1].set_xlabel("step")
        with io_errors("write", file), write_atomically(file) as (opened,):
            figure.savefig(opened, format="png")
    return ""


def smoothed(values: np.ndarray, window: int) -> np.ndarray:
    """Return the moving average over `window` values, fewer at the ends."""
    reach = window // 2
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    first, last = np.maximum(places - reach, 0), np.minimum(places + reach + 1, len(values))
    return (sums[last] - sums[first]) / (last - first)


def curve(records: Records, *path: str) -> tuple[np.ndarray, np.ndarray]:
    """Return steps and numbers at a path of keys, skipping records without one."""
    points = []
    for record in records:
        value: Any = record
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(value, int | float):
            points.append((record["step"], value))
    steps, values = np.array(points, float).reshape(-1, 2).T
    return steps, values


def _draw_loss(axes: "Axes", records: Records) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    steps, losses = curve(records, "loss")
    axes.set_title("Loss")
    axes.plot(steps, losses, color=BLUE, alpha=0.3, linewidth=0.8)
    axes.plot(steps, smoothed(losses, max(5, len(losses) // 30)), color=BLUE, linewidth=2)
    held_out = curve(records, "held_out_loss")
    if len(held_out[0]):
        axes.plot(*held_out, color=COLORS[0], linewidth=2, marker="o", markersize=3, label="held-out captions")
        axes.legend(frameon=False)
    if len(losses) and losses.min() > 0 and losses.max() > 10 * losses.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())


def _draw_scores(axes: "Axes", curves: Curves, best: int | None) -> None:
    """Plot scores of 0 to 1 on the left axis, CIDEr on the right."""
    axes.set_title("Scores on held-out examples" + (f", the best at step {best}" if best is not None else ""), pad=28)
    lines = []
    for (name, (steps, values)), color in zip(curves.items(), COLORS, strict=False):
        own = _own_axis(axes, color) if name == CIDER and len(curves) > 1 else axes
        label = f"{name} (right)" if own is not axes else name
        lines += own.plot(steps, values, color=color, linewidth=2, marker="o", markersize=3, label=label)
        own.plot(steps[steps == best], values[steps == best], color=color, marker="*", markersize=13)
    axes.legend(handles=lines, loc="lower left", bbox_to_anchor=(-0.01, 0.98), ncols=len(lines), frameon=False)


def _own_axis(axes: "Axes", color: str) -> "Axes":
    right = axes.twinx()
    right.grid(False)
    right.spines["right"].set(visible=True, color=color)
    right.tick_params(colors=color)
    return right


def _curves(records: Records) -> Curves:
    """Return the curves of the most important scores that were measured."""
    names = {name for record in records for name in record.get("scores", {})}
    curves = {name: curve(records, "scores", name) for name in [*SHOWN, *sorted(names - {*SHOWN})]}
    measured = {name: points for name, points in curves.items() if len(points[0])}
    return {name: measured[name] for name in list(measured)[: len(COLORS)]}
