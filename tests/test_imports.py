"""Imports point downwards: a module imports lower levels and files beside it, and all of them can be imported."""

import ast
from importlib import import_module
from pathlib import Path

import pytest

import densevit

PACKAGE = Path(densevit.__file__).parent
LEVELS = {
    "errors": 0,
    "kernels": 0,
    "models": 1,
    "data": 2,
    "weights": 2,
    "inference": 2,
    "evaluation": 2,
    "visualize": 2,
    "training": 3,
    "predictor": 4,
    "benchmark": 4,
    "app": 5,
    "cli": 6,
    "__main__": 7,
}
"""Part of the package -> its level. The other files at the top stand beside `predictor`."""
FREE = {"errors", "after_import", "annotations", "labels"}
"""Files at the top that everything may import."""


def module_name(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def part_of(module):
    """`densevit.models.vit` -> models; files at the top -> predictor; the package itself has no part."""
    if "." not in module:
        return None
    part = module.split(".")[1]
    return part if part in LEVELS or part in FREE else "predictor"


def imports_of(path):
    """The densevit modules that a file imports anywhere, those for type checkers left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names = [node.module or ""]
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from (name for name in names if name in FILES)


def test_every_part_has_a_level():
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert folders <= set(LEVELS)


@pytest.mark.parametrize("module", [name for name in FILES if part_of(name)])
def test_imports_point_downwards(module):
    own = part_of(module)
    if own in FREE:
        own = "errors"
    for imported in imports_of(FILES[module]):
        other = part_of(imported)
        if other is None or other == own or other in FREE:
            continue
        assert LEVELS[other] < LEVELS[own], f"{module} (level {LEVELS[own]}) imports {imported}"


def test_there_are_no_cycles():
    graph = {name: set(imports_of(path)) - {name} for name, path in FILES.items() if part_of(name)}
    graph = {name: {other for other in others if part_of(other)} for name, others in graph.items()}
    while graph:
        leaves = {name for name, others in graph.items() if not others & graph.keys()}
        assert leaves, f"a cycle among {sorted(graph)}"
        graph = {name: others for name, others in graph.items() if name not in leaves}


def test_packages_import_nothing_by_themselves():
    for name, path in FILES.items():
        if path.name == "__init__.py" and part_of(name):
            assert not list(imports_of(path)), f"{name} imports something heavy by accident"


@pytest.mark.parametrize("module", [name for name in FILES if not name.endswith("__main__")])
def test_every_module_imports(module):
    """Extras that are not installed may be missing, nothing else."""
    try:
        assert import_module(module).__name__ == module
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("densevit"):
            raise
        pytest.skip(f"{error.name} is not installed")
