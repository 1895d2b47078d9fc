"""What Trainer costs: against a loop written by hand for the same model, data and batches, in turns in one process.

A classifier 784-256-10 with batches of 64, Adam in float32, cross entropy, on one thread. The loops by hand are what
people write, and written well: torch's zero_grad, backward, step; one jitted function of optax that gives its buffers
back. Where the data is arrays, both loops pick rows of arrays that stay on the device, in the same order, and must
reach the same loss; where it is a DataLoader, both read it, and so does Lightning where it is installed.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.processes import call
from benchmarks.results import Section, page, table

INPUTS, WIDTH, CLASSES, BATCH, STEPS = 784, 256, 10, 64, 200
"""STEPS: of an epoch, which is what is measured."""
RATE, ROUNDS, TARGET = 1e-3, 20, 1.1
CASES = (("torch", "arrays"), ("torch", "DataLoader"), ("jax", "arrays"), ("jax", "batches from the host"))
Loop = Callable[[], float]
"""Trains an epoch further and returns its mean loss."""


def measure() -> Section:
    """Every case in its own process."""
    rows, missing = [], False
    for backend, data in CASES:
        found = call("benchmarks.trainer:compared", backend, {"backend": backend, "data": data})
        missing |= data == "DataLoader" and found["lightning_ms"] is None
        peer = "" if found["lightning_ms"] is None else f"{found['lightning_ms']:.3f}"
        rows.append(
            [backend, data, f"{found['bare_ms']:.3f}", f"{found['product_ms']:.3f}", peer]
            + [f"{found[k]:.3f}" for k in ("least", "median", "wall")]
            + [f"{TARGET}"]
        )
    head = ["backend", "data", "by hand, ms/step", "Trainer, ms/step", "Lightning, ms/step"]
    head += ["ratio", "median ratio", "wall", "target"]
    text = page(
        """MLP 784-256-10, batch 64, Adam, cross entropy, float32, one thread; epochs of 200 steps, rounds of hand,
        Trainer, Trainer, hand. Times are the least CPU milliseconds per step; `ratio` is that of the two, `median
        ratio` that of neighbours in turn, `wall` that of the least wall times. Trainer keeps its history and writes
        the weights back into the model after each epoch.""",
        table(head, rows),
    )
    if missing:
        text += '\n\nLightning is not installed here: `pip install -e ".[bench]"` measures it as well.'
    return Section("Trainer / hand at most 1.1 on a torch module and on a JAX function.", text)


def compared(backend: str, data: str) -> dict[str, float | None]:
    """The times of one case (runs in its own process)."""
    x, y = samples()
    loops = {"torch": torch_loops, "jax": jax_loops}[backend](x, y, data)
    for _ in range(2):  # compiles
        losses = [loop() for loop in loops]
    if data == "arrays" and abs(losses[0] - losses[1]) > 1e-3 * abs(losses[0]):
        raise AssertionError(f"the two loops compute different things: {losses}")
    times: list[list[tuple[float, float]]] = [[] for _ in loops]
    for _ in range(ROUNDS):
        for i in (0, 1, 1, 0, *range(2, len(loops))):
            times[i].append(_timed(loops[i]))
    bare, ours, *peer = (np.array(t) / STEPS * 1e3 for t in times)
    return {
        "bare_ms": bare[:, 0].min(),
        "product_ms": ours[:, 0].min(),
        "lightning_ms": peer[0][:, 0].min() if peer else None,
        "least": ours[:, 0].min() / bare[:, 0].min(),
        "median": statistics.median(ours[:, 0] / bare[:, 0]),
        "wall": ours[:, 1].min() / bare[:, 1].min(),
    }


def samples() -> tuple[np.ndarray, np.ndarray]:
    """Images and labels that can be told apart."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, CLASSES, STEPS * BATCH)
    return (rng.normal(size=(STEPS * BATCH, INPUTS)) + rng.normal(size=(CLASSES, INPUTS))[y]).astype(np.float32), y


def order(epoch: int) -> np.ndarray:
    """The rows of an epoch, as Trainer reads arrays."""
    from backends.randomness import generator

    return generator(0, "rows", epoch).permutation(STEPS * BATCH).reshape(STEPS, BATCH)


# --- torch ---


