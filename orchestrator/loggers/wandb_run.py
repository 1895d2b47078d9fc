"""A run in Weights & Biases, online or in offline files for `wandb sync`."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from backends.spec import Leaf
from orchestrator.loggers.sink import About, Sink

EXIT_CODES = {"finished": 0, "stopped": 0}
"""Of a W&B run; any other status is a run that crashed."""


class Wandb(Leaf):
    """Metrics, figures and parameters for Weights & Biases. A resumed run goes on under the same id."""

    kind: Literal["wandb"] = "wandb"
    project: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^/\\#?%:]+$")] | None = None
    """Project that the run belongs to. Default: the MLflow experiment's name."""
    entity: Annotated[str, Field(min_length=1)] | None = None
    """User or team. Default: that of the API key."""
    mode: Literal["online", "offline"] = "online"
    """offline: files in `dir` that `wandb sync` sends later. online needs `wandb login` or WANDB_API_KEY."""
    dir: Annotated[str, Field(min_length=1)] | None = None
    """Folder whose subfolder `wandb` holds the files (relative to the working directory). Default: the run folder."""

    def installed(self) -> bool:
        """Whether wandb is there."""
        return importlib.util.find_spec("wandb") is not None

    def open(self, about: About) -> Sink:
        """Start the run, or go on with it."""
        return Run(self, about)


class Run:
    """A W&B run."""

    def __init__(self, spec: Wandb, about: About) -> None:
        # Nobody is there to answer a question, and the run's own output is no news.
        os.environ.update({"WANDB_SILENT": "true", "WANDB_CONSOLE": "off", "WANDB_ERROR_REPORTING": "false"})
        import wandb

        folder = Path(spec.dir) if spec.dir is not None else about.folder
        folder.mkdir(parents=True, exist_ok=True)
        self.image = wandb.Image
        self.last = max(about.after, 0)
        self.run: Any = wandb.init(
            project=spec.project or about.project,
            entity=spec.entity,
            mode=spec.mode,
            dir=str(folder),
            id=about.id,
            name=about.run,
            config=dict(about.params),
            resume="allow" if spec.mode == "online" else None,
            settings=wandb.Settings(
                console="off", silent=True, x_disable_stats=True, disable_git=True, save_code=False, init_timeout=30.0
            ),
        )

    def metrics(self, step: int, time_s: float, values: Mapping[str, float]) -> None:
        """A row of the run's history."""
        self.run.log(dict(values), step=step)
        self.last = step

    def figure(self, step: int, time_s: float, key: str, file: Path) -> None:
        """An image. W&B's steps never fall: one that comes late stands at the present step and says its own."""
        self.last = max(self.last, step)
        self.run.log({key: self.image(str(file), caption=f"step {step}")}, step=self.last)

    def flush(self) -> None:
        """W&B's own process writes as it goes."""

    def close(self, status: str) -> None:
        """Wait until everything is written."""
        self.run.finish(exit_code=EXIT_CODES.get(status, 1))
