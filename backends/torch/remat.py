"""Activations that are computed again in the backward pass (Chen et al., arXiv 1604.06174), in a recorded graph.

`mark()` is called between forward and backward pass while a graph is recorded. Afterwards `recompute` keeps the output
of every m-th product of the forward pass, m about the square root of their number, and puts copies of what lies
between in front of the backward operations that read it. The graph stays one list of operations, so it saves the same
whether it is compiled or not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import get_proxy_mode

PART = "part of the step"
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "matmul", "convolution", "_fft_r2c", "_fft_c2c", "_fft_c2r")
"""Operations that a network's layers are counted by."""


@torch.library.custom_op("orchestrator::after", mutates_args=())
def after(x: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    """A copy of x that can't be made before `first` is there.

    Without it a compiler merges what is computed again with the first time, for both read the same (measured: inductor
    fuses the two, and nothing is saved).
    """
    return x.clone()


@after.register_fake
def _(x: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


def mark() -> None:
    """All that has been recorded since the last call belongs together. Does nothing while nothing is recorded."""
    mode = get_proxy_mode()
    if mode is None:
        return
    fresh = [node for node in mode.tracer.graph.nodes if PART not in node.meta]
    last = max((n.meta[PART] for n in mode.tracer.graph.nodes if PART in n.meta), default=-1)
    for node in fresh:
        node.meta[PART] = last + 1


def recompute(module: GraphModule) -> None:
    """Rewrites a graph that was marked; leaves any other, and one with fewer than four products, as it is."""
    graph, nodes = module.graph, list(module.graph.nodes)
    forward = [n for n in nodes if n.meta.get(PART) == 0 and n.op == "call_function"]
    kept = _kept(forward)
    if not kept:
        return
    order = {node: i for i, node in enumerate(nodes)}
    movable = set(forward) - kept
    copies: dict[Node, Node] = {}
    part = 0
    for node in nodes:
        now = node.meta.get(PART, math.inf)
        if now == 0:
            continue
        if now != part:  # another backward pass: what the one before has computed must not wait for it
            copies, part = {}, now
        read = [n for n in node.all_input_nodes if n in movable]
        again = sorted(_missing(read, movable, copies), key=order.__getitem__)
        before = [n for n in node.all_input_nodes if n.op == "call_function" and n.meta.get(PART, math.inf) == now]
        with graph.inserting_before(node):
            for source in _sources(again, movable, copies) if before else ():
                copies[source] = graph.call_function(torch.ops.orchestrator.after.default, (source, before[-1]))
                copies[source].meta = {**source.meta, PART: now}
            for source in again:
                copies[source] = graph.node_copy(source, partial(_replaced, copies))
                copies[source].meta[PART] = now
        for source in read:
            node.replace_input_with(source, copies[source])
    graph.eliminate_dead_code()
    graph.lint()
    module.recompile()


def _replaced(copies: dict[Node, Node], node: Node) -> Node:
    return copies.get(node, node)


def _kept(forward: Sequence[Node]) -> set[Node]:
    """The operations of the forward pass whose results stay; empty where there are too few products."""
    products = [n for n in forward if _name(n) in PRODUCTS]
    if len(products) < 4:
        return set()
    each = math.ceil(len(products) / round(math.sqrt(len(products))))
    kept = set(products[each - 1 :: each])
    last = max(i for i, n in enumerate(forward) if n in kept)
    kept |= set(forward[last:])  # the backward pass begins there: computed again, it would be needed at once
    return kept | set(_bound_to_their_moment(forward))


def _bound_to_their_moment(forward: Sequence[Node]) -> Iterator[Node]:
    """Operations that would give something else later: they draw, write into memory, or read what is written."""
    written: set[Node] = set()
    for node in forward:
        schema = getattr(node.target, "_schema", None)
        if schema is not None and schema.is_mutable:
            written |= {root for n in node.all_input_nodes for root in _aliases(n)}
    for node in forward:
        random = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
        schema = getattr(node.target, "_schema", None)
        if random or (schema is not None and schema.is_mutable) or written & {node, *node.all_input_nodes}:
            yield node


def _aliases(node: Node) -> Iterator[Node]:
    """The node, and what it may be a view of."""
    yield node
    schema = getattr(node.target, "_schema", None)
    if schema is not None and any(r.alias_info is not None for r in schema.returns):
        for source in node.all_input_nodes:
            yield from _aliases(source)


def _sources(again: Sequence[Node], movable: set[Node], copies: dict[Node, Node]) -> list[Node]:
    """The kept results that `again` begins with; where there are none, the inputs of the graph."""
    found = [n for node in again for n in node.all_input_nodes if n not in movable and n not in copies]
    kept = [n for n in found if n.op == "call_function"]
    return [n for n in dict.fromkeys(kept or found) if isinstance(n.meta.get("val"), torch.Tensor)]


def _missing(read: Sequence[Node], movable: set[Node], copies: dict[Node, Node]) -> set[Node]:
    """What must be computed again for `read`."""
    found: set[Node] = set()
    waiting = list(read)
    while waiting:
        node = waiting.pop()
        if node in movable and node not in copies and node not in found:
            found.add(node)
            waiting += node.all_input_nodes
    return found


def _name(node: Node) -> Any:
    return getattr(getattr(node.target, "overloadpacket", None), "__name__", "")
