"""Shuffles that the layers of a model share.

Frameworks make one dispatcher for each layer, and some tell it the number of tokens only when they call it.
"""

from __future__ import annotations

from typing import Any

import torch.distributed as dist

from fusco.torch import ExpertShuffle

_shuffles: dict[tuple[Any, ...], ExpertShuffle] = {}


def shared_shuffle(
    group: dist.ProcessGroup, *, experts: int, hidden: int, topk: int, max_tokens: int, **options: Any
) -> ExpertShuffle:
    """The shuffle of a group for layers of this shape: made by the first call, and made again for more tokens.

    Collective where a shuffle is made, so all ranks must give the same arguments in the same order of calls. A shuffle
    that was replaced by a larger one stays usable for handles of its dispatches.

    Args:
        group: the expert-parallel group.
        experts: as in `fusco.torch.ExpertShuffle`, like all further arguments.
        hidden: elements of a row.
        topk: experts of a token.
        max_tokens: most tokens of a rank in one call.
        options: hashable further options.
    """
    key = (group, experts, hidden, topk, *sorted(options.items()))
    found = _shuffles.get(key)
    if found is None or found.max_tokens < max_tokens:
        found = ExpertShuffle(group, experts=experts, hidden=hidden, topk=topk, max_tokens=max_tokens, **options)
        _shuffles[key] = found
    return found
