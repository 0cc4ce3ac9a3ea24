"""Everything worth measuring on a machine with an NVIDIA GPU, in parts that survive each other.

================  ===================================================================
``models``        which models, at which sizes; small ones for a dry run
``parts``         what there is to do, in order of importance, with a budget each
``environment``   what this machine has and lacks
``files``         weights to ONNX files and engines, or those that were made elsewhere
``equality``      every hop against the reference, up to the largest batch
``speed``         throughput beside PyTorch, timm and torchvision
``document``      the JSON file of results: resumed, and written after each part
``drive``         the parts one after the other, risky ones in a process of their own
``answers``       the questions that the suite is for, answered from the document
``markdown``      the document as a page
================  ===================================================================

``scripts/gpu_suite`` is the command. It needs PyTorch, onnx and nothing that only the command line
needs; whatever else is missing is named in the results.
"""
