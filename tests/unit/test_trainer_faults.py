"""What goes wrong with a user's model, loss, data and callbacks is named, and what was trained is kept."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import orchestrator
from backends.errors import NonFinite, OwnCodeFailed, RunFailed, UserError
from orchestrator import OptimizerConfig, Trainer, TrainingConfig
from orchestrator.trainer import EarlyStopping, ModelCheckpoint

X = np.random.default_rng(0).normal(size=(24, 3)).astype(np.float32)
Y = X[:, :1].copy()
CONFIG = {"num_epochs": 3, "batch_size": 8, "compile": "never"}


def module() -> Any:
    import torch

    torch.manual_seed(0)
    return torch.nn.Linear(3, 1)


def made(data: Any = (X, Y), loss: Any = "mse", model: Any = None, **fields: Any) -> Trainer:
    callbacks, validation = fields.pop("callbacks", ()), fields.pop("validation", None)
    config = {**CONFIG, **fields}
    return Trainer(model or module(), config, loss=loss, data=data, callbacks=callbacks, validation=validation)


def batches(count: int = 3, size: int = 8) -> Iterator[Any]:
    return ((X[i * size : (i + 1) * size], Y[i * size : (i + 1) * size]) for i in range(count))


# --- data ---


def raises_later() -> Iterator[Any]:
    yield from batches(2)
    raise ValueError("the disk is gone")


def changes_keys() -> Iterator[Any]:
    yield {"x": X[:8], "y": Y[:8]}
    yield {"x": X[:8], "target": Y[:8]}


def changes_shape() -> Iterator[Any]:
    yield X[:8], Y[:8]
    yield X[:8, :2], Y[:8]
    yield X[:8], Y[:8]


def short_in_the_middle() -> Iterator[Any]:
    yield X[:8], Y[:8]
    yield X[:5], Y[:5]
    yield X[:8], Y[:8]


class EndsEarly:
    """Says three, gives two."""

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Iterator[Any]:
        return batches(2)


DATA: list[tuple[Any, type[Exception], str]] = [
    (
        raises_later,
        OwnCodeFailed,
        r"test_trainer_faults.py:\d+: the data raised ValueError in batch 3 of epoch 1: the disk",
    ),
    ([], UserError, "the data gives no batch"),
    (lambda: iter(()), UserError, "the data gives no batch"),
    ((X[:0], Y[:0]), UserError, "the data has no samples"),
    (changes_keys, RunFailed, r"batch 2 of epoch 1: it has the entries \['target', 'x'\], the first batch had .*'y'"),
    (changes_shape, RunFailed, r"batch 2 of epoch 1: the entry '0' has the shape \[8, 2\], it was \[8, 3\]"),
    (short_in_the_middle, RunFailed, r"batch 2 of epoch 1: the entry '0' has the shape \[5, 3\]"),
    (EndsEarly(), RunFailed, "the data ended after 2 of 3 batches in epoch 1"),
    ((X, Y[:7]), UserError, "same number of samples along their first axis; there are entry number 0: 24, .* 1: 7"),
    ({"x": X, "name": ["a"] * 24}, UserError, r"'name/0' of the batch is text \('a'\); only arrays of numbers"),
    ({"x": X, "beta": 0.5}, UserError, "'beta' of the batch is a single number"),
    (5, UserError, "the data is 5; give a dict or tuple of arrays, a DataLoader"),
    (lambda rows, columns: batches(), UserError, r"the data is a function of \(rows, columns\)"),
    (lambda: 5, UserError, "the function that gives the data returned 5, no batches"),
    (None, UserError, r"there is no data: give Trainer\(data=…\)"),
]


@pytest.mark.parametrize(("data", "kind", "message"), DATA, ids=lambda v: getattr(v, "__name__", None))
def test_data_that_can_not_be_trained_on_is_described(data: Any, kind: type[Exception], message: str):
    with pytest.raises(kind, match=message):
        made(data).fit()


def test_an_iterator_lasts_as_long_as_it_lasts():
    trainer = made(batches(6, 4), steps_per_epoch=2)
    trainer.fit()
    assert trainer.global_step == 6
    with pytest.raises(RunFailed, match="the data ended after 6 batches, and more are needed"):
        trainer.fit(epochs=1)
    assert trainer.global_step == 6, "what was trained is kept"


def test_data_without_an_end_needs_the_length_of_an_epoch(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("orchestrator.trainer.stream.COUNTED", 50)

    def endless() -> Iterator[Any]:
        while True:
            yield X[:8], Y[:8]

    with pytest.raises(UserError, match=r"gave 51 without an end; .*TrainingConfig\(steps_per_epoch=…\)"):
        made(endless).fit()
    trainer = made(endless, steps_per_epoch=4)
    assert len(trainer.fit().history["train_loss"]) == 3
    assert trainer.global_step == 12


def test_a_short_last_batch_is_filled_up_and_every_sample_is_seen():
    seen: list[Any] = []

    class Watch:
        def on_batch_end(self, trainer: Any, batch: Any) -> None:
            seen.append(batch[0])

    for data in ([(X[:10], Y[:10]), (X[10:20], Y[10:20]), (X[20:], Y[20:])], (X, Y)):
        seen.clear()
        made(data, callbacks=[Watch()], num_epochs=1, batch_size=10).fit()
        assert [b.shape for b in seen] == [(10, 3)] * 3
        rows = {tuple(row) for batch in seen for row in batch}
        assert rows == {tuple(row) for row in X}


def test_every_form_of_data_gives_the_same_training():
    import torch
    from torch.utils.data import DataLoader, Dataset, TensorDataset

    class Rows(Dataset[Any]):
        def __len__(self) -> int:
            return 24

        def __getitem__(self, i: int) -> Any:
            return X[i], Y[i]

    tensors = TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
    forms: list[Any] = [(X, Y), (torch.from_numpy(X), Y), tensors, DataLoader(tensors, 8), Rows(), list(batches())]
    forms += [batches, lambda batch_size: batches(24 // batch_size, batch_size)]
    histories = [made(data, shuffle=False).fit().history for data in forms]
    assert all(h["train_loss"] == histories[0]["train_loss"] for h in histories[1:])


def test_a_shuffling_loader_repeats_itself_and_leaves_the_programs_generators_alone():
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    tensors = TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
    loaders = [lambda: DataLoader(tensors, 8, shuffle=True)]
    loaders += [lambda: DataLoader(tensors, 8, shuffle=True, generator=torch.Generator())]
    for loader in loaders:
        torch.manual_seed(5)
        before = torch.get_rng_state()
        first = made(loader()).fit().history
        model = module()
        torch.set_rng_state(before)
        assert made(loader(), model=model).fit().history == first
        assert torch.equal(torch.get_rng_state(), before)
    assert first["train_loss"] != made((X, Y), shuffle=False).fit().history["train_loss"]


# --- models and losses ---


def test_a_module_without_parameters_is_refused():
    import torch
    from flax import nnx

    frozen = module()
    for parameter in frozen.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(UserError, match=r"the parameters of Linear are all frozen \(requires_grad=False\)"):
        made(model=frozen).fit()
    with pytest.raises(UserError, match="the parameters of Tanh are missing: there is nothing to train"):
        made(model=torch.nn.Tanh()).fit()

    class Empty(nnx.Module):
        def __call__(self, x: Any) -> Any:
            return x

    with pytest.raises(UserError, match="Empty has no parameters that could be trained"):
        made(model=Empty()).fit()
    with pytest.raises(UserError, match="the model is 'x'|the model is an object of the type str"):
        made(model="x").fit()
    with pytest.raises(UserError, match="which the torch backend trains, not 'jax'"):
        Trainer(module(), loss="mse", backend="jax")


def _forward(result: Callable[[Any], Any]) -> Any:
    import torch

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(3, 1)

        def forward(self, x: Any) -> Any:
            return result(self.layer(x))

    return Net()


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (
            lambda out: (out, out),
            r"the model returned a tuple of \(float32 \[8, 1\], float32 \[8, 1\]\); the loss 'mse'",
        ),
        (lambda out: None, "the model returned None; the loss 'mse' needs one array"),
        (lambda out: out[:, 0], r"needs two arrays of one shape; .* float32 \[8\] and the target is float32 \[8, 1\]"),
        (lambda out: {"logits": out}, r"the model returned a dict with logits: float32 \[8, 1\]"),
        (lambda out: out @ out, r"test_trainer_faults.py:\d+: mse raised RuntimeError for the batch a tuple of"),
    ],
)
def test_a_forward_that_returns_something_else_is_described(result: Callable[[Any], Any], message: str):
    with pytest.raises((UserError, OwnCodeFailed), match=message):
        made(model=_forward(result)).fit()


LOSSES: list[tuple[Any, str]] = [
    (lambda model, batch: (model(batch[0]) - batch[1])[:5, 0], r"'loss' has the shape \[5\] for a batch of 8 samples"),
    (lambda model, batch: (model(batch[0]) - batch[1]) ** 2, r"'loss' has the shape \[8, 1\] for a batch of 8 samples"),
    (lambda model, batch: {"a": (model(batch[0])).mean(), "b": batch[1]}, r"'b' has the shape \[8, 1\]"),
    (lambda model, batch: None, "returned None; a loss is one number, one value per sample"),
    (lambda model, batch: float(model(batch[0]).detach().sum()), r"has lost its gradient \(leave out `.item\(\)`"),
    (lambda model, batch: {}, "returned an empty dict"),
    (lambda model, batch: model(batch["x"]).mean(), r"test_trainer_faults.py:\d+: <lambda> raised TypeError"),
    (None, r"the model raised TypeError for the batch a tuple of \(float32 \[8, 3\], float32 \[8, 1\]\)"),
]


@pytest.mark.parametrize(("loss", "message"), LOSSES)
def test_a_loss_that_gives_no_loss_is_described(loss: Any, message: str):
    with pytest.raises((UserError, OwnCodeFailed), match=message):
        made(loss=loss).fit()


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("msee", "there is no loss 'msee'; did you mean 'mse'?"),
        (5, "the loss is 5; it must be a function"),
        (lambda model: 0, r"takes 1 arguments; it needs \(model, batch\)"),
        (lambda model, batch, rng, step, mood: 0, "asks for 'mood', which a step does not have"),
    ],
)
def test_a_loss_that_can_not_be_called_is_refused_at_once(loss: Any, message: str):
    with pytest.raises(UserError, match=message):
        made(loss=loss)


def test_a_loss_that_is_not_finite_stops_with_its_name_and_keeps_the_parameters():
    poisoned = Y.copy()
    poisoned[20] = np.nan

    def loss(model: Any, batch: Any) -> Any:
        out = model(batch[0])
        return {"fit": ((out - batch[1]) ** 2).mean(), "size": out.abs().mean()}

    trainer = made((X, poisoned), loss=loss, shuffle=False)
    with pytest.raises(NonFinite, match="step 2: the loss is not finite in fit"):
        trainer.fit()
    assert all(np.isfinite(v).all() for v in trainer.state.params.values())
    with pytest.raises(NonFinite, match="fit"):
        made((X, poisoned), loss=loss).train_step((X[:8] * np.nan, poisoned[:8]))


# --- callbacks, configurations ---


class Breaks:
    """Raises in the second epoch."""

    def on_epoch_end(self, trainer: Any, epoch: int, logs: Any) -> None:
        if epoch == 1:
            raise KeyError("nothing there")


def test_a_callback_that_raises_is_named_the_run_is_failed_and_its_checkpoint_kept(tmp_path: Path):
    trainer = made(callbacks=[Breaks()], storage=str(tmp_path), name="broken")
    with pytest.raises(OwnCodeFailed, match=r"test_trainer_faults.py:\d+: Breaks.on_epoch_end: raised KeyError"):
        trainer.fit()
    folder = orchestrator.find("broken", str(tmp_path))
    result = json.loads(folder.result.read_text())
    assert result["status"] == "failed"
    assert "Breaks.on_epoch_end" in result["reason"]
    assert [p.name for p in folder.checkpoints.iterdir()] == ["step-000000003"]
    assert made().load_checkpoint(folder.checkpoints)["step"] == 3
    assert trainer.global_step == 6, "the present state is there, too"


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (object(), "callbacks: object has none of the methods"),
        (Breaks, "callbacks: Breaks is a class; pass an object"),
        (EarlyStopping("val_loss"), "there is no metric 'val_loss'; nothing is validated"),
        (EarlyStopping("val_acuracy"), "there is no metric 'val_acuracy'"),
    ],
)
def test_callbacks_that_would_never_work_are_refused(callback: Any, message: str):
    with pytest.raises(UserError, match=message):
        made(callbacks=[callback]).fit()


def test_a_hook_that_asks_for_what_a_step_does_not_have_is_named():
    class Asks:
        def on_batch_end(self, trainer: Any, weather: Any) -> None: ...

    with pytest.raises(
        UserError, match="Asks.on_batch_end asks for 'weather'; a hook may ask for trainer, model, logs"
    ):
        made(callbacks=[Asks()]).fit()
    with pytest.raises(UserError, match="a checkpoint always holds all state"):
        ModelCheckpoint(save_weights_only=True)


CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"epoch": 3}, "TrainingConfig: unknown field 'epoch'; did you mean 'num_epochs'?"),
    ({"num_epochs": 0}, "TrainingConfig.num_epochs: Input should be greater than 0"),
    ({"epochs": 3, "num_epochs": 3}, "epochs is another word for num_epochs; give one"),
    ({"use_wandb": True}, "tracking and loggers read a run folder: give `storage='runs'`"),
    ({"conservation_config": {"laws": ["energy"]}}, "conservation_config has no effect here: "),
    ({"warmup": 10}, "warmup has no effect here: write `warmup_steps` or `warmup_epochs`"),
    ({"validation": 5}, "`validation` is a dict with `frequency` and `patience`"),
    ({"learning_rate": math.nan}, "TrainingConfig.learning_rate"),
]


@pytest.mark.parametrize(("fields", "message"), CONFIGS)
def test_a_field_that_has_no_place_is_answered_with_its_counterpart(fields: dict[str, Any], message: str):
    with pytest.raises(UserError) as caught:
        TrainingConfig(**fields)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"optimizer": "adma"}, "there is no optimizer 'adma'; did you mean 'adam'?"),
        (
            {"optimizer": OptimizerConfig(optimizer_type="adam", weight_decay=0.1)},
            "adam has no weight_decay; take 'adamw'",
        ),
        ({"optimizer": {"type": "adam", "momentum": 0.9}}, "adam has no momentum"),
        ({"scheduler": "cosin"}, "there is no schedule 'cosin'; did you mean 'cosine'?"),
        ({"scheduler": {"type": "cosine", "gamma": 0.1}}, "the schedule 'cosine' has no gamma"),
        ({"weights": {"nothing": 1.0}}, "'nothing' is not a loss term of this task"),
        ({"scheduler": {"type": "cosine", "warmup_epochs": 3}}, "warmup"),
    ],
)
def test_a_config_that_means_nothing_is_refused_before_the_first_step(fields: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message.replace("(", r"\(").replace("?", r"\?")):
        made(**fields).fit()


def test_a_torch_optimizer_is_read_and_what_has_no_counterpart_is_named():
    import torch

    model = module()
    chosen = torch.optim.AdamW(model.parameters(), lr=0.02, betas=(0.8, 0.9), weight_decay=0.1)
    trainer = Trainer(model, CONFIG, loss="mse", data=(X, Y), optimizer=chosen)
    trainer.train_epoch()
    stage: Any = trainer._session.stage  # type: ignore[union-attr]
    assert (stage.kind, stage.lr, stage.b1, stage.b2, stage.weight_decay) == ("adamw", 0.02, 0.8, 0.9, 0.1)
    strange = torch.optim.Adam(model.parameters(), amsgrad=True)
    for optimizer, message in (
        (strange, "amsgrad=…. has no counterpart"),
        (object(), "of the type object; give its name"),
    ):
        with pytest.raises(UserError, match=message):
            Trainer(module(), CONFIG, loss="mse", data=(X, Y), optimizer=optimizer).fit()
