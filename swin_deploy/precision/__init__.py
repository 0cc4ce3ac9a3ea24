"""The choice of a precision, by measurement.

==============  =============================================================
``ranges``      ranges and half-precision noise of each part of a model
``fp8_scales``  the scales of a model's linear layers in FP8, for their noise
``diagnose``    the precision that a model can have, and its float32 parts
``search``      ``--auto``: the fastest precision that is within tolerance
``fastest``     the fastest runtime and arithmetic of those that are right
==============  =============================================================
"""
