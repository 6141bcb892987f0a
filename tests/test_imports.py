"""Imports point down only, and heavy packages load where they are used."""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator, Set
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "cococli"
MODULES = sorted(PACKAGE.rglob("*.py"))

# A room may import itself and what stands on a lower floor. Top floor first.
FLOORS = (
    {"cli"},
    {"training"},
    {"runs"},
    {"evaluation"},
    {"api", "merge", "review"},
    {"captioning"},
    {"report"},
    {"retrieval"},
    {"benchmark", "doctor"},
    {"jobs", "requests", "devices", "distributed"},
    {"engines", "decoding", "checkpoints", "media", "datasets", "journal"},
    {"model", "tokenizer", "catalog"},
    {"tables"},
    {"overwrite", "shards"},
    {"files", "packed", "parsing", "processes", "stores"},
    {"settings", "errors", "reporting", "interrupts", "options", "urls", "portable"},
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
# On one floor: search talks to an engine, an engine reads weights, a network is built from its config, a data set is of
# videos.
NEIGHBORS = {
    *(("decoding", "engines"), ("engines", "checkpoints"), ("model", "catalog"), ("datasets", "media")),
    *(("settings", "errors"), ("options", "errors"), ("options", "urls"), ("urls", "errors"), ("parsing", "files")),
    ("interrupts", "portable"),
}

OUTPUT = {"console", "streams"}  # the library reports, and commands print
NEVER_AT_TOP = {"torch", "decord", "av", "PIL"}
NOT_FOR_HELP = {"pydantic", "rich", "httpx", "httpx2", "huggingface_hub", "safetensors", "yaml"}
MADE_OF_MINDSPORE = {"model"}
ON_MINDSPORE = {PACKAGE / "engines" / "mindspore.py", PACKAGE / "training" / "mindspore_trainer.py"}
ON_TORCH = {
    *(PACKAGE / "engines" / name for name in ("cuda.py", "torch.py")),
    *(PACKAGE / "model" / name for name in ("in_place_step.py", "onednn.py", "torch_network.py", "triton_kernels.py")),
    *(PACKAGE / "model" / "torch_teacher_forcing.py", PACKAGE / "training" / "torch_trainer.py"),
}
NO_NUMPY = ("cli", "options", "requests", *OUTPUT, "settings", "errors", "catalog", "__init__", "__main__")


def room(module: Path) -> str:
    """`cococli/media/clips.py` -> `media`, `cococli/errors.py` -> `errors`."""
    return module.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(module: Path, top_only: bool = False) -> Iterator[str]:
    """Absolute names of what a module imports: everywhere, or only when it is itself imported."""
    tree = ast.parse(module.read_text())
    for node in run_at_import(tree) if top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            folders = module.relative_to(PACKAGE.parent).parts[: -node.level] if node.level else ()
            source = ".".join([*folders, *([node.module] if node.module else [])])
            # `from . import a` imports the module a; `from .a import b` may name a function.
            yield from (f"{source}.{alias.name}" for alias in node.names)


def run_at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """Nodes outside of functions and of `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        yield from run_at_import(node)


def may_import(importer: str, imported: str) -> bool:
    if importer in (imported, "__main__", "__init__") or imported == "__version__":
        return True
    if imported in OUTPUT:
        return importer == "cli" or (importer, imported) == ("console", "streams")
    if importer in OUTPUT:
        return imported in FLOORS[-1]
    return FLOOR_OF[importer] < FLOOR_OF[imported] or (importer, imported) in NEIGHBORS


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down_only(module: Path) -> None:
    inside = {name.split(".")[1] for name in imports(module) if name.startswith("cococli.")}
    assert [name for name in sorted(inside) if not may_import(room(module), name)] == []


def test_imports_form_no_circle() -> None:
    modules = {".".join(module.relative_to(PACKAGE.parent).with_suffix("").parts): module for module in MODULES}
    graph = graphlib.TopologicalSorter[str]()
    for name, module in modules.items():
        imported = {module for found in imports(module) for module in (found, found.rpartition(".")[0])}
        graph.add(name, *imported & modules.keys() - {name})
    graph.prepare()  # raises CycleError


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_heavy_packages_load_inside_functions(module: Path) -> None:
    forbidden = set(NEVER_AT_TOP)
    if room(module) not in MADE_OF_MINDSPORE and module not in ON_MINDSPORE:
        forbidden.add("mindspore")
    if module in ON_TORCH:
        forbidden.remove("torch")
    if room(module) in NO_NUMPY:
        forbidden.add("numpy")
    assert forbidden & {name.split(".")[0] for name in imports(module, top_only=True)} == set()


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["caption", "--help"]], ids=" ".join)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    assert loaded_by(["coca", *arguments], NOT_FOR_HELP) == set()


def test_completion_imports_nothing_heavy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_COCA_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "coca\ncaption\n--model\n")
    monkeypatch.setenv("COMP_CWORD", "3")
    assert loaded_by(["coca"]) == set()


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert loaded_by(None) == set()


def loaded_by(argv: list[str] | None, more: Set[str] = frozenset()) -> set[str]:
    """Heavy packages that a fresh process has loaded after this command, or after `import cococli`."""
    act = f"sys.argv = {argv!r}; from cococli.cli.main import run; run()" if argv else "import cococli"
    heavy = NEVER_AT_TOP | {"mindspore", "numpy", *more}
    code = f"import sys\ntry:\n    {act}\nfinally:\n    print(*{heavy!r} & sys.modules.keys(), file=sys.stderr)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert run.returncode == 0, run.stderr
    return set(run.stderr.split())
