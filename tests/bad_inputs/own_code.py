"""A problem of the user's own, for the tests of mistakes in experiment files."""

from pydantic import PositiveFloat

from orchestrator import Problem, residual


class Fisher(Problem):
    """Fisher-KPP: u_t = u_xx + r u (1 - u)."""

    r: PositiveFloat = 1.0
    coords = {"t": (0, 1), "x": (0, 1)}
    fields = ("u",)
    time = "t"

    @residual
    def pde(self, f):
        u, u_t, u_xx = f("u", "u_t", "u_xx")
        return u_t - u_xx - self.r * u * (1 - u)
