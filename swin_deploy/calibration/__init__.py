"""The sizes of what linear layers read, measured over images, for the scales of quantised files.

================  =================================================================
``statistics``    absolute values as a histogram, and the largest of each channel
``pictures``      the images of a calibration: found, counted, digested and decoded
``affine``        scale and zero point of 8-bit integers, by least squared error
``collect``       a float32 graph run over images, and what its products read
``fp8``           what is stored in FP8 of a Swin Transformer, and its scales
================  =================================================================
"""
