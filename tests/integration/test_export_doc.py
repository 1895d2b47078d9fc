"""The blocks of docs/exporting.md run as they stand there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

TEXT = (Path(__file__).parents[2] / "docs" / "exporting.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_blocks_of_the_page_run_one_after_the_other(here: Path):
    names: dict[str, object] = {"__name__": "page"}
    python = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    (commands,) = re.findall(r"```bash\n(.*?)```", TEXT, flags=re.DOTALL)
    assert len(python) == 3
    exec(python[0], names)
    for line in commands.splitlines():
        words = shlex.split(line)
        program = [sys.executable, *(["-m"] if words[0] == "orchestrator" else [])]
        rest = words if words[0] == "orchestrator" else words[1:]
        done = subprocess.run(
            [*program, *rest], cwd=here, capture_output=True, text=True, check=False, env={**os.environ}
        )
        assert done.returncode == 0, f"{line}: {done.stderr}"
    for block in python[1:]:
        exec(block, names)
