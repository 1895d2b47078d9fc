"""A trained task as a `torch.export` program (.pt2) or as ONNX, for any number of samples.

    torch.export.load("model.pt2").module()(t, x)                                     # {"u": …}
    onnxruntime.InferenceSession("model.onnx").run(["u"], {"t": t, "x": x})

Neither needs this project.
"""

from __future__ import annotations

import importlib.util
import io
import logging
import warnings
from collections.abc import Mapping
from contextlib import redirect_stdout
from typing import Any

import numpy as np
import torch

from backends.errors import UserError
from backends.torch.device import DTYPES, default_dtype
from backends.torch.ops import OPS
from backends.trained import Trained

EXAMPLE = 3
"""Samples of the example that is traced; 0 and 1 would be taken for fixed sizes."""
ONNX_PACKAGES = ("onnx", "onnxscript")


def artefact(trained: Trained, format: str) -> bytes:
    """The serialized function; `format` is "torch" or "onnx". Parameters are buffers of the program.

    Raises UserError where a package is missing, and whatever torch raises where an own network can't be traced.
    """
    if format == "onnx":
        return _onnx(trained)
    if format != "torch":
        raise ValueError(f"the torch backend exports torch and onnx, not {format!r}")
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program(trained), buffer)
    return buffer.getvalue()


def program(trained: Trained) -> torch.export.ExportedProgram:
    """The function of the columns, in their order, as an exported program; the number of samples is free."""
    dtype = DTYPES[trained.precision]
    example = tuple(torch.from_numpy(v) for v in trained.columns(EXAMPLE).values())
    samples = torch.export.Dim("samples")
    module = _Function(trained, dtype).eval()
    with warnings.catch_warnings(), default_dtype(dtype), torch.no_grad():
        warnings.simplefilter("ignore")  # torch's own affairs
        return torch.export.export(
            module, example, dynamic_shapes=(tuple({0: samples} for _ in example),), strict=False
        )


class _Function(torch.nn.Module):
    """The trained task as a module of named buffers."""

    def __init__(self, trained: Trained, dtype: torch.dtype) -> None:
        super().__init__()
        self._trained = trained
        self._names: dict[str, dict[str, str]] = {}
        for group in ("params", "aux", "constants"):
            names = self._names[group] = {}
            for i, (name, value) in enumerate(getattr(trained, group).items()):
                host = torch.from_numpy(np.array(value))
                names[name] = f"{group}_{i}"
                self.register_buffer(names[name], host.to(dtype) if host.is_floating_point() else host)

    def forward(self, *columns: torch.Tensor) -> Mapping[str, torch.Tensor]:
        params, aux, constants = ({k: getattr(self, b) for k, b in names.items()} for names in self._names.values())
        zero = torch.zeros((), dtype=torch.int64)
        named = dict(zip(self._trained.inputs, columns, strict=True))
        return self._trained.call(OPS, params, aux, constants, zero, named)


# --- ONNX ---


def _onnx(trained: Trained) -> bytes:
    for package in ONNX_PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f'the format onnx needs the package {package!r}; install it with pip install "orchestrator[onnx]" '
                '(in a checkout: pip install -e ".[onnx]")'
            )
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            made: Any = torch.onnx.export(
                program(trained),
                dynamo=True,
                verbose=False,
                external_data=False,
                input_names=list(trained.inputs),
                output_names=list(trained.outputs),
                custom_translation_table={torch.ops.aten.scalar_tensor.default: _exact_number},
            )
    finally:
        quiet.setLevel(level)
    return _with_named_samples(made.model_proto).SerializeToString()


def _exact_number(s: float, dtype: int = 1) -> Any:
    """A constant in its own precision: the exporter's rule rounds every Python number (pi, say) to float32 first."""
    import onnx
    from onnxscript import opset18

    return opset18.Constant(value=onnx.helper.make_tensor("number", dtype if dtype > 0 else 1, [], [s]))


def _with_named_samples(model: Any) -> Any:
    """The model with its free dimension called `samples`, not s54."""
    free = next((d.dim_param for i in model.graph.input for d in i.type.tensor_type.shape.dim if d.dim_param), "")
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param:
                dimension.dim_param = dimension.dim_param.replace(free, "samples")
    return model


__all__ = ["artefact", "program"]
