"""What lies beside an exported model: `config.json`, a script that loads it, and what safetensors need besides."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.numpy

import orchestrator
from backends import checkpoint
from backends.trained import Trained
from orchestrator.config import Experiment
from orchestrator.folder import RunFolder, read_json

FILES = {
    "safetensors": "model.safetensors",
    "stablehlo": "model.stablehlo",
    "torch": "model.pt2",
    "onnx": "model.onnx",
}
PACKAGES = {
    "safetensors": ("safetensors", "numpy"),
    "stablehlo": ("jax", "jaxlib"),
    "torch": ("torch",),
    "onnx": ("torch", "onnx", "onnxscript"),
}


def config(
    folder: RunFolder, experiment: Experiment, snapshot: checkpoint.Snapshot, trained: Trained, format: str
) -> dict[str, Any]:
    """`config.json`: what the model is, how it is called, where it comes from."""
    tree = experiment.tree()
    return {
        "format": format,
        "file": FILES[format],
        "inputs": {
            name: {"shape": ["samples", *shape], "dtype": trained.precision} for name, shape in trained.inputs.items()
        },
        "outputs": list(trained.outputs),
        "precision": trained.precision,
        "calling": CALLING[format],
        "coordinates": list(trained.inputs),
        "scaling": _scaling(trained),
        "constraints": experiment.constraints,
        "constants": {name: float(value) for name, value in trained.constants.items()},
        "network": tree["network"],
        "task": tree["task"],
        "parameters": int(sum(np.size(v) for v in trained.params.values())),
        "name": experiment.name,
        "run": folder.path.name,
        "run_id": read_json(folder.mlflow).get("run_id"),
        "checkpoint": f"step-{snapshot.step:09d}",
        "step": snapshot.step,
        "backend": experiment.backend,
        "metrics": dict(snapshot.meta.get("metrics") or {}),
        "versions": {"orchestrator": orchestrator.__version__, **_versions(PACKAGES[format])},
        "trained_with": dict(snapshot.meta.get("versions") or {}),
    }


def _scaling(trained: Trained) -> dict[str, Any]:
    """How the network's inputs and outputs are scaled; all formats but safetensors have it inside."""
    represented = getattr(trained.task, "representation", None)
    if represented is not None:
        box = trained.task.problem.box()  # pyright: ignore[reportAttributeAccessIssue]
        ends = {name: [float(low), float(high)] for name, (low, high) in box.items()}
        return {
            "coordinates": {"to": [-1.0, 1.0], "from": ends} if represented.scale_coords else None,
            "fields": {name: float(represented.scales.get(name, 1.0)) for name in trained.task.outputs},
        }
    pairs = {k: getattr(trained.task, v, {}) for k, v in (("inputs", "shifts"), ("outputs", "scales"))}
    return {
        side: {name: {"mean": float(mean), "deviation": float(deviation)} for name, (mean, deviation) in found.items()}
        for side, found in pairs.items()
    }


def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in packages}


def safetensors_files(folder: RunFolder, trained: Trained) -> dict[str, bytes]:
    """The arrays, and what rebuilds the function around them: the resolved experiment with the user's own files."""
    arrays = {
        f"{group}/{name}": np.ascontiguousarray(value).reshape(np.shape(value))
        for group in ("params", "aux", "constants")
        for name, value in getattr(trained, group).items()
    }
    own = {f"code/{p.name}": p.read_bytes() for p in sorted(folder.code.glob("*")) if p.is_file()}
    return {
        FILES["safetensors"]: safetensors.numpy.save(arrays),
        "experiment.yaml": folder.experiment.read_bytes(),
    } | own


def texts(about: Mapping[str, Any]) -> dict[str, bytes]:
    """`config.json` and `load.py`."""
    points = ", ".join(f'"{name}": {_example(entry["shape"][1:])}' for name, entry in about["inputs"].items())
    script = LOADING[about["format"]].format(
        points=points,
        dtype=about["precision"],
        inputs=", ".join(f'points["{name}"]' for name in about["inputs"]),
        tensors=", ".join(f'torch.from_numpy(points["{name}"])' for name in about["inputs"]),
    )
    return {"config.json": (json.dumps(about, indent=2) + "\n").encode(), "load.py": script.encode()}


def _example(shape: list[int]) -> str:
    return "[0.1, 0.2, 0.3]" if not shape else f"np.zeros({[3, *shape]})"


CALLING = {
    "safetensors": "arrays params/…, aux/…, constants/…; orchestrator.exporting.load puts the function together",
    "stablehlo": "jax.export.deserialize(bytes).call({column: array [samples, …]}) -> {output: array [samples, …]}",
    "torch": "torch.export.load(file).module()(*columns in the order of inputs) -> {output: tensor [samples, …]}",
    "onnx": "session.run(outputs, {column: array [samples, …]}) -> arrays in the order of outputs",
}
_HEAD = """from pathlib import Path

import numpy as np
"""
_POINTS = """
folder = Path(__file__).parent
points = {{name: np.asarray(v, "{dtype}") for name, v in {{{points}}}.items()}}
"""
LOADING = {
    "safetensors": '"""Load the model; numpy alone computes it."""\n\n'
    + _HEAD
    + "\nfrom orchestrator.exporting.loading import load\n"
    + _POINTS
    + "model = load(folder)\nprint(model(points))\n",
    "stablehlo": '"""Load the model with JAX alone."""\n\n'
    + _HEAD
    + "import jax\nfrom jax import export\n\n"
    + 'jax.config.update("jax_enable_x64", True)  # float64 stays float64\n'
    + _POINTS
    + 'model = export.deserialize(bytearray((folder / "model.stablehlo").read_bytes()))\nprint(model.call(points))\n',
    "torch": '"""Load the model with torch alone."""\n\n'
    + _HEAD
    + "import torch\n"
    + _POINTS
    + 'model = torch.export.load(folder / "model.pt2").module()\nprint(model({tensors}))\n',
    "onnx": '"""Load the model with onnxruntime alone."""\n\n'
    + _HEAD
    + "import onnxruntime\n"
    + _POINTS
    + 'model = onnxruntime.InferenceSession(folder / "model.onnx")\n'
    + "names = [output.name for output in model.get_outputs()]\n"
    + "print(dict(zip(names, model.run(names, points))))\n",
}
"""A script per format: shown in the docs, run in the tests."""
