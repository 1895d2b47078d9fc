"""Every field of an experiment file is read by something: changing it changes what the run does.

Each case changes one field of a base experiment and names what must change with it. A field without a case fails
`test_every_field_has_a_case`.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import numpy as np
import pytest
from numpy_backend import NumpyBackend, use
from pydantic import BaseModel
from test_gauss_newton import problem, slopes_of_the_valley, valley
from test_gauss_newton import run as descend
from test_quasi import Counted, minimise, rosenbrock

import backends
from backends import checkpoint
from backends.errors import UserError
from backends.stages import GaussNewton
from backends.task import Picture
from orchestrator import figures, launch
from orchestrator.config import Experiment
from orchestrator.folder import RunFolder, read_json, read_jsonl
from orchestrator.loggers.follow import Loop
from orchestrator.reader import read_experiment
from orchestrator.runs import checked, run

Tree = dict[str, Any]

POISSON: Tree = {
    "name": "base",
    "task": {"kind": "poisson", "k": 1},
    "network": {"kind": "mlp", "width": 4, "depth": 2},
    "points": {"pde": {"count": 24, "adapt": {"kind": "rad", "every": 4}}, "bc": 8},
    "stages": [{"name": "warm", "kind": "adam", "lr": 1e-2, "steps": 10}],
    "evaluate": {"every": 5, "points": 20},
    "checkpoint": {"every": 2, "keep": 9},
    "resources": {"workers": 0},
    "tracking": {"enabled": False, "every": 1},
}


RARD: Tree = {"kind": "rard", "every": 4, "add": 3, "capacity": 40}
CAUSAL: Tree = {"kind": "causal", "windows": 4, "every": 50}


def poisson(**changes: Any) -> Tree:
    return {**POISSON, **changes}


def stage(**fields: Any) -> Tree:
    return poisson(stages=[{"name": "warm", "steps": 10, **fields}])


def rows(data: Tree, task: str = "regression", **changes: Any) -> Tree:
    return {k: v for k, v in poisson(task={"kind": task}, data=data, **changes).items() if k != "points"}


OWN = """
from backends.networks import MLP
from orchestrator import Ask, Problem, residual

class Wide(MLP): ...

class Narrow(MLP):
    def apply(self, ops, params, h):
        return 0.5 * super().apply(ops, params, h)

class One(Problem):
    coords = {"x": (0, 1)}
    fields = ("u",)

    @residual
    def pde(self, f):
        return f("u_xx") - f("x")

class Two(One):
    @residual
    def pde(self, f):
        return f("u_xx") + f("x")

def quick(learning_rate, times=2.0):
    return times * learning_rate

def slow(learning_rate, times=0.5):
    return times * learning_rate

def halved(ops, gradients, params, step):
    return {name: 0.5 * g for name, g in gradients.items()}

def doubled(ops, gradients, params, step):
    return {name: 2.0 * g for name, g in gradients.items()}

class Counts:
    def step(self, moment):
        return Ask(metrics={"mine": moment.step})

class Doubles:
    def step(self, moment):
        return Ask(metrics={"mine": 2 * moment.step})
