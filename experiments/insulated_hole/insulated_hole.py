"""Heat flows through a plate around an insulated hole: a domain with a hole, a normal derivative on a part of it."""

from pydantic import PositiveFloat

from orchestrator import Problem, residual
from orchestrator.geometry import Disk, Rectangle


class InsulatedHole(Problem):
    """Δu = 0 on [-2, 2] x [-1, 1] without a disk around the origin, across whose edge nothing flows.

    u = x (1 + R²/r²) is exact: the field around an insulated cylinder in a uniform gradient (the potential of the flow
    past a cylinder, Milne-Thomson, Theoretical Hydrodynamics, section 6.22). Its values are given on the outer edges.
    """

    radius: PositiveFloat = 0.5
    coords = {"x": (-2, 2), "y": (-1, 1)}
    fields = ("u",)
    scales = {"u": 2.0}

    def geometry(self):
        return Rectangle((-2, -1), (2, 1), name="frame") - Disk((0, 0), self.radius, name="hole")

    def field(self, x, y):
        return x + self.radius**2 * x / (x * x + y * y)

    @residual
    def pde(self, f):
        return f.laplacian("u")

    @residual(on="hole")
    def insulated(self, f):
        return f.normal("u")

    @residual(on="frame")
    def given(self, f):
        return f("u") - self.field(*f("x", "y"))

    def solution(self, points):
        return {"u": self.field(points["x"], points["y"])}
