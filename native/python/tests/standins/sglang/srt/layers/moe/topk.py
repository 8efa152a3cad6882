"""Stand-in: what the router chose."""

from typing import NamedTuple, Optional

import torch


class StandardTopKOutput(NamedTuple):
    topk_weights: torch.Tensor
    topk_ids: torch.Tensor
    router_logits: Optional[torch.Tensor]