"""

ADAPTIVE = ("norms", "relobralo", "softadapt", "annealing", "dirichlet", "ntk", "gram", "gradnorm", "dual")
RISING = ("annealing", "dirichlet", "dual")
"""Those whose weights do not fall here."""
BASES: dict[str, Tree] = {
    "poisson": POISSON,
    "inside": poisson(points={"pde": 24}),
    "one set": poisson(points={"pde": 24, "bc": 8}),
    "all adapt": poisson(points={"adapt": {"kind": "rad", "every": 4}, "pde": 24, "bc": 8}),
    "rard": poisson(points={"pde": {"count": 24, "adapt": RARD}, "bc": 8}),
    "scattered": poisson(points={"pde": {"count": 24, "adapt": {**RARD, "spread": 0.1}}, "bc": 8}),
    "fresh": poisson(points={"pde": {"count": 24, "adapt": {"kind": "fresh", "every": 4}}, "bc": 8}),
    "several": poisson(task={"kind": "kovasznay"}, points={"pde": {"count": 24, "adapt": {"every": 4}}}),
    "several rard": poisson(task={"kind": "kovasznay"}, points={"pde": {"count": 24, "adapt": {**RARD, "add": 16}}}),
    **{
        kind: poisson(task={"kind": "heat"}, points={"pde": {"count": 24, "pointwise": {"kind": kind}}})
        for kind in ("attention", "self_adaptive")
    },
    "causal": poisson(task={"kind": "heat"}, points={"pde": {"count": 24, "pointwise": {**CAUSAL, "eps": 0.1}}}),
    "eager": poisson(task={"kind": "heat"}, points={"pde": {"count": 24, "pointwise": {**CAUSAL, "delta": 0.0}}}),
    **{
        f"{kind}, line search": poisson(
            task={"kind": "heat"},
            points={"pde": {"count": 24, "pointwise": {"kind": kind, "every": 4}}},
            stages=[{"name": "polish", "kind": "lbfgs", "steps": 10}],
        )
        for kind in ("causal", "attention")
    },
    "burgers": poisson(task={"kind": "burgers"}, points={"pde": 24, "ic": 8, "bc": 8}),
    "inverse": poisson(task={"kind": "inverse_heat"}, points={"pde": 24}),
    **{
        kind: poisson(task={"kind": kind}, points={"pde": 24})
        for kind in ("heat", "wave", "advection", "helmholtz", "diffusion_reaction", "allen_cahn", "kdv", "kovasznay")
    },
    "cooled": poisson(task={"kind": "heat", "boundary": "robin"}, points={"pde": 24}),
    "family": poisson(task={"kind": "heat"}, points={"pde": 24}, coords={"diffusivity": {"range": [0.1, 0.4]}}),
    "half": poisson(points={"pde": 24, "bc": 8}, geometry={"path": "half.off"}),
    **{
        kind: poisson(task={"kind": kind, **settings}, points={"pde": 24})
        for kind, settings in {
            "burgers_2d": {},
            "schroedinger": {"low": -12.0, "high": 12.0},
            "kuramoto_sivashinsky": {"end": 0.01},
            "ginzburg_landau": {"end": 0.02},
            "gray_scott": {"end": 0.005},
            "cavity": {"lid": "smooth"},
            "poisson_frequencies": {},
            "poisson_5d": {},
            "heat_layers": {},
            "wave_layers": {},
            "poisson_100d": {},
            "heat_5d": {},
            "euler_beam": {},
            "lorenz": {},
        }.items()
    },
    "listed": poisson(points={"pde": {"path": "here.csv"}}),
    "observed": poisson(
        task={"kind": "kovasznay"}, points={"pde": 24}, data={"kind": "observations", "path": "here.csv"}
    ),
    "solved": poisson(task={"kind": "kovasznay"}, points={"pde": 24}, reference={"path": "here.csv"}),
    "conserving": poisson(task={"kind": "kdv"}, points={"pde": 24, "mass": 4}, conserve={"mass": {}}),
    "banded": poisson(points={"pde": 4}, multiscale={"pde": {"bands": 2, "along": ["x"], "nodes": 8, "coupling": 0.5}}),
    "sure": poisson(task={"kind": "inverse_heat"}, points={"pde": 24}, uncertainty={"kind": "laplace"}),
    "estimated": poisson(points={"pde": 24}, derivatives={"laplacian": {"kind": "rademacher", "samples": 3}}),
    "modified": poisson(network={"kind": "modified_mlp", "width": 4, "depth": 2}),
    "fourier": poisson(network={"kind": "mlp", "width": 4, "depth": 1, "features": {"count": 4}}),
    "own network": poisson(network={"kind": "custom", "target": "own.py:Wide", "width": 4, "depth": 1}),
    "own task": poisson(task={"kind": "custom", "target": "own.py:One"}, points={"pde": 8}),
    "own callback": poisson(callbacks=[{"kind": "custom", "target": "own.py:Counts"}]),
    "digits": rows({"kind": "digits", "batch": 8}, "vae", network={"kind": "vae", "latent": 2, "width": 4}),
    "diabetes": rows({"kind": "diabetes", "batch": 16}),
    "table": rows({"kind": "table", "path": "one.csv", "inputs": ["a"], "outputs": ["b"], "batch": 8}),
    "in epochs": rows({"kind": "diabetes", "batch": 88}, stages=[{"kind": "adam", "epochs": 1}]),
    "adamw": stage(kind="adamw", lr=1e-2),
    "sgd": stage(kind="sgd", lr=1e-2),
    **{kind: stage(kind=kind, lr=1e-2) for kind in ("nadam", "radam", "lamb", "muon", "lion", "rmsprop", "adagrad")},
    "own optimizer": stage(kind="custom", target="own.py:quick", lr=1e-2),
    "lbfgs": stage(kind="lbfgs"),
    "ssbroyden": stage(kind="ssbroyden"),
    "gauss_newton": stage(kind="gauss_newton"),
    "undamped": stage(kind="gauss_newton", damping=1e-12),
    "solved by cg": stage(kind="gauss_newton", solver="cg"),
    "constant": stage(kind="adam", lr=1e-2, schedule={"kind": "constant", "warmup": 3}),
    "cosine": stage(kind="adam", lr=1e-2, schedule={"kind": "cosine", "warmup": 3}),
    "exponential": stage(kind="adam", lr=1e-2, schedule={"kind": "exponential", "warmup": 3, "every": 2}),
    "linear": stage(kind="adam", lr=1e-2, schedule={"kind": "linear", "warmup": 3}),
    "polynomial": stage(kind="adam", lr=1e-2, schedule={"kind": "polynomial", "warmup": 3}),
    "step": stage(kind="adam", lr=1e-2, schedule={"kind": "step", "warmup": 3, "every": 2}),
    "multistep": stage(kind="adam", lr=1e-2, schedule={"kind": "multistep", "warmup": 3, "milestones": [5, 7]}),
    "cyclic_cosine": stage(kind="adam", lr=1e-2, schedule={"kind": "cyclic_cosine", "warmup": 3, "cycle": 2}),
    "cyclic": stage(kind="adam", lr=1e-2, schedule={"kind": "cyclic", "warmup": 2, "cycle": 4}),
    "one_cycle": stage(kind="adam", lr=1e-2, schedule={"kind": "one_cycle", "warmup": 1, "shape": "linear"}),
    "fixed": poisson(weights={"kind": "fixed"}),
    "norms": poisson(weights={"kind": "gradient_norms", "every": 2, "alpha": 0.1}),
    "relobralo": poisson(weights={"kind": "relobralo", "every": 2, "beta": 0.5}),
    "softadapt": poisson(weights={"kind": "softadapt", "every": 2, "beta": 1.0}),
    "annealing": poisson(weights={"kind": "annealing", "every": 2, "alpha": 0.1}),
    "dirichlet": poisson(weights={"kind": "inverse_dirichlet", "every": 2, "alpha": 0.1}),
    "ntk": poisson(weights={"kind": "ntk", "every": 2, "alpha": 0.1}),
    "gram": poisson(weights={"kind": "gram", "every": 2, "alpha": 0.1}),
    "gradnorm": poisson(weights={"kind": "gradnorm", "every": 2, "rate": 5.0}),
    "uncertain": poisson(network={"kind": "mlp", "width": 4, "depth": 1}, weights={"kind": "uncertainty", "every": 2}),
    "dual": poisson(weights={"kind": "dual_ascent", "every": 2, "tolerances": {"bc": 1e-3}, "growth": 3.0}),
    "scheduled": poisson(
        points={"pde": 24},
        task={"kind": "burgers"},
        network={"kind": "mlp", "width": 4, "depth": 1},
        weights={
            "kind": "schedule",
            "values": {},
            "terms": {
                "pde": {"kind": "linear", "start": 1, "end": 3, "begin": 1, "steps": 4},
                "ic": {"kind": "exponential", "start": 1, "end": 3, "begin": 1, "steps": 4},
                "bc": {"kind": "step", "start": 1, "end": 3, "milestones": [3, 6]},
            },
        },
    ),
    "groups": poisson(groups={"first": {"params": ["w0"]}}),
    "rhythm": poisson(groups={"first": {"params": ["w0"], "every": 2}}),
    "clip": poisson(clip={"norm": 1.0}),
    "noise": poisson(gradients={"noise": {"eta": 0.1, "gamma": 0.5}}),
    "own gradients": poisson(gradients={"custom": {"target": "own.py:halved"}}),
    "best": poisson(checkpoint={"every": 100, "keep": 1, "best": "validation/bc"}, evaluate={"every": 1, "points": 20}),
    "stops": poisson(
        callbacks=[{"kind": "early_stopping", "mode": "max", "min_delta": 1e9, "patience": 1}],
        evaluate={"every": 2, "points": 20},
    ),
    "never stops": poisson(callbacks=[{"kind": "early_stopping", "patience": 1, "mode": "max"}]),
    "ramp": poisson(callbacks=[{"kind": "ramp", "knob": "weight/bc", "start": 1, "end": 4, "begin": 2, "steps": 5}]),
    "plateau": poisson(
        callbacks=[{"kind": "reduce_on_plateau", "patience": 1, "threshold": 0.99, "cooldown": 1, "lowest": 0.01}],
        evaluate={"every": 1, "points": 20},
    ),
    "rises": poisson(
        callbacks=[{"kind": "reduce_on_plateau", "mode": "max", "threshold": 0.99}], evaluate={"every": 1, "points": 20}
    ),
    "gradients": poisson(callbacks=[{"kind": "gradient_norms", "every": 2}]),
    "rates": stage(kind="adamw", lr=1e-2)
    | {"callbacks": [{"kind": "lr_monitor", "every": 2}], "tracking": {"enabled": False, "every": 100}},
    "throughput": poisson(callbacks=[{"kind": "throughput", "every": 2}]),
    "memory": poisson(callbacks=[{"kind": "memory", "every": 2}]),
    "profiled": poisson(callbacks=[{"kind": "profiler", "start": 2, "steps": 3}]),
    "boards": poisson(loggers=[{"kind": "tensorboard", "dir": "boards"}]),
    "csv": poisson(loggers=[{"kind": "csv"}]),
    "wandb": poisson(loggers=[{"kind": "wandb"}]),
    "tracked": poisson(tracking={"every": 1, "uri": "http://127.0.0.1:9"}),
}

ADAMS = ("poisson", "adamw", "nadam", "radam", "lamb", "muon")
OURS = (*ADAMS, "lion", "rmsprop", "adagrad", "sgd")
RATED = (*OURS, "own optimizer")
BASES |= {
    f"two {base}": poisson(stages=[{**BASES[base]["stages"][0], "name": n, "steps": 5} for n in ("first", "then")])
    for base in OURS
}
SECOND_ORDER = ("lbfgs", "ssbroyden", "gauss_newton")
"""Bases with a first-order stage of each kind."""
SCHEDULED = ("constant", "linear", "polynomial", "cosine", "exponential", "step", "multistep", "cyclic_cosine",
             "cyclic", "one_cycle")  # fmt: skip

CASES: list[tuple[str, str, Any, str]] = [
    # the top level
    ("poisson", "version", 2, "error"),
    ("poisson", "name", "other", "run"),
    ("poisson", "backend", "torch", "loaded"),
    ("poisson", "device", "cuda:1", "settings"),
    ("poisson", "seed", 1, "arrays"),
    ("poisson", "precision", "float64", "types"),
    ("inside", "constraints", "hard", "records"),
    ("poisson", "compile", "never", "settings"),
    ("poisson", "storage", "elsewhere", "folder"),
    ("poisson", "start_from", "EARLIER", "records"),
    # tasks
    ("burgers", "task.nu", 0.1, "records"),
    ("poisson", "task.k", 2, "records"),
    ("inverse", "task.true_kappa", 0.2, "records"),
    ("inverse", "task.guess", 0.3, "arrays"),
    ("inverse", "task.noise", 0.5, "records"),
    ("inverse", "task.measurements", 37, "records"),
    ("heat", "task.boundary", "neumann", "records"),
    *[
        ("heat", f"task.{name}", value, "records")
        for name, value in (("diffusivity", 0.3), ("length", 2.0), ("mode", 2))
    ],
    *[("cooled", f"task.{name}", 0.5, "records") for name in ("exchange", "ambient")],
    *[(kind, "task.speed", 3.0, "records") for kind in ("wave", "advection")],
    ("advection", "task.end", 2.0, "records"),
    *[
        ("helmholtz", f"task.{name}", value, "records")
        for name, value in (("k", 2.0), ("a1", 2), ("a2", 3), ("low", 0))
    ],
    *[(kind, "task.diffusivity", 0.5, "records") for kind in ("diffusion_reaction", "allen_cahn")],
    ("allen_cahn", "task.rate", 4.0, "records"),
    ("kdv", "task.dispersion", 0.03, "records"),
    *[(kind, "task.reynolds", 40.0, "records") for kind in ("kovasznay", "burgers_2d", "cavity")],
    *[
        ("schroedinger", f"task.{name}", value, "records")
        for name, value in (("low", -13.0), ("high", 13.0), ("end", 1.0))
    ],
    *[
        ("kuramoto_sivashinsky", f"task.{name}", value, "records")
        for name, value in (("end", 0.02), ("steepening", 5.0), ("growth", 0.3), ("damping", 2e-3))
    ],
    *[
        ("ginzburg_landau", f"task.{name}", value, "records")
        for name, value in (("end", 0.03), ("diffusivity", 0.01), ("rate", 8.0), ("dispersion", 1.0))
    ],
    *[("gray_scott", f"task.diffusivity_{name}", 0.3, "records") for name in "uv"],
    *[("gray_scott", f"task.{name}", 50.0, "records") for name in ("feed", "kill", "reaction")],
    ("gray_scott", "task.end", 0.01, "records"),
    ("cavity", "task.lid", "parabola", "records"),
    ("poisson_frequencies", "task.frequencies", 2, "records"),
    ("poisson_5d", "task.shape", "cos", "records"),
    ("poisson_5d", "task.waves", 1.0, "records"),
    *[("heat_layers", f"task.{side}_diffusivity", 0.5, "records") for side in ("left", "right")],
    *[("wave_layers", f"task.{name}", 0.6, "records") for name in ("left_speed", "right_speed", "width", "arrival")],
    ("euler_beam", "task.load", 2.0, "records"),
    *[(kind, "task", {"kind": kind}, "nothing") for kind in ("poisson_100d", "heat_5d")],
    *[("lorenz", f"task.true_{name}", 9.0, "records") for name in ("sigma", "rho", "beta")],
    ("lorenz", "task.guess", 2.0, "arrays"),
    ("lorenz", "task.noise", 0.5, "records"),
    ("lorenz", "task.measurements", 20, "records"),
    ("digits", "task.likelihood", "bernoulli", "records"),
    ("own task", "task.target", "own.py:Two", "records"),
    ("diabetes", "task", {"kind": "regression"}, "nothing"),
    # networks
    *[(base, "network.width", 5, "arrays") for base in ("poisson", "modified", "digits")],
    *[(base, "network.depth", 3, "arrays") for base in ("poisson", "modified", "digits")],
    *[(base, "network.activation", "sin", "records") for base in ("poisson", "modified", "digits")],
    *[(base, "network.features", {"count": 4}, "arrays") for base in ("poisson", "modified")],
    ("fourier", "network.features.count", 5, "arrays"),
    ("fourier", "network.features.scale", 3.0, "arrays"),
    ("digits", "network.latent", 3, "arrays"),
    ("own network", "network.target", "own.py:Narrow", "records"),
    # points, data, scaling
    ("one set", "points.pde.count", 25, "records"),
    ("one set", "points.pde.sampler", "sobol", "records"),
    ("one set", "points.pde.chunk", 12, "chunks"),
    ("one set", "points.pde.adapt", {"kind": "rad", "every": 4}, "points"),
    ("one set", "points.adapt", {"kind": "rad", "every": 4}, "points"),
    ("all adapt", "points.adapt.every", 3, "points"),
    ("all adapt", "points.adapt.k", 3.0, "points"),
    ("all adapt", "points.adapt.c", 0.0, "points"),
    ("all adapt", "points.adapt.candidates", 3, "points"),
    ("several", "points.pde.adapt.by", ["pde/mass"], "points"),
    ("several rard", "points.pde.adapt.by", ["pde/mass"], "points"),
    ("fresh", "points.pde.adapt.every", 3, "points"),
    *[
        ("rard", f"points.pde.adapt.{name}", value, "points")
        for name, value in (
            ("every", 3),
            ("add", 4),
            ("capacity", 42),
            ("k", 1.0),
            ("c", 5.0),
            ("candidates", 3),
            ("spread", 0.1),
        )
    ],
    ("scattered", "points.pde.adapt.noise", "uniform", "points"),
    ("one set", "points.pde.pointwise", {"kind": "attention"}, "records"),
    ("causal", "points.pde.pointwise.windows", 5, "records"),
    ("causal", "points.pde.pointwise.eps", 0.2, "records"),
    *[
        ("eager", f"points.pde.pointwise.{name}", value, "records")
        for name, value in (("factor", 5.0), ("last", 1.0), ("delta", 0.999999))
    ],
    *[
        ("attention", f"points.pde.pointwise.{name}", value, "records")
        for name, value in (("gamma", 0.9), ("eta", 0.1))
    ],
    *[
        ("self_adaptive", f"points.pde.pointwise.{name}", value, "records")
        for name, value in (("lr", 0.1), ("mask", "linear"), ("high", 1.000001))
    ],
    *[(f"{kind}, line search", "points.pde.pointwise.every", 3, "arrays") for kind in ("causal", "attention")],
    ("listed", "points.pde.path", "there.csv", "records"),
    ("inside", "reference", {"path": "here.csv"}, "records"),
    *[(base, path, "there.csv", "records") for base, path in (("observed", "data.path"), ("solved", "reference.path"))],
    *[(base, path, ["u"], "records") for base, path in (("observed", "data.fields"), ("solved", "reference.fields"))],
    *[(base, "data.batch", 7, "records") for base in ("digits", "diabetes", "table")],
    *[(base, "data.holdout", 0.4, "records") for base in ("digits", "diabetes", "table")],
    *[(base, "data.standardize", False, "records") for base in ("diabetes", "table")],
    ("table", "data.path", "two.csv", "records"),
    ("table", "data.inputs", ["a", "c"], "arrays"),
    ("table", "data.outputs", ["c"], "records"),
    ("heat", "coords", {"diffusivity": {"range": [0.1, 0.4]}}, "arrays"),
    ("family", "coords.diffusivity.range", [0.1, 0.5], "records"),
    ("family", "coords.diffusivity.scale", "log", "records"),
    ("one set", "geometry", {"path": "half.off"}, "records"),
    ("half", "geometry.path", "third.off", "records"),
    ("half", "geometry.scale", 0.5, "records"),
    ("poisson", "scaling.coords", False, "records"),
    ("poisson", "scaling.fields", {"u": 2.0}, "records"),
    ("inside", "derivatives", {"laplacian": {"kind": "sparse", "samples": 1}}, "records"),
    ("inside", "derivatives.laplacian", {"kind": "gaussian"}, "records"),
    ("estimated", "derivatives.laplacian", {"kind": "exact"}, "records"),
    *[
        ("estimated", f"derivatives.laplacian.{name}", value, "records")
        for name, value in (("kind", "gaussian"), ("samples", 2), ("unbiased", True))
    ],
    # stages
    *[(base, "stages.0.name", "first", "parameters") for base in (*RATED, *SECOND_ORDER)],
    ("inverse", "uncertainty", {"kind": "laplace"}, "records"),
    ("sure", "uncertainty.terms", ["pde"], "records"),
    ("sure", "uncertainty.covariance", "noise", "records"),
    ("kdv", "conserve", {"mass": {}}, "records"),
    ("conserving", "conserve.mass.how", "both", "records"),
    ("conserving", "conserve.mass.tolerance", 0.5, "records"),
    ("inside", "multiscale", {"pde": 2}, "records"),
    ("banded", "multiscale.pde.bands", 3, "records"),
    ("banded", "multiscale.pde.along", ["y"], "records"),
    ("banded", "multiscale.pde.nodes", 9, "records"),
    ("banded", "multiscale.pde.coupling", 0.0, "records"),
    *[(f"two {base}", "stages.1.moments", "kept", "arrays") for base in OURS],
    ("own optimizer", "stages.0.moments", "kept", "error"),
    *[(base, "stages.0.width", 3, "parameters") for base in (*RATED, *SECOND_ORDER)],
    *[(base, "stages.0.steps", 12, "result") for base in (*RATED, *SECOND_ORDER)],
    ("in epochs", "stages.0.epochs", 2, "result"),
    *[(base, "stages.0.epochs", 2, "error") for base in (*RATED[1:], *SECOND_ORDER)],  # beside `steps`
    *[(base, "stages.0.precision", "float64", "types") for base in RATED],
    ("lbfgs", "stages.0.precision", "float32", "types"),
    *[(base, "stages.0.precision", "float32", "error") for base in ("ssbroyden", "gauss_newton")],
    *[(base, "stages.0.lr", 2e-2, "arrays") for base in RATED],
    *[(base, f"stages.0.{b}", 0.5, "knobs") for base in (*ADAMS, "lion") for b in ("b1", "b2")],
    ("muon", "stages.0.beta", 0.5, "knobs"),
    *[(base, "stages.0.eps", 1e-2, "knobs") for base in (*ADAMS, "rmsprop", "adagrad")],
    *[(base, "stages.0.weight_decay", 0.5, "knobs") for base in OURS[1:]],
    *[(base, "stages.0.momentum", 0.5, "knobs") for base in ("sgd", "rmsprop")],
    ("rmsprop", "stages.0.decay", 0.5, "knobs"),
    *[(base, "stages.0.initial", 0.5, "arrays") for base in ("rmsprop", "adagrad")],
    ("rmsprop", "stages.0.centered", True, "arrays"),
    ("sgd", "stages.0.nesterov", True, "arrays"),
    ("own optimizer", "stages.0.target", "own.py:slow", "arrays"),
    ("own optimizer", "stages.0.times", 3.0, "arrays"),
    *[(base, "stages.0.schedule", {"kind": "cosine"}, "knobs") for base in RATED],
    *[(base, "stages.0.compute", "bfloat16", "records") for base in RATED],
    *[(base, "stages.0.schedule.warmup", 4, "knobs") for base in SCHEDULED],
    *[
        (base, "stages.0.schedule.steps", 8, "knobs")
        for base in ("linear", "polynomial", "cosine", "exponential", "one_cycle")
    ],
    *[(base, "stages.0.schedule.final", 0.9, "knobs") for base in SCHEDULED if base not in ("constant", "cyclic")],
    *[(base, "stages.0.schedule.every", 3, "knobs") for base in ("exponential", "step")],
    *[(base, "stages.0.schedule.gamma", 0.5, "knobs") for base in ("step", "multistep")],
    *[(base, "stages.0.schedule.cycle", 3, "knobs") for base in ("cyclic_cosine", "cyclic")],
    *[(base, "stages.0.schedule.shrink", 0.5, "knobs") for base in ("cyclic_cosine", "cyclic")],
    ("polynomial", "stages.0.schedule.power", 3.0, "knobs"),
    ("exponential", "stages.0.schedule.decay", 0.5, "knobs"),
    ("multistep", "stages.0.schedule.milestones", [5, 8], "knobs"),
    ("cyclic_cosine", "stages.0.schedule.growth", 2.0, "knobs"),
    ("cyclic", "stages.0.schedule.low", 0.5, "knobs"),
    ("one_cycle", "stages.0.schedule.shape", "cosine", "knobs"),
    ("one_cycle", "stages.0.schedule.rise", 0.5, "knobs"),
    ("one_cycle", "stages.0.schedule.fall", 0.6, "knobs"),
    ("one_cycle", "stages.0.schedule.start", 0.5, "knobs"),
    *[(base, "stages.0.line_search", 2, "iterations") for base in ("lbfgs", "ssbroyden")],
    *[(base, "stages.0.tolerance", 1e2, "iterations") for base in ("lbfgs", "ssbroyden")],
    *[(base, "stages.0.memory", 2, "iterations") for base in ("lbfgs", "ssbroyden")],
    *[
        ("gauss_newton", f"stages.0.{name}", value, "iterations")
        for name, value in (
            ("solver", "cg"),
            ("step", "line_search"),
            ("damping", 1.0),
            ("momentum", 0.5),
            ("tolerance", 1e3),
        )
    ],
    ("undamped", "stages.0.trials", 1, "iterations"),
    ("solved by cg", "stages.0.cg_steps", 1, "iterations"),
    # weights and clipping
    *[(base, "weights.values", {"bc": 3.0}, "records") for base in ("fixed", *ADAPTIVE)],
    *[(base, "weights.every", 3, "records") for base in ADAPTIVE],
    *[(base, "weights.low", 0.99, "records") for base in ADAPTIVE if base not in RISING],
    *[(base, "weights.low", 1.5, "records") for base in RISING],
    *[(base, "weights.high", 1.01, "records") for base in ADAPTIVE],
    *[(base, "weights.alpha", 0.5, "records") for base in ADAPTIVE if base not in ("softadapt", "dual")],
    ("uncertain", "weights.values", {"bc": 3.0}, "records"),
    ("uncertain", "weights.every", 3, "records"),
    ("uncertain", "weights.low", 1.05, "records"),
    ("uncertain", "weights.high", 1.0001, "records"),
    ("ntk", "weights.samples", 3, "records"),
    ("gram", "weights.objective", "equal_rates", "records"),
    ("gradnorm", "weights.rate", 0.01, "records"),
    ("dual", "weights.tolerances", {"bc": 0.5}, "records"),
    ("dual", "weights.rho", 2.0, "records"),
    ("dual", "weights.growth", 9.0, "records"),
    ("dual", "weights.rho_high", 2.0, "records"),
    ("annealing", "weights.reference", "bc", "records"),
    ("softadapt", "weights.beta", -1.0, "records"),
    ("softadapt", "weights.normalized", False, "records"),
    ("softadapt", "weights.loss_weighted", True, "records"),
    *[(base, "weights", {"kind": "fixed"}, "records") for base in (*ADAPTIVE, "scheduled")],
    (
        "fixed",
        "weights",
        {"kind": "schedule", "terms": {"bc": {"kind": "linear", "start": 1, "end": 2, "steps": 3}}},
        "knobs",
    ),
    ("scheduled", "weights.values", {"bc": 3.0}, "error"),
    ("scheduled", "weights.terms", {"pde": {"kind": "linear", "start": 1, "end": 3, "steps": 4}}, "knobs"),
    *[("scheduled", f"weights.terms.{term}.start", 2.0, "knobs") for term in ("pde", "ic", "bc")],
    *[("scheduled", f"weights.terms.{term}.end", 4.0, "knobs") for term in ("pde", "ic", "bc")],
    *[("scheduled", f"weights.terms.{term}.begin", 2, "knobs") for term in ("pde", "ic")],
    *[("scheduled", f"weights.terms.{term}.steps", 5, "knobs") for term in ("pde", "ic")],
    ("scheduled", "weights.terms.bc.milestones", [3, 7], "knobs"),
    ("relobralo", "weights.beta", 0.0, "records"),
    ("relobralo", "weights.temperature", 1.0, "records"),
    ("fixed", "weights", {"kind": "gradient_norms", "every": 2}, "records"),
    ("fixed", "weights", {"kind": "relobralo", "every": 2}, "records"),
    ("poisson", "clip", {"norm": 1.0}, "knobs"),
    ("clip", "clip.value", 0.5, "knobs"),
    ("poisson", "gradients", {"noise": {}}, "knobs"),
    ("poisson", "gradients.noise", {}, "knobs"),
    ("noise", "gradients.noise.eta", 0.2, "knobs"),
    ("noise", "gradients.noise.gamma", 1.0, "knobs"),
    ("poisson", "gradients.custom", {"target": "own.py:halved"}, "arrays"),
    ("own gradients", "gradients.custom.target", "own.py:doubled", "arrays"),
    ("clip", "clip.norm", 2.0, "knobs"),
    # groups, memory
    ("groups", "groups.first.params", ["w1"], "settings"),
    ("groups", "groups.first.rate", 0.5, "knobs"),
    ("groups", "groups.first.every", 2, "knobs"),
    ("rhythm", "groups.first.offset", 1, "knobs"),
    ("groups", "groups.first.sign", -1, "knobs"),
    ("groups", "groups.first.freeze", True, "knobs"),
    *[(base, "accumulate", 2, "records") for base in ("digits", "diabetes")],
    ("poisson", "remat", True, "settings"),
    # what is measured, kept and drawn
    ("poisson", "evaluate.every", 10, "records"),
    ("in epochs", "evaluate.every", "0.5 epochs", "records"),
    ("poisson", "evaluate.points", 50, "records"),
    ("poisson", "checkpoint.every", 3, "checkpoints"),
    ("poisson", "checkpoint.keep", 2, "checkpoints"),
    ("best", "checkpoint.best", "validation/pde", "checkpoints"),
    ("best", "checkpoint.best", None, "checkpoints"),
    ("poisson", "figures.every", 4, "drawn"),
    ("poisson", "figures.formats", ["pdf", "svg"], "pictures"),
    # callbacks
    ("stops", "callbacks.0.metric", "validation/bc", "remembered"),
    ("stops", "callbacks.0.patience", 5, "remembered"),
    ("stops", "callbacks.0.min_delta", 0.0, "remembered"),
    ("never stops", "callbacks.0.mode", "min", "remembered"),
    ("ramp", "callbacks.0.knob", "weight/pde", "knobs"),
    ("ramp", "callbacks.0.start", 2.0, "knobs"),
    ("ramp", "callbacks.0.end", 3.0, "knobs"),
    ("ramp", "callbacks.0.begin", 3, "knobs"),
    ("ramp", "callbacks.0.steps", 4, "knobs"),
    ("ramp", "callbacks.0.scale", "log", "knobs"),
    ("plateau", "callbacks.0.metric", "validation/bc", "remembered"),
    ("plateau", "callbacks.0.mode", "max", "remembered"),
    ("plateau", "callbacks.0.factor", 0.5, "knobs"),
    ("plateau", "callbacks.0.patience", 2, "knobs"),
    ("rises", "callbacks.0.threshold", 0.0, "remembered"),
    ("plateau", "callbacks.0.cooldown", 3, "knobs"),
    ("plateau", "callbacks.0.lowest", 0.5, "knobs"),
    ("gradients", "callbacks.0.every", 5, "said"),
    ("gradients", "callbacks.0.by", "parameter", "said"),
    ("rates", "callbacks.0.every", 5, "said"),
    ("rates", "callbacks.0.momentum", True, "said"),
    ("rates", "callbacks.0.weight_decay", True, "said"),
    ("throughput", "callbacks.0.every", 5, "said"),
    ("memory", "callbacks.0.every", 5, "said"),
    ("profiled", "callbacks.0.start", 4, "kept"),
    ("profiled", "callbacks.0.steps", 5, "kept"),
    *[(base, "callbacks", [], "said") for base in ("gradients", "rates", "throughput", "memory")],
    ("own callback", "callbacks.0.target", "own.py:Doubles", "records"),
    # where it runs, and who hears of it
    ("poisson", "loggers", [{"kind": "csv"}], "logged"),
    ("boards", "loggers.0", {"kind": "csv"}, "logged"),
    ("boards", "loggers.0.dir", "more", "logged"),
    ("wandb", "loggers.0.project", "other", "logged"),
    ("wandb", "loggers.0.entity", "team", "logged"),
    ("wandb", "loggers.0.mode", "offline", "logged"),
    ("wandb", "loggers.0.dir", "more", "logged"),
    ("csv", "loggers", [], "logged"),
    ("poisson", "resources.workers", 2, "host"),
    ("poisson", "resources.cpus_per_worker", 2, "variables"),
    ("poisson", "resources.gpus_per_worker", 0.5, "variables"),
    ("tracked", "tracking.enabled", False, "uploaders"),
    ("tracked", "tracking.uri", "http://127.0.0.1:10", "run"),
    ("tracked", "tracking.experiment", "other", "run"),
    ("tracked", "tracking.every", 3, "records"),
    ("tracked", "tracking.checkpoints", "all", "run"),
    ("tracked", "tracking.tags", {"mine": "yes"}, "run"),
    ("tracked", "tracking.system_metrics_every_s", 3.0, "machine"),
]


# --- every field has a case ---


def models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models behind Annotated, unions and collections."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        yield from models(typing.get_args(annotation)[0])
    elif origin in (typing.Union, types.UnionType, tuple, list, dict):
        for argument in typing.get_args(annotation):
            yield from models(argument)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation


def all_fields() -> set[tuple[str, str]]:
    """(model, field) of everything that an experiment file can say."""
    found: set[type[BaseModel]] = set()
    waiting: list[type[BaseModel]] = [Experiment]
    while waiting:
        model = waiting.pop()
        if model in found:
            continue
        found.add(model)
        extra = typing.get_type_hints(model, include_extras=True).get("__pydantic_extra__")
        for annotation in [*(f.annotation for f in model.model_fields.values()), extra]:
            waiting += models(annotation)
    return {(model.__name__, name) for model in found for name in model.model_fields}


def touched(experiment: Experiment, path: str) -> set[tuple[str, str]]:
    """(model, field) on the way to a path; the kind of everything that is met."""
    node: Any = experiment
    found: set[tuple[str, str]] = set()
    for part in [*path.split("."), ""]:
        if isinstance(node, BaseModel):
            found |= {(type(node).__name__, name) for name in {part, "kind"} & type(node).model_fields.keys()}
            node = getattr(node, part, None)
        elif isinstance(node, Mapping):
            node = node.get(part)
        elif isinstance(node, tuple) and part:
            node = node[int(part)]
    return found


def test_every_field_has_a_case(folder: Path):
    covered = {("Experiment", "extends")}  # its case is below
    for base, path, value, key in CASES:
        changes = {} if key == "error" or value == "EARLIER" else {path: value}
        covered |= touched(_checked(base, folder, changes), path)
    assert sorted(all_fields() - covered) == [], "fields that no case changes"
    assert sorted(covered - all_fields()) == []


# --- each case ---


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the files of the bases lie in."""
    path = tmp_path_factory.mktemp("fields")
    (path / "own.py").write_text(OWN)
    rng = np.random.default_rng(0)
    for name in ("one.csv", "two.csv"):
        lines = [",".join(f"{v:.6f}" for v in row) for row in 3 + 2 * rng.normal(size=(40, 3))]
        (path / name).write_text("\n".join(["a,b,c", *lines]))
    for name, side in (("half.off", 1), ("third.off", 0.7)):
        (path / name).write_text(f"OFF\n3 1 0\n0 0 0\n{side} 0 0\n0 1 0\n3 0 1 2\n")
    for name in ("here.csv", "there.csv"):
        lines = [",".join(f"{v:.6f}" for v in row) for row in rng.uniform(size=(12, 5))]
        (path / name).write_text("\n".join(["x,y,u,v,p", *lines]))
    return path


