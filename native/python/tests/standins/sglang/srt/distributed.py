"""Stand-in: the tensor parallel group, which SGLang also uses for experts."""

from types import SimpleNamespace

import torch.distributed as dist


def get_tp_group():
    return SimpleNamespace(device_group=dist.group.WORLD)
