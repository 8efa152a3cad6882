"""Stand-in: what a backend of Megatron-Core's flex token dispatcher meets."""

from abc import ABC, abstractmethod


class _DispatchManager(ABC):
    """A backend of the flex dispatcher."""

    @abstractmethod
    def setup_metadata(self, routing_map, probs): ...

    @abstractmethod
    def dispatch(self, hidden_states): ...

    @abstractmethod
    def combine(self, hidden_states): ...

    @abstractmethod
    def get_permuted_hidden_states_by_experts(self, hidden_states): ...

    @abstractmethod
    def get_restored_hidden_states_by_experts(self, hidden_states): ...

    @abstractmethod
    def get_number_of_tokens_per_expert(self): ...


class MoETokenDispatcher:
    """Base of all dispatchers: the process groups."""

    def __init__(self, config, pg_collection=None):
        self.config = config
        self.ep_group = pg_collection.ep
        self.tp_group = pg_collection.expt_tp
        self.tp_ep_group = pg_collection.tp_ep
        self.ep_size = self.ep_group.size()
        self.tp_size = self.tp_group.size()


class MoEFlexTokenDispatcher(MoETokenDispatcher):
    """Six stages, each of which asks the backend."""

    def __init__(self, num_local_experts, local_expert_indices, config, pg_collection=None):
        super().__init__(config, pg_collection)
        raise ImportError(f"the library of the backend {config.moe_flex_dispatcher_backend} is not installed")

    def dispatch_preprocess(self, hidden_states, routing_map, probs):
        self.hidden_shape = hidden_states.shape
        tokens = hidden_states.reshape(-1, self.hidden_shape[-1])
        self._comm_manager.setup_metadata(self._over_all_ranks(routing_map), self._over_all_ranks(probs))
        return tokens, self._comm_manager.token_probs

    def _over_all_ranks(self, per_expert):
        """[tokens, experts] to [tokens, ranks, local experts]: tensor parallel ranks get the same tokens."""
        of_ep_ranks = per_expert.reshape(len(per_expert), self.ep_size, self.num_local_experts)
        return of_ep_ranks.repeat_interleave(self.tp_size, dim=1)

    def token_dispatch(self, hidden_states, probs=None, async_finish=True, allocate_on_comm_stream=True):
        rows = self._comm_manager.dispatch(hidden_states, async_finish, allocate_on_comm_stream)
        return rows, self._comm_manager.dispatched_probs

    def dispatch_postprocess(self, hidden_states, probs):
        rows, row_probs = self._comm_manager.get_permuted_hidden_states_by_experts(hidden_states)
        return rows, self._comm_manager.get_number_of_tokens_per_expert(), row_probs

    def combine_preprocess(self, hidden_states):
        return self._comm_manager.get_restored_hidden_states_by_experts(hidden_states)

    def token_combine(self, hidden_states, async_finish=True, allocate_on_comm_stream=True):
        return self._comm_manager.combine(hidden_states, async_finish, allocate_on_comm_stream)

    def combine_postprocess(self, hidden_states):
        return hidden_states.view(self.hidden_shape)
