"""FUSCO: dispatch and combine of Mixture-of-Experts layers along plans that can be saved, verified and compared.

``fusco.torch`` has the PyTorch layer. This module needs no PyTorch: it plans, reads and writes plan files.
"""

from ._library import version as _version
from .errors import FuscoError
from .options import PlanOptions
from .plan import Plan, load_plan
from .planner import Planner, plan

__version__ = _version()
__all__ = ["FuscoError", "Plan", "PlanOptions", "Planner", "__version__", "load_plan", "plan"]
