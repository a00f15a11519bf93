"""What the pipeline tests read: the stages of dvc.yaml, and what each file imports."""

import ast
from functools import cache
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
OURS = ("lunaops", "stages")


@cache
def stages() -> dict[str, dict]:
    """The stages of dvc.yaml by name; a foreach stage's body under its own name."""
    tree = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
    return {name: stage.get("do", stage) for name, stage in tree.items()}


def script_of(stage: str) -> Path:
    return ROOT / "stages" / f"{stage.replace('-', '_')}.py"


def sources() -> list[Path]:
    return sorted(path for package in OURS for path in (ROOT / package).rglob("*.py"))


@cache
def imports(path: Path) -> frozenset[str]:
    """The modules that a file imports anywhere in it, for `from a import b` both a and a.b, but for typing only."""
    tree = ast.parse(path.read_text())
    typing_only = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
    }
    names: set[str] = set()
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


def files_of(module: str) -> list[Path]:
    """The files that importing a module of ours runs: its own, and the __init__ of the packages above it."""
    if module.partition(".")[0] not in OURS:
        return []
    steps = module.split(".")
    above = [ROOT.joinpath(*steps[:count], "__init__.py") for count in range(1, len(steps) + 1)]
    return [path for path in [*above, ROOT.joinpath(*steps).with_suffix(".py")] if path.is_file()]


def import_closure(path: Path) -> set[Path]:
    """Every file of ours that running `path` runs, itself and the packages' __init__ files included."""
    found: set[Path] = set()
    ahead = [path, *files_of(".".join(path.relative_to(ROOT).with_suffix("").parts))]
    while ahead:
        file = ahead.pop()
        if file not in found:
            found.add(file)
            ahead += [target for module in imports(file) for target in files_of(module)]
    return found
