"""`orchestrator delete`: a run's folder and nothing else, asked for, and its MLflow run marked."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from made_runs import make

from backends.errors import UserError
from orchestrator import cli, delete, mlflow_forget
from orchestrator.deleting import doomed
from orchestrator.folder import RunFolder, acquire


@pytest.fixture
def storage(here: Path) -> Path:
    make(here / "runs", "heat-aaaa1111", created=1)
    make(here / "runs", "heat-bbbb2222", created=2)
    return here / "runs"


def call(capsys: Any, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        cli.main(["delete", *arguments])
    said = capsys.readouterr()
    return int(left.value.code or 0), said.out, said.err


def left(storage: Path) -> list[str]:
    return sorted(p.name for p in storage.iterdir())


def test_a_run_is_deleted_and_said_what_it_freed(storage: Path, capsys: Any):
    size = sum(p.stat().st_size for p in (storage / "heat-aaaa1111").rglob("*") if p.is_file())
    code, out, err = call(capsys, "aaaa", "--yes")
    assert (code, out) == (0, f"{storage / 'heat-aaaa1111'}\n")
    assert f"deleted 1 run, freed {size / 1e3:.1f} kB" in err
    assert left(storage) == ["heat-bbbb2222"]
    code, out, err = call(capsys, "latest", "--yes", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["deleted"] == [str(storage / "heat-bbbb2222")]
    assert left(storage) == []


def test_a_dry_run_deletes_nothing(storage: Path, capsys: Any):
    (storage / "heat-aaaa1111" / "report.html").write_text("mine")
    code, out, err = call(capsys, "aaaa", "bbbb", "aaaa", "--dry-run")
    assert code == 0
    assert len(out.splitlines()) == 2
    assert "with report.html that the run did not make" in out
    assert "nothing was deleted; without --dry-run: 2 runs" in err
    assert json.loads(call(capsys, "aaaa", "--dry-run", "--json")[1])["bytes"] > 0
    assert left(storage) == ["heat-aaaa1111", "heat-bbbb2222"]


def test_nobody_is_asked_without_a_terminal(storage: Path, capsys: Any):
    code, out, err = call(capsys, "aaaa")
    assert (code, out) == (2, "")
    assert "needs --yes" in err
    assert len(left(storage)) == 2


@pytest.mark.parametrize(("answer", "remaining"), [("n", 2), ("", 2), ("y", 1)])
def test_on_a_terminal_one_is_asked(
    answer: str, remaining: int, storage: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
):
    import typer

    asked: list[str] = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr(typer, "confirm", lambda text, **options: asked.append(text) or answer == "y")
    code, _, err = call(capsys, "aaaa")
    assert code == 0
    assert asked == ["Delete 1 run for good?"]
    assert "heat-aaaa1111 (finished" in err
    assert len(left(storage)) == remaining


def test_a_running_run_is_refused_and_so_are_the_others(storage: Path, capsys: Any):
    with acquire(RunFolder(storage / "heat-bbbb2222")):
        code, out, err = call(capsys, "aaaa", "bbbb", "--yes")
        assert (code, out) == (2, "")
        assert "heat-bbbb2222 is running" in err
        assert "orchestrator stop" in err
        assert len(left(storage)) == 2, "all or nothing"
    assert call(capsys, "aaaa", "bbbb", "--yes")[0] == 0


def test_what_was_started_after_the_question_is_not_deleted(storage: Path):
    from orchestrator.deleting import carry_out

    found = doomed(["aaaa"])
    with acquire(RunFolder(storage / "heat-aaaa1111")), pytest.raises(UserError, match="is running already"):
        carry_out(found)
    assert (storage / "heat-aaaa1111" / "run.json").exists()


def test_only_a_run_folder_is_ever_deleted(storage: Path, here: Path):
    (here / "mine").mkdir()
    (here / "mine" / "run.json").write_text("{}")
    with pytest.raises(UserError, match="is no run folder; nothing is deleted"):
        delete(here / "mine")
    (here / "mine" / "run.json").write_text('{"id": "x"}')
    with pytest.raises(UserError, match="is no run folder; nothing is deleted"):
        delete(here / "mine")
    with pytest.raises(UserError, match="there is no run"):
        delete(here)
    with pytest.raises(UserError, match="there is no run"):
        delete(storage)
    assert (here / "mine" / "run.json").exists()


def test_a_folder_with_more_than_a_run_in_it_is_refused(storage: Path):
    folder = storage / "heat-aaaa1111"
    (folder / ".git").mkdir()
    with pytest.raises(UserError, match=r"holds more than a run \(.git\)"):
        delete(folder)
    (folder / ".git").rmdir()
    make(folder / "runs", "inner-0")
    with pytest.raises(UserError, match=r"holds more than a run \(runs/inner-0/run.json\)"):
        delete(folder)


def test_a_link_is_refused_and_links_inside_are_not_followed(storage: Path, here: Path):
    (here / "link").symlink_to(storage / "heat-aaaa1111")
    with pytest.raises(UserError, match="is a link to"):
        delete(here / "link")
    (here / "precious").mkdir()
    (here / "precious" / "data.csv").write_text("1")
    (storage / "heat-aaaa1111" / "data").symlink_to(here / "precious")
    delete("aaaa")
    assert (here / "precious" / "data.csv").exists()


def test_the_working_directory_is_refused(storage: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(storage / "heat-aaaa1111" / "figures")
    with pytest.raises(UserError, match="is the working directory, or around it"):
        delete(storage / "heat-aaaa1111")


def test_a_folder_that_cant_be_removed_stays_whole(storage: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch):
    rename = Path.rename

    def refuses(self: Path, target: Path) -> Path:
        if target.name.startswith(".deleted-"):
            raise PermissionError(13, "Permission denied", str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuses)
    code, _, err = call(capsys, "aaaa", "--yes")
    assert code == 3
    assert "could not be deleted: Permission denied" in err
    assert (storage / "heat-aaaa1111" / "run.json").exists()
    assert not (storage / "heat-aaaa1111" / "LOCK").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nothing", "--yes"), "there is no run 'nothing'"),
        (("heat", "--yes"), "may be any of"),
        ((), "Missing argument 'RUN…'"),
        (("aaaa", "--yse"), "No such option"),
    ],
)
def test_mistakes_delete_nothing(arguments: tuple[str, ...], message: str, storage: Path, capsys: Any):
    code, out, err = call(capsys, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert len(left(storage)) == 2


# --- MLflow ---


def tracked(folder: Path, uri: str, run_id: str = "f" * 32) -> None:
    (folder / "mlflow.json").write_text(json.dumps({"run_id": run_id, "uri": uri}))


def test_a_store_that_is_gone_is_a_warning_and_is_not_made(storage: Path, here: Path, capsys: Any):
    tracked(storage / "heat-aaaa1111", f"sqlite:///{here}/gone.db")
    code, _, err = call(capsys, "aaaa", "--yes")
    assert code == 0
    assert f"warning: the MLflow run {'f' * 32} was not marked as deleted: there is no store" in err
    assert not (here / "gone.db").exists()
    assert left(storage) == ["heat-bbbb2222"]


def test_the_tracker_is_left_alone_where_one_says_so(storage: Path, here: Path, monkeypatch: pytest.MonkeyPatch):
    tracked(storage / "heat-aaaa1111", f"sqlite:///{here}/gone.db")
    monkeypatch.setattr("orchestrator.deleting.forget", lambda runs: pytest.fail("it was asked"))
    assert delete("aaaa", keep_tracking=True).warnings == ()


@pytest.mark.slow
def test_the_mlflow_run_is_marked_as_deleted(storage: Path, here: Path):
    from mlflow import MlflowClient

    uri = f"sqlite:///{here}/mlflow.db"
    client = MlflowClient(tracking_uri=uri)
    kept, gone = (client.create_run(client.create_experiment(n)).info.run_id for n in ("kept", "gone"))
    tracked(storage / "heat-aaaa1111", uri, gone)
    deleted = delete("aaaa")
    assert (deleted.forgotten, deleted.warnings) == ((gone,), ())
    assert [client.get_run(r).info.lifecycle_stage for r in (kept, gone)] == ["active", "deleted"]
    tracked(storage / "heat-bbbb2222", uri, gone)
    assert delete("bbbb").warnings == (), "deleted before: nothing is wrong"


@pytest.mark.slow
def test_a_store_that_does_not_answer_is_a_warning(here: Path):
    (here / "bad.db").write_text("no database" * 100)
    with pytest.raises(sqlite3.DatabaseError):
        sqlite3.connect(here / "bad.db").execute("select 1 from sqlite_master")
    wanted = [(f"sqlite:///{here}/bad.db", "a" * 32), ("http://127.0.0.1:9", "b" * 32)]
    told, warnings = mlflow_forget.forget(wanted)
    assert told == []
    assert len(warnings) == 2
    assert "nothing answers at http://127.0.0.1:9" in warnings[1]