@pytest.fixture(scope="module")
def watched(folder: Path) -> Iterator[Observer]:
    """Runs each experiment once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield Observer(folder, patch)


class Observer:
    """What experiments do, part by part."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.known = folder, dict[str, Tree]()
        self.made: list[NumpyBackend] = []
        self.heard: Tree = {}
        use(patch, self.made)
        load = backends.load
        patch.setattr(backends, "load", lambda name: self._hear("loaded", name) or _with_networks(load(name)))
        patch.setattr(figures, "draw_all", lambda _, run_folder, experiment, step: self._hear("drawn", step) or [])
        patch.setattr("orchestrator.uploader.start", lambda run_folder: self._hear("uploaders", 1) or _Handle())
        patch.setattr("orchestrator.record.SystemMetrics", lambda file, every_s: self._machine(every_s))
        patch.setattr("orchestrator.loggers.handle.start", self._logs)
        patch.setitem(sys.modules, "wandb", _Wandb(lambda about: self._hear("logged", about)))
        patch.setattr(importlib.util, "find_spec", _found(importlib.util.find_spec))
        patch.setattr(launch, "in_ray_train", lambda job, experiment: self._elsewhere(experiment))

    def __call__(self, base: str, changes: Tree, key: str) -> Any:
        """What changes under `key`."""
        if key == "iterations":
            return iterations(_checked(base, self.folder, changes))
        if key == "variables":
            return launch._variables(_checked(base, self.folder, changes))
        if key == "pictures":
            return pictures(_checked(base, self.folder, changes), self.folder / "pictures")
        name = json.dumps([base, changes])
        if name not in self.known:
            self.known[name] = self._run(base, changes)
        return self.known[name].get(key)

    def _run(self, base: str, changes: Tree) -> Tree:
        self.heard = {"host": "here"}
        self.made.clear()
        where = {} if "storage" in changes else {"storage": "runs"}
        try:
            result = run(BASES[base], {**where, **changes})
        except UserError as error:
            return {"error": str(error)}
        return {**self.heard, **_left(result, self.made)}

    def _hear(self, what: str, value: Any) -> None:
        self.heard.setdefault(what, [])
        self.heard[what].append(value)

    def _machine(self, every_s: float) -> Any:
        self._hear("machine", every_s)
        return contextlib.nullcontext()

    def _logs(self, run_folder: RunFolder) -> Any:
        """The loggers' process, in this one, once the run is over."""

        def finish() -> None:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Loop, "_told", lambda loop, seconds: True)
                Loop(run_folder.path).run()
            places = [run_folder.path, *(self.folder / name for name in ("boards", "more"))]
            files = {p.relative_to(place.parent).parts[0] for place in places for p in place.rglob("*events.out*")}
            self._hear("logged", (sorted(files & {"boards", "more"}), (run_folder.path / "metrics.csv").exists()))

        return SimpleNamespace(finish=finish)

    def _elsewhere(self, experiment: Experiment) -> Tree:
        self.heard["host"] = f"Ray, {experiment.resources.workers} workers"
        return {"status": "finished", "step": 0, "metrics": {}, "checkpoint": None, "train_s": 0.0, "reason": ""}


