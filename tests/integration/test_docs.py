"""The blocks of the documents for users do what the documents say, at a tiny scale.

A block whose first line is a comment with a file name is that file; lines of `bash` blocks that begin with
`orchestrator` are run, in order.
"""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator import cli

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from numpy_backend import use

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
PAGES = ("own-problem.md", "own-network.md", "it-does-not-train.md", "derivatives.md", "geometry.md")
IN_NUMPY = ("own-problem.md", "it-does-not-train.md", "geometry.md")
"""Many runs of a few steps: here numpy trains, because compiling each takes seconds. `agree`, `check --smoke` and
`plan` have processes of their own, and take the real backends there too."""
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_FILE = re.compile(r"# (\w+\.(?:py|yaml|csv))\n")
STEPS = 4
SMALL = {
    "run": ["-q", "-s", "tracking.enabled=false", "-s", "compile=never", "-s", "evaluate.points=50"],
    "agree": ["--steps", "2", "-s", "compile=never"],
}


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.figures.draw_all", lambda *args: [])


def small(text: str) -> str:
    """The same with a few steps and points."""
    text = re.sub(r"\bsteps(: ?|=)\d+", rf"steps\g<1>{STEPS}", text)
    return re.sub(r"\b(pde|count|ic|bc|heated|cooled)(: ?|=)\d+", r"\g<1>\g<2>20", text)


def command(line: str) -> list[str]:
    """The words of a command line, as small as its file."""
    words = shlex.split(line, comments=True)[1:]
    return [small(w) if "=" in w else w for w in words] + SMALL.get(words[0], [])


@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_the_page_does_what_it_says(page: str, here: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch):
    if page in IN_NUMPY:
        use(monkeypatch)
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    done = 0
    for language, block in _BLOCK.findall(text):
        if named := _FILE.match(block):
            # A data file has no comments.
            content = block[named.end() :] if language == "csv" else block
            (here / named[1]).write_text(small(content) if language == "yaml" else content)
        elif language == "bash":
            for line in block.splitlines():
                assert line.startswith("orchestrator "), f"{page}: {line}"
                code = call(command(line))
                said = capsys.readouterr().err
                assert code == 0, f"{page}: {line}\n{said}"
                _shrink(here)
                done += 1
        else:
            pytest.fail(f"{page}: a {language} block without a file name")
    assert done >= 5


def call(words: list[str]) -> int:
    with pytest.raises(SystemExit) as left:
        cli.main(words)
    return int(left.value.code or 0)


def _shrink(here: Path) -> None:
    """Fewer steps in what `new` has written."""
    for file in here.glob("*/*.yaml"):
        file.write_text(small(file.read_text()))


@pytest.mark.parametrize("page", [*PAGES, "reproducibility.md"])
def test_every_link_and_every_setting_of_the_page_exists(page: str):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (ROOT / "docs" / target).exists(), target
    for path in re.findall(r"`((?:tests|backends|orchestrator|benchmarks)/[\w./]+)`", text):
        assert (ROOT / path).exists(), path
    verbs = {c.name or c.callback.__name__ for c in cli.app.registered_commands}  # type: ignore[union-attr]
    assert set(re.findall(r"(?<!from )orchestrator ([a-z]+)\b", text)) <= verbs
