"""Style of the hints of all errors."""

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "cococli"
ERRORS = {"CocaError", "UsageError", "ModelError", "VideoError"}
NAMES = ("COCA_", "HF_", "MindSpore")  # which a hint may begin with


def texts(node: ast.expr) -> Iterator[str]:
    """Yield each text that an expression may be, with `?` for what is filled in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield "".join(next(texts(part), "?") for part in node.values)
    elif isinstance(node, ast.IfExp):
        yield from (*texts(node.body), *texts(node.orelse))


def hints() -> Iterator[str]:
    """Yield the hints in the source: second arguments of errors, and what is assigned to `hint`."""
    for module in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ERRORS:
                named = (keyword.value for keyword in node.keywords if keyword.arg == "hint")
                for hint in (*node.args[1:2], *named):
                    yield from texts(hint)
            if isinstance(node, ast.Assign) and "hint" in ast.unparse(node.targets[0]).lower():
                yield from texts(node.value)


def test_hints_start_lowercase_and_have_no_period() -> None:
    found = list(hints())
    assert len(found) > 100
    assert [hint for hint in found if hint[:1].isupper() and not hint.startswith(NAMES)] == []
    assert [hint for hint in found if hint.endswith(".") and not hint.startswith("as in: ")] == []
