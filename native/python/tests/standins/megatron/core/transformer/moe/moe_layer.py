"""Stand-in: a MoE layer that builds the flex dispatcher and calls its stages in Megatron-Core's order."""

from .token_dispatcher import MoEFlexTokenDispatcher


class MoELayer:
    """`experts(rows, rows per expert, probability of each row)` returns scaled rows."""

    def __init__(self, config, experts, local_expert_indices, pg_collection):
        self.experts = experts
        self.token_dispatcher = MoEFlexTokenDispatcher(
            len(local_expert_indices), local_expert_indices, config=config, pg_collection=pg_collection
        )

    def forward(self, hidden_states, probs, routing_map):
        dispatcher = self.token_dispatcher
        tokens, token_probs = dispatcher.dispatch_preprocess(hidden_states, routing_map, probs)
        arrived, arrived_probs = dispatcher.token_dispatch(tokens, token_probs)
        rows, counts, row_probs = dispatcher.dispatch_postprocess(arrived, arrived_probs)
        made = dispatcher.combine_preprocess(self.experts(rows, counts, row_probs))
        return dispatcher.combine_postprocess(dispatcher.token_combine(made))