def _left(result: Any, made: list[NumpyBackend]) -> Tree:
    """What a run leaves behind, and what its backend was given."""
    run_folder = result.folder
    about = read_json(run_folder.run)
    told = [about[k] for k in ("name", "experiment", "uri", "checkpoints")]
    found: Tree = {
        "folder": str(run_folder.path.parent),
        "run": [*told, about["tags"].get("mine")],
        "parameters": sorted(about["params"]),
        "result": (result.status, result.step),
        "records": [
            (r["step"], {k: v for k, v in r["metrics"].items() if "time/" not in k})
            for r in read_jsonl(run_folder.metrics)[0]
        ],
    }
    found["said"] = [(r["step"], sorted(r["metrics"])) for r in read_jsonl(run_folder.metrics)[0]]
    found["kept"] = [(e["step"], e["path"]) for e in read_jsonl(run_folder.events)[0] if e["event"] == "artifact"]
    if not made:
        return found
    backend = made[-1]
    kept = checkpoint.newest(run_folder.checkpoints, pytest.fail)
    assert kept is not None
    settings = {k: v for k, v in vars(backend.settings).items() if k not in ("warn", "seed")}
    return found | {
        "settings": settings,
        "knobs": digest({f"{i}": table for i, table in enumerate(backend.tables)}),
        "chunks": {batch: backend.task.chunk(batch) for batch in backend.task.held_out(10)},
        "arrays": digest(kept.arrays),
        "types": sorted({str(a.dtype) for k, a in kept.arrays.items() if k.startswith("params/")}),
        "points": digest(kept.points),
        "remembered": (result.status, result.step, kept.loop["callbacks"]),
        "checkpoints": [p.name for p in checkpoint.listing(run_folder.checkpoints)],
    }


