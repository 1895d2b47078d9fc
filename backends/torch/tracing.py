"""Python functions of tensors as flat graphs, compiled where that pays.

A function may call torch.autograd.grad, even nested, and may write into its arguments: all of it happens while the
graph is recorded, so that what runs afterwards is one list of operations (forward, backward, optimizer, guard) without
autograd, without Dynamo and without guards. Shapes are those of the example; whoever calls keeps them.

Compiled by `torch._inductor.standalone_compile`, whose results lie in inductor's folder on disk
(TORCHINDUCTOR_CACHE_DIR) for the next process. What can't be compiled runs as the recorded graph, and what can't be
recorded as it is written, each with one warning.
"""

from __future__ import annotations

import random
import warnings
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from backends.errors import UserError
from backends.torch import probes, remat
from backends.torch.device import default_dtype, own_generator

Tree = Any
"""Tensors in tuples, lists and dicts."""


@dataclass(frozen=True)
class Traced:
    """A recorded function. `flat` takes the leaves of the arguments and returns the leaves of the result."""

    flat: Callable[..., Any]
    out: pytree.TreeSpec
    draws: bool
    """Whether it draws random numbers: then it is not compiled, and whoever calls seeds torch's generator."""
    notes: tuple[str, ...] = ()
    """What users should know about it."""

    def __call__(self, *arguments: Tree) -> Tree:
        return pytree.tree_unflatten(list(self.flat(*leaves(arguments))), self.out)


_SHARED: dict[Hashable, dict[Hashable, Traced]] = {}
"""Recorded functions of this process, by what tells tasks apart: trials of one shape record and compile once."""


@dataclass
class Functions:
    """The recorded functions of one backend.

    Backends of equal `identity` share them; it must hold all that the functions depend on besides their arguments.
    """

    warn: Callable[[str], None]
    identity: Hashable | None = None
    lean: bool = False
    """Record without computing anything, so that recording needs no more memory than a step."""
    counts: Counter[str] = field(default_factory=Counter)
    """How often each was recorded for this backend; 0 where another one had done it."""
    _own: dict[Hashable, Traced] = field(default_factory=dict)
    _told: set[str] = field(default_factory=set)

    def get(
        self,
        name: str,
        key: Hashable,
        fn: Callable[..., Tree],
        example: tuple[Tree, ...],
        dtype: torch.dtype,
        compiled: bool,
    ) -> Traced:
        """`fn` recorded for arguments of the names, shapes and types of `example`.

        `key` tells apart what differs otherwise; `name` is for people.
        """
        known = self._own if self.identity is None else _SHARED.setdefault(self.identity, {})
        flat, spec = pytree.tree_flatten(example)
        signature = (key, spec, tuple((tuple(x.shape), x.dtype) for x in flat), dtype, compiled)
        self.counts.setdefault(name, 0)
        if signature not in known:
            self.counts[name] += 1
            with default_dtype(dtype), own_generator(flat[0].device):
                known[signature] = _record(name, fn, flat, spec, compiled, self.lean)
        for note in known[signature].notes:
            if note not in self._told:
                self._told.add(note)
                self.warn(note)
        return known[signature]


def _record(
    name: str, fn: Callable[..., Tree], flat: list[torch.Tensor], spec: pytree.TreeSpec, compiled: bool, lean: bool
) -> Traced:
    outs: list[pytree.TreeSpec] = []
    dtype = torch.get_default_dtype()

    def flattened(*inputs: torch.Tensor) -> list[torch.Tensor]:
        with default_dtype(dtype):
            found, out = pytree.tree_flatten(fn(*pytree.tree_unflatten(list(inputs), spec)))
        outs[:] = [out]
        return found

    before = _host_generators()
    try:
        graph = make_fx(flattened, tracing_mode="fake" if lean else "real")(*(flat if lean else _copies(flat)))
    except UserError:
        raise
    except Exception as error:
        if lean:
            return _record(name, fn, flat, spec, compiled, lean=False)
        flattened(*_copies(flat))  # a mistake in the function itself shows here, as its own exception
        note = f"{name} can't be recorded ({_line(error)}); it runs uncompiled, several times slower"
        return Traced(flattened, outs[0], True, (note,))
    if _host_generators() != before:
        return Traced(flattened, outs[0], True, (f"{name} {HOST_DRAWS}",))
    _settle(graph)
    remat.recompute(graph)
    if any(torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()) for node in graph.graph.nodes):
        return Traced(graph, outs[0], True, (f"{name} {DRAWS}",) if compiled else ())
    if not compiled:
        return Traced(graph, outs[0], False)
    machine, notes = _compiled(graph, flat)
    return Traced(machine, outs[0], False, notes)


DRAWS = (
    "draws random numbers of torch's own; they are seeded by (seed, step), so a resumed run repeats them, but it runs "
    "uncompiled, several times slower"
)
HOST_DRAWS = (
    "draws from Python's or numpy's global generator; it runs uncompiled, and a resumed run will not repeat its "
    "numbers (use torch's generator, which is seeded by (seed, step))"
)
NO_COMPILER = (
    "no C++ compiler was found: steps run uncompiled, about 3 times slower (install g++, or write `compile: never` to "
    "silence this)"
)


def _compiled(graph: torch.fx.GraphModule, flat: list[torch.Tensor]) -> tuple[Callable[..., Any], tuple[str, ...]]:
    """The compiled graph, or the graph itself and why."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # inductor's own affairs
        try:
            return standalone(graph, _copies(flat)), ()
        except Exception as error:
            if not compiler_works():
                return graph, (NO_COMPILER,)
            note = f"a step can't be compiled ({_line(error)}); it runs uncompiled, about 3 times slower"
        try:
            second = torch.compile(graph, dynamic=False, fullgraph=True)
            second(*_copies(flat))
            return second, ()
        except Exception:
            return graph, (note,)


def leaves(tree: Tree) -> list[torch.Tensor]:
    """The tensors of a tree, in the order that `Traced.flat` takes them."""
    return pytree.tree_leaves(tree)


def standalone(graph: torch.fx.GraphModule, flat: list[Any]) -> Callable[..., Any]:
    """The graph as machine code for these shapes. Raises whatever inductor raises."""
    from torch._inductor import standalone_compile  # costs a second, and short runs do without

    probes.remember()
    return standalone_compile(graph, flat, dynamic_shapes="from_example_inputs")


def compiler_works() -> bool:
    """Whether inductor finds a C++ compiler."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        return bool(get_cpp_compiler())
    except InvalidCxxCompiler:
        return False


def _settle(graph: torch.fx.GraphModule) -> None:
    """Removes what nobody reads, and writes down the type of tensors made from nothing, which would else be that of
    the day of the call."""
    for node in graph.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        takes_type = schema is not None and any(a.name == "dtype" for a in schema.arguments)
        if takes_type and not node.all_input_nodes and node.kwargs.get("dtype") is None:
            node.update_kwarg("dtype", node.meta["val"].dtype)
    graph.graph.eliminate_dead_code()
    graph.recompile()


def _copies(flat: list[torch.Tensor]) -> list[torch.Tensor]:
    """Own copies: one tensor in two places would silently become one input, and the function may write into it."""
    return [x.detach().clone() for x in flat]


def _host_generators() -> tuple[Any, ...]:
    """Where Python's and numpy's global generators stand."""
    state: Any = np.random.get_state()  # noqa: NPY002 (looked at, not drawn from)
    return random.getstate(), state[1].tobytes(), state[2:]


def _line(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0][:200]}" if text else type(error).__name__
