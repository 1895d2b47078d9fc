"""From a gradient to new parameters: an optimizer for each group, its rate, its sign, and the steps it sits out.

Parts of the optimizer's state that are one number per parameter stay as long as x. Another part (`count`) is one
tensor, or where there are groups one for each, called `count/<group>`, for groups may have taken different steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch

from backends import scaling
from backends.groups import REST, Grouping
from backends.stages import FirstOrder as Stage
from backends.torch.first_order import FirstOrder, optimizer
from backends.torch.layout import Layout

Tensor = torch.Tensor
Parts = dict[str, Tensor]


@dataclass(frozen=True)
class Update:
    """The optimizers of one stage."""

    stage: Stage
    layout: Layout
    grouping: Grouping

    @property
    def scaled(self) -> bool:
        """Whether the loss is scaled: the state then has the parts of `backends.scaling`."""
        return self.stage.compute == "float16"

    def init(self, x: Tensor) -> Parts:
        """The state before the first step."""
        parts = self._init(x)
        if self.scaled:
            parts |= {name: torch.as_tensor(value, device=x.device) for name, value in scaling.initial().items()}
        return parts

    def moved(
        self, g: Tensor, x: Tensor, parts: Mapping[str, Tensor], knobs: Mapping[str, Tensor]
    ) -> tuple[Tensor, Parts]:
        """(new parameters, new state) of all groups; the parts of the loss scale stay out of it."""
        if not self.grouping.members:
            direction, new = self._optimizers[REST].direction(g, x, dict(parts), knobs)
            return x - knobs["lr"] * direction, new
        moved: dict[str, Tensor] = {}
        states: dict[str, Parts] = {}
        for group, first_order in self._optimizers.items():
            own, slope, before = self._take(x, group), self._take(g, group), self._part(parts, group)
            if group != REST:
                slope = slope * knobs[f"sign/{group}"]
            rate = knobs["lr" if group == REST else f"lr/{group}"]
            direction, after = first_order.direction(slope, own, before, knobs)
            new = own - rate * direction
            if group != REST:
                on = knobs[f"on/{group}"] != 0
                new = torch.where(on, new, own)
                after = {name: torch.where(on, value, before[name]) for name, value in after.items()}
            moved[group], states[group] = new, after
        return self._whole(moved), self._joined(states)

    def _init(self, x: Tensor) -> Parts:
        if not self.grouping.members:
            return self._optimizers[REST].init(x)
        return self._joined({group: o.init(self._take(x, group)) for group, o in self._optimizers.items()})

    @cached_property
    def _optimizers(self) -> dict[str, FirstOrder]:
        return {group: optimizer(self.stage, layout) for group, layout in self._layouts.items()}

    @cached_property
    def _layouts(self) -> dict[str, Layout]:
        """Group -> its parameters, in the order of the whole layout."""
        if not self.grouping.members:
            return {REST: self.layout}
        entries = self.layout.entries
        return {g: Layout(tuple(e for e in entries if e[0] in names)) for g, names in self.grouping.members}

    @cached_property
    def _runs(self) -> tuple[tuple[str, int, int], ...]:
        """(group, start, stop) of the pieces of the flat vector that belong to one group, in order."""
        owner = {name: group for group, names in self.grouping.members for name in names}
        runs: list[tuple[str, int, int]] = []
        at = 0
        for name, shape in self.layout.entries:
            size, group = prod(shape), owner[name]
            if runs and runs[-1][0] == group:
                runs[-1] = (group, runs[-1][1], at + size)
            else:
                runs.append((group, at, at + size))
            at += size
        return tuple(runs)

    def _take(self, flat: Tensor, group: str) -> Tensor:
        pieces = [flat[start:stop] for owner, start, stop in self._runs if owner == group]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def _whole(self, by_group: Mapping[str, Tensor]) -> Tensor:
        """The opposite of `_take`."""
        at = dict.fromkeys(by_group, 0)
        pieces = []
        for group, start, stop in self._runs:
            begin = at[group]
            at[group] = begin + stop - start
            pieces.append(by_group[group][begin : at[group]])
        return torch.cat(pieces)

    def _part(self, parts: Mapping[str, Tensor], group: str) -> Parts:
        """The state of one group's optimizer."""
        own = {name: self._take(value, group) for name, value in parts.items() if self._by_parameter(value)}
        return own | {n.removesuffix(f"/{group}"): v for n, v in parts.items() if n.endswith(f"/{group}")}

    def _joined(self, states: Mapping[str, Parts]) -> Parts:
        """The states of all groups as one."""
        out: Parts = {}
        for part, value in next(iter(states.values())).items():
            if value.ndim == 1:
                out[part] = self._whole({group: state[part] for group, state in states.items()})
            else:
                out |= {f"{part}/{group}": state[part] for group, state in states.items()}
        return out

    def _by_parameter(self, value: Tensor) -> bool:
        return value.shape == (self.layout.size,)
