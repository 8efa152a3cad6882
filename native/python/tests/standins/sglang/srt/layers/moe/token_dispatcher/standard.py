"""Stand-in: the standard format between dispatchers and runners, and the dispatcher of one rank."""

from typing import NamedTuple, Optional

import torch

from .base import BaseDispatcher


class StandardDispatchOutput(NamedTuple):
    hidden_states: torch.Tensor
    hidden_states_scale: Optional[torch.Tensor]
    topk_output: object


class StandardCombineInput(NamedTuple):
    hidden_states: torch.Tensor


class StandardDispatcher(BaseDispatcher):
    def __init__(self, moe_runner_config):
        super().__init__()

    def dispatch(self, hidden_states, topk_output):
        return StandardDispatchOutput(hidden_states, None, topk_output)

    def combine(self, combine_input):
        return combine_input.hidden_states
