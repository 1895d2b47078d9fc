"""A trained task as StableHLO (`jax.export`): serialized, for any number of samples, runnable without this project.

exported = jax.export.deserialize(bytes)
exported.call({"t": t, "x": x})              # {"u": …}, on whatever devices JAX has
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from backends.jax.ops import OPS
from backends.trained import Trained

PLATFORMS = ("cpu", "cuda", "tpu")
"""What the serialized module can be run on."""


def artefact(trained: Trained, format: str) -> bytes:
    """The serialized function; `format` is "stablehlo". Parameters are constants of the module, samples symbolic.

    Raises whatever JAX raises where an own network depends on the number of samples.
    """
    if format != "stablehlo":
        raise ValueError(f"the JAX backend exports stablehlo, not {format!r}")
    dtype = np.dtype(trained.precision)

    def number(value: Any) -> jax.Array:
        host = np.asarray(value)
        return jnp.asarray(host.astype(dtype) if host.dtype.kind == "f" else host)

    params, aux, constants = (
        {k: number(v) for k, v in group.items()} for group in (trained.params, trained.aux, trained.constants)
    )

    def function(columns: dict[str, Any]) -> dict[str, Any]:
        return trained.call(OPS, params, aux, constants, jnp.zeros((), jnp.int64), columns)

    (samples,) = export.symbolic_shape("samples")
    columns = {name: jax.ShapeDtypeStruct((samples, *shape), dtype) for name, shape in trained.inputs.items()}
    with jax.default_matmul_precision("float32"):
        return bytes(export.export(jax.jit(function), platforms=PLATFORMS)(columns).serialize())
