"""Residuals with mistakes, for the tests of mistakes in experiment files."""

from orchestrator import Problem, residual


class Misspelt(Problem):
    coords = {"t": (0, 1), "x": (0, 1)}
    fields = ("u",)

    @residual
    def pde(self, f):
        return f("u_t") - f("u_xz")


class Unknown(Problem):
    coords = {"x": (0, 1)}
    fields = ("temperature",)

    @residual
    def pde(self, f):
        return f.laplacian("temprature")


class Elsewhere(Problem):
    coords = {"radius": (0, 1)}
    fields = ("u",)

    @residual
    def pde(self, f):
        return f.d("u", "radus")


class Mass(Problem):
    coords = {"t": (0, 1), "x": (0, 1)}
    fields = ("u",)

    @residual
    def mass(self, f):
        return f.ops.mean(f("u")) - 1.0
