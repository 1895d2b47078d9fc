"""docs/callbacks.md: its files, commands and Python blocks do what it says, and its tables name all there is."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, get_args

import pytest

from orchestrator import cli
from orchestrator.callbacks import CallbackSpec
from orchestrator.loggers import LoggerSpec

PAGE = (Path(__file__).parents[2] / "docs" / "callbacks.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
FILE = re.compile(r"# (\w+\.(?:py|yaml))\n")


def test_the_blocks_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("ORCHESTRATOR_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr("orchestrator.figures.draw_all", lambda *args: [])
    names: dict[str, Any] = {}
    seen: list[str] = []
    for language, block in BLOCK.findall(PAGE):
        seen.append(language)
        if file := FILE.match(block):
            Path(file[1]).write_text(block, encoding="utf-8")
        elif language == "python":
            exec(compile(block, "docs/callbacks.md", "exec"), names)
        else:
            for line in block.splitlines():
                monkeypatch.setattr(sys, "argv", shlex.split(line))
                with pytest.raises(SystemExit) as left:
                    cli.main()
                assert left.value.code in (0, None), capsys.readouterr().err
    assert seen.count("python") == 3 and seen.count("bash") == 1
    profile = names["result"].folder.path / "profile" / "step-000000020"
    assert (profile / "trace.json").is_file()


@pytest.mark.parametrize("spec", [CallbackSpec, LoggerSpec])
def test_the_tables_name_every_kind(spec: Any):
    union = get_args(spec)[0] if get_args(spec) and spec.__class__ is type(Annotated[int, 0]) else spec
    for model in get_args(union):
        kind = model.model_fields["kind"].default
        assert f"\n| `{kind}` |" in PAGE, kind
