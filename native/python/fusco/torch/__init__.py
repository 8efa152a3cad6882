"""PyTorch: dispatch and combine with autograd, as operators of torch.library. docs/pytorch.md is the guide."""

from ..errors import FuscoError
from .fp8 import dequantize, quantize
from .handle import Handle
from .ops import SAVED_OPS
from .shuffle import ExpertShuffle

__all__ = ["SAVED_OPS", "ExpertShuffle", "FuscoError", "Handle", "dequantize", "quantize"]
