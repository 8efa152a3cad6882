"""Expert parallelism for the MoE blocks of Hugging Face transformers 5 (Mixtral, Qwen3-MoE and others like them).

`shard_experts` replaces the experts of a loaded model: each rank keeps its contiguous block of experts, and the tokens
travel. Router, attention and everything else stay as they are, on every rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from fusco import FuscoError
from fusco.torch import ExpertShuffle


def gated_blocks(
    rows: Tensor, offsets: Tensor, gate_up: Tensor, down: Tensor, act: Callable[[Tensor], Tensor]
) -> Tensor:
    """Gated MLP of each block of rows, one expert at a time.

    An expert's products have the same shapes and the same order of rows on any number of ranks, so its outputs and its
    weight gradients have the same bits.

    Args:
        rows: [rows, hidden], in the order of the experts.
        offsets: [experts + 1], the first row of each block; rows behind the last block are not used.
        gate_up: [experts, 2 * intermediate, hidden], gate first.
        down: [experts, hidden, intermediate].
        act: the activation of the gate.

    Returns:
        [rows, hidden]; zero behind the last block.
    """
    bounds = offsets.tolist()
    sizes = [end - first for first, end in pairwise(bounds)]
    unused = len(rows) - bounds[-1]
    outputs = []
    # The part behind the last block has no expert, so zip leaves it out.
    for block, gate_up_e, down_e in zip(torch.split(rows, [*sizes, unused]), gate_up.unbind(0), down.unbind(0)):
        gate, up = F.linear(block, gate_up_e).chunk(2, dim=-1)
        outputs.append(F.linear(act(gate) * up, down_e))
    outputs.append(rows.new_zeros(unused, down.shape[1]))
    return torch.cat(outputs)


class ShardedExperts(nn.Module):
    """The local experts of a MoE block, with the shuffle that brings them their rows.

    Takes the place of a module with `forward(hidden_states, top_k_index, top_k_weights)`. Its parameters have the names
    of the module that it replaces, with the local experts in their first axis. Their gradients are complete: they
    contain the rows of all ranks, so they must not be reduced over the ranks of the shuffle.

    Attributes:
        local: the local experts, in the order of the parameters.
        num_experts: experts of all ranks.
    """

    num_experts: int
    gate_up_proj: nn.Parameter
    down_proj: nn.Parameter

    def __init__(self, experts: Any, shuffle: ExpertShuffle) -> None:
        super().__init__()
        self.shuffle = shuffle
        self.local = [expert for of_rank in shuffle.local_experts for expert in of_rank]
        self.num_experts = experts.num_experts
        self.act_fn = experts.act_fn
        for name in ("gate_up_proj", "down_proj"):
            whole: Tensor = getattr(experts, name)
            setattr(self, name, nn.Parameter(whole.detach()[self.local], whole.requires_grad))

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """Collective. Tokens [tokens, hidden] to their experts and back, weighted; returns [tokens, hidden]."""
        rows, handle = self.shuffle.dispatch(hidden_states.contiguous(), top_k_index, top_k_weights)
        made = gated_blocks(rows, handle.expert_offsets, self.gate_up_proj, self.down_proj, self.act_fn)
        return self.shuffle.combine(made, handle)

    def extra_repr(self) -> str:
        return f"{len(self.local)} of {self.num_experts} experts"


def shard_experts(
    model: nn.Module,
    process_group: dist.ProcessGroup | None = None,
    *,
    max_tokens: int,
    topk: int | None = None,
    **options: Any,
) -> list[ShardedExperts]:
    """Replaces the experts of all MoE blocks of a model by the experts of this rank and a shuffle. Collective.

    All ranks must have loaded the same model. Blocks of one shape share one shuffle. Gradients of the experts are
    complete; gradients of all other parameters are those of this rank's tokens and are reduced as usual
    (`expert_parameters` lists the former, for the ignore list of DDP or FSDP).

    Args:
        model: changed in place. Its experts are modules with `gate_up_proj` [experts, 2 * intermediate, hidden] and
            `down_proj` [experts, hidden, intermediate], without biases.
        process_group: the ranks that share the experts, as in `fusco.torch.ExpertShuffle`.
        max_tokens: most tokens of a rank in one call.
        topk: experts of each token; None is `model.config.num_experts_per_tok`.
        options: further options of `fusco.torch.ExpertShuffle`, such as `sum` or `placement`.

    Returns:
        The new modules, in the order of the model.

    Raises:
        FuscoError: E_OPTION if the model has no experts of this form, or experts with other parameters;
            E_PLACEMENT if an expert has several ranks; as `fusco.torch.ExpertShuffle`.
    """
    found = list(_expert_modules(model))
    if not found:
        raise FuscoError("E_OPTION", "the model has no module with gate_up_proj and down_proj: nothing to shard")
    if any(not isinstance(ranks, int) for ranks in options.get("placement") or ()):
        raise FuscoError("E_PLACEMENT", "the weights of replicas would have to be kept equal: give one rank per expert")
    for _, _, experts in found:
        _check_supported(experts)
    topk = topk if topk is not None else getattr(getattr(model, "config", None), "num_experts_per_tok", None)
    if topk is None:
        raise FuscoError("E_OPTION", "the model has no config.num_experts_per_tok: give topk")
    shuffles: dict[tuple[int, int], ExpertShuffle] = {}
    sharded = []
    for parent, name, experts in found:
        shape = (experts.num_experts, experts.down_proj.shape[1])
        if shape not in shuffles:
            shuffles[shape] = ExpertShuffle(
                process_group, experts=shape[0], hidden=shape[1], topk=topk, max_tokens=max_tokens, **options
            )
        module = ShardedExperts(experts, shuffles[shape]).train(experts.training)
        setattr(parent, name, module)
        sharded.append(module)
    return sharded


def expert_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Names and parameters of the sharded experts of a model: those whose gradients are complete on their rank."""
    for path, module in model.named_modules():
        if isinstance(module, ShardedExperts):
            yield from module.named_parameters(prefix=path)


