"""The command line's contract: streams, exit codes, results as data, help, and no colour where none is wanted."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from numpy_backend import use
from typer.main import get_command

import orchestrator
from backends.errors import RunFailed
from orchestrator import cli, console
from orchestrator.config import Experiment
from orchestrator.folder import RunFolder

ESCAPE = re.compile(r"\x1b|\r")
TREE: dict[str, Any] = {
    "name": "poisson",
    "task": {"kind": "poisson", "k": 1},
    "network": {"kind": "mlp", "width": 4, "depth": 1},
    "points": {"pde": 16, "bc": 8},
    "stages": [{"kind": "adam", "steps": 6}],
    "evaluate": {"every": 3, "points": 20},
    "checkpoint": {"every": 3},
    "resources": {"workers": 0},
    "tracking": {"enabled": False, "every": 1},
}


@pytest.fixture(autouse=True)
def _numpy(monkeypatch: pytest.MonkeyPatch, here: Path) -> Iterator[None]:
    use(monkeypatch)
    (here / "file.yaml").write_text(yaml.safe_dump(TREE))
    log = logging.getLogger("orchestrator")
    handlers, level = log.handlers[:], log.level
    yield
    log.handlers[:] = handlers
    log.setLevel(level)


def call(capsys: Any, *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command; neither has an escape sequence or a traceback."""
    with pytest.raises(SystemExit) as left:
        cli.main(list(arguments))
    said = capsys.readouterr()
    assert not ESCAPE.search(said.out + said.err), "no terminal, no escapes"
    assert "Traceback" not in said.err
    return int(left.value.code or 0), said.out, said.err


def strict(text: str) -> Any:
    """JSON without NaN and infinities."""
    return json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


VERBS = sorted(get_command(cli.app).commands)  # type: ignore[attr-defined]


# --- help ---


def test_the_verbs_of_the_design_are_there():
    assert set(VERBS) == {
        *("new", "compare", "predict", "delete"),
        *("run", "resume", "stop", "sync", "check", "agree", "plan", "export"),
        *("list", "show", "tasks", "schema", "ui", "doctor"),
    }


@pytest.mark.parametrize("verb", [(), *[(v,) for v in VERBS]], ids=lambda v: " ".join(v) or "orchestrator")
def test_every_verb_explains_itself(verb: tuple[str, ...], capsys: Any):
    for flag in ("--help", "-h"):
        code, out, err = call(capsys, *verb, flag)
        assert (code, err) == (0, "")
        assert "Usage:" in out
        assert len(out.splitlines()) > 4
        assert out.startswith("Usage: orchestrator")


def test_every_argument_and_option_has_a_help_text():
    for verb in VERBS:
        for parameter in get_command(cli.app).commands[verb].params:  # type: ignore[attr-defined]
            assert parameter.help, f"{verb} {parameter.name}"


