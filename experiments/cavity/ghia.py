"""The velocity of a trained cavity beside the table of Ghia, Ghia and Shin (1982).

    python experiments/cavity/ghia.py RUN

RUN is a run's folder or name, or `latest`. Reynolds number 100, 400, 1000 or 3200.
"""

from __future__ import annotations

import sys

from backends.tasks.cavity_solver import ghia_error
from orchestrator.predictions import predictor


def main(run: str) -> None:
    """Print how far the run is from the table."""
    ready = predictor(run)
    reynolds = round(ready.made.task.problem.reynolds)

    def velocity(x, y):
        found = ready({"x": x, "y": y}, ["u", "v"])
        return found["u"], found["v"]

    print(f"Re = {reynolds}: {ghia_error(velocity, reynolds):.2%} away from Ghia's u(0.5, y) and v(x, 0.5)")


if __name__ == "__main__":
    main(*sys.argv[1:])
