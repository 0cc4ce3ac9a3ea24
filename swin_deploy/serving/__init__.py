"""Bundles that servers load as they are, and checks of running servers.

====================  ======================================================================
``served``            the file to serve: its facts, tensors and batches
``containers``        Triton's containers, and the TensorRT in each
``standalone``        functions of this package as one file that imports nothing of it
``preprocess_model``  Triton's model of the preprocessing, which a bundle gets a copy of
``scores_model``      Triton's model of the answers, the same
``pbtxt``             the text form of Triton's configurations
``dali``              the preprocessing as a pipeline of NVIDIA DALI
``triton``            a model repository of Triton
``optimum``           a folder that Hugging Face's Optimum loads
``ovms``              a folder that OpenVINO Model Server loads
``golden``            pictures with the outputs that were proved
``texts``             the texts of a bundle, from ``templates``
``bundle``            a bundle on disk and its manifest
``make``              bundles for each target
``protocol``          requests of the V2 protocol over HTTP
``answers``           a server's tensors, images, outputs and labels next to a bundle's
``check``             a running server against the bundle that it serves
====================  ======================================================================
"""
