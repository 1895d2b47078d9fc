"""The floors of the design: who may import whom."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FRAMEWORKS = ("torch", "jax", "jaxlib", "optax", "flax", "backends")


def test_every_import_contract_is_kept():
    """In a process of its own: import-linter sets up logging and consoles, which do not belong into a test session."""
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.mark.parametrize(("backend", "other"), [("jax", "torch"), ("torch", "jax")])
def test_a_process_of_one_backend_loads_neither_the_other_nor_mlflow(backend: str, other: str):
    code = (
        f"import sys, backends, orchestrator.worker; backends.load({backend!r}); "
        f"print([m for m in ({other!r}, 'mlflow', 'ray', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_nothing_is_imported_by_the_name_of_a_framework_above_the_ground_floor():
    """`importlib.import_module("torch")` would be an edge that no contract sees."""
    found = []
    for file in sorted((ROOT / "orchestrator").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "import_module":
                names = [str(a.value) for a in node.args if isinstance(a, ast.Constant)]
                found += [f"{file.name}:{node.lineno}" for name in names if name.partition(".")[0] in FRAMEWORKS]
    assert found == []
