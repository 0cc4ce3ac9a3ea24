"""What is written of a model, and what travels with it.

===============  ==============================================================================
``facts``        what a file says of the model that it was made from, its one reader
``newest``       the export that is meant where no file is named
``onnx_file``    ONNX files: read, exported, brought to half precision
``engine_file``  engines: built, their precision proved, written; and their kernel plans
``builds``       which files a build converts and writes, decided before the work
``outputs``      results as files to write, and how ours are told from other people's
===============  ==============================================================================
"""