def test_the_version_is_the_packages(capsys: Any):
    assert call(capsys, "--version") == (0, f"{orchestrator.__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("rum", "file.yaml"), "No such command 'rum'"),
        (("run",), "Missing argument 'FILE'"),
        (("run", "file.yaml", "--stpes", "3"), "No such option: --stpes"),
        (("resume", "latest", "--more", "0"), "Invalid value for '--more'"),
        (("agree", "file.yaml", "--precision", "half"), "--precision must be float32 or float64 (got 'half')"),
        (("run", "gone.yaml"), "gone.yaml"),
        (("resume", "nothing"), "there are no runs in"),
        (("show", "nothing"), "there are no runs in"),
        (("run", "file.yaml", "-s", "sed=3"), "did you mean 'seed'?"),
    ],
)
def test_a_users_mistake_is_two_and_on_stderr(arguments: tuple[str, ...], message: str, capsys: Any, here: Path):
    code, out, err = call(capsys, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert {p.name for p in here.iterdir()} == {"file.yaml"}, "nothing was written"


# --- results as data ---


def test_a_run_says_its_result_on_stdout_as_json_or_on_stderr_as_a_table(capsys: Any, here: Path):
    code, out, err = call(capsys, "run", "file.yaml", "--json")
    assert (code, err) == (0, "")
    result = strict(out)
    assert set(result) >= {"run_id", "folder", "status", "step", "metrics", "checkpoint", "train_s"}
    assert (result["status"], result["step"]) == ("finished", 6)
    assert set(result["metrics"]) >= {"loss", "loss/pde", "validation/total", "error/l2"}
    code, out, err = call(capsys, "run", "file.yaml")
    assert (code, out) == (0, "")
    for part in ("finished at step 6", "error/l2", "run folder:"):
        assert part in err
    code, out, err = call(capsys, "run", "file.yaml", "-q")
    assert (code, out, err) == (0, "", "")
    assert len(list((here / "runs").iterdir())) == 3
    assert {p.name for p in here.iterdir()} == {"file.yaml", "runs"}, "nothing else is written here"


def test_list_and_show_tell_of_runs(capsys: Any, here: Path):
    assert call(capsys, "list", "--json") == (0, "[]\n", "")
    call(capsys, "run", "file.yaml", "-q", "--out", "runs/one-11111111")
    call(capsys, "run", "file.yaml", "-q", "--out", "runs/two-22222222", "-s", "name=other")
    entries = strict(call(capsys, "list", "--json")[1])
    assert [e["name"] for e in entries] == ["poisson", "other"]
    code, out, err = call(capsys, "list")
    assert (code, err) == (0, "")
    assert "one-11111111" in out
    assert "finished" in out
    for name in ("runs/two-22222222", "other", "2222", "latest"):
        shown = strict(call(capsys, "show", name, "--json")[1])
        assert shown["folder"] == str(here / "runs" / "two-22222222"), name
        assert shown["status"] == "finished"
        assert [Path(p).name for p in shown["checkpoints"]] == ["step-000000003", "step-000000006"]
    code, out, err = call(capsys, "show", "latest")
    assert (code, err) == (0, "")
    assert "finished at step 6" in out
    assert "error/l2" in out


def test_resume_says_the_same_as_run(capsys: Any):
    call(capsys, "run", "file.yaml", "-q")
    code, out, err = call(capsys, "resume", "latest", "--more", "3", "--json")
    assert (code, err) == (0, "")
    assert strict(out)["step"] == 9
    code, out, err = call(capsys, "resume", "latest")
    assert (code, out) == (2, "")
    assert "has finished" in err


def test_check_lists_every_problem_of_every_file(capsys: Any, here: Path):
    (here / "bad.yaml").write_text(yaml.safe_dump({**TREE, "seed": -1, "sed": 1}))
    code, out, err = call(capsys, "check", "file.yaml")
    assert (code, out, err) == (0, "file.yaml: ok\n", "")
    code, out, err = call(capsys, "check", "file.yaml", "bad.yaml")
    assert (code, out) == (2, "file.yaml: ok\n")
    assert re.search(r"bad.yaml:\d+:\d+: seed: must be at least 0", err)
    code, out, err = call(capsys, "check", "file.yaml", "bad.yaml", "--json")
    assert (code, err) == (2, "")
    found = strict(out)
    assert not found["ok"]
    assert {p["path"] for p in found["problems"]} == {"seed", "sed"}
    assert set(found["problems"][0]) == {"file", "line", "column", "path", "message"}
    assert strict(call(capsys, "check", "file.yaml", "--json")[1]) == {"ok": True, "problems": []}


def test_tasks_and_schema_are_data(capsys: Any, here: Path):
    kinds = {e["kind"]: e for e in strict(call(capsys, "tasks", "--json")[1])}
    solved = ["burgers", "poisson", "heat", "wave", "advection", "helmholtz", "diffusion_reaction", "allen_cahn", "kdv",
              "kovasznay", "burgers_2d", "schroedinger", "kuramoto_sivashinsky", "ginzburg_landau", "gray_scott",
              "poisson_frequencies", "poisson_5d", "poisson_100d", "heat_5d", "heat_layers", "wave_layers",
              "euler_beam", "lorenz", "inverse_heat"]  # fmt: skip
    assert set(kinds) >= {*solved, "regression", "vae", "custom"}
    assert kinds["wave"]["terms"] == ["pde", "ic", "ic_t", "bc"]
    assert kinds["burgers"]["terms"] == ["pde", "ic", "bc"]
    assert kinds["vae"]["terms"] == ["reconstruction", "kl"]
    assert [k for k, e in kinds.items() if e["reference"]] == solved
    assert kinds["burgers"]["settings"]["nu"] == pytest.approx(0.01 / 3.14159265)
    code, out, err = call(capsys, "tasks")
    assert (code, err) == (0, "")
    assert all(kind in out for kind in kinds)
    schema = strict(call(capsys, "schema")[1])
    assert set(schema["properties"]) == set(Experiment.model_fields)
    assert call(capsys, "schema", "--out", "schema.json") == (0, "", "")
    assert json.loads((here / "schema.json").read_text()) == schema


def test_doctor_is_data_and_loads_no_framework(capsys: Any):
    code, out, err = call(capsys, "doctor", "--json")
    assert (code, err) == (0, "")
    findings = {f["what"]: f for f in strict(out)}
    assert {"python", "jax", "torch", "ray", "mlflow", "C++ compiler", "disk"} <= findings.keys()
    assert {f["state"] for f in findings.values()} <= {"ok", "missing", "warning"}


def test_sync_says_what_is_missing(capsys: Any, monkeypatch: pytest.MonkeyPatch):
    from orchestrator.uploader import Report

    call(capsys, "run", "file.yaml", "-q")
    answer = Report(False, "runs/x", "http://127.0.0.1:9", None, 0, 7, "nothing answers")
    monkeypatch.setattr("orchestrator.uploader.sync", lambda folder: answer)
    code, out, err = call(capsys, "sync", "latest", "--json")
    assert (code, err) == (3, "")
    assert (strict(out)["complete"], strict(out)["unsent"]) == (False, 7)
    code, out, err = call(capsys, "sync", "latest")
    assert (code, out) == (3, "")
    assert "7 points have not reached MLflow (nothing answers)" in err


def test_agreement_is_data(capsys: Any, monkeypatch: pytest.MonkeyPatch):
    answer = {"max_relative_difference": 1e-15, "terms": {"pde": 1e-15}, "gradients": 2e-16, "steps": 5}
    monkeypatch.setattr("orchestrator.agree.compare", lambda *a, **k: {**answer, "precision": k["precision"]})
    assert strict(call(capsys, "agree", "file.yaml", "--json")[1]) == {**answer, "precision": "float64"}
    code, out, err = call(capsys, "agree", "file.yaml", "--precision", "float32")
    assert (code, err) == (0, "")
    assert "over 5 steps in float32" in out
    assert "1.0e-15" in out


# --- how runs end ---


@pytest.mark.parametrize(
    ("word", "code"), [("finished", 0), ("stopped", 0), ("killed", 130), ("preempted", 143), ("failed", 3)]
)
def test_every_status_has_its_exit_code(word: Any, code: int, capsys: Any, monkeypatch: pytest.MonkeyPatch):
    outcome = {"status": word, "step": 4, "metrics": {}, "checkpoint": None, "train_s": 1.0, "reason": "so"}
    monkeypatch.setattr("orchestrator.launch.in_process", lambda job, callbacks: outcome)
    found = call(capsys, "run", "file.yaml")
    assert found[:2] == (code, "")
    assert ("go on with: orchestrator resume" in found[2]) == (code != 0)
    found = call(capsys, "run", "file.yaml", "--json")
    assert (found[0], strict(found[1])["status"], found[2]) == (code, word, "") or code != 0


def test_a_failed_run_says_why_and_gives_its_result(capsys: Any, monkeypatch: pytest.MonkeyPatch):
    def fails(job: Any, callbacks: Any) -> Any:
        raise RunFailed("it could not go on")

    monkeypatch.setattr("orchestrator.launch.in_process", fails)
    code, out, err = call(capsys, "run", "file.yaml")
    assert (code, out) == (3, "")
    assert err.count("it could not go on") == 1
    assert re.search(r"run folder: .*runs/poisson-", err)
    code, out, err = call(capsys, "run", "file.yaml", "--json")
    assert code == 3
    assert (strict(out)["status"], strict(out)["reason"]) == ("failed", "it could not go on")
    assert "it could not go on" in err


def test_our_own_bug_is_one_line_and_a_file(capsys: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("orchestrator.folder.list_runs", lambda storage: 1 / 0)
    code, out, err = call(capsys, "list")
    assert (code, out) == (1, "")
    (line,) = err.splitlines()
    file = Path(line.rpartition(" ")[2])
    assert "ZeroDivisionError" in file.read_text()
    file.unlink()


def test_a_closed_pipe_is_no_error(here: Path):
    command = f"{sys.executable} -m orchestrator schema | head -c 10"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.startswith("{")


# --- progress ---


def lines(monkeypatch: pytest.MonkeyPatch, folder: RunFolder, *, terminal: bool, **environment: str) -> str:
    """What the progress line writes while `metrics.jsonl` is there."""
    import io

    text, ended = io.StringIO(), SimpleNamespace(count=0)

    def wait(seconds: float) -> bool:
        ended.count += 1
        return ended.count > 3

    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    made = console.console
    monkeypatch.setattr(console, "console", lambda **k: _console(made(**k), text, terminal))
    console._progress(folder, Experiment.model_validate(TREE), SimpleNamespace(wait=wait))  # type: ignore[arg-type]
    return text.getvalue()


def _console(real: Any, text: Any, terminal: bool) -> Any:
    from rich.console import Console

    return Console(file=text, force_terminal=terminal or None, width=100)


@pytest.fixture
def folder(here: Path) -> RunFolder:
    made = RunFolder(here / "poisson-12345678")
    made.path.mkdir()
    event = {"event": "status", "status": "running", "message": "compiling for cpu"}
    made.events.write_text(json.dumps(event) + "\n")
    return made


def test_without_a_terminal_progress_is_plain_lines(folder: RunFolder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(console, "PLAIN_EVERY_S", -1.0)
    said = lines(monkeypatch, folder, terminal=False)
    assert not ESCAPE.search(said)
    for line in said.splitlines():
        assert re.fullmatch(r"\d\d:\d\d:\d\d poisson-12345678  compiling for cpu …", line)


def test_on_a_terminal_progress_is_one_line(folder: RunFolder, monkeypatch: pytest.MonkeyPatch):
    said = lines(monkeypatch, folder, terminal=True)
    assert "\n" not in said
    assert said.count("\r\x1b[2K") == 4
    assert said.endswith("\r\x1b[2K"), "and is wiped at the end"


@pytest.mark.parametrize(("variable", "value"), [("NO_COLOR", "1"), ("TERM", "dumb"), ("CI", "true")])
def test_colour_is_left_out_where_nobody_wants_it(variable: str, value: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(variable, value)
    made = console.console()
    assert made.no_color or not made.is_terminal


# --- importing ---


def test_the_command_line_starts_without_a_framework():
    code = (
        "import sys, contextlib, orchestrator.cli as cli\n"
        "with contextlib.suppress(SystemExit): cli.main(['check', sys.argv[1]])\n"
        "print([m for m in ('torch', 'jax', 'ray', 'mlflow', 'matplotlib', 'sklearn') if m in sys.modules])\n"
    )
    file = Path(__file__).parents[2] / "experiments" / "burgers" / "burgers.yaml"
    done = subprocess.run(
        [sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert done.stdout.splitlines() == [f"{file}: ok", "[]"]
