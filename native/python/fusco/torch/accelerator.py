"""What the cuda and the nccl backend ask of torch.cuda."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch

__all__ = [
    "current_device",
    "current_stream",
    "device",
    "external_stream",
    "identity",
    "is_available",
    "is_capturing",
    "memory_at",
    "on_device",
    "on_streams",
    "streams_of",
]

DEVICE_TYPE = "cuda"


def is_available() -> bool:
    """Whether this process has a GPU and a PyTorch that uses it."""
    return torch.cuda.is_available()


def current_device() -> int:
    """Number of the current GPU."""
    return torch.cuda.current_device()


def device(index: int) -> torch.device:
    """The device of a GPU."""
    return torch.device(DEVICE_TYPE, index)


def identity(index: int) -> str:
    """The same text in all processes that use this GPU, and another one for each other GPU."""
    uuid = getattr(torch.cuda.get_device_properties(index), "uuid", None)
    # PyTorch before 2.5 does not tell it.
    return f"{os.environ.get('CUDA_VISIBLE_DEVICES', '')}/{index}" if uuid is None else str(uuid)


def on_device(index: int) -> AbstractContextManager[Any]:
    """Makes a GPU the current one for a while."""
    return torch.cuda.device(index)


def current_stream(index: int) -> torch.cuda.Stream:
    """PyTorch's current stream of a GPU."""
    return torch.cuda.current_stream(index)


def streams_of(tensors: Iterable[torch.Tensor]) -> list[torch.cuda.Stream]:
    """PyTorch's current streams of the GPUs of these tensors, if there are several."""
    indices = sorted({tensor.device.index for tensor in tensors if tensor.is_cuda})
    return [current_stream(index) for index in indices] if len(indices) > 1 else []


@contextmanager
def on_streams(streams: Sequence[torch.cuda.Stream]) -> Iterator[None]:
    """Makes streams the current ones of their GPUs for a while."""
    with ExitStack() as stack:
        for stream in streams:
            stack.enter_context(torch.cuda.stream(stream))
        if streams:
            stack.enter_context(on_device(streams[0].device.index))
        yield


def external_stream(handle: int, index: int) -> torch.cuda.Stream:
    """A stream of the native library as one of PyTorch."""
    return torch.cuda.ExternalStream(handle, device=device(index))


def is_capturing() -> bool:
    """Whether the current stream is captured into a graph."""
    return torch.cuda.is_current_stream_capturing()


def memory_at(address: int, length: int, index: int, owner: Any) -> torch.Tensor:
    """uint8 [length] over memory of a GPU; `owner` is kept as long as a tensor uses the memory."""
    return torch.as_tensor(_Exported(address, length, owner), device=device(index))


class _Exported:
    """Memory with the interface by which CUDA libraries of Python share arrays; PyTorch keeps the object."""

    def __init__(self, address: int, length: int, owner: Any) -> None:
        self.owner = owner
        self.__cuda_array_interface__ = {
            "data": (address, False),
            "shape": (length,),
            "typestr": "|u1",
            "strides": None,
            "version": 2,
        }
