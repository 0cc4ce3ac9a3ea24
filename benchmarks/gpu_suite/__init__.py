"""Everything worth measuring on a machine with an NVIDIA GPU, in parts that survive each other.

================  ===================================================================
``models``        which models, at which sizes; small ones for a dry run
``parts``         what there is to do, in order of worth, with a budget each
``environment``   what this machine has and lacks
``files``         weights to ONNX files and engines, or those that were made elsewhere
``equality``      every step against the reference, by the judge of ``swin-deploy parity``
``lanes``         what is timed beside what
``speed``         the timing of one model, kept runner by runner
``document``      the JSON file of results: resumed, and written while a part runs
``drive``         the parts one after the other, each in a process of its own
``answers``       the questions that the suite is for, answered from the document
``markdown``      the document as a page
================  ===================================================================

``scripts/gpu_suite`` is the command. It needs PyTorch, onnx and nothing that only the command line
needs; whatever else is missing is named in the results.
"""
