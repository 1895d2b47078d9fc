"""Runs side by side: what differs, mean and spread over seeds, what is marked as best, and how it is written."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_runs import PNG, make

import orchestrator
from backends.errors import UserError
from orchestrator import cli, compare
from orchestrator.comparison.rows import number
from orchestrator.comparison.text import _plain
from orchestrator.folder import acquire


@pytest.fixture
def runs(here: Path) -> Path:
    """Three seeds of two widths."""
    storage = here / "runs"
    for width in (10, 20):
        for seed in range(3):
            error = 1.0 / width + seed / 100
            make(
                storage,
                f"heat-{width}{seed}",
                metrics={"error/l2": error, "loss": 0.5, "time/train_s": 1.0 * width, "time/steps_per_s": 10.0},
                created=seed,
                **{"network.width": width, "seed": seed},
            )
    return storage


def call(capsys: Any, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        cli.main(["compare", *arguments])
    said = capsys.readouterr()
    return int(left.value.code or 0), said.out, said.err


# --- rows ---


def test_runs_that_differ_in_their_seed_alone_are_mean_and_spread(runs: Path):
    found = compare(runs)
    assert [(r.label, r.n) for r in found.rows] == [("heat width=10 (n = 3)", 3), ("heat width=20 (n = 3)", 3)]
    errors = np.array([0.1, 0.11, 0.12])
    assert found.rows[0].means["error/l2"] == pytest.approx(errors.mean())
    assert found.rows[0].spreads["error/l2"] == pytest.approx(errors.std(ddof=1))
    assert found.settings == ("seed", "network.width")
    assert found.table[0]["seed"] == [0, 1, 2]
    assert found.table[0]["network.width"] == 10
    assert found.table[0]["error/l2 ±"] == pytest.approx(0.01)
    assert any("sample standard deviation over seed" in note for note in found.notes())


def test_grouping_can_be_switched_off_and_widened(runs: Path):
    assert len(compare(runs, group="none").rows) == 6
    assert [r.n for r in compare(runs, group=["seed", "network.width"]).rows] == [6]
    assert [r.n for r in compare(runs, group="seed,network.width").rows] == [6]
    by_width = compare(runs, group="network.width").rows
    assert [r.n for r in by_width] == [2, 2, 2]
    with pytest.raises(UserError, match=r"no run has a setting 'network.widht'; did you mean 'network.width'"):
        compare(runs, group="network.widht")
    with pytest.raises(UserError, match="can't be combined"):
        compare(runs, group=["none", "seed"])


def test_only_runs_that_ended_well_are_averaged(here: Path):
    make(here, "heat-0", seed=0)
    make(here, "heat-1", seed=1)
    make(here, "heat-2", seed=2, status="failed", reason="step 3: the loss is not finite in pde", step=3)
    make(here, "heat-3", seed=3, status="killed", step=10)
    found = compare(here)
    assert [(r.label, r.status) for r in found.rows] == [
        ("heat (n = 2)", "finished"),
        ("heat-2", "failed"),
        ("heat-3", "killed"),
    ]
    assert "heat-2 failed: step 3: the loss is not finite in pde" in found.notes()


def test_a_run_that_was_repeated_counts_once(here: Path):
    for name, seed, loss, created in (("a", 0, 1.0, 1), ("b", 1, 2.0, 2), ("c", 1, 4.0, 3)):
        make(here, f"heat-{name}", seed=seed, metrics={"loss": loss}, created=created)
    (row,) = compare(here).rows
    assert (row.n, row.repeated, row.means["loss"]) == (2, 1, 2.5)
    assert any("repeats the settings" in note for note in compare(here).notes())


def test_two_runs_of_one_seed_are_no_group(here: Path):
    make(here, "heat-a")
    make(here, "heat-b")
    assert [r.n for r in compare(here).rows] == [1, 1]


def test_own_code_that_was_changed_is_a_difference(here: Path):
    make(here, "heat-a", seed=0, files={"code/mine.py": "a" * 64})
    make(here, "heat-b", seed=1, files={"code/mine.py": "b" * 64})
    found = compare(here)
    assert found.settings == ("seed", "code/mine.py")
    assert [r.n for r in found.rows] == [1, 1]
    assert "aaaaaaaa |" in found.markdown
    assert "aaaaaaaaa" not in found.markdown


def test_the_best_is_marked_within_a_task_and_never_among_runs_that_did_not_end(here: Path):
    make(here, "a", metrics={"error/l2": 0.3, "lr": 0.1, "time/steps_per_s": 5.0}, **{"network.width": 10})
    make(here, "b", metrics={"error/l2": 0.2, "lr": 0.1, "time/steps_per_s": 4.0}, **{"network.width": 20})
    make(here, "c", metrics={"error/l2": 0.01}, status="killed")
    make(here, "d", metrics={"error/l2": 0.1}, **{"task.kind": "poisson"})
    found = compare(here, metrics=["error/l2", "lr", "steps_per_s"])
    assert found.metrics == ("error/l2", "lr", "time/steps_per_s")
    assert [[r.label for r in found.best(m)] for m in found.metrics] == [["b"], [], ["a"]]


def test_a_weighted_loss_is_compared_among_equal_weights_alone(here: Path):
    make(here, "a", metrics={"loss": 0.3, "validation/total": 1.0})
    make(here, "b", metrics={"loss": 0.2, "validation/total": 2.0}, **{"weights.kind": "relobralo"})
    found = compare(here)
    assert found.best("loss") == []
    assert [r.label for r in found.best("validation/total")] == ["a"]


def test_settings_that_only_some_runs_have_stand_apart(here: Path):
    make(here, "a", **{"stages.warm.b1": 0.9})
    make(here, "b", **{"stages.warm.kind": "sgd"})
    found = compare(here)
    assert found.columns == ("stages.warm.kind",)
    assert found.beside == ("stages.warm.b1",)
    assert "| stages.warm.b1 | 0.9 | – |" in found.markdown


# --- runs in every state ---


def test_runs_without_anything_are_shown(here: Path):
    make(here, "heat-new", status=None, metrics={}, curve=False, picture=b"")
    running = make(here, "heat-running", status=None, metrics={"loss": 0.7, "error/l2": None}, step=7)
    (here / "empty-0").mkdir()
    (here / "empty-0" / "run.json").write_text("{}")
    (here / "broken-0").mkdir()
    (here / "broken-0" / "run.json").write_text("not json")
    (here / "broken-0" / "experiment.yaml").write_text("a: [")
    (here / "broken-0" / "result.json").write_text('{"metrics": {"loss": "x", "lr": true}}')
    running.lock.parent.mkdir(exist_ok=True)
    from orchestrator.jsonl import Lines

    Lines(running.events).append({"event": "status", "status": "running"})
    with acquire(running):
        found = compare(here)
    by_label = {r.label: r for r in found.rows}
    assert by_label["heat-running"].status == "running"
    assert by_label["heat-running"].means == {"loss": 0.7, "weight/pde": 1.7}
    assert by_label["heat-new"].status == "waiting"
    assert by_label["broken-0"].means == {}
    assert found.markdown
    assert found.html


def test_one_run_is_no_error(here: Path):
    make(here, "heat-a")
    found = compare(here / "heat-a")
    assert found.settings == ()
    assert not found.best("error/l2")
    assert "heat: 1 run<" in found.html


# --- which runs ---


def test_runs_are_named_in_every_way(runs: Path):
    assert [r.label for r in compare("latest").runs] == ["heat-202"]
    assert [r.label for r in compare(["heat-101", runs / "heat-100", "heat-101"]).runs] == ["heat-101", "heat-100"]
    assert [r.label for r in compare("heat-1*").runs] == ["heat-100", "heat-101", "heat-102"]
    assert [r.label for r in compare(str(runs / "heat-?00")).runs] == ["heat-100", "heat-200"]
    assert len(compare("heat").runs) == 6, "the name of an experiment means all runs of it"
    assert len(compare("heat", storage=str(runs)).runs) == 6
    assert len(compare([orchestrator.find("heat-101"), "runs"]).runs) == 6


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("heet-101", "did you mean 'heat-10"),
        ("wave-*", r"no run fits 'wave-\*'; there are: heat-100"),
        ("heat-1", "may be any of"),
        ("nowhere/x-*", "no run fits"),
    ],
)
def test_a_name_that_means_no_run_is_answered(name: str, message: str, runs: Path):
    with pytest.raises(UserError, match=message):
        compare(name)


def test_no_runs_at_all_are_an_error(here: Path):
    with pytest.raises(UserError, match="name at least one run"):
        compare([])
    with pytest.raises(UserError, match="there are no runs"):
        compare(here)


# --- text ---


@given(st.floats(-1e300, 1e300), st.floats(0, 1e300))
def test_a_number_is_told_to_four_digits(value: float, spread: float):
    assert float(number(value)) == pytest.approx(value, rel=6e-4)
    mean, _, deviation = number(value, spread).partition(" ± ")
    assert float(mean) == pytest.approx(value, rel=6e-3)
    assert float(deviation) == pytest.approx(spread, rel=6e-2)


@given(st.text(max_size=30))
def test_markdown_never_sees_a_users_signs(text: str):
    plain = _plain(text)
    assert "\n" not in plain
    assert "<" not in plain
    assert not re.search(r"(?<!\\)(\\\\)*\|", plain)


def test_markdown_is_a_table_with_the_best_in_bold(runs: Path):
    lines = compare(runs, metrics=["error/l2"]).markdown.splitlines()
    assert lines[0] == "| run | status | step | seed | network.width | error/l2 |"
    assert lines[1] == "| --- | --- | ---: | --- | --- | ---: |"
    assert lines[3] == "| heat width=20 (n = 3) | finished | 100 | 0, 1, 2 | 20 | **0.0600 ± 0.010** |"


# --- the page ---

NASTY = '<script>alert(1)</script>|$x_{$ **b** & "q"'


class _Seen(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [v or "" for k, v in attrs if k in ("src", "href")]


def test_the_page_is_one_file_without_script_host_user_or_path(runs: Path):
    page = compare(runs).html
    seen = _Seen()
    seen.feed(page)
    assert "script" not in seen.tags
    assert "link" not in seen.tags
    assert seen.sources
    assert all(s.startswith("data:image/") for s in seen.sources)
    assert sum(s == f"data:image/png;base64,{base64.b64encode(PNG).decode()}" for s in seen.sources) == 6
    assert not re.search("secret|ada<|/tmp|" + re.escape(str(runs)), page)
    assert "abcdef012345 + changes" in page
    assert "jax 0.10.2" in page
    assert page == compare(runs).html, "the same runs give the same bytes"


def test_what_users_write_is_escaped_everywhere(here: Path):
    make(here, "_odd $x_{", name=NASTY, seed=0, **{"network.kind": NASTY})
    make(here, NASTY.replace("/", "_"), name=NASTY, seed=1, status="failed", reason=NASTY)
    found = compare(here)
    for text in (found.html, found._repr_html_()):
        assert "<script" not in text
        assert "&lt;script&gt;" in text
    assert "<script" not in found.markdown


def test_weights_are_drawn_where_they_move(here: Path):
    make(here, "a")
    assert "Weights of the loss terms" in compare(here).html
    make(here / "still", "b", curve=False)
    assert "Weights of the loss terms" not in compare(here / "still").html
    assert "Losses and errors" not in compare(here / "still").html


def test_a_picture_outside_the_run_folder_is_not_taken_in(here: Path):
    (here / "secret.png").write_bytes(PNG)
    run = make(here, "a", picture=b"")
    event = {"step": 100, "event": "figure", "path": "../secret.png", "key": "figures/solution"}
    with run.events.open("a") as file:
        file.write(json.dumps(event) + "\n")
    (facts,) = compare(here / "a").runs
    assert facts.picture is None


def test_the_last_picture_of_the_task_is_shown_not_that_of_the_losses(here: Path):
    run = make(here, "a", step=50)
    for step, key in ((90, "losses"), (80, "solution"), (80, "images")):
        (run.figures / f"{key}-{step}.png").write_bytes(PNG)
        event = {"step": step, "event": "figure", "path": f"figures/{key}-{step}.png", "key": f"figures/{key}"}
        with run.events.open("a") as file:
            file.write(json.dumps(event) + "\n")
    (facts,) = compare(here / "a").runs
    assert facts.picture is not None
    assert facts.picture.name == "solution-80.png"


# --- the verb ---


def test_the_verb_prints_a_table_json_markdown_or_a_page(runs: Path, capsys: Any):
    code, out, err = call(capsys, "runs")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split() == ["run", "status", "step", "seed", "network.width", "error/l2", "loss", "time/train_s",
                                "time/steps_per_s"]  # fmt: skip
    assert "0.0600 ± 0.010*" in lines[2]
    assert "* best of its task" in err
    data = json.loads(call(capsys, "heat-1*", "heat-200", "--json", "--metric", "train_s")[1])
    assert data["rows"][0]["metrics"] == {"time/train_s": 10.0}
    assert data["rows"][0]["spread"] == {"time/train_s": 0.0}
    assert data["rows"][0]["best"] == ["time/train_s"]
    assert [len(r["folders"]) for r in data["rows"]] == [3, 1]
    assert call(capsys, "runs", "--format", "markdown")[1].startswith("| run |")
    assert call(capsys, "runs", "--format", "html")[1].startswith("<!doctype html>")
    for file, begin in (("r.html", "<!doctype"), ("r.md", "| run |")):
        code, out, err = call(capsys, "runs", "--out", file)
        assert (code, out) == (0, "")
        assert f"wrote {file}" in err
        assert Path(file).read_text().startswith(begin)
    assert call(capsys, "runs", "--json", "--out", "r.json")[0] == 0
    assert json.loads(Path("r.json").read_text())["grouped_over"] == ["seed"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("runs", "--format", "pdf"), "--format must be one of table, markdown, html (got 'pdf')"),
        (("runs", "--out", "r.pdf"), "end it in .html or .md"),
        (("runs", "--out", "no/r.html"), "there is no folder no"),
        (("runs", "--out", "runs", "--format", "html"), "is a folder"),
        (("runs", "--metric", "error/l3"), "did you mean 'error/l2'?"),
        (("runs", "--group", "sede"), "did you mean 'seed'?"),
        (("runs", "--json", "--format", "html"), "--json is a format of its own"),
        (("nothing",), "there is no run 'nothing'"),
        ((), "Missing argument 'RUN…'"),
    ],
)
def test_mistakes_are_answered_before_anything_is_written(
    arguments: tuple[str, ...], message: str, runs: Path, here: Path, capsys: Any
):
    code, out, err = call(capsys, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert {p.name for p in here.iterdir()} == {"runs"}


def test_comparing_loads_no_framework_and_no_tracker(runs: Path):
    import subprocess
    import sys

    code = (
        "import sys, orchestrator\norchestrator.compare('runs').markdown\n"
        "print([m for m in ('torch', 'jax', 'ray', 'mlflow', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
