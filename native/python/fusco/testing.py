"""For tests in Python: golden plans, and audits of what other libraries received and combined."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from .audit import audit_combine, audit_dispatch
from .errors import FuscoError
from .ids import of_each_rank
from .options import PlanOptions
from .plan import Plan, load_plan
from .planner import Planner, open_tables, plan

__all__ = ["assert_plan", "audit_combine", "audit_dispatch"]


def assert_plan(path: str | os.PathLike[str], ids: Iterable[Any], *, update: bool = False, **options: Any) -> None:
    """Asserts that a routing still gives the plan of a file.

    Args:
        path: a plan file, as ``Plan.save``, ``handle.save`` or ``fusco plan`` writes it.
        ids: the ids of each rank, [tokens, topk] each: a list, or an array [ranks, tokens, topk].
        update: write the file instead, unless the environment variable CI is set.
        options: those of ``fusco.plan``; none: the options that the file states.

    Raises:
        AssertionError: the plan differs; the message names both plan ids and the first difference.
        FuscoError: E_FILE_NOT_FOUND and others of load_plan; E_OPTION; those of planning
    """
    ids = of_each_rank("the routing", ids)
    if update and not os.environ.get("CI"):
        if not options and not os.path.exists(path):
            raise FuscoError(
                "E_OPTION",
                f"there is no file {os.fspath(path)} whose options the new plan could have",
                hint="Give experts and the other options of the plan.",
            )
        made = plan(ids, **options) if options else _as_in(load_plan(path), ids)
        made.save(path)
        return
    golden = load_plan(path)
    made = plan(ids, **options) if options else _as_in(golden, ids)
    if made.plan_id() == golden.plan_id():
        return
    raise AssertionError(
        f"{os.fspath(path)}: the plan is {made.plan_id()}, the file has {golden.plan_id()}: "
        f"{_difference(golden, made, ids)}. If the change is intended, call assert_plan with update=True."
    )


def _as_in(golden: Plan, ids: Iterable[Any]) -> Plan:
    return Planner(golden.options).plan(open_tables(ids, golden.options.topk))


def _difference(golden: Plan, made: Plan, ids: Iterable[Any]) -> str:
    before, after = golden.options, made.reread().options
    for name in PlanOptions.__dataclass_fields__:
        if getattr(before, name) != getattr(after, name):
            return f"{name} was {getattr(before, name)!r} and is {getattr(after, name)!r}"
    try:
        golden.check_routing(ids)
    except FuscoError as error:
        return error.message
    return "the shards differ"
