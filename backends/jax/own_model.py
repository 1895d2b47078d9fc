"""A user's JAX model and loss as a task trains them (`backends.own.model`).

The forms: a flax.nnx or flax.linen module, (linen module, variables), an equinox module or another callable pytree, a
pytree of parameters, and pairs (init, apply) and (parameters, apply). The loss sees the model in the form in which it
came: an nnx module, a bound linen module, the pytree itself, or x -> apply(parameters, x).
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from backends.blame import told
from backends.errors import UserError
from backends.jax.module_forms import Flat, derives, flat, mode, nnx_rngs, noise, seeded, unflat
from backends.own.model import Loss, compared, described, outputs_of, pair_of
from backends.task import Context

Array = Any
FORMS = (
    "a torch.nn.Module, a flax.nnx or flax.linen module, an equinox module, a pytree of parameters, or a pair (init, "
    "apply) or (parameters, apply)"
)


@dataclass(frozen=True)
class Bound:
    """A model with its numbers, for one call."""

    model: Any
    params: Any
    """In the user's own structure."""
    updates: Callable[[], Flat] = dict
    """New buffers, after the call."""
    call: Callable[[Any], Any] | None = None
    """x of a whole batch -> predictions, where `model` itself is none."""


@dataclass(frozen=True)
class Form:
    """One of the forms: its numbers by name, and how they are put back."""

    params: Flat
    aux: Flat
    bind: Callable[[Mapping[str, Array], Mapping[str, Array], Context], Bound]
    rebuilt: Callable[[Flat, Flat], Any]


def own_model(model: Any, example: Any = None) -> JaxModel:
    """The adapter of a model. `example` is a batch of host arrays, from which modules without parameters get theirs.

    Raises UserError where it is no model or there is nothing to train.
    """
    name = type(model).__name__
    with told(name, lambda: f" when its parameters were made from the batch {described(example)}"):
        form = _form(model, example)
    if form is None:
        raise UserError(f"the model is {described(model)}; Trainer takes {FORMS}", path="model")
    if not form.params:
        raise UserError(f"{name} has no parameters that could be trained", path="model")
    return JaxModel(name, form)


def randomness(argument: str, seed: int) -> Any:
    """What an argument of a user's method is given: a number for `seed`, nnx.Rngs for `rngs`, else a key."""
    if argument == "seed":
        return seed
    return nnx_rngs(seed) if argument == "rngs" else jax.random.key(seed)


def evaluating(model: Any) -> AbstractContextManager[None]:
    """A JAX model has no mode."""
    return nullcontext()


