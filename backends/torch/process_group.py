"""The processes that train together, and the one sum that they share."""

from __future__ import annotations

from datetime import timedelta

import torch
import torch.distributed as dist

from backends.protocol import World


def join(address: str, rank: int, size: int, *, gpu: bool, timeout_s: float) -> int:
    """Joins the group at "host:port" (nccl on graphics devices, gloo elsewhere); how many processes are in it."""
    if not dist.is_initialized():
        dist.init_process_group(
            "nccl" if gpu else "gloo",
            init_method=f"tcp://{address}",
            rank=rank,
            world_size=size,
            timeout=timedelta(seconds=timeout_s),
        )
    return dist.get_world_size()


def leave() -> None:
    """Leaves the group, where there is one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def agree(value: int, world: World) -> int:
    """The largest `value` of all ranks."""
    if world.size == 1:
        return value
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    shared = torch.tensor(value, dtype=torch.int64, device=device)
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return int(shared)


def total(flat: torch.Tensor, world: World) -> torch.Tensor:
    """The sum of `flat` over all ranks, as operations that a trace records."""
    if world.size == 1:
        return flat
    import torch.distributed._functional_collectives as collectives  # costs 0.3 s, and one process needs none

    group = dist.group.WORLD
    if group is None:
        raise RuntimeError(f"{world.size} workers are to train together, but this process has joined no group")
    return collectives.wait_tensor(collectives.all_reduce(flat, "sum", group))


def gathered(rows: torch.Tensor, world: World) -> torch.Tensor:
    """The rows of all ranks one after the other, the same number of each."""
    if world.size == 1:
        return rows
    whole = rows.new_zeros((world.size, *rows.shape))
    whole[world.rank] = rows
    return total(whole, world).reshape(-1, *rows.shape[1:])
