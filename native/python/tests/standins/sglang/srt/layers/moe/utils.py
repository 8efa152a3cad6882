"""Stand-in: which backend the server was started with."""

from enum import Enum

from sglang.srt.runtime_context import get_server_args


class MoeA2ABackend(Enum):
    NONE = "none"
    CUSTOMIZED = "customized"


def get_moe_a2a_backend():
    return MoeA2ABackend(get_server_args().moe_a2a_backend)
