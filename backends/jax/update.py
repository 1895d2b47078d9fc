"""From a gradient to new parameters: an optimizer for each group, its rate, its sign, and the steps it sits out.

In the optimizer's state a part that is one number per parameter (`mu`) is a dict by parameter; another (`count`) is
one array, or where there are groups a dict by group, for groups may have taken different numbers of steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from backends import scaling
from backends.groups import REST
from backends.jax import first_order, own_optimizer
from backends.jax.program import Program

Array = Any
Tree = dict[str, Any]


def init(program: Program, free: Mapping[str, Any]) -> Tree:
    """The state before the first step: host arrays."""
    if program.own is not None:
        return own_optimizer.init(program.own, dict(free), program.lr)
    scale = scaling.initial() if program.compute == "float16" else {}
    if not program.grouping.members:
        return first_order.init(program.method, free, program.initial) | scale
    parts = {
        g: first_order.init(program.method, _of(free, names), program.initial) for g, names in program.grouping.members
    }
    return _joined(parts, dict(program.grouping.members)) | scale


def moved(
    program: Program, gradient: Tree, optimizer: Tree, free: Tree, knobs: Mapping[str, Array]
) -> tuple[Tree, Tree]:
    """(new parameters, new state of the optimizer) of all groups; the parts of the loss scale stay out of it."""
    if program.own is not None:
        return own_optimizer.moved(program.own, gradient, optimizer, free, knobs["lr"])
    if not program.grouping.members:
        direction, optimizer = first_order.direction(program.method, gradient, optimizer, free, knobs)
        return {name: value - knobs["lr"] * direction[name] for name, value in free.items()}, optimizer
    members = dict(program.grouping.members)
    params: Tree = {}
    states: dict[str, Tree] = {}
    for group, names in members.items():
        own, before = _of(free, names), _part(optimizer, group, names)
        slope = _of(gradient, names)
        if group != REST:
            slope = {name: g * knobs[f"sign/{group}"] for name, g in slope.items()}
        rate = knobs["lr" if group == REST else f"lr/{group}"]
        direction, after = first_order.direction(program.method, slope, before, own, knobs)
        new = {name: value - rate * direction[name] for name, value in own.items()}
        if group != REST:
            new, after = _where(knobs[f"on/{group}"] != 0, (new, after), (own, before))
        params |= new
        states[group] = after
    return params, _joined(states, members)


def _where(on: Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(on, a, b), new, old)


def _of(tree: Mapping[str, Any], names: tuple[str, ...]) -> Tree:
    return {name: tree[name] for name in names}


def _part(optimizer: Tree, group: str, names: tuple[str, ...]) -> Tree:
    """The state of one group's optimizer."""
    return {
        part: _of(value, names) if names and names[0] in value else value[group] for part, value in optimizer.items()
    }


def _joined(states: Mapping[str, Tree], members: Mapping[str, tuple[str, ...]]) -> Tree:
    """The states of all groups as one."""
    out: Tree = {}
    for group, state in states.items():
        for part, value in state.items():
            by_parameter = isinstance(value, dict) and set(value) == set(members[group])
            out.setdefault(part, {}).update(value if by_parameter else {group: value})
    return out
