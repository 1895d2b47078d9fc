"""Exported models, loaded by loaders that know nothing of this project, give the values of `result.predict`."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from numpy_backend import trained, use

from backends.errors import RunFailed, UserError
from orchestrator import RunResult, cli, export, run
from orchestrator.exporting import FORMATS
from orchestrator.exporting.loading import load

BURGERS: dict[str, Any] = {
    "name": "burgers",
    "task": {"kind": "burgers"},
    "network": {"kind": "mlp", "width": 6, "depth": 2},
    "constraints": "hard",
    "scaling": {"fields": {"u": 1.7}},
    "points": {"pde": 24},
    "stages": [{"kind": "adam", "lr": 1e-2, "steps": 4}],
    "compile": "never",
    "evaluate": {"every": 2, "points": 20},
    "checkpoint": {"every": 2},
    "resources": {"workers": 0},
    "tracking": {"enabled": False},
}
VAE: dict[str, Any] = {
    **{k: BURGERS[k] for k in ("compile", "evaluate", "checkpoint", "resources", "tracking", "stages")},
    "name": "vae",
    "task": {"kind": "vae", "likelihood": "bernoulli"},
    "data": {"kind": "digits"},
    "network": {"kind": "vae", "latent": 2, "width": 8},
}
DIABETES: dict[str, Any] = {
    **{k: BURGERS[k] for k in ("compile", "evaluate", "checkpoint", "resources", "tracking", "stages")},
    "name": "diabetes",
    "task": {"kind": "regression"},
    "data": {"kind": "diabetes"},
    "network": {"kind": "mlp", "width": 5, "depth": 1},
}
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}
POINTS = {"t": np.linspace(0, 1, 7), "x": np.linspace(-1, 1, 7)}
NO_ONNX = [p for p in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(p) is None]


@pytest.fixture(scope="module", autouse=True)
def _no_pictures() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("orchestrator.figures.draw_all", lambda *args: [])
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunResult]:
    """One run per backend, in another precision each."""
    folder = tmp_path_factory.mktemp("runs")
    return {
        backend: run(BURGERS, {"backend": backend, "precision": precision}, out=folder / backend)
        for backend, precision in (("jax", "float64"), ("torch", "float32"))
    }


def called(folder: Path, columns: Mapping[str, Any]) -> dict[str, Any]:
    """The exported model of a folder, by the loader of its format."""
    about = json.loads((folder / "config.json").read_text())
    given = {name: np.asarray(columns[name], about["precision"]) for name in about["inputs"]}
    if about["format"] == "safetensors":
        return load(folder)(given)
    if about["format"] == "stablehlo":
        from jax import export as jax_export

        return dict(jax_export.deserialize(bytearray((folder / about["file"]).read_bytes())).call(given))
    if about["format"] == "torch":
        import torch

        return torch.export.load(folder / about["file"]).module()(*map(torch.from_numpy, given.values()))
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / about["file"])
    assert [i.name for i in session.get_inputs()] == list(given)
    assert {i.shape[0] for i in session.get_inputs()} == {"samples"}
    return dict(zip(about["outputs"], session.run(about["outputs"], given), strict=True))


def agree(found: Mapping[str, Any], wanted: Mapping[str, Any], precision: str) -> None:
    assert list(found) == list(wanted)
    for name, value in wanted.items():
        assert np.asarray(found[name]).dtype == precision
        scale = max(float(np.abs(value).max()), 1.0)
        assert np.abs(np.asarray(found[name]) - value).max() <= TOLERANCE[precision] * scale, name


@pytest.mark.filterwarnings("ignore")  # frameworks' own affairs, when they load
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_every_format_gives_what_the_run_predicts_hard_constraints_scaling_and_derivatives_included(
    runs: dict[str, RunResult], backend: str, format: str
):
    if format == "onnx" and NO_ONNX:
        pytest.skip(f"{NO_ONNX[0]} is not installed")
    result = runs[backend]
    folder = export(result, format, outputs=["u", "u_x"], force=True)
    precision = json.loads((folder / "config.json").read_text())["precision"]
    assert precision == {"jax": "float64", "torch": "float32"}[backend]
    for count in (7, 1, 3):  # any number of samples
        points = {name: v[:count] for name, v in POINTS.items()}
        agree(called(folder, points), result.predict(points, ["u", "u_x"]), precision)


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_the_script_beside_the_model_runs(runs: dict[str, RunResult], format: str, tmp_path: Path):
    if format == "onnx" and NO_ONNX:
        pytest.skip(f"{NO_ONNX[0]} is not installed")
    folder = export(runs["jax"], format, out=tmp_path / "model")
    said = subprocess.run([sys.executable, str(folder / "load.py")], capture_output=True, text=True, check=True).stdout
    first = float(said.split("[")[1].split(",")[0])
    assert first == pytest.approx(float(runs["jax"].predict({"t": [0.1], "x": [0.1]})["u"][0]), abs=1e-4)


def test_safetensors_and_their_description_are_enough_for_plain_numpy(runs: dict[str, RunResult]):
    folder = export(runs["jax"], "safetensors", force=True)
    about = json.loads((folder / "config.json").read_text())
    arrays = safetensors.numpy.load_file(folder / "model.safetensors")
    t, x = POINTS["t"], POINTS["x"]
    assert about["coordinates"] == ["t", "x"]
    ends = about["scaling"]["coordinates"]["from"]
    h = np.stack([2 * (POINTS[c] - ends[c][0]) / (ends[c][1] - ends[c][0]) - 1 for c in about["coordinates"]])
    for k in range(about["network"]["depth"]):
        h = np.tanh(arrays[f"params/w{k}"].T @ h + arrays[f"params/b{k}"][:, None])
    u = (arrays["params/w2"].T @ h + arrays["params/b2"][:, None])[0] * about["scaling"]["fields"]["u"]
    u = -np.sin(np.pi * x) + t * (1 - x * x) * u  # `constraints: hard` of Burgers' equation
    np.testing.assert_allclose(u, runs["jax"].predict(POINTS)["u"], rtol=0, atol=1e-12)
    assert about["constants"] == {"nu": pytest.approx(0.01 / np.pi)}
    assert about["versions"]["orchestrator"] and about["trained_with"]["jax"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("format", ["stablehlo", "onnx"])
@pytest.mark.parametrize("tree", [VAE, DIABETES], ids=lambda t: t["name"])
def test_an_autoencoder_and_a_regression_are_exported_in_the_units_of_their_data(
    tree: dict[str, Any], format: str, tmp_path: Path
):
    if format == "onnx" and NO_ONNX:
        pytest.skip(f"{NO_ONNX[0]} is not installed")
    result = run({**tree, "backend": "torch", "precision": "float32"}, out=tmp_path / "run")
    rng = np.random.default_rng(0)
    names = json.loads((export(result, "safetensors") / "config.json").read_text())["inputs"]
    columns = {name: rng.uniform(0, 1, (5, *entry["shape"][1:])) for name, entry in names.items()}
    folder = export(result, format)
    outputs = ["reconstruction"] if tree is VAE else ["progression"]
    agree(called(folder, columns), result.predict(columns, outputs), "float32")


def test_a_user_s_own_equation_goes_with_the_export(here: Path):
    (here / "own.py").write_text(
        "import math\nfrom orchestrator import Problem, residual, hard\n\n\nclass Own(Problem):\n"
        "    coords = {'x': (0, 2)}\n    fields = ('u',)\n    a: float = 3.0\n\n"
        "    @residual\n    def pde(self, f):\n        return f('u_xx') + self.a\n\n"
        "    @residual(x='ends')\n    def bc(self, f):\n        return f('u')\n\n"
        "    @hard('bc')\n    def ansatz(self, f):\n        x, u = f('x', 'u')\n"
        "        return {'u': x * (2 - x) * (u + self.a)}\n"
    )
    tree = {**BURGERS, "name": "own", "task": {"kind": "custom", "target": "own.py:Own"}, "backend": "torch"}
    result = run({**tree, "scaling": {}, "precision": "float64"}, out=here / "run")
    wanted = result.predict({"x": [0.5, 1.5]})
    folder = export(result, "safetensors", out=here / "model")
    shutil.rmtree(here / "run")
    (here / "own.py").unlink()
    agree(load(folder)({"x": [0.5, 1.5]}), wanted, "float64")


@pytest.mark.filterwarnings("ignore")
def test_a_user_s_own_module_is_exported_by_its_framework_and_refused_by_the_other(here: Path):
    (here / "net.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Module):\n    def __init__(self, inputs, outputs, width=4):\n"
        "        super().__init__()\n        self.a, self.b = nn.Linear(inputs, width), nn.Linear(width, outputs)\n"
        "        self.norm = nn.BatchNorm1d(width)\n\n"
        "    def forward(self, x):\n        return self.b(self.norm(self.a(x)).tanh())\n"
    )
    tree = {**DIABETES, "network": {"kind": "custom", "target": "net.py:Net"}, "backend": "torch"}
    result = run({**tree, "precision": "float32"}, out=here / "run")
    columns = {name: np.linspace(0, 1, 4) for name in ("age", "sex", "bmi", "bp", *(f"s{i}" for i in range(1, 7)))}
    wanted = result.predict(columns)
    for format in ("torch", "safetensors"):
        agree(called(export(result, format), columns), wanted, "float32")
    with pytest.raises(UserError, match=r"torch\.nn\.Module"):
        export(result, "stablehlo")


def test_what_a_framework_says_about_an_own_network_is_one_line(here: Path):
    (here / "net.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Module):\n    def __init__(self, inputs, outputs):\n"
        "        super().__init__()\n        self.a = nn.Linear(inputs, outputs)\n\n"
        "    def forward(self, x):\n        y = self.a(x)\n        return y if float(y.detach().sum()) > 0 else -y\n"
    )
    tree = {**DIABETES, "network": {"kind": "custom", "target": "net.py:Net"}, "backend": "torch"}
    result = run(tree, out=here / "run")
    with pytest.raises(RunFailed, match=r"can't be exported as torch: .+|the network Net raised ") as raised:
        export(result, "torch")
    assert not (here / "run" / "exports").exists(), "nothing half-written"
    assert len(str(raised.value).splitlines()[0]) < 700


# --- refusals ---


@pytest.fixture
def folder(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run without frameworks."""
    use(monkeypatch)
    trained({**BURGERS, "stages": [{"kind": "adam", "steps": 6, "precision": "float64"}]}, here / "run")
    return here / "run"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--format", "safetensor"), "there is no format 'safetensor'; did you mean 'safetensors'?"),
        (("--format", "safetensors", "--checkpoint", "step-000000005"), "did you mean 'step-00000000"),
        (("--format", "safetensors", "--checkpoint", "7"), "has no checkpoint '7'"),
        (("--format", "safetensors", "--outputs", "v"), "'v'"),
        (("--format", "safetensors", "--out", "model.onnx"), "an export is a folder"),
        (("--format", "safetensors", "--out", "."), "--force replaces it"),
        (("--format", "safetensors", "--out", ".", "--force"), "is no export, so --force does not replace it"),
        ((), "Missing option '--format'"),
    ],
)
def test_mistakes_are_two_and_say_what_is_allowed(
    folder: Path, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as left:
        cli.main(["export", str(folder), *arguments])
    said = capsys.readouterr()
    assert (left.value.code, said.out) == (2, "")
    assert message in said.err
    assert not (folder / "exports").exists()


def test_an_export_is_not_replaced_unless_forced(folder: Path, capsys: pytest.CaptureFixture[str]):
    words = ["export", str(folder), "--format", "safetensors", "--json"]
    for more, code in (((), None), ((), 2), (("--force",), None)):
        with pytest.raises(SystemExit) as left:
            cli.main([*words, *more])
        assert (left.value.code or None) == code
        said = capsys.readouterr()
        if code is None:
            about = json.loads(said.out)
            assert about["folder"].endswith("exports/step-000000006-safetensors")
            assert (about["step"], about["outputs"], about["precision"]) == (6, ["u"], "float64")
    assert [p.name for p in (folder / "exports").iterdir()] == ["step-000000006-safetensors"], "no leftovers"


def test_best_last_and_named_checkpoints_are_told_apart(folder: Path):
    def step(**options: Any) -> int:
        made = export(str(folder), "safetensors", force=True, **options)
        return int(json.loads((made / "config.json").read_text())["step"])

    assert step() == step(checkpoint="last") == step(checkpoint="6") == 6
    assert step(checkpoint="step-000000004") == 4
    assert step(checkpoint="best") in (2, 4, 6)


def test_a_run_without_checkpoints_or_with_an_edited_file_is_refused(folder: Path):
    text = (folder / "experiment.yaml").read_text()
    (folder / "experiment.yaml").write_text(text.replace("width: 6", "width: 7"))
    with pytest.raises(UserError, match="does not fit its experiment file: b0"):
        export(str(folder), "safetensors")
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(UserError, match="no sound checkpoint yet"):
        export(str(folder), "safetensors")
    with pytest.raises(UserError, match="no checkpoint yet"):
        export(str(folder), "safetensors", checkpoint="step-000000002")


def test_a_folder_that_can_t_be_written_is_a_failure_and_nothing_is_left(folder: Path):
    (folder / "exports").write_text("a file in the way")
    with pytest.raises(RunFailed, match="the export could not be written"):
        export(str(folder), "safetensors")


def test_onnx_without_its_packages_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.undo()
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "onnxscript" else find(name, *a))
    with pytest.raises(UserError, match=r'pip install "orchestrator\[onnx\]"'):
        export(str(folder), "onnx")


def test_samples_of_an_autoencoder_are_refused_with_the_reason(here: Path, monkeypatch: pytest.MonkeyPatch):
    use(monkeypatch)
    trained(VAE, here / "run")
    with pytest.raises(UserError, match="'sample' can't be exported: its noise is numbered by rows"):
        export(str(here / "run"), "stablehlo", outputs=["sample"])
