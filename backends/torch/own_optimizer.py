"""The user's `torch.optim.Optimizer`: recorded gradients, its own eager steps, its state as tensors by name.

The optimizer is made anew for every dispatch, on parameters that share the memory of the state's flat vector, and gets
back what it kept: `torch/state/<parameter>/<key>` and `torch/group/<group>/<key>`. Plain numbers are 0-d tensors there
(`…:number`), tuples of them vectors (`…:tuple`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from backends import pointwise
from backends.errors import UserError
from backends.protocol import Steps
from backends.stages.custom import CustomOptimizer, OwnOptimizer
from backends.torch.device import fetch, own_generator
from backends.torch.ops import OPS
from backends.torch.processing import processed
from backends.torch.program import Program, write
from backends.torch.samples import Batch
from backends.torch.state import State

Tensor = torch.Tensor
_NO_STATE = ("params", "param_names")


def made(own: OwnOptimizer, stage: CustomOptimizer, params: list[tuple[str, torch.nn.Parameter]]) -> Any:
    """The optimizer at the stage's rate. Raises UserError for anything else."""
    found = own.make(params, learning_rate=stage.lr)
    if not isinstance(found, torch.optim.Optimizer):
        raise own.wrong(found, "a torch.optim.Optimizer (on the backend torch)")
    ours = {id(p) for _, p in params}
    if any(id(p) not in ours for group in found.param_groups for p in group["params"]):
        raise UserError(f"{own.target}: the optimizer has parameters that are not those that it was given")
    return found


def train(program: Program, own: OwnOptimizer, state: State, batches: Sequence[Batch], rows: Tensor) -> Steps:
    """One step per row of knobs, written into `state`."""
    stage, objective = program.stage, program.objective
    assert isinstance(stage, CustomOptimizer)
    terms, column = len(objective.terms), objective.row.names.index("lr")
    params = [(name, torch.nn.Parameter(view)) for name, view in objective.layout.views(state.x).items()]
    optimizer = made(own, stage, params)
    bases = [float(group["lr"]) for group in optimizer.param_groups]
    _restore(optimizer, state.optimizer)
    losses, ok = np.zeros((len(rows), terms)), np.ones(len(rows), np.bool_)
    with own_generator(rows.device):
        work = program.work(state, batches, objective.layout.size + terms)
        passes, rest = program.passes(work, rows[0]), program.gradient(work, rows[0])
        for i, row in enumerate(torch.unbind(rows, 0)):
            program.draw_alike(row)
            for accumulated in work.acc:
                accumulated.zero_()
            write(work.aux, state.aux)
            for one in passes:
                one(i, row)
            flat, aux = pytree.tree_unflatten(list(rest(i, row)), rest.traced.out)
            knobs, key = objective.row.knobs(row, program.dtype), (work.seed, objective.row.step(row))
            aux = pointwise.advanced(OPS, objective.task, aux, knobs, objective.world.size)
            g = processed(flat[terms:], state.x, objective.layout, knobs, key, program.process)
            losses[i] = fetch(flat[:terms])
            rate = float(row[column]) / stage.lr
            ok[i] = bool(torch.isfinite(flat).all() & torch.isfinite(g).all()) and _moved(
                own, optimizer, params, state.x, objective.layout.views(g), [rate * base for base in bases]
            )
            if ok[i]:
                write(state.aux, aux)
                state.constants.copy_(objective.row.part(row, "task/"))
    state.optimizer = dict(_kept(own, optimizer))
    return Steps(losses, ok, np.ones(len(rows), np.int64))


def _moved(
    own: OwnOptimizer,
    optimizer: Any,
    params: list[tuple[str, torch.nn.Parameter]],
    x: Tensor,
    slopes: dict[str, Tensor],
    rates: list[float],
) -> bool:
    """One step of the optimizer in place; False, and the parameters as they were, where it makes one not finite."""
    before = x.clone()
    for name, parameter in params:
        parameter.grad = slopes[name].clone()
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    with own.blamed():
        optimizer.step()
    if bool(torch.isfinite(x).all()):
        return True
    x.copy_(before)
    return False


def _parameters(optimizer: Any) -> list[torch.nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _kept(own: OwnOptimizer, optimizer: Any) -> Iterator[tuple[str, Tensor]]:
    """Everything that the optimizer remembers, as own tensors by name."""
    index = {id(p): i for i, p in enumerate(_parameters(optimizer))}
    for owner, entries in optimizer.state.items():
        if id(owner) not in index:
            raise UserError(f"{own.target}: the optimizer keeps state that belongs to no parameter ({owner!r:.60})")
        for key, value in entries.items():
            yield from _encoded(own, f"torch/state/{index[id(owner)]}/{key}", value)
    for i, group in enumerate(optimizer.param_groups):
        for key, value in group.items():
            if key not in _NO_STATE and not isinstance(value, str):
                yield from _encoded(own, f"torch/group/{i}/{key}", value)


def _encoded(own: OwnOptimizer, name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value.detach()
    elif isinstance(value, bool | int | float):
        yield f"{name}:number", torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else None)
    elif isinstance(value, tuple) and all(isinstance(v, int | float) for v in value):
        yield f"{name}:tuple", torch.tensor([float(v) for v in value], dtype=torch.float64)
    elif value is not None:
        raise UserError(
            f"{own.target}: the optimizer keeps a {type(value).__name__} under {name.rpartition('/')[2]!r}, which no "
            "checkpoint can hold (tensors, numbers and tuples of numbers can)"
        )


def _restore(optimizer: Any, kept: dict[str, Tensor]) -> None:
    """The opposite of `_kept`, into a fresh optimizer."""
    parameters = _parameters(optimizer)
    for name, value in kept.items():
        _, what, index, rest = name.split("/", 3)
        key, mark, form = rest.rpartition(":")
        plain = value.item() if form == "number" else tuple(value.tolist()) if mark else value
        if what == "group":
            optimizer.param_groups[int(index)][key if mark else rest] = plain
            continue
        parameter = parameters[int(index)]
        if isinstance(plain, Tensor) and rest != "step":  # which torch's own optimizers count on the host
            plain = plain.to(parameter.device)
        optimizer.state[parameter][key if mark else rest] = plain
