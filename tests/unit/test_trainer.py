"""Trainer on a torch module and on JAX models: what it trains, what it gives back, and that it goes on bit by bit."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import orchestrator
from backends.errors import UserError
from orchestrator import EarlyStopping, ModelCheckpoint, Trainer, TrainingConfig
from orchestrator.trainer import LearningRateScheduler, TrainingState

ROWS = 40
RNG = np.random.default_rng(0)
X = RNG.normal(size=(ROWS, 3)).astype(np.float32)
Y = (X[:, :1] * 2 - X[:, 1:2] + 1).astype(np.float32)


def module(seed: int = 0) -> Any:
    import torch

    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))


def parameters() -> dict[str, Any]:
    rng = np.random.default_rng(1)
    return {"w": rng.normal(size=(3, 1)).astype(np.float32), "b": np.zeros(1, np.float32)}


def line(params: Any, x: Any) -> Any:
    return x @ params["w"] + params["b"]


MODELS = {"torch": module, "jax": lambda: (parameters(), line)}


def config(**fields: Any) -> TrainingConfig:
    return TrainingConfig(**{"num_epochs": 3, "batch_size": 16, "learning_rate": 1e-2, "compile": "never", **fields})


def trainer(backend: str, *, loss: Any = "mse", data: Any = (X, Y), callbacks: Any = (), **fields: Any) -> Trainer:
    validation = fields.pop("validation", None)
    return Trainer(
        MODELS[backend](), config(**fields), loss=loss, data=data, validation=validation, callbacks=callbacks
    )


def same(a: Trainer, b: Trainer) -> bool:
    one, two = a.state, b.state
    return (one.step, a.history) == (two.step, b.history) and all(
        np.array_equal(one[part][name], two[part][name]) for part in ("params", "opt_state") for name in one[part]
    )


@pytest.fixture(params=["torch", "jax"])
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


def test_it_learns_and_its_history_has_a_number_per_epoch(backend: str):
    made = trainer(backend, num_epochs=20, learning_rate=0.1, validation=(X, Y), weights={"loss": 1.0}, compile="auto")
    model, history = made.fit()
    assert history["train_loss"][-1] < 0.2 * history["train_loss"][0]
    assert len(history["train_loss"]) == len(history["val_loss"]) == 20
    assert made.evaluate((X, Y), batch_size=7)["loss"] == pytest.approx(history["val_loss"][-1], rel=1e-4)
    assert model is not None
    assert made.global_step == 20 * made.steps_per_epoch == 20 * 3


def test_a_torch_module_is_trained_in_place_and_a_jax_model_comes_back_as_it_came():
    made = trainer("torch")
    given = made.model
    before = given[0].weight.detach().clone()
    assert made.fit().model is given
    assert not bool((given[0].weight == before).all())
    assert given.training
    params, function = trainer("jax").fit().model
    assert function is line
    assert params["w"].dtype == np.float32
    assert not np.array_equal(params["w"], parameters()["w"])


def test_what_fit_returns_answers_to_the_words_of_other_systems(backend: str):
    result = trainer(backend, validation=(X, Y)).fit()
    model, history = result
    assert model is result.model
    assert history is result.history
    assert result["train_loss"] == history["train_loss"]
    assert result["loss"] == result.metrics["final_train_loss"] == history["train_loss"][-1]
    assert result.metrics["initial_train_loss"] == history["train_loss"][0]
    assert result.get("nothing", 1.5) == 1.5
    assert dict(result.items())["val_loss"] == history["val_loss"]


def test_epoch_by_epoch_is_the_same_as_in_one_go(backend: str):
    whole, parts = trainer(backend), trainer(backend)
    whole.fit()
    losses = [parts.train_epoch()["loss"] for _ in range(3)]
    assert losses == whole.history["train_loss"]
    assert same(whole, parts)
    assert whole.current_epoch == parts.current_epoch == 3


def test_a_step_by_hand_is_the_step_of_the_loop(backend: str):
    loop, hand = trainer(backend, batch_size=ROWS, shuffle=False), trainer(backend, batch_size=ROWS)
    first = loop.train_epoch()
    assert hand.train_step((X, Y))["loss"] == pytest.approx(first["loss"], rel=1e-6)
    for name, value in loop.state.params.items():
        np.testing.assert_allclose(hand.state.params[name], value, rtol=1e-5, atol=1e-7)
    before = hand.state.params
    assert hand.validate_step((X, Y))["loss"] < first["loss"]
    assert all(np.array_equal(before[k], v) for k, v in hand.state.params.items())


@pytest.mark.parametrize("kind", ["arrays", "batches"])
def test_training_goes_on_from_a_checkpoint_bit_by_bit(backend: str, kind: str, tmp_path: Path):
    def batches() -> Any:
        order = np.random.permutation(ROWS)  # noqa: NPY002 (what users' loaders do)
        return ((X[order[i : i + 16]], Y[order[i : i + 16]]) for i in range(0, ROWS, 16))

    data = (X, Y) if kind == "arrays" else batches
    changes = {"scheduler": "cosine", "optimizer": "adamw", "validation": (X, Y)}
    whole, half = trainer(backend, data=data, **changes), trainer(backend, data=data, **changes)
    whole.fit()
    half.train_epoch()
    path = half.save_checkpoint(tmp_path / "kept", epoch=1, metrics={"mine": 2.0})
    again = trainer(backend, data=data, **changes)
    assert again.load_checkpoint(tmp_path / "kept") == {"step": 3, "epoch": 1, "metrics": {"mine": 2.0}}
    assert again.load_checkpoint(path)["step"] == 3
    again.fit()
    assert all(np.array_equal(v, again.state.params[k]) for k, v in whole.state.params.items())
    assert again.history["train_loss"] == whole.history["train_loss"]


def test_checkpoints_are_written_where_the_config_says_and_the_newest_are_kept(backend: str, tmp_path: Path):
    made = trainer(backend, num_epochs=4, checkpoint_dir=tmp_path / "c", max_checkpoints=2)
    made.fit()
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["step-000000009", "step-000000012"]
    again = trainer(backend, num_epochs=4)
    assert again.load_checkpoint(tmp_path / "c")["step"] == 12
    again.fit()
    assert again.global_step == 12, "nothing is left to do"
    again.fit(epochs=1)
    assert again.global_step == 15


@pytest.mark.parametrize("name", ["best.pkl", "best.pth", "model.pt", "last.ckpt"])
def test_a_pickle_is_answered_with_what_to_use_instead(name: str, tmp_path: Path):
    made = trainer("jax")
    stem = name.partition(".")[0]
    for call in (made.save_checkpoint, made.load_checkpoint):
        with pytest.raises(UserError, match=rf"save_checkpoint\('.*{stem}'\).*weights_only=True"):
            call(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_the_state_is_immutable_and_speaks_as_a_dict(backend: str):
    made = trainer(backend)
    made.train_epoch()
    state = made.state
    assert (state.step, state.epoch, state["step"]) == (3, 1, 3)
    assert state.get("best_loss", 7.0) == state.best_val_loss == np.inf
    with pytest.raises(AttributeError):
        state.step = 5  # type: ignore[misc]
    made_up = TrainingState.create(params={"w": X}, opt_state=None, rng=None, step=2)
    assert (made_up.step, made_up.best_loss) == (2, np.inf)


def test_several_terms_have_weights_and_lists_of_their_own(backend: str):
    def loss(model: Any, batch: Any) -> Any:
        r = model(batch["x"]) - batch["y"]
        return {"fit": (r * r)[:, 0], "size": abs(r).mean()}

    data = {"x": X, "y": Y}
    made = trainer(backend, loss=loss, data=data, weights={"size": 0.5}, validation=data)
    history = made.fit().history
    assert {"train_fit", "train_size", "val_fit", "val_size"} <= set(history)
    np.testing.assert_allclose(
        history["train_loss"], np.array(history["train_fit"]) + 0.5 * np.array(history["train_size"]), rtol=1e-6
    )
    adaptive = trainer(backend, loss=loss, data=data, weights={"kind": "relobralo", "every": 2})
    adaptive.fit()
    values = adaptive._session.knobs.values  # type: ignore[union-attr]
    assert values["weight/fit"] != values["weight/size"]


def test_what_a_loss_gives_besides_is_looked_at_and_not_trained_on(backend: str):
    def loss(model: Any, batch: Any) -> Any:
        r = model(batch[0]) - batch[1]
        return (r * r).mean(), {"mae": abs(r).mean()}

    made = trainer(backend, loss=loss, validation=(X, Y))
    plain = trainer(backend, validation=(X, Y))
    assert made.fit().history["train_mae"][0] > 0
    np.testing.assert_allclose(made.history["train_loss"], plain.fit().history["train_loss"], rtol=1e-5)
    assert set(made.history) == {"train_loss", "train_mae", "val_loss", "val_mae", "lr"}


def test_a_model_that_brings_its_own_loss():
    import torch

    class Bert(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(3, 1)

        def forward(self, x: Any, labels: Any) -> Any:
            out = self.layer(x)
            return SimpleNamespace(loss=((out - labels) ** 2).mean(), logits=out)

    torch.manual_seed(0)
    history = Trainer(Bert(), config(num_epochs=10, learning_rate=0.1), data={"x": X, "labels": Y}).fit().history
    assert history["train_loss"][-1] < 0.5 * history["train_loss"][0]


def test_losses_are_called_with_what_their_arguments_are_called():
    import jax
    import jax.numpy as jnp

    seen = {}

    def noisy(params: Any, batch: Any, rng: Any, step: Any) -> Any:
        noise = jax.random.normal(rng, batch[0].shape)
        seen.update(noise=noise.dtype, step=step.shape)
        return jnp.mean((line(params, batch[0] + 0.01 * noise) - batch[1]) ** 2)

    made = Trainer(parameters(), config(), loss=noisy, data=(X, Y))
    assert made.fit().history["train_loss"][-1] < 10
    assert seen == {"noise": jnp.float32, "step": ()}

    def by_name(model: Any, batch: Any, *, training: bool = True) -> Any:
        seen["training"] = training
        return jnp.mean((line(model, batch[0]) - batch[1]) ** 2)

    made = Trainer(parameters(), config(num_epochs=1), loss=by_name, data=(X, Y))
    made.fit()
    assert seen["training"] is True
    made.evaluate((X, Y))
    assert seen["training"] is False


def test_flax_modules_keep_their_statistics_and_draw_their_masks():
    from flax import linen, nnx

    class Old(linen.Module):
        @linen.compact
        def __call__(self, x: Any, train: bool = False) -> Any:
            h = linen.BatchNorm(use_running_average=not train)(linen.Dense(8)(x))
            return linen.Dense(1)(linen.Dropout(0.1, deterministic=not train)(h))

    class New(nnx.Module):
        def __init__(self, rngs: Any) -> None:
            self.first, self.norm = nnx.Linear(3, 8, rngs=rngs), nnx.BatchNorm(8, rngs=rngs)
            self.mask, self.last = nnx.Dropout(0.1, rngs=rngs), nnx.Linear(8, 1, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            return self.last(self.mask(self.norm(self.first(x))))

    made = Trainer(Old(), config(num_epochs=1, compile="auto"), loss="mse", data=(X, Y))
    _, variables = made.fit().model
    assert np.abs(np.asarray(variables["batch_stats"]["BatchNorm_0"]["mean"])).max() > 0
    model = New(rngs=nnx.Rngs(0))
    trained = Trainer(model, config(num_epochs=1, compile="auto"), loss="mse", data=(X, Y)).fit().model
    assert isinstance(trained, New)
    assert trained is not model
    assert np.abs(np.asarray(trained.norm.mean[...])).max() > 0
    assert np.abs(np.asarray(model.norm.mean[...])).max() == 0


def test_buffers_of_a_torch_module_move_and_are_in_the_checkpoint(tmp_path: Path):
    import torch

    def normed() -> Any:
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1))

    made = Trainer(normed(), config(), loss=torch.nn.MSELoss(), data=(X, Y))
    model = made.fit().model
    assert int(model[1].num_batches_tracked) == 9
    made.save_checkpoint(tmp_path)
    again = Trainer(normed(), config(), loss=torch.nn.MSELoss(), data=(X, Y))
    again.load_checkpoint(tmp_path)
    assert torch.equal(again.model[1].running_mean, model[1].running_mean)


def test_the_rate_follows_the_schedule_of_the_config(backend: str):
    made = trainer(backend, num_epochs=4, scheduler={"type": "cosine", "warmup_epochs": 1, "min_lr_ratio": 0.1})
    rates = made.fit().history["lr"]
    assert rates[0] == pytest.approx(1e-2 * 2 / 3)  # of the last step of the first epoch
    assert rates[1] > rates[2] > rates[3] > 1e-3
    by_hand = trainer(backend, callbacks=[LearningRateScheduler(lambda epoch: 0.1 / (epoch + 1))])
    assert by_hand.fit().history["lr"] == pytest.approx([0.1, 0.05, 0.1 / 3])
    named = trainer(backend, callbacks=[LearningRateScheduler("linear")])
    assert named.fit().history["lr"] == pytest.approx([1e-2 * 7 / 9, 1e-2 * 4 / 9, 1e-2 / 9])


def test_early_stopping_stops_and_model_checkpoints_keep_the_best(tmp_path: Path):
    def worse(epoch: int) -> float:
        return 1e-2 if epoch < 2 else 5.0

    kept = ModelCheckpoint(tmp_path, "at-{epoch:02d}-{val_loss:.2f}", save_top_k=1, save_last=True)
    callbacks = [kept, EarlyStopping("val_loss", patience=2), LearningRateScheduler(worse)]
    made = trainer("jax", num_epochs=20, callbacks=callbacks, validation=(X, Y))
    history = made.fit().history
    assert len(history["val_loss"]) == 4
    assert int(np.argmin(history["val_loss"])) == 1
    assert kept.best_model_score == min(history["val_loss"])
    assert Path(kept.best_model_path).name.startswith("at-02-")
    assert {p.name.partition("-")[0] for p in tmp_path.iterdir()} == {"at", "last"}
    assert trainer("jax").load_checkpoint(kept.best_model_path)["step"] == 6
    assert trainer("jax").load_checkpoint(tmp_path / "last")["step"] == 12
    simple = trainer("jax", num_epochs=20, early_stopping=True, patience=1, min_delta=1e9)
    assert len(simple.fit().history["train_loss"]) == 2, "the training loss, where nothing is validated"


def test_samples_come_from_the_models_own_method():
    import torch

    class Noise(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(()))

        def generate(self, num_samples: int, generator: Any = None, temperature: float = 1.0) -> Any:
            assert not torch.is_grad_enabled()
            return temperature * self.scale * torch.randn(num_samples, generator=generator)

    def loss(model: Any, batch: Any) -> Any:
        return (model.scale - batch).mean() ** 2

    made = Trainer(Noise(), config(), loss=loss, data=X)
    made.fit()
    first, again = made.generate_samples(4, seed=3), made.generate_samples(num_samples=4, seed=3, temperature=2.0)
    assert torch.equal(2 * first, again)
    with pytest.raises(UserError, match=r"Sequential has no method generate\(num_samples, …\) or sample"):
        trainer("torch").generate_samples(2)


def test_a_run_folder_is_like_any_other(backend: str, tmp_path: Path):
    where = {"storage": str(tmp_path), "name": "mine", "loggers": [{"kind": "csv"}]}
    made = trainer(backend, log_frequency=2, validation=(X, Y), **where)
    made.fit()
    found = orchestrator.find("mine", str(tmp_path))
    steps, values = orchestrator.history(found)["validation/total"]
    assert steps.tolist() == [0, 3, 6, 9]
    assert values[1:].tolist() == pytest.approx(made.history["val_loss"])
    assert sorted(p.name for p in found.checkpoints.iterdir())[-1] == "step-000000009"
    assert (found.path / "metrics.csv").read_text().count("\n") == len(found.metrics.read_text().splitlines()) + 1


def test_a_second_call_compiles_nothing():
    made = trainer("jax", compile="auto", validation=(X, Y))
    made.fit()
    counts = made._session.made.backend.compilations()  # type: ignore[union-attr]
    made.fit(epochs=2)
    made.train_epoch()
    made.evaluate((X, Y))
    assert made._session.made.backend.compilations() == counts  # type: ignore[union-attr]
    assert counts["step/adam"] == 1


def test_nothing_is_printed_unless_asked_for(backend: str, capsys: pytest.CaptureFixture[str]):
    trainer(backend).fit()
    assert capsys.readouterr() == ("", "")
    trainer(backend, verbose=True, num_epochs=1).fit()
    assert capsys.readouterr().out.startswith("epoch 1/1: train_loss ")


@pytest.mark.parametrize(
    "fields",
    [
        {"mixed_precision": True},
        {"gradient_accumulation": 3},
        {"gradient_checkpointing": True},
        {"gradient_clip_norm": 0.5, "gradient_clip_value": 0.1, "optimizer": "lion"},
        {"precision": "float64"},
        {"optimizer": "lbfgs", "batch_size": ROWS},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_whatever_the_config_says_acts(backend: str, fields: dict[str, Any]):
    plain, made = trainer(backend, num_epochs=2), trainer(backend, num_epochs=2, **fields)
    plain.fit()
    made.fit()
    alike = fields == {"gradient_checkpointing": True}
    assert (
        made.history["train_loss"] == pytest.approx(plain.history["train_loss"], rel=1e-6)
    ) is alike or "precision" in fields
    assert made.state.params != {}
    if "gradient_accumulation" in fields:
        assert made.global_step == 2
        assert made.train_step((X[:16], Y[:16]))["loss"] > 0
    if "precision" in fields:
        assert {v.dtype for v in made.state.params.values()} == {np.dtype("float64")}
