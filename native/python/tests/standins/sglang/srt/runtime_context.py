"""Stand-in: the arguments of the server."""

from types import SimpleNamespace

_arguments = SimpleNamespace(moe_a2a_backend="none", chunked_prefill_size=64, max_prefill_tokens=16384)


def get_server_args():
    return _arguments
