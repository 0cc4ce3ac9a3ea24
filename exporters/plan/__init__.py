"""The plan of an engine: its kernels, their bytes and operations, and the least of both.

============  ==================================================================================
``kernels``   kernels and plans as values
``read``      a plan from the builder's log
``values``    shapes of a graph's values at one batch
``work``      operations of its matrix products, and bytes at the floor
``blocks``    the part of the model that each node and kernel belongs to
``totals``    kernels summed by part of the model, and the parts of two plans in pairs
``roofline``  peaks of GPUs, and the time that a plan takes there at least
``float32``   modules that a half-precision graph keeps in float32, looked for in the kernels
``fp8``       products that read FP8 in a graph, looked for in the kernels
============  ==================================================================================
"""

from exporters.plan.kernels import KINDS, Block, Kernel, KernelPlan
from exporters.plan.read import count_attention, read_plan

__all__ = ["KINDS", "Block", "Kernel", "KernelPlan", "count_attention", "read_plan"]
