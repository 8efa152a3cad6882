"""Operators that are written once for lists of tensors, and registered for a tensor and for a list of them.

A schema is that of torch.library with two more types: T is a tensor and N an integer of the operator ``fusco::name``,
and lists of them in its twin ``fusco::name_each``. Kernels, fake kernels and gradients take and return lists.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch

from . import accelerator

__all__ = ["Lifted", "define"]

# CPU tensors are those of the host backend. A group refuses tensors of other devices than its own.
_DEVICES = ("cpu", "cuda")
_LIFTED = re.compile(r"\b([TN])\b(\??)")
_TENSORS = {"T": "Tensor", "N": "SymInt"}


class Lifted:
    """An operator and its twin.

    Attributes:
        one: ``fusco::name``.
        each: ``fusco::name_each``.
    """

    def __init__(self, name: str, schema: str, kernel: Callable[..., Any]) -> None:
        parameters, results = schema.split("->")
        kinds = [parameter.split()[0] for parameter in parameters.strip(" ()").split(",")]
        self._is_list = [_LIFTED.fullmatch(kind) is not None for kind in kinds]
        self._is_tensor = [kind in ("T", "T?") for kind in kinds]
        self._results = len(_LIFTED.findall(results))

        def operator(suffix: str, made: Callable[..., Any], list_mark: str) -> Any:
            typed = _LIFTED.sub(lambda found: _TENSORS[found[1]] + list_mark + found[2], schema)
            return torch.library.custom_op(
                f"fusco::{name}{suffix}", made, mutates_args=(), device_types=_DEVICES, schema=typed
            )

        self.one = operator("", self._of_one(kernel), "")
        self.each = operator("_each", kernel, "[]")
        self.__doc__ = kernel.__doc__
        self._one = getattr(torch.ops.fusco, name).default
        self._each = getattr(torch.ops.fusco, f"{name}_each").default

    def call(self, is_each: bool, *lists: Any) -> Any:
        """Calls the operator, or its twin, with lists; returns a list for each result."""
        if is_each:
            # Saved tensors are tuples.
            return self._each(*[list(value) if isinstance(value, tuple) else value for value in lists])
        return self._wrapped(self._one(*self._unwrapped(lists)))

    def like(self, ctx: Any, *lists: Any) -> Any:
        """Calls the operator or its twin, whichever has the gradient that runs in `ctx`."""
        return self.call(ctx.is_each, *lists)

    def register_fake(self, fake: Callable[..., Any]) -> None:
        """Registers the fake kernel of both."""
        self.one.register_fake(self._of_one(fake))
        self.each.register_fake(fake)

    def register_autograd(self, backward: Callable[..., Any], setup: Callable[..., Any]) -> None:
        """Registers the gradient of both.

        Args:
            backward: takes the context and a list of gradients for each result; returns a list or None for each input.
            setup: takes the context, the inputs and the results.
        """

        def setup_one(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            ctx.is_each = False
            setup(ctx, self._wrapped_inputs(inputs), self._wrapped(output))

        def setup_each(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            ctx.is_each = True
            ctx.streams = accelerator.streams_of(
                part for is_tensor, value in zip(self._is_tensor, inputs) if is_tensor for part in value or ()
            )
            ctx.lengths = [
                len(value) if is_tensor and value is not None else 0
                for is_tensor, value in zip(self._is_tensor, inputs)
            ]
            setup(ctx, inputs, output)

        def backward_one(ctx: Any, *gradients: Any) -> Any:
            return tuple(self._unwrapped(backward(ctx, *([gradient] for gradient in gradients))))

        def backward_each(ctx: Any, *gradients: Any) -> Any:
            # PyTorch sets the stream of one GPU only for a gradient: that of the operator's first tensor.
            with accelerator.on_streams(ctx.streams):
                found = backward(ctx, *gradients)
            return tuple(
                [None] * length if length > 0 and value is None else value for value, length in zip(found, ctx.lengths)
            )

        self.one.register_autograd(backward_one, setup_context=setup_one)
        self.each.register_autograd(backward_each, setup_context=setup_each)

    def _of_one(self, kernel: Callable[..., Any]) -> Callable[..., Any]:
        """The same function for tensors and integers."""

        def of_one(*arguments: Any) -> Any:
            results = kernel(*self._wrapped_inputs(arguments))
            return results[0] if self._results == 1 else tuple(result[0] for result in results)

        return of_one

    def _wrapped_inputs(self, arguments: Sequence[Any]) -> list[Any]:
        return [[value] if is_list and value is not None else value for is_list, value in zip(self._is_list, arguments)]

    def _unwrapped(self, lists: Sequence[Any]) -> list[Any]:
        return [value[0] if is_list and value is not None else value for is_list, value in zip(self._is_list, lists)]

    def _wrapped(self, results: Any) -> Any:
        return [results] if self._results == 1 else tuple([result] for result in results)


def define(name: str, schema: str) -> Callable[[Callable[..., Any]], Lifted]:
    """Registers ``fusco::name`` and its twin, with a kernel for lists."""
    return lambda kernel: Lifted(name, schema, kernel)
