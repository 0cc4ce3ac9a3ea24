"""Our files beside other libraries' exports, for ``scripts/compare_exports``.

============  ===================================================================
``routes``    other libraries' models with our weights, and PyTorch's exporters
``models``    models that are compared, their images, and our files of them
``plans``     what TensorRT-RTX makes of a file
``timing``    files timed in turn on CPU runtimes
``steps``     everything that is measured, step by step, each kept when it is done
``tables``    the results as the tables of ``docs/exports.md``
============  ===================================================================
"""
