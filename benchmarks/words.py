"""Figures as pages show them."""

from collections.abc import Sequence


def digits(value: float) -> str:
    """Format a number with two or three significant digits."""
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:,.0f}"


def seconds(value: float) -> str:
    return f"{digits(value)} s" if value >= 0.0995 else f"{1e3 * value:.{0 if value >= 0.00995 else 1}f} ms"


def gigabytes(size: float) -> str:
    unit, size = ("GB", size / 1e9) if size >= 0.9995e9 else ("MB", size / 1e6)
    return f"{size:.{0 if unit == 'MB' and size >= 9.95 else 1}f} {unit}"


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of Markdown, whose first column is text."""
    lines = [titles, ["---", *["---:"] * (len(titles) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |".replace("|  |", "| |") for line in lines)
