"""Parameter groups: which parameters a file gives a rate, a rhythm, a sign of their own, or takes out of training.

`groups: {critic: {params: ["critic/*"], rate: 4, every: 1}}`. Rates, signs and rhythms are columns of the knob table,
so changing one compiles nothing; only who belongs to which group shapes a program.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from pydantic_core import PydanticCustomError

from backends.errors import UserError, nearest
from backends.spec import Leaf
from backends.stages import SECOND_ORDER, GaussNewton, Stage
from backends.stages.custom import CustomOptimizer
from backends.task import Term, trainable, trained_terms

REST = "rest"
"""The parameters that no group names: they follow the stage alone."""


class Group(Leaf):
    """Parameters that are trained in their own way, in every stage."""

    params: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]
    """Patterns of parameter names (`encoder/*`, `w?`); each must match at least one that is trained."""
    rate: PositiveFloat = 1.0
    """The group's learning rate is the stage's, times this: the knob `lr/<group>`."""
    every: PositiveInt = 1
    """The group moves at every n-th step only; at the others its optimizer state rests too."""
    offset: NonNegativeInt = 0
    """The first step at which it moves, below `every`."""
    sign: Literal[1, -1] = 1
    """-1: gradient ascent (adversaries, self-adaptive weights)."""
    freeze: bool = False
    """Not trained at all: kept as it is, without gradient and optimizer state, in every kind of stage."""

    @model_validator(mode="after")
    def _makes_sense(self) -> Group:
        if self.offset >= self.every:
            raise PydanticCustomError(
                "group",
                "an offset of {offset} is never reached with `every: {every}`; it must be below",
                {"offset": self.offset, "every": self.every},
            )
        asked = [name for name in _WAYS if getattr(self, name) != type(self).model_fields[name].default]
        if self.freeze and asked:
            raise PydanticCustomError(
                "group", "a frozen group never moves, so `{field}` has no meaning; remove it", {"field": asked[0]}
            )
        return self


_WAYS = ("rate", "every", "offset", "sign")
Groups = Mapping[str, Group]


@dataclass(frozen=True)
class Grouping:
    """Who belongs to which group: what of `groups` shapes a program. Empty where the file has none."""

    members: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Group -> its trained parameters, sorted; `rest` last, where there is one."""
    frozen: frozenset[str] = frozenset()

    @classmethod
    def of(cls, groups: Groups, names: Iterable[str], terms: Sequence[Term] = ()) -> Grouping:
        """The grouping of parameters called `names`. Raises UserError where groups, names and terms do not fit."""
        check_terms(groups, terms)
        if REST in groups:
            raise UserError(
                f"{REST!r} is what the parameters without a group are called; take another name", path=f"groups.{REST}"
            )
        if not groups:
            return cls()
        names = sorted(n for n in names if trainable(n))
        found = {group: _matched(group, spec, names) for group, spec in groups.items()}
        owner: dict[str, str] = {}
        for group, matched in found.items():
            for name in matched:
                if name in owner:
                    raise UserError(
                        f"the parameter {name!r} is in two groups, {owner[name]!r} and {group!r}; make their patterns "
                        "exclude each other",
                        path=f"groups.{group}.params",
                    )
                owner[name] = group
        frozen = frozenset(name for group, matched in found.items() if groups[group].freeze for name in matched)
        if len(frozen) == len(names):
            raise UserError(
                "all parameters are frozen: nothing is left to train", path=f"groups.{next(iter(groups))}.freeze"
            )
        members = [(group, tuple(found[group])) for group in trained_groups(groups)]
        rest = tuple(n for n in names if n not in owner)
        if members or any(t.groups for t in terms):
            members += [(REST, rest)] if rest else []
        return cls(tuple(members), frozen)

    @property
    def names(self) -> tuple[str, ...]:
        """The groups that a knob `lr/<group>` belongs to: all but the rest."""
        return tuple(group for group, _ in self.members if group != REST)

    def free(self, name: str) -> bool:
        """Whether the parameter is trained."""
        return trainable(name) and name not in self.frozen

    def reach(self, term: Term) -> frozenset[str] | None:
        """The parameters that a term trains; None: all of them."""
        if not term.groups:
            return None
        return frozenset(name for group, names in self.members if group in term.groups for name in names)


def trained_groups(groups: Groups) -> tuple[str, ...]:
    """The groups that are not frozen, in the file's order."""
    return tuple(name for name, group in groups.items() if not group.freeze)


def columns(groups: Groups) -> tuple[str, ...]:
    """The knobs of groups: the rate, 1 or -1, and 1 at steps at which the group moves, else 0."""
    return tuple(f"{knob}/{name}" for name in trained_groups(groups) for knob in ("lr", "sign", "on"))


def check_stages(groups: Groups, stages: Sequence[Stage], terms: Sequence[Term]) -> None:
    """Raises UserError where a second-order stage, or a user's own optimizer, meets what only our optimizers can do."""
    for i, stage in enumerate(stages):
        if isinstance(stage, GaussNewton) and not any(t.kind == "residual" for t in trained_terms(terms)):
            raise UserError(
                f"the stage {stage.name!r} (gauss_newton) minimises a sum of squared residuals, and no trained term is "
                "a residual; use `kind: lbfgs`, or a first-order stage",
                path=f"stages.{i}.kind",
            )
        searches, own = isinstance(stage, SECOND_ORDER), isinstance(stage, CustomOptimizer)
        if not (searches or own):
            continue
        what = f"the stage {stage.name!r} ({stage.kind}) minimises one loss over all its parameters at once"
        if own:
            what = f"the stage {stage.name!r} has an own optimizer, which alone decides on its parameters"
        for name, field in _ways(groups):
            raise UserError(
                f"{what}, so the group {name!r} can't have its own `{field}`; such stages know only `freeze: true`",
                path=f"groups.{name}.{field}",
            )
        for term in terms if searches else ():
            if term.groups and term.trained:
                raise UserError(
                    f"{what}, but the term {term.name!r} trains only {', '.join(term.groups)}; use a first-order stage",
                    path=f"stages.{i}.kind",
                )


def check_terms(groups: Groups, terms: Sequence[Term]) -> None:
    """Raises UserError where a term trains a group that the file does not describe."""
    for term in trained_terms(terms):
        for name in term.groups:
            if name != REST and name not in groups:
                said = nearest(name, [*groups, REST]) if groups else ""
                raise UserError(
                    f"the term {term.name!r} trains the group {name!r}, which the file does not have{said}; "
                    f'write `groups: {{{name}: {{params: ["…"]}}}}`',
                    path="groups",
                )


def _ways(groups: Groups) -> Iterator[tuple[str, str]]:
    for name, group in groups.items():
        for field in _WAYS:
            if getattr(group, field) != type(group).model_fields[field].default:
                yield name, field


def _matched(group: str, spec: Group, names: Sequence[str]) -> list[str]:
    """The names that the patterns of a group match, sorted."""
    found: set[str] = set()
    for pattern in spec.params:
        matched = [name for name in names if fnmatchcase(name, pattern)]
        if not matched:
            raise UserError(
                f"the pattern {pattern!r} matches no parameter that is trained{nearest(pattern, names)}",
                path=f"groups.{group}.params",
            )
        found.update(matched)
    return sorted(found)