def torch_loops(x: np.ndarray, y: np.ndarray, data: str) -> list[Loop]:
    """By hand, Trainer, and Lightning where it reads the same."""
    import torch
    from torch import nn
    from torch.nn import functional

    from orchestrator.trainer import Trainer, TrainingConfig

    def model() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(INPUTS, WIDTH), nn.ReLU(), nn.Linear(WIDTH, CLASSES))

    xs, ys = torch.from_numpy(x), torch.from_numpy(y)

    def loader() -> Any:
        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(xs, ys), BATCH, shuffle=True)

    own = model()
    optimizer = torch.optim.Adam(own.parameters(), RATE)
    batches = loader()
    epochs = [0]

    def read() -> Any:
        if data == "DataLoader":
            return iter(batches)
        epochs[0] += 1
        return ((xs[rows], ys[rows]) for rows in torch.from_numpy(order(epochs[0] - 1)))

    def bare() -> float:
        total = torch.zeros(())
        for a, b in read():
            optimizer.zero_grad()
            loss = functional.cross_entropy(own(a), b)
            loss.backward()
            optimizer.step()
            total += loss.detach()
        return float(total) / STEPS

    trainer = Trainer(
        model(),
        TrainingConfig(num_epochs=1000, batch_size=BATCH, learning_rate=RATE, compile="always"),
        loss=lambda net, batch: functional.cross_entropy(net(batch[0]), batch[1]),
        data=loader() if data == "DataLoader" else (x, y),
    )
    loops = [bare, lambda: trainer.train_epoch()["loss"]]
    if data == "DataLoader" and importlib.util.find_spec("lightning") is not None:
        loops.append(lightning_loop(model(), loader()))
    return loops


def lightning_loop(net: Any, batches: Any) -> Loop:
    """Lightning's Trainer with everything off that can be."""
    import logging
    import warnings

    import lightning
    import torch
    from torch.nn import functional

    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def training_step(self, batch: Any, index: int) -> Any:
            return functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), RATE)

    module = Module()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False, "barebones": False}
    trainer = lightning.Trainer(max_epochs=0, accelerator="cpu", enable_model_summary=False, **quiet)

    def loop() -> float:
        assert trainer.fit_loop.max_epochs is not None
        trainer.fit_loop.max_epochs += 1
        trainer.fit(module, batches)
        return 0.0

    return loop


# --- JAX ---


def jax_loops(x: np.ndarray, y: np.ndarray, data: str) -> list[Loop]:
    """By hand, and Trainer."""
    from functools import partial

    import jax
    import jax.numpy as jnp
    import optax

    from orchestrator.trainer import Trainer, TrainingConfig

    host = data != "arrays"

    def fresh() -> dict[str, Any]:
        rng = np.random.default_rng(1)
        sizes = ((INPUTS, WIDTH), (WIDTH, CLASSES))
        found = {}
        for k, (a, b) in enumerate(sizes):
            found[f"w{k}"] = jnp.asarray(rng.normal(size=(a, b)) / np.sqrt(a), jnp.float32)
            found[f"b{k}"] = jnp.zeros(b, jnp.float32)
        return found

    def loss(params: Any, batch: Any) -> Any:
        images, labels = batch
        logits = jax.nn.relu(images @ params["w0"] + params["b0"]) @ params["w1"] + params["b1"]
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))

    optimizer = optax.adam(RATE)

    @partial(jax.jit, donate_argnums=(0, 1))
    def advance(params: Any, state: Any, batch: Any) -> Any:
        value, slope = jax.value_and_grad(loss)(params, batch)
        updates, state = optimizer.update(slope, state, params)
        return optax.apply_updates(params, updates), state, value

    @partial(jax.jit, donate_argnums=(0, 1))
    def advance_rows(params: Any, state: Any, images: Any, labels: Any, rows: Any) -> Any:
        return advance(params, state, (images[rows], labels[rows]))

    trainer = Trainer(
        fresh(),
        TrainingConfig(num_epochs=1000, batch_size=BATCH, learning_rate=RATE),
        loss=loss,
        data=[(x[i : i + BATCH], y[i : i + BATCH]) for i in range(0, len(x), BATCH)] if host else (x, y),
    )
    held: dict[str, Any] = {"params": fresh(), "epoch": 0}
    held["state"] = optimizer.init(held["params"])
    images, labels = jnp.asarray(x), jnp.asarray(y, jnp.int32)

    def bare() -> float:
        params, state, values = held["params"], held["state"], []
        rows = np.arange(STEPS * BATCH).reshape(STEPS, BATCH) if host else order(held["epoch"])
        for chosen in rows:
            if host:
                params, state, value = advance(params, state, (x[chosen], y[chosen]))
            else:
                params, state, value = advance_rows(params, state, images, labels, chosen)
            values.append(value)
        held.update(params=params, state=state, epoch=held["epoch"] + 1)
        return float(jnp.mean(jnp.stack(values)))

    return [bare, lambda: trainer.train_epoch()["loss"]]


def _timed(loop: Loop) -> tuple[float, float]:
    """(CPU seconds, wall seconds)."""
    cpu, wall = time.process_time(), time.perf_counter()
    loop()
    return time.process_time() - cpu, time.perf_counter() - wall
