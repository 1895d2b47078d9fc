"""The variational autoencoder on digits."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import pytest

from backends.data import Diabetes, Digits
from backends.errors import UserError
from backends.networks import MLP, VaeNetwork
from backends.ops import NumpyOps
from backends.task import Columns, Context, Parts
from backends.tasks.vae import Vae, VaeTask

OPS = NumpyOps()
EVALUATION = Context({}, training=False)


@cache
def made(likelihood: str = "gaussian") -> VaeTask:
    network = VaeNetwork(latent=3, width=8, depth=1)
    return Vae(likelihood=likelihood).build(Parts(network, data=Digits()))  # type: ignore[arg-type]


def parameters(task: VaeTask) -> dict[str, np.ndarray]:
    return task.init(np.random.default_rng(0))


def losses(task: VaeTask, columns: Columns, context: Context = EVALUATION, params: Any = None) -> Mapping[str, Any]:
    return task.per_sample(OPS, params or parameters(task), "images", columns, context)


def test_the_divergence_is_that_of_the_latent_normal_from_the_prior() -> None:
    task, params = made(), parameters(made())
    columns = task.held_out(1)["images"]
    mean, log_variance = (
        v[0] for v in task.predict(OPS, params, ["mean", "log_variance"], columns, EVALUATION).values()
    )
    z = mean + np.exp(log_variance / 2) * np.random.default_rng(0).normal(size=(200_000, 3))

    def log_density(z: np.ndarray, mean: Any, log_variance: Any) -> np.ndarray:
        return -0.5 * np.sum((z - mean) ** 2 / np.exp(log_variance) + log_variance, axis=1)

    sampled = np.mean(log_density(z, mean, log_variance) - log_density(z, 0.0, np.zeros(3)))
    assert np.isclose(losses(task, columns)["kl"][0], sampled, rtol=0.03)


def test_both_terms_are_one_number_per_image() -> None:
    out = losses(made(), made().held_out(5)["images"])
    assert {k: v.shape for k, v in out.items()} == {"reconstruction": (5,), "kl": (5,)}
    assert [(t.name, t.kind) for t in made().terms] == [("reconstruction", "loss"), ("kl", "loss")]


def test_cross_entropy_is_the_binary_one_and_its_reconstructions_are_brightness() -> None:
    task = made("bernoulli")
    params = {k: np.zeros_like(v) for k, v in parameters(task).items()}
    columns = task.held_out(4)["images"]
    assert np.allclose(losses(task, columns, params=params)["reconstruction"], 64 * np.log(2.0))
    shown = task.predict(OPS, params, ["reconstruction"], columns, EVALUATION)["reconstruction"]
    assert np.allclose(shown, 0.5)
    assert shown.shape == (4, 8, 8)


def test_noise_belongs_to_an_image_and_a_step_not_to_a_place_in_the_batch() -> None:
    columns = made().feed(0).take(0, 1).fixed()["images"]
    some, turned = ({k: v[rows] for k, v in columns.items()} for rows in ([3, 7, 100], [100, 3, 7]))
    context = Context({}, key=(5, 11))
    a, b = losses(made(), some, context)["reconstruction"], losses(made(), turned, context)["reconstruction"]
    assert np.allclose(a[[2, 0, 1]], b, rtol=1e-12)
    for other in (Context({}, key=(5, 12)), Context({}, key=(6, 11))):
        assert not np.allclose(losses(made(), some, other)["reconstruction"], a)


def test_evaluations_use_the_same_noise_at_every_step() -> None:
    columns = made().held_out(5)["images"]
    one, two = (losses(made(), columns, Context({}, key=(5, s), training=False)) for s in (1, 2))
    assert np.array_equal(one["reconstruction"], two["reconstruction"])


def test_samples_need_row_numbers_only_and_are_always_the_same() -> None:
    task = made()
    columns = {"row": np.arange(6)}
    first, again = (task.predict(OPS, parameters(task), ["sample"], columns, EVALUATION)["sample"] for _ in range(2))
    assert first.shape == (6, 8, 8)
    assert np.array_equal(first, again)
    assert not np.allclose(first[0], first[1])


def test_the_picture_shows_inputs_reconstructions_and_samples() -> None:
    task = made()

    def predict(names: Any, columns: Any) -> Any:
        return task.predict(OPS, parameters(task), names, columns, EVALUATION)

    (picture,) = task.pictures(predict)
    assert picture.kind == "images"
    assert {k: v.shape for k, v in picture.panels.items()} == {
        "input": (8, 8, 8), "reconstruction": (8, 8, 8), "sample": (8, 8, 8),
    }  # fmt: skip


def test_only_images_are_sent_to_the_device() -> None:
    draw = made().feed(0).take(0, 2)
    assert draw.fixed()["images"].keys() == {"image", "row"}
    assert draw.stacked["images"]["index"].shape == (2, 64)


@pytest.mark.parametrize(
    ("parts", "told", "path"),
    [
        (Parts(VaeNetwork()), "reads images; give it `data: {kind: digits}`", "data"),
        (Parts(VaeNetwork(), data=Diabetes()), "reads images", "data"),
        (Parts(MLP(), data=Digits()), "needs `network: {kind: vae}`", "network"),
        (Parts(VaeNetwork(), data=Digits(), workers=3), "3 workers can't share the 64 rows", "data.batch"),
    ],
)
def test_parts_that_do_not_fit_are_refused_with_their_place(parts: Parts, told: str, path: str) -> None:
    with pytest.raises(UserError, match=told) as caught:
        Vae().build(parts)
    assert caught.value.path == path


def test_unknown_names_and_missing_columns_are_answered() -> None:
    task, params = made(), parameters(made())
    with pytest.raises(UserError, match="'means' is nothing that a vae predicts; did you mean 'mean'"):
        task.predict(OPS, params, ["means"], {}, EVALUATION)
    with pytest.raises(UserError, match="the column 'image' is missing"):
        task.predict(OPS, params, ["mean"], {"row": np.arange(2)}, EVALUATION)
    with pytest.raises(UserError, match="samples are numbered by a column 'row'"):
        task.predict(OPS, params, ["sample"], {"image": np.ones((2, 8, 8))}, EVALUATION)


@pytest.mark.parametrize(("likelihood", "rate"), [("gaussian", 3e-3), ("bernoulli", 5e-2)])
def test_descending_the_gradient_lowers_the_bound(likelihood: str, rate: float) -> None:
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    from backends.jax.ops import OPS as ops

    task = made(likelihood)
    columns = {k: jax.numpy.asarray(v) for k, v in task.held_out(100)["images"].items()}

    def bound(params: Any, step: Any) -> Any:
        out = task.per_sample(ops, params, "images", columns, Context({}, key=(0, step)))
        return sum(jax.numpy.mean(v) for v in out.values())

    params = {k: jax.numpy.asarray(v) for k, v in parameters(task).items()}
    descend = jax.jit(lambda p, s: (bound(p, s), jax.tree.map(lambda a, g: a - rate * g, p, jax.grad(bound)(p, s))))
    seen = []
    for step in range(60):
        value, params = descend(params, step)
        seen.append(float(value))
    assert np.mean(seen[-5:]) < 0.8 * np.mean(seen[:5])
