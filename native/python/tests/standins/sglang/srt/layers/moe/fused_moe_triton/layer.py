"""Stand-in: the factory of dispatchers, and a layer with a runner of the standard format."""

import torch
from sglang.srt.layers.moe.token_dispatcher.standard import StandardCombineInput, StandardDispatcher


def create_moe_dispatcher(moe_runner_config):
    return StandardDispatcher(moe_runner_config)


class FusedMoE:
    """Experts that take [rows, hidden] and a local expert id."""

    def __init__(self, moe_runner_config, expert):
        self.expert = expert
        self.dispatcher = create_moe_dispatcher(moe_runner_config)

    def forward(self, hidden_states, topk_output):
        given = self.dispatcher.dispatch(hidden_states=hidden_states, topk_output=topk_output)
        return self.dispatcher.combine(combine_input=self.run(given))

    def run(self, given):
        """Each token's experts, weighted and added; -1 is no expert."""
        weights, ids, _ = given.topk_output
        made = torch.zeros_like(given.hidden_states)
        for token, k in (ids >= 0).nonzero().tolist():
            made[token] += weights[token, k] * self.expert(given.hidden_states[token], int(ids[token, k]))
        return StandardCombineInput(made)
