"""A backend of Megatron-Core's flex token dispatcher.

Call `install()` before the model is built with `--moe-token-dispatcher-type flex`. Rows arrive in the order of the
experts, so the permutation stages have nothing to do. Written against the interface of Megatron-Core in 2026; tested
with a stand-in of it, see docs/pytorch-frameworks.md.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from megatron.core.transformer.moe import moe_layer
from megatron.core.transformer.moe.token_dispatcher import (
    MoEFlexTokenDispatcher,
    MoETokenDispatcher,
    _DispatchManager,
)
from torch import Tensor

from fusco import FuscoError

from .shuffles import shared_shuffle


class FuscoDispatchManager(_DispatchManager):
    """Dispatch and combine of one layer. Methods are called in the order of a forward pass, once each.

    Attributes:
        token_indices: ids [tokens, router_topk], ascending, -1 at the end, after setup_metadata.
        token_probs: their probabilities, float32, after setup_metadata.
        dispatched_probs: the probability of each row, float32 [rows], after dispatch.

    Args:
        group: the tensor and expert parallel group; experts are numbered by (rank of the group, local expert).
        num_local_experts: experts of a rank.
        router_topk: most experts of a token, copies for tensor parallel ranks included.
        num_experts: experts of the group.
        config: Megatron's configuration: hidden_size, moe_router_dtype, moe_pad_expert_input_to_capacity.
        options: further options of `fusco.torch.ExpertShuffle`, such as `align` for quantized products.

    Raises:
        FuscoError: E_OPTION if the experts do not divide evenly, or expert inputs are padded to their capacity.
    """

    token_indices: Tensor
    token_probs: Tensor
    dispatched_probs: Tensor

    def __init__(
        self,
        group: dist.ProcessGroup,
        num_local_experts: int,
        router_topk: int,
        num_experts: int,
        config: Any,
        **options: Any,
    ) -> None:
        if num_local_experts * group.size() != num_experts:
            raise FuscoError(
                "E_OPTION",
                f"{num_experts} experts on {group.size()} ranks with {num_local_experts} each: "
                "every rank has the same number of experts",
            )
        if getattr(config, "moe_pad_expert_input_to_capacity", False):
            raise FuscoError(
                "E_OPTION", "moe_pad_expert_input_to_capacity is not supported: rows are never padded with tokens"
            )
        self.group = group
        self.router_topk = router_topk
        self.num_experts = num_experts
        self.config = config
        self.options = options

    def setup_metadata(self, routing_map: Tensor, probs: Tensor) -> None:
        """Ids and weights from a map of experts.

        Args:
            routing_map: bool [tokens, ranks, local experts] or [tokens, experts]; at most router_topk experts a token.
            probs: of the same shape, any floating dtype; what the map leaves out is ignored.

        Raises:
            FuscoError: E_ROUTING_SHAPE if a token has more experts.
        """
        chosen = routing_map.reshape(-1, self.num_experts).bool()
        most = int(chosen.sum(dim=1).max()) if len(chosen) else 0
        if most > self.router_topk:
            raise FuscoError("E_ROUTING_SHAPE", f"a token has {most} experts; router_topk is {self.router_topk}")
        experts = torch.arange(self.num_experts, device=chosen.device)
        ids = torch.where(chosen, experts, self.num_experts).sort(dim=1).values[:, : self.router_topk]
        masked = ids == self.num_experts
        weights = probs.reshape(-1, self.num_experts).gather(1, ids.masked_fill(masked, 0))
        self.token_indices = ids.masked_fill(masked, -1)
        self.token_probs = weights.masked_fill(masked, 0).float()

    def dispatch(
        self, hidden_states: Tensor, async_finish: bool = True, allocate_on_comm_stream: bool = True
    ) -> Tensor:
        """Collective. Tokens [tokens, hidden] to rows [rows, hidden], in the order of the local experts.

        The last two arguments are hints of the interface for other backends. All ranks have the same number of tokens.
        """
        self._shuffle = shared_shuffle(
            self.group,
            experts=self.num_experts,
            hidden=hidden_states.shape[-1],
            topk=self.router_topk,
            max_tokens=hidden_states.shape[0],
            **self.options,
        )
        rows, self._handle = self._shuffle.dispatch(hidden_states.contiguous(), self.token_indices)
        self.dispatched_probs = self._handle.with_weights(self.token_probs).row_weights()
        return rows

    def get_permuted_hidden_states_by_experts(self, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        """The rows as they are, and the probability [rows] of each, with which the experts scale."""
        fp64 = self.config.moe_router_dtype == "fp64"
        return hidden_states, self.dispatched_probs.double() if fp64 else self.dispatched_probs

    def get_number_of_tokens_per_expert(self) -> Tensor:
        """Rows of each local expert, int64 [local experts] on the CPU, padding of `align` included."""
        return self._handle.expert_offsets.diff().long()

    def get_restored_hidden_states_by_experts(self, hidden_states: Tensor) -> Tensor:
        """The rows as they are."""
        return hidden_states

    def combine(self, hidden_states: Tensor, async_finish: bool = True, allocate_on_comm_stream: bool = True) -> Tensor:
        """Collective. Sums the rows [rows, hidden] of each token, which the experts have scaled: [tokens, hidden]."""
        return self._shuffle.combine(hidden_states.contiguous(), self._handle)


class FuscoFlexTokenDispatcher(MoEFlexTokenDispatcher):
    """Megatron-Core's flex token dispatcher with this backend, whatever `moe_flex_dispatcher_backend` says.

    Args:
        num_local_experts: experts of this rank.
        local_expert_indices: their numbers, consecutive.
        config: Megatron's configuration.
        pg_collection: Megatron's process groups.
    """

    def __init__(
        self, num_local_experts: int, local_expert_indices: list[int], config: Any, pg_collection: Any = None
    ) -> None:
        # The constructor of the flex dispatcher makes a backend of Megatron-Core, whose library may be missing.
        MoETokenDispatcher.__init__(self, config=config, pg_collection=pg_collection)
        self.num_local_experts = num_local_experts
        self.local_expert_indices = local_expert_indices
        self._comm_manager = FuscoDispatchManager(
            group=self.tp_ep_group,
            num_local_experts=num_local_experts,
            router_topk=self.tp_size * config.moe_router_topk,
            num_experts=self.tp_size * config.num_moe_experts,
            config=config,
        )
        self.cudagraph_attrs = ["_comm_manager.token_probs", "_comm_manager.token_indices"]


def install() -> None:
    """Makes layers with the flex dispatcher, built from now on, use this backend."""
    moe_layer.MoEFlexTokenDispatcher = FuscoFlexTokenDispatcher
