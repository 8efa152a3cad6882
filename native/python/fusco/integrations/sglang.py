"""A dispatcher for SGLang, selected with `--moe-a2a-backend customized`.

SGLang finds `register` through the entry point group `sglang.plugins`. Every row goes to the runner as a token with one
local expert and the weight 1, in SGLang's standard format, so any runner of that format works; the router's weights are
applied where the rows of a token are added. Written against the interface of SGLang in August 2026; tested with a
stand-in of it, see docs/pytorch-frameworks.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from sglang.srt.distributed import get_tp_group
from sglang.srt.layers.moe.token_dispatcher.base import BaseDispatcher
from sglang.srt.layers.moe.token_dispatcher.standard import StandardDispatchOutput
from sglang.srt.layers.moe.topk import StandardTopKOutput
from sglang.srt.layers.moe.utils import MoeA2ABackend, get_moe_a2a_backend
from sglang.srt.plugins.hook_registry import HookRegistry, HookType
from sglang.srt.runtime_context import get_server_args
from torch import Tensor

from fusco import FuscoError
from fusco.torch import Handle

from .shuffles import shared_shuffle

FACTORY = "sglang.srt.layers.moe.fused_moe_triton.layer.create_moe_dispatcher"


class FuscoDispatcher(BaseDispatcher):
    """Dispatch and combine of one layer. Each dispatch is followed by its combine.

    Args:
        group: the expert-parallel group.
        config: SGLang's MoeRunnerConfig: num_experts, hidden_size, top_k.
        max_tokens: most tokens of a rank in one call; ranks may have different numbers, and none.
        options: further options of `fusco.torch.ExpertShuffle`.

    Raises:
        FuscoError: E_OPTION if the router's weight is applied to the input of the experts.
    """

    def __init__(self, group: dist.ProcessGroup, config: Any, max_tokens: int, **options: Any) -> None:
        super().__init__()
        if config.apply_router_weight_on_input:
            raise FuscoError(
                "E_OPTION", "apply_router_weight_on_input is not supported: weights are applied in combine"
            )
        self.shuffle = shared_shuffle(
            group,
            experts=config.num_experts,
            hidden=config.hidden_size,
            topk=config.top_k,
            max_tokens=max_tokens,
            **options,
        )
        self._handle: Handle | None = None

    def dispatch(self, hidden_states: Tensor, topk_output: Any) -> StandardDispatchOutput:
        """Collective. Tokens to rows in the order of the local experts.

        Args:
            hidden_states: [tokens, hidden].
            topk_output: SGLang's, with topk_ids [tokens, top_k], -1 for no expert, and topk_weights.

        Returns:
            Rows [rows, hidden], each with one id, that of its local expert, int32 [rows, 1].
        """
        weights = topk_output.topk_weights.float().contiguous()
        ids = topk_output.topk_ids.contiguous()
        rows, handle = self.shuffle.dispatch(hidden_states.contiguous(), ids, weights)
        self._handle = handle
        sizes = handle.expert_offsets.diff().long()
        row_ids = torch.arange(len(sizes), dtype=torch.int32, device=sizes.device).repeat_interleave(sizes)
        chosen = StandardTopKOutput(
            topk_weights=weights.new_ones(len(row_ids), 1), topk_ids=row_ids[:, None], router_logits=None
        )
        return StandardDispatchOutput(hidden_states=rows, hidden_states_scale=None, topk_output=chosen)

    def combine(self, combine_input: Any) -> Tensor:
        """Collective. Rows of the runner back to their tokens, weighted: [tokens, hidden]."""
        handle, self._handle = self._handle, None
        if handle is None:
            raise FuscoError("E_OPTION", "combine was called without a dispatch before it: call them in turns")
        return self.shuffle.combine(combine_input.hidden_states.contiguous(), handle)


def create(original: Callable[[Any], BaseDispatcher], config: Any) -> BaseDispatcher:
    """SGLang's factory of dispatchers, with this one for the backend `customized`."""
    if get_moe_a2a_backend() != MoeA2ABackend.CUSTOMIZED:
        return original(config)
    arguments = get_server_args()
    chunk = arguments.chunked_prefill_size
    most = chunk if chunk is not None and chunk > 0 else arguments.max_prefill_tokens
    return FuscoDispatcher(get_tp_group().device_group, config, max_tokens=most)


def register() -> None:
    """Entry point: called by SGLang before the server starts."""
    HookRegistry.register(FACTORY, create, HookType.AROUND)
