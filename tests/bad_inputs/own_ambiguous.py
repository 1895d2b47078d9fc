"""Coordinates whose derivatives could be read in two ways."""

from orchestrator import Problem, residual


class Twofold(Problem):
    coords = {"x": (0, 1), "xx": (0, 1)}
    fields = ("u",)

    @residual
    def pde(self, f):
        return f("u_xx")
