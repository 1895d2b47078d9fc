"""Provenance: what a run came from, without secrets, and never a reason to fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import provenance
from orchestrator.provenance import capture, config_hash, redact


def git(folder: Path, *words: str) -> str:
    environ = {
        **os.environ,
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
        **{f"GIT_{who}_{what}": "a@b.c" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    }
    return subprocess.run(
        ["git", "-C", str(folder), *words], check=True, capture_output=True, text=True, env=environ
    ).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q", "-b", "trunk")
    (tmp_path / "a.txt").write_text("one\n")
    git(tmp_path, "add", "a.txt")
    git(tmp_path, "commit", "-qm", "first")
    return tmp_path


def test_a_clean_repository_is_named_by_commit_and_branch(repository: Path) -> None:
    git(repository, "remote", "add", "origin", "https://me:hunter2@example.com/x.git")
    (repository / "runs").mkdir()
    (repository / "runs" / "untracked").write_text("what runs write does not make the code dirty")
    said = capture({}, repository)["git"]
    assert said["commit"] == git(repository, "rev-parse", "HEAD") and said["branch"] == "trunk"
    assert said["dirty"] is False and said["diff"] == ""
    assert said["remote"] == "https://***@example.com/x.git"


def test_a_changed_file_is_dirty_and_its_diff_kept_so_that_it_applies(repository: Path) -> None:
    (repository / "a.txt").write_text("token = tokenizer('x')\n")
    said = capture({}, repository)["git"]
    assert said["dirty"] is True
    git(repository, "checkout", "-q", "a.txt")
    (repository / "p.diff").write_text(said["diff"])
    git(repository, "apply", "p.diff")
    assert (repository / "a.txt").read_text() == "token = tokenizer('x')\n"


def test_a_huge_diff_is_cut(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "DIFF_BYTES", 2000)
    (repository / "a.txt").write_text("ä" * 100_000)
    said = capture({}, repository)["git"]
    assert said["dirty"] is True and said["diff"].endswith("… cut here\n") and len(said["diff"].encode()) < 2100


def test_a_diff_that_is_not_utf8_is_still_text(repository: Path) -> None:
    (repository / "a.txt").write_bytes(b"caf\xe9\n")
    said = capture({}, repository)
    assert "caf\ufffd" in json.loads(json.dumps(said))["git"]["diff"]


def test_outside_git_and_without_git_nothing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert capture({}, tmp_path)["git"] == {}
    assert capture({}, tmp_path / "missing")["git"] == {}
    monkeypatch.setenv("PATH", "")
    assert capture({}, tmp_path)["git"] == {}


def test_no_program_of_the_repository_runs(repository: Path) -> None:
    witness = repository / "witness"
    git(repository, "config", "diff.external", f"touch {witness}")
    git(repository, "config", "core.fsmonitor", f"touch {witness}")
    (repository / "a.txt").write_text("two\n")
    assert "+two" in capture({}, repository)["git"]["diff"]
    assert not witness.exists()


def test_it_names_packages_without_importing_them() -> None:
    text = (
        "import sys; from orchestrator.provenance import capture; from pathlib import Path\n"
        "said = capture({}, Path('.')); assert said['packages']['numpy'] and said['packages']['ray']\n"
        "print([m for m in ('torch', 'jax', 'ray', 'mlflow', 'scipy', 'optax') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_it_is_plain_json_and_holds_no_variable_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setattr(sys, "argv", ["/x/orchestrator", "run", "a.yaml", "-s", "tracking.uri=http://u:hunter2@h:5000"])
    said = capture({"name": "a"}, tmp_path)
    assert "hunter2" not in json.dumps(said)
    assert said["command"] == ["orchestrator", "run", "a.yaml", "-s", "tracking.uri=http://***@h:5000"]
    assert {"python", "platform", "host", "user", "cpu_count", "accelerators", "time"} <= set(said)


def test_an_option_named_like_a_secret_hides_its_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sys, "argv", ["o", "--password", "hunter2", "--api-key=hunter2", "api_key=hunter2", "--json", "x"]
    )
    assert capture({}, tmp_path)["command"][1:5] == ["--password", "***", "--api-key=***", "api_key=***"]
    assert capture({}, tmp_path)["command"][5:] == ["--json", "x"]


# --- what is hidden ---


@pytest.mark.parametrize(
    ("given_", "shown"),
    [
        ("http://u:p@host:5000", "http://***@host:5000"),
        ("https://ghp_token@github.com/a/b", "https://***@github.com/a/b"),
        ("postgresql://user:p@ss:w/rd@db/x", "postgresql://***@db/x"),
        ("s3://bucket/key?token=abc&region=eu", "s3://bucket/key?token=***&region=eu"),
        ("http://localhost:5000/#/a@b", "http://localhost:5000/#/a@b"),
        ("http://host:8080/@scope/x", "http://host:8080/@scope/x"),
        ("sqlite:///mlflow.db", "sqlite:///mlflow.db"),
        ("git@github.com:a/b.git", "git@github.com:a/b.git"),
        ("two http://a:b@c and http://d:e@f", "two http://***@c and http://***@f"),
        ("network.token_dim=4", "network.token_dim=4"),
        ("Password: 'x y'", "Password: ***"),
    ],
)
def test_addresses_lose_their_passwords_and_nothing_else(given_: str, shown: str) -> None:
    assert redact(given_) == shown


WORDS = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.!$*+,;", min_size=6, max_size=20)


@settings(max_examples=100, deadline=None)
@given(user=WORDS, password=WORDS, host=st.from_regex(r"[a-z]{1,5}(\.[a-z]{2,3})?(:[0-9]{2,4})?", fullmatch=True))
def test_no_password_of_an_address_survives(user: str, password: str, host: str) -> None:
    for scheme in ("http", "https", "postgresql+psycopg2", "s3"):
        said = redact(f"before {scheme}://{user}:{password}Q9@{host}/path after")
        assert said == f"before {scheme}://***@{host}/path after"


# --- the hash ---


def test_the_hash_does_not_depend_on_order_or_on_where_the_run_is_kept() -> None:
    a = {"name": "x", "seed": 1, "task": {"kind": "burgers", "nu": 0.01}, "storage": "runs", "tracking": {"uri": "a"}}
    b = {"task": {"nu": 0.01, "kind": "burgers"}, "seed": 1, "name": "x", "storage": "/data", "tracking": {"uri": "b"}}
    assert config_hash(a) == config_hash(b) == config_hash(json.loads(json.dumps(a)))
    assert config_hash({**a, "seed": 2}) != config_hash(a)
    assert capture(a, Path())["config_sha256"] == config_hash(a)


def test_the_hash_is_the_same_in_every_process() -> None:
    tree = {"name": "x", "stages": [{"kind": "adam", "lr": 1e-3}], "task": {"nu": 0.1 + 0.2}}
    text = f"from orchestrator.provenance import config_hash; print(config_hash({tree!r}))"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == config_hash(tree)
