"""Imports point one way: a module may import only from the layers beneath its own."""

import ast
from pathlib import Path

import sparsetrain
import sparsetrain_runtime

LAYERS = [  # bottom first
    {"support"},
    {"ops", "data", "models"},
    {"optim", "distributed"},
    {"selection", "nn"},
    {"scores", "shrink"},
    {"methods"},
    {"swap"},
    {"checkpoint"},
    {"export"},
    {"measure"},
    {"engine"},
    {"bench"},
    {"training"},
    {"doctor"},
    {"cli"},
    {"__main__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def test_imports_point_down():
    root = Path(sparsetrain.__file__).parent
    wrong = []
    for path in root.rglob("*.py"):
        here = path.relative_to(root).with_suffix("").parts[0]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sparsetrain."):
                there = node.module.split(".")[1]
                ours = here in LEVEL and there in LEVEL and here != there
                if ours and LEVEL[there] >= LEVEL[here] and not _for_types(here, there):
                    wrong.append(f"{path.relative_to(root)} imports {node.module}")
    assert not wrong, "\n".join(wrong)


def test_every_module_has_a_layer():
    root = Path(sparsetrain.__file__).parent
    found = {p.stem for p in root.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert found - {"__init__"} == set(LEVEL)


def test_the_runtime_stands_alone():
    """It imports nothing of sparsetrain, and no torch."""
    root = Path(sparsetrain_runtime.__file__).parent
    wrong = []
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            packages = {name.partition(".")[0] for name in names}
            if packages & {"torch", "sparsetrain", "scipy"}:
                wrong.append(f"{path.name}:{node.lineno} imports {', '.join(names)}")
    assert not wrong, "\n".join(wrong)


def _for_types(here: str, there: str) -> bool:
    """Scores are of a graph's groups, and are what a plan is made from."""
    return (here, there) == ("scores", "shrink")
