"""Answers of a checkpoint, an ONNX file or an engine to pictures.

==============  ===================================================================
``forms``       the kind of a model file: checkpoint, ONNX file or engine
``opened``      a model of any form, ready to run, with its facts
``predictor``   pictures in, classes with probabilities or features out
``pictures``    pictures in any of their forms, and those that a command line names
``conditions``  what answers depend on: model, runner, versions, preprocessing
``table``       answers as a CSV file, row by row, that a later run can continue
``features``    outputs of many pictures as one NPZ file
==============  ===================================================================
"""
