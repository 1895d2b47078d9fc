"""A user's own JAX network: a flax or equinox module, any callable pytree, or a pair of functions init and apply.

The module keeps no state of the training: parameters and buffers are handed to it for each call, so they live in
checkpoints like those of any other network. Derivatives come from nested differentiation.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import PrivateAttr, ValidationError

from backends.blame import told
from backends.errors import UserError, nearest
from backends.jax.module_forms import Module, module_of
from backends.networks import Network
from backends.task import Context

SIZES = {"inputs": "inputs", "in_features": "inputs", "outputs": "outputs", "out_features": "outputs"}
"""Arguments of a target that say how many numbers go in and out: filled in where the file does not."""
RANDOM = ("rngs", "key")
"""Arguments that a target takes its first parameters' randomness from."""
_ALLOWED = (
    "a flax.linen, flax.nnx or equinox module class, an object with init(key, inputs, outputs) and apply(params, x), a "
    "function that returns one of these, or a backends.networks.Network"
)


def adapt(target: Any, fields: Mapping[str, Any]) -> Network:
    """The network that `target` describes; `fields` are the file's own keys. Raises UserError where it is none.

    `apply(params, x)` of a pair of functions, and a linen or nnx module, see x [samples, inputs] and return
    [samples, outputs]; an equinox module or another callable pytree sees one sample.
    """
    name = getattr(target, "__name__", type(target).__name__)
    if isinstance(target, type) and issubclass(target, Network):
        try:
            return target(**fields)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or name
            raise UserError(f"{name}: {where}: {first['msg']}", path="network") from error
    if isinstance(target, Network):
        return target
    makes = isinstance(target, type) or inspect.isroutine(target)
    if not makes and not _pair(target):
        raise UserError(f"the target of the network is {_described(target)}; give {_ALLOWED}", path="network.target")
    if isinstance(target, type) and any(c.__module__.startswith("torch.") for c in target.__mro__):
        raise UserError(
            f"{name} is a torch.nn.Module, which the JAX backend can't train: use `backend: torch`, or give {_ALLOWED}",
            path="network.target",
        )
    return ModuleNetwork.of(target, name, fields) if makes else ModuleNetwork.of(lambda: target, name, fields)


class ModuleNetwork(Network):
    """A module with its fields. It is made by `init`, which knows the number of inputs and outputs."""

    jets: ClassVar[bool] = False
    _name: str = PrivateAttr("")
    _make: Callable[[int, int, Any], Any] | None = PrivateAttr(None)
    _module: Module | None = PrivateAttr(None)
    _outputs: int = PrivateAttr(0)
    _context: Context = PrivateAttr(Context({}, training=False))

    @classmethod
    def of(cls, target: Callable[..., Any], name: str, fields: Mapping[str, Any]) -> ModuleNetwork:
        """The network of a module class or factory. Raises UserError where it does not take these fields."""
        network = cls()
        network._name, network._make = name, _maker(target, name, dict(fields))
        return network

    def init(self, rng: np.random.Generator, inputs: int, outputs: int) -> dict[str, NDArray[np.float64]]:
        """The module's own initial parameters, drawn by JAX from a seed of `rng`; named by their path in the module."""
        seed = int(rng.integers(2**32))
        assert self._make is not None
        make = self._make
        made = f" when its parameters were made for {inputs} inputs and {outputs} outputs"
        with told(f"the network {self._name}", lambda: made):
            module = module_of(lambda random: make(inputs, outputs, random), inputs, outputs, seed)
        if module is None:
            raise UserError(f"{self._name} makes no network; give {_ALLOWED}", path="network.target")
        if not module.params:
            raise UserError(f"{self._name} has no parameters that could be trained", path="network.target")
        self._module, self._outputs = module, outputs
        return {name: np.array(value, np.float64) for name, value in module.params.items()}

    def aux(self) -> dict[str, NDArray[Any]]:
        """Buffers: flax's collections besides the parameters, such as `batch_stats/…`."""
        buffers = {name: np.array(value) for name, value in self._made().aux.items()}
        return {k: v.astype(np.float64) if v.dtype.kind == "f" else v for k, v in buffers.items()}

    def bound(self, context: Context) -> ModuleNetwork:
        """This network with the buffers and the noise of `context`; in training it writes new buffers there."""
        network = self.model_copy()
        network._context = context
        return network

    def apply(self, ops: Any, params: Mapping[str, Any], h: Any) -> Any:
        """[inputs, samples] -> [outputs, samples]; the module itself sees [samples, inputs] or one sample."""
        module, context = self._made(), self._context
        own = {name: params[name] for name in module.params}
        aux = {name: context.aux.get(name, value) for name, value in module.aux.items()}
        given = f" for an input of the shape [samples, inputs] = {list(h.T.shape)}, {h.dtype}"
        with told(f"the network {self._name}", lambda: given):
            out, updates = module.call(own, aux, h.T, context)
        if context.training:
            context.updates.update(updates)
        return self._checked(out, h)

    def widest(self) -> int:
        """The largest side of any weight matrix."""
        shapes = [np.shape(p) for p in self._module.params.values()] if self._module else []
        return max((n for shape in shapes if len(shape) > 1 for n in shape[-2:]), default=64)

    def _made(self) -> Module:
        if self._module is None:
            raise RuntimeError(f"the module {self._name} is made by init(rng, inputs, outputs), which was not called")
        return self._module

    def _checked(self, out: Any, h: Any) -> Any:
        samples, shape = h.shape[1], getattr(out, "shape", None)
        if shape == (samples, self._outputs):
            return out.T
        if shape == (samples,) and self._outputs == 1:
            return out[None]
        found = _described(out) if shape is None else f"an array of the shape {list(shape)}"
        raise UserError(
            f"the network {self._name} returned {found} for an input of the shape {[samples, h.shape[0]]}; it must "
            f"return an array [samples, outputs] = {[samples, self._outputs]}",
            path="network.target",
        )


def _pair(target: Any) -> bool:
    return callable(getattr(target, "init", None)) and callable(getattr(target, "apply", None))


def _maker(target: Callable[..., Any], name: str, fields: dict[str, Any]) -> Callable[[int, int, Any], Any]:
    """(inputs, outputs, random) -> the module; `random(argument)` gives what an argument of RANDOM expects."""
    # A class may hide its constructor's arguments behind those of its metaclass (nnx does).
    parameters = dict(inspect.signature(target.__init__ if isinstance(target, type) else target).parameters)
    if isinstance(target, type):
        parameters.pop(next(iter(parameters), ""), None)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    named = [k for k, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    for key in fields:
        if key not in named and not takes_any:
            raise UserError(f"{name} takes no {key!r}{nearest(key, named)}", path=f"network.{key}")
    filled = [k for k in (*SIZES, *RANDOM) if k in named and k not in fields]
    for key, p in parameters.items():
        if key in named and key not in fields and key not in filled and p.default is p.empty:
            raise UserError(f"{name} needs a value for {key!r}: write `{key}: …` under network", path="network")

    def make(inputs: int, outputs: int, random: Any) -> Any:
        known = {"inputs": inputs, "outputs": outputs}
        arguments = {k: known[SIZES[k]] if k in SIZES else random(k) for k in filled}
        return target(**fields, **arguments)

    return make


def _described(value: Any) -> str:
    return "nothing (None)" if value is None else f"an object of the type {type(value).__name__}"
