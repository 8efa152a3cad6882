"""An expert-parallel token dispatcher for TorchTitan.

Use `FuscoTokenDispatcher.Config` as the `token_dispatcher` of a model's experts. Operators of `torch.library` carry the
gradients; add `fusco.torch.SAVED_OPS` to the save list of selective activation checkpointing. Written against the
interface of TorchTitan in August 2026; tested with a stand-in of it, see docs/pytorch-frameworks.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchtitan.models.common.token_dispatcher import BaseEPTokenDispatcher, LocalTokenDispatcher

from fusco.torch import ExpertShuffle, Handle

from .shuffles import shared_shuffle


@dataclass(frozen=True, kw_only=True)
class FuscoDispatchMetadata:
    """What combine needs of its dispatch."""

    shuffle: ExpertShuffle
    handle: Handle


class FuscoTokenDispatcher(BaseEPTokenDispatcher):
    """Dispatch and combine of one layer; without an expert-parallel mesh, those of TorchTitan on one rank."""

    @dataclass(kw_only=True, slots=True)
    class Config(BaseEPTokenDispatcher.Config):
        """Configuration.

        Attributes:
            hidden_dim: elements of a row; None: those of the first call.
            tokens_per_rank: most tokens of a rank in one call; None: those of the largest call so far, which all ranks
                make with the same number of tokens.
            align: rows to which the block of each expert is padded, for quantized grouped products.
            sum: order of additions, "node" or "token".
        """

        hidden_dim: int | None = None
        tokens_per_rank: int | None = None
        align: int = 1
        sum: str = "node"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.hidden_dim = config.hidden_dim
        self.tokens_per_rank = config.tokens_per_rank
        self.options = {"align": config.align, "sum": config.sum}

    def wire_meshes(self, *, ep_mesh: Any, tp_mesh: Any) -> None:
        """Takes the meshes; makes the shuffle if its sizes are known. Collective."""
        super().wire_meshes(ep_mesh=ep_mesh, tp_mesh=tp_mesh)
        if ep_mesh is not None:
            self.init_buffer()

    def init_buffer(self) -> None:
        """Makes the shuffle, with its buffers, if hidden_dim and tokens_per_rank are given. Collective."""
        if self.hidden_dim is not None and self.tokens_per_rank is not None:
            self._shuffle(self.hidden_dim, self.tokens_per_rank)

    def _shuffle(self, hidden: int, tokens: int) -> ExpertShuffle:
        return shared_shuffle(
            self.ep_mesh.get_group(),
            experts=self.num_experts,
            hidden=hidden,
            topk=self.top_k,
            max_tokens=self.tokens_per_rank or tokens,
            **self.options,
        )

    def dispatch(
        self,
        x_TD: Tensor,
        topk_scores_TK: Tensor,
        topk_expert_ids_TK: Tensor,
        num_local_tokens_per_expert_E: Tensor,
    ) -> tuple[Tensor, Tensor, Any]:
        """Collective. Tokens to rows in the order of the local experts.

        Args:
            x_TD: [T, D], the tokens of this rank.
            topk_scores_TK: [T, K], the weights with which combine adds.
            topk_expert_ids_TK: [T, K], expert ids.
            num_local_tokens_per_expert_E: [E]; not used, the plan counts.

        Returns:
            Rows [R, D]; rows of each local expert, int64 [experts / ranks], padding of `align` included; and what
            combine needs.
        """
        if self.ep_mesh is None:
            return LocalTokenDispatcher.dispatch(
                self, x_TD, topk_scores_TK, topk_expert_ids_TK, num_local_tokens_per_expert_E
            )
        shuffle = self._shuffle(x_TD.shape[1], x_TD.shape[0])
        rows, handle = shuffle.dispatch(
            x_TD.contiguous(), topk_expert_ids_TK.contiguous(), topk_scores_TK.float().contiguous()
        )
        counts = handle.expert_offsets.diff().long()
        return rows, counts, FuscoDispatchMetadata(shuffle=shuffle, handle=handle)

    def combine(
        self,
        routed_output_RD: Tensor,
        metadata: Any,
        x_TD: Tensor,
        *,
        num_local_tokens_after_padding: int,
        local_seq_len_after_padding: int,
    ) -> Tensor:
        """Collective. Rows back to their tokens, weighted with the scores of dispatch.

        Args:
            routed_output_RD: [R, D], in the order of dispatch.
            metadata: of dispatch.
            x_TD: [T, D], the tokens.
            num_local_tokens_after_padding: tokens of this rank's part of a sequence-parallel batch, padding included.
            local_seq_len_after_padding: tokens of one sequence among them.

        Returns:
            [T, D]; with sequence parallelism [num_local_tokens_after_padding * ranks, D], zero outside the rank's part.
        """
        if self.ep_mesh is None:
            return LocalTokenDispatcher.combine(
                self,
                routed_output_RD,
                metadata,
                x_TD,
                num_local_tokens_after_padding=num_local_tokens_after_padding,
                local_seq_len_after_padding=local_seq_len_after_padding,
            )
        combined = metadata.shuffle.combine(routed_output_RD.contiguous(), metadata.handle)
        if self.sp_size == 1:
            return combined
        tokens = torch.arange(len(combined), device=combined.device)
        places = self._sp_global_token_indices(tokens, local_seq_len_after_padding)
        whole = combined.new_zeros(num_local_tokens_after_padding * self.sp_size, combined.shape[1])
        return whole.index_copy(0, places, combined)