def digest(arrays: Mapping[str, Any]) -> str:
    """A hash of names, shapes and numbers."""
    state = hashlib.blake2b()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        state.update(f"{name} {array.shape} {array.dtype}".encode() + array.tobytes())
    return state.hexdigest()


def iterations(experiment: Experiment) -> Any:
    """What a second-order stage does in Rosenbrock's valley."""
    (chosen,) = experiment.stages
    if isinstance(chosen, GaussNewton):
        solver = "dense" if chosen.solver == "auto" else chosen.solver
        descent = problem(valley, slopes_of_the_valley, solver)
        numbers = {"damping": chosen.damping, "momentum": chosen.momentum}
        x, state, losses, ended = descend(chosen, descent, np.array([-1.2, 1.0]), 10, **numbers)
        return x.tolist(), losses, state["counts"].tolist(), ended
    x, _, count, ended = minimise(chosen, Counted(rosenbrock), np.array([10.0, -7, 3, 2, 1, 0]), 30)  # type: ignore[arg-type]
    return x.tolist(), count, ended


def pictures(experiment: Experiment, place: Path) -> list[str]:
    """The files that a picture becomes."""
    target = RunFolder(place / "-".join(experiment.figures.formats))
    target.path.mkdir(parents=True, exist_ok=True)
    lines = Picture("curve", "lines", {"u": np.arange(3.0)}, {"x": np.arange(3.0)})
    DRAW_ALL([lines], target, experiment, 1)
    return sorted(p.suffix for p in target.figures.iterdir())