@dataclass(frozen=True)
class JaxModel:
    """The model keeps no state of the training; `trained` makes a new one."""

    name: str
    form: Form

    def params(self) -> dict[str, NDArray[np.float64]]:
        """Parameters by their path in the model."""
        return {name: np.array(value, np.float64) for name, value in self.form.params.items()}

    def aux(self) -> dict[str, NDArray[Any]]:
        """Variables of flax modules that are no parameters, such as `batch_stats/…`."""
        buffers = {name: np.array(value) for name, value in self.form.aux.items()}
        return {k: v.astype(np.float64) if v.dtype.kind == "f" else v for k, v in buffers.items()}

    def call(
        self, loss: Loss, params: Mapping[str, Array], batch: Any, context: Context
    ) -> tuple[Any, dict[str, Array]]:
        """(what the loss returns, new buffers). `rng` is a key that follows from (seed, step)."""
        single = all(value.dtype != jnp.float64 for value in params.values())
        with told(loss.name, lambda: f" for the batch {described(batch)}"), _default_dtype(single):
            narrow = _narrow if single else (lambda value: value)
            batch, key, step = jax.tree.map(narrow, (batch, noise(context), jnp.asarray(context.key[1])))
            bound = self.form.bind(params, context.aux, context)
            result = _result(loss, bound, batch, key, step, context.training)
            return result, bound.updates() if context.training else {}

    def shapes(
        self, function: Callable[..., dict[str, Array]], columns: Mapping[str, NDArray[Any]]
    ) -> dict[str, tuple[int, ...]]:
        """By tracing it; nothing is computed."""

        def abstract(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
            kinds = {"f": jnp.float32, "b": jnp.bool_}
            return {k: jax.ShapeDtypeStruct(v.shape, kinds.get(v.dtype.kind, jnp.int64)) for k, v in arrays.items()}

        found = jax.eval_shape(function, abstract(self.params()), abstract(columns), abstract(self.aux()))
        return {name: tuple(value.shape) for name, value in found.items()}

    def trained(self, params: Mapping[str, NDArray[Any]], aux: Mapping[str, NDArray[Any]]) -> Any:
        """A new model with these numbers, in the types of the one that came in."""

        def typed(values: Mapping[str, NDArray[Any]], like: Flat) -> Flat:
            return {name: jnp.asarray(values[name], jnp.asarray(old).dtype) for name, old in like.items()}

        return self.form.rebuilt(typed(params, self.form.params), typed(aux, self.form.aux))


def _default_dtype(single: bool) -> AbstractContextManager[Any]:
    """A user's code makes float32 numbers (`jax.random.normal(key, shape)`) where it trains in float32."""
    return jax.enable_x64(not single)


def _narrow(value: Array) -> Array:
    """Integers as JAX has them by default."""
    return value.astype(jnp.int32) if getattr(value, "dtype", None) == jnp.int64 else value


def _result(loss: Loss, bound: Bound, batch: Any, key: Array, step: Array, training: bool) -> Any:
    if loss.style == "params":
        return loss.run(bound.params, batch, key, step, training)
    if loss.style == "model":
        return loss.run(bound.model, batch, key, step, training)
    model = bound.call or bound.model
    if loss.style == "outputs":
        return outputs_of(model, batch)
    x, y = pair_of(batch, loss)
    words = mode(_arguments(model), training)
    out = model(x, **words)
    return compared(loss.function, out, y, _Functions) if isinstance(loss.function, str) else loss.function(out, y)


def _arguments(model: Any) -> Mapping[str, Any]:
    try:
        return inspect.signature(model if inspect.isroutine(model) else type(model).__call__).parameters
    except (TypeError, ValueError):
        return {}


def _form(model: Any, example: Any) -> Form | None:
    if derives(model, "flax.nnx", "Module"):
        return _nnx(model)
    if derives(model, "flax.linen", "Module"):
        return _linen(model, _variables(model, example), lambda new: new)
    if isinstance(model, tuple | list) and len(model) == 2:
        first, second = model
        if derives(first, "flax.linen", "Module"):
            return _linen(first, second if "params" in second else {"params": second}, lambda new: new)
        if callable(second):
            made = _made(first, example) if callable(first) and not _arrays(first) else first
            return _function(made, second, lambda new: (new, second))
    init, apply = getattr(model, "init", None), getattr(model, "apply", None)
    if callable(init) and callable(apply):
        return _function(_made(init, example), apply, lambda new: (new, apply))
    return _pytree(model) if _arrays(model) else None


def _arrays(tree: Any) -> list[Any]:
    return [leaf for leaf in jax.tree.leaves(tree) if hasattr(leaf, "dtype")]


def _nnx(module: Any) -> Form:
    from flax import nnx

    graph, params, random, buffers = nnx.split(module, nnx.Param, nnx.RngState, ...)

    def bind(p: Mapping[str, Array], aux: Mapping[str, Array], context: Context) -> Bound:
        tree = unflat(params, p)
        now = nnx.merge(graph, tree, seeded(random, context), unflat(buffers, aux))
        (now.train if context.training else now.eval)()
        return Bound(now, tree, lambda: flat(nnx.split(now, nnx.Param, nnx.RngState, ...)[3]))

    def rebuilt(p: Flat, aux: Flat) -> Any:
        return nnx.merge(graph, unflat(params, p), random, unflat(buffers, aux))

    return Form(flat(params), flat(buffers), bind, rebuilt)


def _linen(module: Any, variables: Any, wrapped: Callable[[Any], Any]) -> Form:
    params = variables.get("params", {})
    buffers = {k: v for k, v in variables.items() if k != "params"}

    def bind(p: Mapping[str, Array], aux: Mapping[str, Array], context: Context) -> Bound:
        given = {"params": unflat(params, p), **unflat(buffers, aux)}
        # In evaluations, too: what a loss changes then (it may say `train=True` throughout) is not kept.
        now = module.bind(given, rngs={"dropout": noise(context)}, mutable=list(buffers) or False)
        return Bound(now, given, lambda: flat({k: v for k, v in now.variables.items() if k != "params"}))

    def rebuilt(p: Flat, aux: Flat) -> Any:
        return wrapped((module, {"params": unflat(params, p), **unflat(buffers, aux)}))

    return Form(flat(params), flat(buffers), bind, rebuilt)


def _variables(module: Any, example: Any) -> Any:
    """A linen module's first variables, for the first array of a batch. Raises what `init` raises."""
    x = _first(example)
    words = mode(inspect.signature(type(module).__call__).parameters, False)
    one, two = jax.random.split(jax.random.key(0))
    return module.init({"params": one, "dropout": two}, jnp.asarray(x), **words)


def _made(init: Any, example: Any) -> Any:
    """init(key), init(key, x) or init(key, inputs, outputs) -> parameters."""
    asked = [
        p for p in inspect.signature(init).parameters.values() if p.default is p.empty and p.kind is not p.VAR_KEYWORD
    ]
    key = jax.random.key(0)
    if len(asked) <= 1:
        return init(key)
    x = _first(example)
    if len(asked) == 2:
        return init(key, jnp.asarray(x))
    _, y = pair_of(example, Loss("init", "pair"))
    return init(key, x.shape[-1], y.shape[-1] if y.ndim > 1 else 1)


def _function(tree: Any, apply: Callable[..., Any], wrapped: Callable[[Any], Any]) -> Form:
    def bind(p: Mapping[str, Array], aux: Mapping[str, Array], context: Context) -> Bound:
        now = unflat(tree, p)
        names = inspect.signature(apply).parameters
        words = {**mode(names, context.training), **({"key": noise(context)} if "key" in names else {})}

        def model(*args: Any, **kwargs: Any) -> Any:
            return apply(now, *args, **{**words, **kwargs})

        return Bound(model, now)

    return Form(flat(tree, trained=True), {}, bind, lambda p, aux: wrapped(unflat(tree, p)))


def _pytree(tree: Any) -> Form:
    """Floating arrays are parameters, everything else stays as it is. A loss of (prediction, target) calls an equinox
    module once per sample, as its layers expect."""
    each = derives(tree, "equinox", "Module")

    def bind(p: Mapping[str, Array], aux: Mapping[str, Array], context: Context) -> Bound:
        now = unflat(tree, p)
        if each:
            now = sys.modules["equinox"].nn.inference_mode(now, not context.training)
        return Bound(now, now, call=jax.vmap(now) if each else None)

    return Form(flat(tree, trained=True), {}, bind, lambda p, aux: unflat(tree, p))


def _first(example: Any) -> NDArray[Any]:
    """The first array of a batch: what a model is taken to read."""
    leaves = jax.tree.leaves(example)
    if not leaves:
        raise UserError("the model's parameters are made from a first batch; give Trainer its `data`", path="data")
    x = np.asarray(leaves[0])
    return x.astype(np.float32) if x.dtype.kind == "f" else x


class _Functions:
    """What `compared` needs, per sample."""

    abs = staticmethod(jnp.abs)
    softplus = staticmethod(jax.nn.softplus)

    @staticmethod
    def sum(x: Array) -> Array:
        return jnp.sum(x, 1)

    @staticmethod
    def mean(x: Array) -> Array:
        return jnp.mean(x, 1)

    @staticmethod
    def cross_entropy(logits: Array, labels: Array) -> Array:
        # Further axes (pixels, tokens) are averaged.
        losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], -1)[..., 0]
        return jnp.mean(jnp.reshape(losses, (losses.shape[0], -1)), 1)
