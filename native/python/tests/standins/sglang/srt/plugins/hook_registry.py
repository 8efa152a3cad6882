"""Stand-in: hooks on functions, by their dotted path; only those around a function."""

import pkgutil
from enum import Enum
from functools import partial
from typing import ClassVar


class HookType(Enum):
    AROUND = "around"


class HookRegistry:
    _hooks: ClassVar[list] = []

    @classmethod
    def register(cls, target, hook, hook_type):
        assert hook_type == HookType.AROUND
        cls._hooks.append((target, hook))

    @classmethod
    def apply_hooks(cls):
        for target, hook in cls._hooks:
            path, _, name = target.rpartition(".")
            module = pkgutil.resolve_name(path)
            setattr(module, name, partial(hook, getattr(module, name)))
