"""Stand-in: the base classes of TorchTitan's token dispatchers."""

from dataclasses import dataclass

import torch


class LocalTokenDispatcher:
    """One rank: tokens are sorted by expert."""

    @dataclass(kw_only=True, slots=True)
    class Config:
        num_experts: int
        top_k: int

    def __init__(self, config):
        self.num_experts = config.num_experts
        self.top_k = config.top_k

    def wire_meshes(self, *, ep_mesh, tp_mesh):
        pass

    def dispatch(self, x_TD, topk_scores_TK, topk_expert_ids_TK, num_local_tokens_per_expert_E):
        order = topk_expert_ids_TK.flatten().argsort(stable=True)
        return x_TD[order // self.top_k], num_local_tokens_per_expert_E, (order, topk_scores_TK.flatten()[order])

    def combine(self, routed_output_RD, metadata, x_TD, *, num_local_tokens_after_padding, local_seq_len_after_padding):
        order, scores = metadata
        return torch.zeros_like(x_TD).index_add(0, order // self.top_k, routed_output_RD * scores[:, None])


class BaseEPTokenDispatcher(LocalTokenDispatcher):
    """Meshes, and the places of a sequence-parallel rank's tokens."""

    @dataclass(kw_only=True, slots=True)
    class Config(LocalTokenDispatcher.Config):
        pass

    def __init__(self, config):
        super().__init__(config)
        self.ep_mesh = None
        self.sp_size = 1
        self.sp_rank = 0

    def wire_meshes(self, *, ep_mesh, tp_mesh):
        self.ep_mesh = ep_mesh
        if tp_mesh is not None:
            self.sp_size = tp_mesh.size()
            self.sp_rank = tp_mesh._sym_get_coordinate(0)

    def _sp_global_token_indices(self, local_indices, local_seq_len):
        """Batch by batch, each rank of the sequence holds local_seq_len tokens of it."""
        sequence, position = local_indices // local_seq_len, local_indices % local_seq_len
        return (sequence * self.sp_size + self.sp_rank) * local_seq_len + position

    def dispatch(self, *args, **kwargs):
        raise NotImplementedError

    def combine(self, *args, **kwargs):
        raise NotImplementedError
