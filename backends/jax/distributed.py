"""Several processes that train together, one device each: the mesh, placement of arrays, sums, agreement.

State is replicated, samples are split along their own axis, and every sum inside the step runs over the axis of
workers. A process reads its own copy of what is replicated, so nothing outside a step communicates.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from numpy.typing import NDArray

from backends.errors import RunFailed
from backends.protocol import World

Array = Any
WORKERS = "workers"
"""Name of the mesh axis."""


def join(address: str, rank: int, size: int, *, gpu: bool, timeout_s: float) -> int:
    """Join the processes that meet at "host:port"; returns how many are in. Before anything else uses JAX.

    Raises RunFailed where they do not meet within `timeout_s`.
    """
    if not gpu:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(address, size, rank, initialization_timeout=int(timeout_s))
    except RuntimeError as error:
        raise RunFailed(f"worker {rank} of {size} could not join the others at {address}: {error}") from error
    return jax.process_count()


def leave() -> None:
    """The opposite of `join`."""
    jax.distributed.shutdown()


def agree(value: int, world: World) -> int:
    """The largest `value` of all ranks. Every rank must call it."""
    if world.size == 1:
        return value
    values = put(np.full(world.size, value, np.int64), world, None, axis=0)
    return int(np.asarray(_largest(values, world.size).addressable_data(0)))


@cache
def mesh(size: int) -> Mesh:
    """One device of each process, by rank."""
    first = {d.process_index: d for d in reversed(jax.devices())}
    if len(first) != size:
        raise RunFailed(f"{size} workers were asked for, and JAX sees {len(first)}")
    return Mesh(np.array([first[rank] for rank in sorted(first)]), (WORKERS,))


def spec(axis: int | None) -> PartitionSpec:
    """Split along `axis`, or whole on every worker."""
    return PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, WORKERS)


def put(value: NDArray[Any], world: World, device: Any, axis: int | None = None, *, own: bool = True) -> Array:
    """A private copy of a host array on the device: whole, or with several workers this rank's part along `axis`.

    `own=False`: nobody writes into the array any more, so a CPU's device array may be its memory.
    """
    if world.size == 1:
        return jax.device_put(np.array(value), device) if own else jax.device_put(value, device, may_alias=True)
    if axis is not None:
        each = value.shape[axis] // world.size
        value = np.take(value, range(world.rank * each, (world.rank + 1) * each), axis)
    return jax.make_array_from_process_local_data(NamedSharding(mesh(world.size), spec(axis)), np.array(value))


def own(x: Array) -> Array:
    """This process's copy of a replicated array."""
    return x if x.is_fully_addressable else x.addressable_data(0)


def fetch(x: Array) -> NDArray[Any]:
    """The same as a private host array."""
    return np.array(own(x))


def total(x: Array) -> Array:
    """The sum over the workers, inside the step."""
    return jax.lax.psum(x, WORKERS)


def gathered(x: Array) -> Array:
    """The rows of all workers one after the other, inside the step."""
    return jax.lax.all_gather(x, WORKERS, tiled=True)


@partial(jax.jit, static_argnums=1)
def _largest(values: Array, size: int) -> Array:
    largest = jnp.max(values)
    return jax.lax.with_sharding_constraint(largest, NamedSharding(mesh(size), PartitionSpec()))
