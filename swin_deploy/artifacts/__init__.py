"""Files made from a model, and the facts about the model in them.

===============  ==============================================================================
``facts``        facts about the model that a file was made from, and their one reader
``newest``       the export that a command takes if no file is named
``int8_file``    files of products in 8-bit integers for CPUs, calibrated over images
``onnx_file``    ONNX files: read, exported, brought to half precision
``engine_file``  engines: built, their precision proved, written; and their kernel plans
``builds``       files that a build converts and writes, decided before the work
``sizes_file``   one model at several image sizes: ONNX files that share their weights
``sizes_build``  an engine for each of several sizes
``outputs``      results as files to write, and checks that a file is one of ours
===============  ==============================================================================
"""
