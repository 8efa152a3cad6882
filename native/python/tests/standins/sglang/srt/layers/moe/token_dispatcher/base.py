"""Stand-in: the base class of dispatchers."""

from abc import ABC, abstractmethod


class BaseDispatcher(ABC):
    def __init__(self):
        self.quant_config = {}

    @abstractmethod
    def dispatch(self, hidden_states, topk_output): ...

    @abstractmethod
    def combine(self, combine_input): ...
