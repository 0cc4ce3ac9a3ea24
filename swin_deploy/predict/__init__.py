"""Answers of a checkpoint, an ONNX file or an engine to pictures.

=============  ===================================================================
``forms``      which kind of file a path leads to
``opened``     a file, ready to run, with what it says of its model
``predictor``  pictures in, classes with probabilities or features out
``pictures``   pictures in any of their forms, and those that a command line names
``table``      answers as a CSV file, row by row, that a later run goes on with
``features``   outputs as an NPZ file
=============  ===================================================================
"""
