"""What a residual reads: values and derivatives of the fields by name, coordinates, columns, unknown constants.

`f("u", "u_xx", "x", "kappa")` in the order asked for, `f.d("u", "x", "x")`, `f.laplacian("u")` (over all coordinates
but time), `f.position()` (all those coordinates as one array), `f.normal("u")` along the outward normal of a boundary,
`f.ends("u")` at both ends of a periodic coordinate, and functions through `f.ops`. All else is one value per sample.
`Field` understands the names; its subclasses say where the numbers come from: the network (`NetworkField`), a numpy
function (`backends.pde.finite_difference`), nowhere yet (`backends.pde.recorder`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from backends.derivatives.jets import Jet, JetOps, Plan, seed
from backends.errors import UserError
from backends.geometry.sampling import BOUNDARY
from backends.geometry.smooth import distance
from backends.names import NORMAL, Index, Name
from backends.pde import domain
from backends.pde.regions import Region

if TYPE_CHECKING:
    from backends.geometry.shape import Shape
    from backends.pde.problem import Problem
    from backends.pde.representation import Representation

Array = Any
UNKNOWN = "unknown/"
"""Prefix of the parameters that are the problem's unknown constants."""


class Field:
    """The names; a subclass gives the numbers by `_value`, `_column`, `_unknown`, `_laplacian` and `_split`."""

    def __init__(self, ops: Any, problem: Problem, region: Region, columns: Collection[str]) -> None:
        self.ops = ops
        self._problem, self._region, self._columns = problem, region, columns
        self._vocabulary = problem.vocabulary()

    @property
    def coords(self) -> tuple[str, ...]:
        """The names of all coordinates, in the problem's order: `for c in f.coords`."""
        return tuple(self._problem.coords)

    def position(self) -> Array:
        """[coordinates, samples]: all coordinates but time, for sums over many: `f.ops.sum(f.position() ** 2, 0)`."""
        return self._together(spatial(self._problem))

    def __call__(self, *names: str) -> Any:
        """The values of one name, or a tuple of several, [samples] each (unknown constants: 0-d)."""
        return self._each(names, self._read)

    def d(self, field: str, *coords: str) -> Array:
        """A derivative in its plain form: `f.d("u", "x", "x")` is `f("u_xx")`."""
        return self._read(self._vocabulary.derivative(field, coords))

    def laplacian(self, field: str) -> Array:
        """The sum of the second derivatives over all coordinates but time."""
        self._vocabulary.derivative(field, ())
        self._not_at_both_ends(field)
        return self._laplacian(field)

    def normal(self, field: str) -> Array:
        """The derivative along the outward normal: of Neumann's and Robin's conditions.

        On `on="boundary"` and on parts of it, on an end of a coordinate (`x="low"`, `"high"`, `"ends"`, or a number
        that is one), and where the user's own region has columns `normal_<coordinate>`.
        """
        self._vocabulary.derivative(field, ())
        self._not_at_both_ends(field)
        if not self._region.where:
            coords = spatial(self._problem)
            if any(NORMAL + c not in self._columns for c in coords):
                raise UserError(
                    f'f.normal({field!r}) needs a boundary: mark the term @residual(on="boundary") or (x="ends"), or '
                    f"give the region columns {', '.join(NORMAL + c for c in coords)}"
                )
            return sum(self._column(NORMAL + c) * self._value(field, (c,)) for c in coords)
        c, end = wall(self._region, self._problem)
        slope = self._value(field, (c,))
        if end == "ends":
            low, high = self._problem.box()[c]
            return self.ops.where(self._column(c) < 0.5 * (low + high), -slope, slope)
        return slope if end == "high" else -slope

    def distance(self, part: str = BOUNDARY, *, normalised: bool = False) -> Array:
        """A smooth function that is zero on a part of the boundary and positive in the rest of the domain.

        For ansatzes: `{"u": f.distance() * u}` fulfils u = 0 on the whole boundary of the geometry (or of the box,
        where there is none), `f.distance("hole")` on a part of it. `normalised`: a length, with unit slope on the
        boundary (`backends.geometry.smooth`), else between 0 and about 1, smooth up to convex corners.
        """
        return self._distance(domain.shape_or_box(self._problem), part, normalised)

    def ends(self, *names: str) -> Any:
        """(low, high): values at both ends of the periodic coordinate, for the same other coordinates."""
        if not self._region.periodic:
            raise UserError('f.ends needs a term that compares two ends: mark it @residual(x="periodic")')
        return self._each(names, self._read_ends)

    def _each(self, names: Sequence[str], read: Any) -> Any:
        if not names:
            raise UserError("f() needs at least one name")
        values = tuple(read(self._vocabulary.parse(n, self._columns)) for n in names)
        return values[0] if len(values) == 1 else values

    def _read(self, name: Name) -> Array:
        if name.kind == "field":
            self._not_at_both_ends(name.base)
            return self._value(name.base, name.index)
        if name.kind == "unknown":
            return self._unknown(name.base)
        if name.base == self._region.periodic:
            raise UserError(f"{name.base!r} has two values in a periodic term; ask for f.ends({name.base!r})")
        return self._column(name.base)

    def _read_ends(self, name: Name) -> tuple[Array, Array]:
        if name.kind == "field":
            return self._split(self._value(name.base, name.index))
        if name.base == self._region.periodic:
            low, high = self._problem.box()[name.base]
            zero = 0.0 * self._column(name.base)
            return zero + low, zero + high
        value = self._read(name)
        return value, value

    def _not_at_both_ends(self, name: str) -> None:
        if self._region.periodic:
            raise UserError(f"{name!r} has two values in a periodic term; ask for f.ends({name!r})")

    def _value(self, field: str, index: Index) -> Array:
        raise TypeError(f"{type(self).__name__} gives no field values")

    def _column(self, name: str) -> Array:
        raise TypeError(f"{type(self).__name__} gives no columns")

    def _unknown(self, name: str) -> Array:
        raise TypeError(f"{type(self).__name__} gives no unknown constants")

    def _laplacian(self, field: str) -> Array:
        return sum(self._value(field, (c, c)) for c in spatial(self._problem))

    def _together(self, coords: Sequence[str]) -> Array:
        if self._region.periodic:
            raise UserError("f.position() has two values in a periodic term; ask for f.ends of each coordinate")
        return self.ops.stack([self._column(c) for c in coords])

    def _distance(self, shape: Shape, part: str, normalised: bool) -> Array:
        ops, plan = self.ops, Plan()
        at = seed(plan, ops, {c: self._column(c) for c in domain.spatial(self._problem)})
        return distance(shape, part, JetOps(ops, plan), list(at.values()), normalised).value[0]

    def _split(self, value: Array) -> tuple[Array, Array]:
        """[2 samples] -> the values at the low and at the high end."""
        low, high = self.ops.unstack(self.ops.reshape(value, (2, value.shape[0] // 2)), 0)
        return low, high


def spatial(problem: Problem) -> tuple[str, ...]:
    """The coordinates of a Laplacian: all but time and parameters. Raises UserError where there are none."""
    coords = domain.spatial(problem)
    if not coords:
        raise UserError("a Laplacian needs a coordinate besides time")
    return coords


def wall(region: Region, problem: Problem) -> tuple[str, str]:
    """(coordinate, "low" | "high" | "ends") of a region that lies on one wall of the box, or on two opposite ones.

    Raises UserError where it lies elsewhere, and has no normal.
    """
    found: list[tuple[str, str]] = []
    for c, value in region.where:
        low, high = problem.box()[c]
        place = "low" if value == low else "high" if value == high else value
        if c in domain.spatial(problem) and place in ("low", "high", "ends"):
            found.append((c, str(place)))
    if len(found) != 1:
        what = "an edge between walls" if found else "no wall of the domain"
        raise UserError(f"{region.name} is {what}, where there is no outward normal")
    return found[0]


class NetworkField(Field):
    """Numbers from the network: one pass with the derivative channels of `plan` serves all terms of a region."""

    def __init__(
        self,
        representation: Representation,
        ops: Any,
        params: Mapping[str, Array],
        columns: Mapping[str, Array],
        plan: Plan,
        problem: Problem,
        region: Region = Region(),  # noqa: B008 (frozen)
        directions: Array | None = None,
        fields: Mapping[str, Jet] | None = None,
    ) -> None:
        """`directions`: [directions, spatial coordinates, samples] of an estimated Laplacian; `fields`: what the pass
        gave, where it has been made already."""
        super().__init__(ops, problem, region, columns)
        self._params, self._given, self._plan = params, columns, plan
        points = both_ends(ops, problem, region, columns) if region.periodic else columns
        self._samples = points[next(iter(problem.coords))].shape[0]
        self._fields = fields or representation.fields(ops, params, points, plan, problem, directions)

    def _value(self, field: str, index: Index) -> Array:
        return self._dense(self._fields[field], self._fields[field].at(index))

    def _laplacian(self, field: str) -> Array:
        if not self._plan.laplacian:
            return super()._laplacian(field)
        return self._dense(self._fields[field], self._fields[field].at("laplacian"))

    def _dense(self, jet: Jet, channel: Array | None) -> Array:
        if channel is None:
            return self.ops.zeros((self._samples,), like=jet.value)
        return self.ops.broadcast_to(channel, (1, self._samples))[0]

    def _column(self, name: str) -> Array:
        return self._given[name]

    def _unknown(self, name: str) -> Array:
        return self._params[UNKNOWN + name]


def both_ends(ops: Any, problem: Problem, region: Region, columns: Mapping[str, Array]) -> dict[str, Array]:
    """The samples of a periodic region twice, at the low and at the high end: [2 samples]."""
    points = {c: ops.concat([columns[c], columns[c]], 0) for c in problem.coords}
    c = region.periodic
    low, high = problem.box()[c]
    points[c] = ops.concat([0.0 * columns[c] + low, 0.0 * columns[c] + high], 0)
    return points
