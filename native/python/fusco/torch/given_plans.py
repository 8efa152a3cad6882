"""Plans that were read from files: whether a group can execute them, and the routing that they were made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import torch

from ..errors import FuscoError
from ..options import PlanOptions
from ..plan import Plan
from ..shard import entry_instances

_HINT = "Make the ExpertShuffle with the options of the plan."


def check_fits(given: PlanOptions, own: PlanOptions) -> None:
    """Raises E_RANKS, E_OPTION unless a plan has the ranks and experts of a group."""
    if given.ranks != own.ranks:
        raise FuscoError("E_RANKS", f"the plan has {given.ranks} ranks, the group has {own.ranks}")
    for name, of_plan, of_group in (
        ("experts", given.experts, own.experts),
        ("topk", given.topk, own.topk),
        ("the experts of each rank", _hosted(given), _hosted(own)),
    ):
        if of_plan != of_group:
            raise FuscoError("E_OPTION", f"{name}: the plan has {of_plan!r}, the group {of_group!r}", hint=_HINT)


def check_sizes(tokens: Sequence[int], max_tokens: int, rows: Sequence[int], max_recv_rows: int) -> None:
    """Raises E_LIMIT, E_MAX_ROWS for a plan with more tokens or rows of a rank than a group takes; 0 rows: no limit."""
    limits = [("E_LIMIT", "tokens", tokens, max_tokens)]
    if max_recv_rows > 0:
        limits.append(("E_MAX_ROWS", "rows to receive", rows, max_recv_rows))
    for code, what, counts, limit in limits:
        if max(counts) > limit:
            raise FuscoError(
                code, f"a rank of the plan has {max(counts)} {what} > {limit}", value=max(counts), limit=limit
            )


def check_same(plan: Plan, made: Plan) -> None:
    """Raises E_OPTION unless a plan is the one that a group makes from its routing."""
    if plan.plan_id() == made.plan_id():
        return
    given, own = plan.reread().options, made.reread().options
    for field in fields(PlanOptions):
        of_plan, of_group = getattr(given, field.name), getattr(own, field.name)
        if of_plan != of_group:
            raise FuscoError("E_OPTION", f"{field.name}: the plan has {of_plan!r}, the group {of_group!r}", hint=_HINT)
    raise FuscoError(
        "E_OPTION",
        "the plan is not the one that this version makes from its routing",
        hint="Use backend='host', which executes any plan, or plan the ids again.",
    )


def ids_of(plan: Plan, rank: int) -> torch.Tensor:
    """The expert ids that a rank's part of a plan was made from: int64 [tokens, topk], -1 is masked."""
    options = plan.options
    experts = [expert for host in range(options.ranks) for expert in options.experts_of(host)]
    instances = entry_instances(plan.shard(rank))
    # The number of instances, which stands for none, is the last element.
    found = torch.tensor([*experts, -1])[torch.tensor(instances.tolist(), dtype=torch.int64)]
    return found.view(-1, options.topk)


def _hosted(options: PlanOptions) -> list[tuple[int, ...]]:
    return [options.experts_of(rank) for rank in range(options.ranks)]
