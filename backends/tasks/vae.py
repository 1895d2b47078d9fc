"""A variational autoencoder of images (Kingma and Welling, arXiv 1312.6114)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from backends.data import ROW, BatchFeed, Digits, Samples
from backends.errors import UserError, nearest
from backends.networks.custom import CustomNetwork
from backends.randomness import normal
from backends.spec import structure
from backends.task import Array, Batches, Context, Parts, Picture, Predict, TaskSpec, Term
from backends.tasks.regression import rows_not_points

BATCH, IMAGE = "images", "image"
SHOWN = 8
"""Images per row of a figure."""
Likelihood = Literal["gaussian", "bernoulli"]


class Vae(TaskSpec):
    """Two terms per image: `reconstruction`, which the decoder pays for its pixels, and `kl`, which the encoder pays
    for leaving the standard normal prior: 0.5 * sum(exp(v) + m^2 - 1 - v), m and v the latent mean and log variance.

    Their sum with weights 1 is the negative evidence lower bound up to a constant; the weight of `kl` is beta.
    """

    term_names: ClassVar = ("reconstruction", "kl")
    kind: Literal["vae"] = "vae"
    likelihood: Likelihood = "gaussian"
    """`gaussian`: squared error over the pixels (a normal of variance 1/2 each); `bernoulli`: cross-entropy with
    pixels in [0, 1], the decoder yields logits."""

    def build(self, parts: Parts) -> VaeTask:
        """The task. Raises UserError where there are no images or the network is no encoder and decoder."""
        if not isinstance(parts.data, Digits):
            raise UserError("the task 'vae' reads images; give it `data: {kind: digits}`", path="data")
        rows_not_points(parts, "vae")
        network = parts.network
        if not isinstance(network, CustomNetwork) and not (hasattr(network, "encode") and hasattr(network, "decode")):
            raise UserError("the task 'vae' needs `network: {kind: vae}`, an encoder and a decoder", path="network")
        samples = parts.data.load(parts.folder)
        samples.shared_by(parts.workers)
        images = dataclasses.replace(samples, columns={IMAGE: samples.columns[IMAGE]})
        return VaeTask(network, images, self.likelihood)


@dataclass(frozen=True)
class VaeTask:
    """A VAE on given images (a `backends.task.Task`)."""

    network: Any
    """A Network with `encode(ops, params, x) -> (mean, log variance)`, `decode(ops, params, z)` and `latent`."""
    samples: Samples
    likelihood: Likelihood
    terms: tuple[Term, ...] = (Term("reconstruction", "loss", BATCH), Term("kl", "loss", BATCH))
    constants: Mapping[str, float] = field(default_factory=dict)
    outputs: tuple[str, ...] = ("reconstruction", "mean", "log_variance", "sample")

    @property
    def signature(self) -> tuple[Hashable, ...] | None:
        """Everything that shapes a program; None where an own network keeps more than fields."""
        network = structure(self.network)
        return None if network is None else (network, self.shape, self.likelihood)

    @property
    def shape(self) -> tuple[int, ...]:
        """Height and width of an image."""
        return self.samples.columns[IMAGE].shape[1:]

    def init(self, rng: np.random.Generator) -> dict[str, NDArray[np.float64]]:
        pixels = int(np.prod(self.shape))
        return self.network.init(rng, pixels, pixels)

    def aux(self) -> dict[str, NDArray[Any]]:
        return self.network.aux()

    def per_sample(
        self, ops: Any, params: Mapping[str, Array], batch: str, columns: Mapping[str, Array], context: Context
    ) -> Mapping[str, Array]:
        """Both terms, [samples] each. The noise of an image follows from (seed, step) and its row; in evaluations
        from its row alone."""
        x = self._pixels(ops, columns)
        mean, log_variance = self.network.encode(ops, params, x)
        key, stream = (context.key, "vae") if context.training else ((0, 0), "vae, held out")
        noise = normal(ops, key, stream, columns[ROW], mean.shape[0], like=x)
        y = self.network.decode(ops, params, mean + ops.exp(0.5 * log_variance) * noise)
        kl = 0.5 * ops.sum(ops.exp(log_variance) + mean * mean - 1.0 - log_variance, 0)
        return {"reconstruction": self._reconstruction(ops, x, y), "kl": kl}

    def predict(
        self,
        ops: Any,
        params: Mapping[str, Array],
        names: Sequence[str],
        columns: Mapping[str, Array],
        context: Context,
    ) -> Mapping[str, Array]:
        """From the column `image` [samples, height, width]: `reconstruction` (of that shape, through the latent mean),
        `mean` and `log_variance` [samples, latent]. From the column `row`: `sample`, images decoded from fixed noise.
        """
        make: dict[str, Callable[[], Array]] = {
            "reconstruction": lambda: self._images(
                ops, self.network.decode(ops, params, self._encode(ops, params, columns)[0])
            ),
            "mean": lambda: self._encode(ops, params, columns)[0].T,
            "log_variance": lambda: self._encode(ops, params, columns)[1].T,
            "sample": lambda: self._images(ops, self.network.decode(ops, params, self._prior(ops, params, columns))),
        }
        for name in names:
            if name not in make:
                raise UserError(f"{name!r} is nothing that a vae predicts{nearest(name, make)}")
        return {name: make[name]() for name in names}

    def width(self, batch: str) -> int:
        return max(self.network.widest(), int(np.prod(self.shape)))

    def reduced(self, batch: str) -> bool:
        return False

    def chunk(self, batch: str) -> Literal["auto"]:
        return "auto"

    def feed(self, seed: int) -> BatchFeed:
        return self.samples.feed(BATCH, seed)

    def held_out(self, count: int) -> Batches:
        return {BATCH: self.samples.validation(count)}

    def reference(self) -> None:
        """There is no known solution."""

    def readings(self, params: Mapping[str, NDArray[Any]]) -> dict[str, float]:
        return {}

    def pictures(self, predict: Predict, samples: Batches | None = None) -> list[Picture]:
        """Held-out images, what becomes of them, and images from fixed noise."""
        shown = self.samples.validation(SHOWN)
        out = predict(("reconstruction", "sample"), shown)
        panels = {"input": shown[IMAGE], "reconstruction": out["reconstruction"], "sample": out["sample"]}
        return [Picture("images", "images", panels, title="held-out images, reconstructions, samples")]

    def _pixels(self, ops: Any, columns: Mapping[str, Array]) -> Array:
        """[pixels, samples]"""
        if IMAGE not in columns:
            raise UserError(f"the column 'image' is missing; there are: {', '.join(columns)}")
        image = columns[IMAGE]
        return ops.reshape(image, (image.shape[0], int(np.prod(self.shape)))).T

    def _encode(self, ops: Any, params: Mapping[str, Array], columns: Mapping[str, Array]) -> tuple[Array, Array]:
        return self.network.encode(ops, params, self._pixels(ops, columns))

    def _prior(self, ops: Any, params: Mapping[str, Array], columns: Mapping[str, Array]) -> Array:
        """[latent, samples] standard normal numbers, fixed by the column `row`."""
        if ROW not in columns:
            raise UserError(f"samples are numbered by a column 'row' of integers; there are: {', '.join(columns)}")
        like = params[min(params)]
        return normal(ops, (0, 0), "vae, samples", columns[ROW], self.network.latent, like=like)

    def _images(self, ops: Any, y: Array) -> Array:
        """[pixels, samples] of the decoder -> [samples, height, width], as brightness."""
        pixels = ops.sigmoid(y) if self.likelihood == "bernoulli" else y
        return ops.reshape(pixels.T, (y.shape[1], *self.shape))

    def _reconstruction(self, ops: Any, x: Array, y: Array) -> Array:
        """What the pixels cost, per sample."""
        if self.likelihood == "bernoulli":
            return ops.sum(ops.softplus(y) - x * y, 0)
        return ops.sum((y - x) ** 2, 0)