DRAW_ALL = figures.draw_all
"""The real one."""


class _Wandb(SimpleNamespace):
    """What a W&B run is told."""

    Image = Settings = staticmethod(lambda *args, **options: None)

    def __init__(self, hear: Any) -> None:
        nothing = SimpleNamespace(log=lambda *a, **k: None, finish=lambda **k: None)
        shown = ("project", "entity", "mode", "dir")
        super().__init__(init=lambda **told: hear([Path(str(told[k])).name for k in shown]) or nothing)


def _found(find: Any) -> Any:
    return lambda name, *package: True if name == "wandb" else find(name, *package)


class _Handle:
    """An uploader that has sent everything."""

    def finish(self) -> Any:
        return SimpleNamespace(complete=True, run_id="1", unsent=0)


def _with_networks(module: Any) -> Any:
    return SimpleNamespace(**vars(module), adapt=lambda target, fields: target(**fields))


def _checked(base: str, folder: Path, changes: Tree) -> Experiment:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return checked(BASES[base], changes).experiment


@pytest.mark.parametrize(("base", "path", "value", "key"), CASES, ids=lambda v: str(v)[:40])
def test_changing_a_field_changes_what_the_run_does(base: str, path: str, value: Any, key: str, watched: Observer):
    if value == "EARLIER":
        earlier = watched("poisson", {"name": "earlier", "seed": 5}, "folder")
        value = next(str(p) for p in Path(earlier).iterdir() if p.name.startswith("earlier-"))
    before, after = watched(base, {}, key), watched(base, {path: value}, key)
    if key == "nothing":  # a kind that is the only one of its sort: that it runs is what can be seen
        assert watched(base, {}, "result") == ("finished", 10)
        return
    assert before != after, f"{path} changes nothing in: {key}"
    if key == "error":
        assert before is None
        assert path.partition(".")[0] in after
    elif key not in ("iterations", "variables", "pictures"):
        assert watched(base, {path: value}, "error") is None


def test_extends_takes_over_another_file(tmp_path: Path):
    (tmp_path / "below.yaml").write_text(json.dumps(POISSON))
    (tmp_path / "above.yaml").write_text(json.dumps({"extends": "below.yaml", "seed": 4}))
    experiment = read_experiment(tmp_path / "above.yaml").experiment
    assert (experiment.seed, experiment.network.width) == (4, 4)  # type: ignore[union-attr]
