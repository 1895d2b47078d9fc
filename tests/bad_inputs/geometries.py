"""Problems whose geometry is wrong in one way each."""

from orchestrator import Problem, residual
from orchestrator.geometry import Disk, Polygon, Rectangle


class Plate(Problem):
    radius: float = 0.5
    coords = {"x": (-1, 1), "y": (-1, 1)}
    fields = ("u",)

    def geometry(self):
        return Rectangle((-1, -1), (1, 1)) - Disk((0, 0), self.radius, name="hole")

    @residual
    def pde(self, f):
        return f.laplacian("u")

    @residual(on="hole")
    def bc(self, f):
        return f("u")


class Crossed(Plate):
    @residual(on="boundary")
    def bc(self, f):
        return f("u")

    def geometry(self):
        return Polygon([(0, 0), (0.5, 0.5), (0.5, 0), (0, 0.5)])


class Part(Plate):
    @residual(on="hol")
    def rim(self, f):
        return f.normal("u")


class Given(Plate):
    geometry = "file"
