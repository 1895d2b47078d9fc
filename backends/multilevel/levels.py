"""Training on several widths, one after the other: a Backend made of one backend per width.

The state goes from level to level through host arrays: parameters by `prolongation`, the moments of a first-order
optimizer likewise where the next stage asks for them (`moments: kept`); every other stage begins with a
fresh optimizer. All of it is a function of the seed and the number of the stage, the same on both backends and after a
resume.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.errors import UserError
from backends.multilevel import prolongation
from backends.multilevel.prolongation import Activations, Chain
from backends.networks.mlp import MLP, ModifiedMLP
from backends.networks.network import under
from backends.ops import NumpyOps
from backends.protocol import Backend, Steps
from backends.randomness import generator
from backends.stages import Stage
from backends.stages.custom import STATE
from backends.task import Batches, Columns, Feed

PARAMS, OPTIMIZER = "params/", "optimizer/"
FIRST_MOMENTS = ("mu", "trace")
"""Parts of an optimizer's state that are sums of gradients; the others, by parameter, are sums of their squares."""
PROBES = 1024
"""Inputs on which units of a wider network are judged."""
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class LevelState:
    """A state of the backend of its stage's width."""

    stage: int
    inner: Any


class Levels:
    """The backends of all widths as one (`backends.protocol.Backend`)."""

    def __init__(
        self,
        make: Callable[[int], Backend[Any]],
        widths: Sequence[int],
        stages: Sequence[Stage],
        network: Any,
        seed: int,
    ) -> None:
        """`make(width)` builds a backend, for all `stages`; `widths`: of each stage."""
        self._widths, self._stages, self._seed, self._network = tuple(widths), tuple(stages), seed, network
        self._made = {width: make(width) for width in dict.fromkeys(widths)}
        self.name = self._made[widths[0]].name

    # --- from level to level ---
    def init(self, seed: int) -> LevelState:
        return LevelState(0, self._at(0).init(seed))

    def enter(self, state: LevelState, stage: int) -> LevelState:
        """The same function in the width of a stage."""
        old, new = self._at(state.stage), self._at(stage)
        if old is new and not self._kept(stage):
            return LevelState(stage, new.enter(state.inner, stage))
        width, arrays = self._widths[stage], old.arrays(state.inner)[0]
        wanted, meta = new.arrays(new.enter(new.init(self._seed), stage))
        moved = arrays if old is new else self._resized(arrays, self._widths[state.stage], width, stage)
        kept = {
            k: v
            for k, v in moved.items()
            if k in wanted and (self._kept(stage) or not k.startswith((OPTIMIZER, STATE)))
        }
        return LevelState(stage, new.load({**wanted, **{k: v.astype(wanted[k].dtype) for k, v in kept.items()}}, meta))

    def _kept(self, stage: int) -> bool:
        return getattr(self._stages[stage], "moments", "fresh") == "kept"

    def _resized(self, arrays: Arrays, old: int, width: int, stage: int) -> dict[str, NDArray[Any]]:
        """All arrays in another width; those without units stay what they are."""
        params = under(PARAMS, arrays)
        moments = _moments(arrays)
        out = dict(arrays)
        if width > old:
            found = prolongation.prolong(params, width, generator(self._seed, "prolong", stage))
            for part, values in moments.items():
                fill = part.split("/")[2] not in FIRST_MOMENTS
                out |= {f"{part}/{n}": v for n, v in prolongation.prolonged_moments(values, width, fill=fill).items()}
        else:
            activations = probed(self._network, generator(self._seed, "restrict", stage))
            found, kept = prolongation.restrict(params, width, activations)
            for part, values in moments.items():
                out |= {f"{part}/{n}": v for n, v in prolongation.restricted_moments(values, kept).items()}
        return out | {PARAMS + n: v for n, v in found.items()}

    def _at(self, stage: int) -> Backend[Any]:
        if not 0 <= stage < len(self._widths):
            raise UserError(
                f"checkpoint: it is from stage number {stage + 1}, and there are {len(self._widths)} stages"
            )
        return self._made[self._widths[stage]]

    # --- out and in ---
    def arrays(self, state: LevelState) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """As the level's own, and its width in the meta data."""
        arrays, meta = self._at(state.stage).arrays(state.inner)
        return arrays, {**meta, "width": self._widths[state.stage]}

    def load(self, arrays: Arrays, meta: Mapping[str, Any]) -> LevelState:
        stage = int(meta["stage"])
        return LevelState(stage, self._at(stage).load(arrays, meta))

    def parameters(self, state: LevelState) -> dict[str, NDArray[Any]]:
        return self._at(state.stage).parameters(state.inner)

    def layout(self, state: LevelState) -> list[tuple[str, tuple[int, ...]]]:
        return self._at(state.stage).layout(state.inner)

    def aux(self, state: LevelState) -> dict[str, NDArray[Any]]:
        return self._at(state.stage).aux(state.inner)

    def with_aux(self, state: LevelState, new: Arrays) -> LevelState:
        return LevelState(state.stage, self._at(state.stage).with_aux(state.inner, new))

    def compilations(self) -> dict[str, int]:
        """Of all levels together."""
        return dict(sum((Counter(b.compilations()) for b in self._made.values()), Counter()))

    def compiled(self, stage: int) -> bool | None:
        """Whether the steps of a stage run as machine code; None before its first step."""
        return self._at(stage).compiled(stage)  # pyright: ignore[reportAttributeAccessIssue]

    # --- at a level ---
    def step(
        self, state: LevelState, n: int, knobs: NDArray[np.float64], feed: Feed, step: int
    ) -> tuple[LevelState, Steps]:
        inner, steps = self._at(state.stage).step(state.inner, n, knobs, feed, step)
        return LevelState(state.stage, inner), steps

    def evaluate(self, state: LevelState, batches: Batches) -> dict[str, float]:
        return self._at(state.stage).evaluate(state.inner, batches)

    def candidates(self, state: LevelState, batch: str, columns: Columns) -> dict[str, NDArray[np.float64]]:
        return self._at(state.stage).candidates(state.inner, batch, columns)

    def predict(self, state: LevelState, names: Sequence[str], columns: Columns) -> dict[str, NDArray[np.float64]]:
        return self._at(state.stage).predict(state.inner, names, columns)

    def probe(
        self, state: LevelState, what: frozenset[str], feed: Feed, step: int, knobs: NDArray[np.float64]
    ) -> dict[str, NDArray[np.float64]]:
        return self._at(state.stage).probe(state.inner, what, feed, step, knobs)


def probed(network: MLP | ModifiedMLP, rng: np.random.Generator) -> Activations:
    """What hidden units give at random inputs of [-1, 1]: the box that scaled coordinates fill."""

    def activations(params: dict[str, NDArray[np.float64]]) -> list[NDArray[np.float64]]:
        features = network.features
        inputs = params["frozen/frequencies" if features else "w0"].shape[0]
        return list(network.hidden(NumpyOps(), params, rng.uniform(-1.0, 1.0, (inputs, PROBES))))

    return activations


def _moments(arrays: Arrays) -> dict[str, dict[str, NDArray[Any]]]:
    """`optimizer/<kind>/<part>` -> its numbers by parameter, of parts that have layers."""
    found: dict[str, dict[str, NDArray[Any]]] = {}
    for name, value in arrays.items():
        words = name.split("/", 3)
        if name.startswith(OPTIMIZER) and len(words) == 4:
            found.setdefault("/".join(words[:3]), {})[words[3]] = value
    return {part: values for part, values in found.items() if Chain.of(values)}
