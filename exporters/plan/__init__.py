"""The plan of an engine: its kernels, what they move and compute, and what they cannot avoid.

============  ==================================================================================
``kernels``   kernels and plans as values
``read``      a plan from the builder's log
``values``    shapes of a graph's values at one batch
``work``      operations of its matrix products, and bytes at the floor
``blocks``    the part of the model that each node and kernel belongs to
``totals``    kernels summed by part; the parts of two plans, side by side
``roofline``  peaks of GPUs, and the time that a plan takes there at least
``float32``   what became of the modules that a half-precision graph keeps in float32, read from
              the kernels
============  ==================================================================================
"""

from exporters.plan.kernels import KINDS, Block, Kernel, KernelPlan
from exporters.plan.read import count_attention, read_plan

__all__ = ["KINDS", "Block", "Kernel", "KernelPlan", "count_attention", "read_plan"]
