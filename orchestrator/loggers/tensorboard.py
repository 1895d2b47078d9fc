"""TensorBoard event files, written by tensorboardX (which needs neither torch nor tensorflow)."""

from __future__ import annotations

import importlib.util
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from backends.spec import Leaf
from orchestrator.loggers.sink import About, Sink


class TensorBoard(Leaf):
    """Scalars, figures and parameters for `tensorboard --logdir DIR`."""

    kind: Literal["tensorboard"] = "tensorboard"
    dir: Annotated[str, Field(min_length=1)] | None = None
    """Folder that collects runs (relative to the working directory): this one goes into `DIR/<run folder's name>`.
    Default: `tensorboard` in the run folder."""

    def installed(self) -> bool:
        """Whether tensorboardX is there."""
        return importlib.util.find_spec("tensorboardX") is not None

    def open(self, about: About) -> Sink:
        """A new event file beside those of earlier attempts."""
        return Events(about.folder / "tensorboard" if self.dir is None else Path(self.dir) / about.run, about)


class Events:
    """An event file."""

    def __init__(self, folder: Path, about: About) -> None:
        from tensorboardX import SummaryWriter

        # purge_step hides what an earlier process wrote behind the last step that it confirmed.
        purge = about.after + 1 if about.after >= 0 else None
        self.writer: Any = SummaryWriter(str(folder), purge_step=purge, write_to_disk=True)
        if about.after < 0:
            rows = "".join(f"| {name} | {_cell(value)} |\n" for name, value in sorted(about.params.items()))
            self.writer.add_text("params", f"| parameter | value |\n| --- | --- |\n{rows}", 0)

    def metrics(self, step: int, time_s: float, values: Mapping[str, float]) -> None:
        """Scalars."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step, walltime=time_s, display_name=name)

    def figure(self, step: int, time_s: float, key: str, file: Path) -> None:
        """An image, the bytes of the file as they are."""
        import tensorboardX.proto.summary_pb2 as proto

        data = file.read_bytes()
        width, height = struct.unpack(">II", data[16:24])  # where a PNG says so
        summary: Any = getattr(proto, "Summary")  # noqa: B009 (made by protobuf at run time)
        image = summary.Image(height=height, width=width, colorspace=4, encoded_image_string=data)
        self.writer.file_writer.add_summary(summary(value=[summary.Value(tag=key, image=image)]), step, time_s)

    def flush(self) -> None:
        """Write what is waiting."""
        self.writer.flush()

    def close(self, status: str) -> None:
        """The last words."""
        self.writer.close()


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
