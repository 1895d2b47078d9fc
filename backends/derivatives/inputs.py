"""The coordinates as Jets: one by one for an ansatz, many at once for a network.

With `directions` the Laplacian's channel runs along those instead of along the coordinates
(`backends.derivatives.estimator`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backends.derivatives.channels import Channel, Plan
from backends.derivatives.estimator import DIRECTION
from backends.derivatives.jets import Jet

Array = Any


@dataclass(frozen=True, eq=False)
class Inputs(Mapping[str, Jet]):
    """Coordinate -> Jet [1, samples], made when asked for; `together` gives several as one Jet."""

    plan: Plan
    ops: Any
    columns: Mapping[str, Array]
    """[samples] each."""
    coords: tuple[str, ...]
    spatial: tuple[str, ...] = ()
    """The coordinates that the rows of `directions` stand for."""
    directions: Array | None = None
    """[directions, spatial coordinates, samples]"""

    def __getitem__(self, name: str) -> Jet:
        if name not in self.coords:
            raise KeyError(name)
        return self.together((name,))

    def __iter__(self) -> Iterator[str]:
        return iter(self.coords)

    def __len__(self) -> int:
        return len(self.coords)

    def together(self, names: Sequence[str]) -> Jet:
        """[len(names), samples]: the derivative of a coordinate with respect to itself is 1."""
        value = self.ops.stack([self.columns[c] for c in names])
        channels: list[Channel] = [self._slope(names, index, value) for index in self.plan.indices[1:]]
        return Jet(self.plan, [value, *channels, *([None] if self.plan.laplacian else [])])

    def _slope(self, names: Sequence[str], index: Sequence[str], value: Array) -> Channel:
        if len(index) != 1:
            return None
        (c,) = index
        if c.startswith(DIRECTION):
            return self._along(names, int(c[len(DIRECTION) :]), value)
        if c not in names:
            return None
        at, many = list(names).index(c), len(names)
        return self.ops.ones((1, 1), like=value) if many == 1 else self.ops.eye(many, like=value)[:, at : at + 1]

    def _along(self, names: Sequence[str], k: int, value: Array) -> Channel:
        """The slope along direction k: its components, zero for time."""
        rows = self.directions[k]  # pyright: ignore[reportOptionalSubscript]
        if tuple(names) == self.spatial:
            return rows
        if not set(names) & set(self.spatial):
            return None
        at = {c: i for i, c in enumerate(self.spatial)}
        zero = self.ops.zeros((1, rows.shape[1]), like=value)
        return self.ops.concat([rows[at[c] : at[c] + 1] if c in at else zero for c in names], 0)

    def moved(self, rows: Mapping[str, Array]) -> Mapping[str, Array]:
        """Coordinates x + sum_k s_k v_k as rows [1, samples], from those of coordinates and, where there are
        directions, of the lengths s_k."""
        if self.directions is None:
            return rows
        steps = [(rows[s], self.directions[int(s[len(DIRECTION) :])]) for s in self.plan.laplacian]
        shift = {c: sum(s * v[i : i + 1] for s, v in steps) for i, c in enumerate(self.spatial)}
        return {c: rows[c] + shift[c] if c in shift else rows[c] for c in self.coords}
