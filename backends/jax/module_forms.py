"""The forms in which a user's JAX network comes, brought into one: parameters and buffers by name, and a call.

flax.linen (`init`, `apply`, collections), flax.nnx (graph and state), equinox and other callable pytrees (their
floating arrays are the parameters), and pairs of functions. flax and equinox are imported only where they are used.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from backends.randomness import digest
from backends.task import Context

Array = Any
Flat = dict[str, Array]


@dataclass(frozen=True)
class Module:
    """One network. `call(params, aux, x, context)`: x [samples, inputs] -> ([samples, outputs], new aux)."""

    params: Flat
    aux: Flat
    call: Callable[[Mapping[str, Array], Mapping[str, Array], Array, Context], tuple[Array, Flat]]


def module_of(make: Callable[[Callable[[str], Any]], Any], inputs: int, outputs: int, seed: int) -> Module | None:
    """The module that `make(random)` returns, in our form; None where it is no network.

    `random(argument)` is what the argument `rngs` (nnx) or `key` (equinox) of a constructor expects.
    """
    made = make(lambda argument: nnx_rngs(seed) if argument == "rngs" else jax.random.key(seed))
    if derives(made, "flax.linen", "Module"):
        return _linen(made, inputs, seed)
    if derives(made, "flax.nnx", "Module"):
        return _nnx(made)
    if callable(getattr(made, "init", None)) and callable(getattr(made, "apply", None)):
        return _pair(made, inputs, outputs, seed)
    return _pytree(made) if callable(made) and jax.tree.leaves(made) else None


def noise(context: Context) -> Array:
    """The JAX key of a module's own noise: a function of seed and step alone."""
    seed, step = context.key
    key = jax.random.fold_in(jax.random.key(digest("network", bits=32)), jnp.asarray(seed))
    return jax.random.fold_in(key, jnp.asarray(step))


def _linen(module: Any, inputs: int, seed: int) -> Module:
    names = inspect.signature(type(module).__call__).parameters
    first, second = jax.random.split(jax.random.key(seed))
    x = jnp.zeros((1, inputs), jnp.float32)
    variables = module.init({"params": first, "dropout": second}, x, **mode(names, False))
    params = variables.get("params", {})
    buffers = {k: v for k, v in variables.items() if k != "params"}
    named_params, named_buffers = flat(params), flat(buffers)

    def call(p: Mapping[str, Array], aux: Mapping[str, Array], x: Array, context: Context) -> tuple[Array, Flat]:
        given = {"params": unflat(params, p), **unflat(buffers, aux)}
        mutable = list(buffers) if context.training else False
        keys = {"dropout": noise(context)} if context.training else None
        out = module.apply(given, x, **mode(names, context.training), rngs=keys, mutable=mutable)
        return (out[0], flat(out[1])) if context.training else (out, {})

    return Module(named_params, named_buffers, call)


def _nnx(module: Any) -> Module:
    from flax import nnx

    graph, params, random, buffers = nnx.split(module, nnx.Param, nnx.RngState, ...)
    names = inspect.signature(type(module).__call__).parameters

    def call(p: Mapping[str, Array], aux: Mapping[str, Array], x: Array, context: Context) -> tuple[Array, Flat]:
        now = nnx.merge(graph, unflat(params, p), seeded(random, context), unflat(buffers, aux))
        (now.train if context.training else now.eval)()
        out = now(x, **mode(names, context.training))
        return out, flat(nnx.split(now, nnx.Param, nnx.RngState, ...)[3])

    return Module(flat(params), flat(buffers), call)


def seeded(random: Any, context: Context) -> Any:
    """nnx's generators at the beginning of the step: every key by its name, every count 0."""
    key = noise(context)

    def fresh(path: tuple[Any, ...], leaf: Array) -> Array:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.fold_in(key, digest(_name(path), bits=32))
        return jnp.zeros_like(leaf)

    return jax.tree_util.tree_map_with_path(fresh, random)


def nnx_rngs(seed: int) -> Any:
    """nnx's generators of a seed."""
    from flax import nnx

    return nnx.Rngs(seed)


def _pytree(module: Any) -> Module:
    """Floating arrays are parameters; everything else stays as it is. The module sees one sample."""
    params = flat(module, trained=True)
    takes_key = "key" in inspect.signature(type(module).__call__).parameters
    equinox = sys.modules.get("equinox") if derives(module, "equinox", "Module") else None

    def call(p: Mapping[str, Array], aux: Mapping[str, Array], x: Array, context: Context) -> tuple[Array, Flat]:
        now = unflat(module, p)
        if equinox is not None:
            now = equinox.nn.inference_mode(now, not context.training)
        if not takes_key:
            return jax.vmap(now)(x), {}
        keys = jax.random.split(noise(context), x.shape[0])
        return jax.vmap(lambda one, key: now(one, key=key))(x, keys), {}

    return Module(params, {}, call)


def _pair(functions: Any, inputs: int, outputs: int, seed: int) -> Module:
    """init(key, inputs, outputs) -> params, a pytree; apply(params, x) -> [samples, outputs]; `key` where it asks."""
    tree = functions.init(jax.random.key(seed), inputs, outputs)
    names = inspect.signature(functions.apply).parameters

    def call(p: Mapping[str, Array], aux: Mapping[str, Array], x: Array, context: Context) -> tuple[Array, Flat]:
        key = {"key": noise(context)} if "key" in names else {}
        return functions.apply(unflat(tree, p), x, **key, **mode(names, context.training)), {}

    return Module(flat(tree), {}, call)


def mode(names: Mapping[str, Any], training: bool) -> dict[str, bool]:
    """What a call is told about training, in the words that it understands."""
    said = {"train": training, "training": training, "deterministic": not training, "use_running_average": not training}
    return {word: value for word, value in said.items() if word in names}


def derives(value: Any, package: str, name: str) -> bool:
    """Whether a value is an instance of a class of another package, without importing that package."""
    return any(c.__name__ == name and c.__module__.startswith(package) for c in type(value).__mro__)


def flat(tree: Any, trained: bool = False) -> Flat:
    """Leaves by their path, `Dense_0/kernel`; with `trained` floating arrays only."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {_name(path): leaf for path, leaf in leaves if not trained or _floating(leaf)}


def unflat(like: Any, values: Mapping[str, Array]) -> Any:
    """`like` with the leaves that `values` has."""
    return jax.tree_util.tree_map_with_path(lambda path, leaf: values.get(_name(path), leaf), like)


def _name(path: tuple[Any, ...]) -> str:
    if len(path) > 1 and getattr(path[-1], "name", "") == "value":
        path = path[:-1]  # nnx wraps every array in a variable
    return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def _floating(leaf: Any) -> bool:
    return isinstance(leaf, (jax.Array, np.ndarray)) and jnp.issubdtype(leaf.dtype, jnp.floating)
