"""The project's own papers agree with one another."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml

import orchestrator

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_one_version_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert PROJECT["project"]["version"] == orchestrator.__version__ == str(citation["version"])


def test_the_pins_lie_within_the_ranges():
    from packaging.requirements import Requirement

    pins = dict(re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE))
    pins = {name.lower().replace("_", "-"): version for name, version in pins.items()}
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = [
        *PROJECT["project"]["dependencies"],
        *extras["jax"],
        *extras["torch"],
        *PROJECT["dependency-groups"]["dev"],
    ]
    for text in wanted:
        requirement = Requirement(text)
        version = pins.get(requirement.name.lower())
        assert version, f"{requirement.name} is not pinned"
        assert requirement.specifier.contains(version, prereleases=True), f"{text}: pinned to {version}"


def test_nothing_committed_names_a_machine_or_an_absolute_path():
    files = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=False
    ).stdout.split()
    pattern = re.compile(r"(?<![\w.~$])/(work|root|home|Users)/\w|0\.0\.0\.0")
    texts = [
        f for f in files if Path(f).suffix in (".py", ".md", ".yaml", ".toml", ".txt", ".cff") and f != "cluster.yaml"
    ]
    assert texts
    bad = [
        f for f in texts if f != "tests/unit/test_project.py" and pattern.search((ROOT / f).read_text(errors="replace"))
    ]
    assert bad == []


def test_importing_the_package_loads_no_framework_and_stays_silent():
    code = (
        "import sys, orchestrator, backends; "
        "print([m for m in ('torch', 'jax', 'ray', 'mlflow', 'numpy', 'pydantic', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert done.stderr == ""


def test_everything_that_is_exported_exists_and_nothing_else_is():
    for name in orchestrator.__all__:
        assert getattr(orchestrator, name) is not None, name
    assert dir(orchestrator) == sorted(orchestrator.__all__)
