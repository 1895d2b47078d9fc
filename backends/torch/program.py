"""The recorded functions of one stage, and the loop that calls them.

A step is: for each batch that is cut into passes, one call per pass of a function that adds losses and gradient to an
accumulator; then one call that does all the rest: the other batches, the sum over workers, the guard and the
optimizer. State and accumulator are written in place, so the loop hands over the same tensors step after step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from backends import pointwise, scaling
from backends.gradients import Process
from backends.groups import Grouping
from backends.randomness import digest
from backends.stages import FIRST_ORDER, Stage
from backends.torch.device import own_generator
from backends.torch.objective import Objective
from backends.torch.ops import OPS
from backends.torch.processing import processed
from backends.torch.samples import Batch, columns
from backends.torch.state import State
from backends.torch.tracing import Functions, Traced, leaves
from backends.torch.update import Update

Tensor = torch.Tensor
Tree = Any


@dataclass(frozen=True)
class Group:
    """Batches that one call computes: either one pass of one batch, or all batches that take a single pass."""

    counts: dict[str, int]
    """Per batch the samples of this worker in all passes."""
    fixed: dict[str, dict[str, Tensor]]
    now: list[dict[str, dict[str, Tensor]]]
    """Step by step."""


@dataclass(frozen=True)
class Work:
    """What the calls of one dispatch share. `acc` has one tensor, or none where nothing is cut into passes."""

    state: State
    x: Tensor
    acc: list[Tensor]
    aux: dict[str, Tensor]
    """What passes hand on to each other, where there are some."""
    seed: Tensor
    scale: list[Tensor]
    """What the loss is multiplied by for the backward pass; none but in float16 stages."""
    passes: list[Group]
    rest: Group


@dataclass(frozen=True)
class Bound:
    """A recorded function: in front the arguments that stay throughout a dispatch, behind those of each step."""

    traced: Traced
    head: tuple[Tensor, ...]
    now: list[list[Tensor]]

    def __call__(self, i: int, *middle: Tensor) -> Any:
        return self.traced.flat(*self.head, *middle, *self.now[i])


@dataclass(frozen=True)
class Program:
    """One stage with its functions."""

    stage: Stage
    objective: Objective
    functions: Functions
    dtype: torch.dtype
    seed: int
    grouping: Grouping
    compiled: bool
    probes_compiled: bool
    process: Process | None = None
    """The user's function of the gradients."""

    @cached_property
    def update(self) -> Update:
        """The optimizers of a first-order stage."""
        assert isinstance(self.stage, FIRST_ORDER)
        return Update(self.stage, self.objective.layout, self.grouping)

    def train(self, state: State, batches: Sequence[Batch], rows: Tensor) -> Tensor:
        """First-order steps, one per row of knobs, written into `state`. Returns [steps, losses and ok] and, where the
        loss is scaled, scale and number of skipped steps behind them."""
        terms = len(self.objective.terms)
        width = terms + (3 if self.update.scaled else 1)
        out = rows.new_empty((len(rows), -(-width // 4) * 4), dtype=self.dtype)
        lines, outs = torch.unbind(rows, 0), torch.unbind(out, 0)
        work = self.work(state, batches, self.objective.layout.size + terms)
        passes, last = self.passes(work, lines[0]), self._last(work, lines[0], outs[0])
        if any(b.traced.draws for b in (*passes, last)):
            with own_generator(rows.device):
                for i, line in enumerate(lines):
                    self.draw_alike(line)
                    for one in passes:
                        one(i, line)
                    last(i, line, outs[i])
        else:
            for i, line in enumerate(lines):
                for one in passes:
                    one(i, line)
                last(i, line, outs[i])
        return out[:, :width]

    def work(self, state: State, batches: Sequence[Batch], width: int) -> Work:
        """The buffers of one dispatch, and its batches by call; `width` numbers are accumulated."""
        cut = [b for b in batches if b.chunked]
        whole = [b for b in batches if not b.chunked]
        steps = len(batches[0].now) if batches else 1
        rest = Group(
            {b.name: b.samples for b in whole},
            {b.name: b.fixed[0] for b in whole},
            [{b.name: b.now[i][0] for b in whole} for i in range(steps)],
        )
        passes = [
            Group({b.name: b.samples}, {b.name: b.fixed[j]}, [{b.name: now[j]} for now in b.now])
            for b in cut
            for j in range(b.passes)
        ]
        return Work(
            state,
            state.x,
            [state.x.new_zeros(width)] if cut else [],
            {k: v.clone() for k, v in state.aux.items()} if cut else {},
            torch.tensor(self.seed, device=state.x.device),
            [state.optimizer[scaling.SCALE]] if scaling.SCALE in state.optimizer else [],
            passes,
            rest,
        )

    def passes(self, work: Work, row: Tensor, each: bool = False) -> list[Bound]:
        """The calls that accumulate, in order."""

        def accumulating(counts: dict[str, int]) -> Any:
            def accumulate(
                x: Tensor, frozen: Tree, acc: Tree, aux: Tree, seed: Tensor, scale: Tree, fixed: Tree, row: Tensor,
                now: Tree,
            ) -> Tree:  # fmt: skip
                flat, new = self._contribution(counts, each, x, frozen, aux, seed, scale, fixed, row, now)
                acc[0].add_(flat)
                write(aux, new)
                return ()

            return accumulate

        found = []
        for group in work.passes:
            (batch,) = group.counts
            head = (work.x, work.state.frozen, work.acc, work.aux, work.seed, work.scale, group.fixed)
            what = "probe" if each else "pass"
            found.append(self.bound(what, accumulating(group.counts), head, (row,), group, batch))
        return found

    def gradient(self, work: Work, row: Tensor, each: bool = False) -> Bound:
        """The call that gives (flat [losses, gradient] over all workers, new aux), with what passes accumulated."""

        def gradient(
            x: Tensor,
            frozen: Tree,
            aux: Tree,
            acc: Tree,
            start: Tree,
            seed: Tensor,
            fixed: Tree,
            row: Tensor,
            now: Tree,
        ) -> Tree:
            flat, new = self._contribution(work.rest.counts, each, x, frozen, start or aux, seed, [], fixed, row, now)
            flat, new = self.objective.over_workers(flat + acc[0] if acc else flat, new, aux)
            if not each and self.objective.trains_weights:
                losses, g = flat[: len(self.objective.terms)], flat[len(self.objective.terms) :]
                flat = torch.cat([losses, self.objective.of_weights(g, x, frozen, losses)])
            return flat, new

        head = (work.x, work.state.frozen, work.state.aux, work.acc, work.aux, work.seed, work.rest.fixed)
        return self.bound("probe" if each else "gradient", gradient, head, (row,), work.rest)

    def _last(self, work: Work, row: Tensor, out: Tensor) -> Bound:
        """The rest of a first-order step: gradient, guard, clipping, optimizer."""
        objective, terms, update = self.objective, len(self.objective.terms), self.update

        def last(
            x: Tensor, frozen: Tree, aux: Tree, parts: Tree, constants: Tree, acc: Tree, start: Tree, seed: Tensor,
            fixed: Tree, row: Tensor, out: Tensor, now: Tree,
        ) -> Tree:  # fmt: skip
            scale = {name: parts[name] for name in scaling.PARTS} if update.scaled else {}
            factor = [scale[scaling.SCALE]] if scale else []
            flat, new_aux = self._contribution(
                work.rest.counts, False, x, frozen, start or aux, seed, factor, fixed, row, now
            )
            flat, new_aux = objective.over_workers(flat + acc[0] if acc else flat, new_aux, aux)
            losses, g, ok = flat[:terms], flat[terms:], torch.isfinite(flat).all()
            g = objective.of_weights(g / factor[0] if factor else g, x, frozen, losses)
            gradient_ok = torch.isfinite(g).all() if factor else ok  # before clipping makes it finite again
            knobs = objective.row.knobs(row, x.dtype)
            new_aux = pointwise.advanced(OPS, objective.task, new_aux, knobs, objective.world.size)
            g = processed(g, x, objective.layout, knobs, (seed, objective.row.step(row)), self.process)
            later_ok = torch.isfinite(g).all() if self.process else torch.ones_like(ok)
            ok = ok & later_ok if self.process else ok
            own = {name: value for name, value in parts.items() if name not in scale}
            new_x, new_parts = update.moved(g, x, own, knobs)
            for old, new in ((constants, objective.row.part(row, "task/")), (x, new_x)):
                old.copy_(torch.where(ok, new, old))
            write(own, new_parts, ok)
            write(aux, new_aux, ok)
            said = [losses, ok.to(x.dtype)[None]]
            if scale:
                sound, judged = scaling.judged(OPS, scale, torch.isfinite(losses).all(), gradient_ok)
                sound = sound & (later_ok | ~gradient_ok)
                more = [judged[name].to(x.dtype)[None] for name in (scaling.SCALE, scaling.SKIPPED)]
                said = [losses, sound.to(x.dtype)[None], *more]
                write(scale, judged)
            for accumulated in acc:
                accumulated.zero_()
            write(start, aux)
            out.copy_(torch.cat([*said, x.new_zeros(len(out) - sum(len(part) for part in said))]))
            return ()

        s = work.state
        head = (s.x, s.frozen, s.aux, s.optimizer, s.constants, work.acc, work.aux, work.seed, work.rest.fixed)
        return self.bound("step", last, head, (row, out), work.rest)

    def bound(self, what: str, fn: Any, head: Tree, middle: tuple[Tensor, ...], group: Group, batch: str = "") -> Bound:
        """`fn` recorded for these arguments and those of the group's first step."""
        half = None if what == "probe" else self.objective.compute
        key = (what, batch, self.stage.method, self.process, half, self.objective.row, tuple(group.counts.items()))
        name = "/".join(filter(None, (what, self.stage.name, batch)))
        compiled = self.probes_compiled if what == "probe" else self.compiled
        traced = self.functions.get(name, key, fn, (*head, *middle, group.now[0]), self.dtype, compiled)
        stays = not any(group.now[0].values())
        return Bound(traced, tuple(leaves(head)), [[]] * len(group.now) if stays else [leaves(n) for n in group.now])

    def draw_alike(self, row: Tensor) -> None:
        """Seeds torch's generator, from which a user's module draws, as a function of (seed, step, rank)."""
        step, rank = int(self.objective.row.step(row)), self.objective.world.rank
        torch.manual_seed(digest("module", self.seed, step, rank, bits=56))

    def _contribution(
        self, counts: dict[str, int], each: bool, x: Tensor, frozen: Tree, aux: Tree, seed: Tensor, scale: Tree,
        fixed: Tree, row: Tensor, now: Tree,
    ) -> tuple[Tensor, dict[str, Tensor]]:  # fmt: skip
        samples = {name: (columns(fixed[name], now[name]), n) for name, n in counts.items()}
        return self.objective.add(x, frozen, aux, row, seed, samples, each, () if each else scale)


def write(into: dict[str, Tensor], new: dict[str, Tensor], ok: Tensor | None = None) -> None:
    """New values into the memory of the old ones, where `ok`."""
    for name, old in into.items():
        if new[name] is not old:
            old.copy_(new[name] if ok is None else torch.where(ok, new[name], old))
