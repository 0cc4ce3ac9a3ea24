"""All measurements for a machine with an NVIDIA GPU, in parts that do not depend on each other.

================  ===================================================================
``models``        models and sizes of the suite; small ones for a dry run
``parts``         parts of the suite, the most important first, with a budget each
``environment``   packages, compilers and GPU of this machine, and what is missing
``files``         weights to ONNX files and engines, or those that were made elsewhere
``parity``        every step against the reference, by the judge of ``swin-deploy parity``
``lanes``         runners that are timed in the same rounds
``speed``         timing of one model, kept runner by runner
``document``      the JSON file of results: resumed, and written while a part runs
``runner``        run the parts one after the other, each in a process of its own
``summary``       the questions that the suite is for, answered from the document
``markdown``      the document as a page
================  ===================================================================

``scripts/gpu_suite`` is the command. It needs PyTorch, onnx and nothing that only the command line
needs; the results name whatever else is missing.
"""