def gathered_state_dict(model: nn.Module, process_group: dist.ProcessGroup | None = None) -> dict[str, Tensor]:
    """State of a sharded model as the unsharded model has it. Collective; every rank gets all experts.

    `model.save_pretrained(path, state_dict=gathered_state_dict(model))` on one rank writes a checkpoint that
    `from_pretrained` reads without this package.

    Args:
        model: a model that `shard_experts` changed.
        process_group: the group that was given to `shard_experts`.
    """
    state = dict(model.state_dict())
    for path, module in model.named_modules():
        if isinstance(module, ShardedExperts):
            for name, parameter in module.named_parameters():
                state[f"{path}.{name}"] = _gathered(module, parameter.detach(), process_group)
    return state


def _gathered(module: ShardedExperts, part: Tensor, process_group: dist.ProcessGroup | None) -> Tensor:
    parts: list[Any] = [(module.local, part)]
    if len(module.local) < module.num_experts:
        parts *= dist.get_world_size(process_group)
        dist.all_gather_object(parts, (module.local, part.cpu()), group=process_group)
    whole = part.new_empty(module.num_experts, *part.shape[1:])
    for experts, of_rank in parts:
        whole[experts] = of_rank.to(whole.device)
    return whole


def _expert_modules(model: nn.Module) -> Iterator[tuple[nn.Module, str, Any]]:
    for parent in model.modules():
        for name, child in parent.named_children():
            if hasattr(child, "gate_up_proj") and hasattr(child, "down_proj") and hasattr(child, "num_experts"):
                yield parent, name, child


def _check_supported(experts: Any) -> None:
    kind = type(experts).__name__
    if isinstance(experts, ShardedExperts):
        raise FuscoError("E_OPTION", "the experts of this model are sharded: shard a model once")
    others = {name for name, _ in experts.named_parameters()} - {"gate_up_proj", "down_proj"}
    if others:
        raise FuscoError("E_OPTION", f"{kind} has the parameters {sorted(others)}: experts have two weights, no biases")
    gate = getattr(type(experts), "_apply_gate", None)
    if getattr(experts, "is_transposed", False) or (gate is not None and gate.__name__ != "_default_apply_gate"):
        raise FuscoError("E_OPTION", f"{kind} does not compute act(gate) * up with weights [experts, out, in]")
