"""ONNX graphs to TensorRT engines: for which GPUs, with which timings.

================  ============================================================================
``stdout``        standard output kept for results while TensorRT works
``targets``       GPUs and versions that an engine is for
``timing_cache``  kernel timings that the builder keeps between builds, in a file that several
                  builds share
``to_engine``     build a TensorRT engine from an ONNX graph
================  ============================================================================
"""
