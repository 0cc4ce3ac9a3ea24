"""Turn any ``nn.Module`` or ONNX file into artefacts: ONNX, half precision, engine, kernel plan.

==================  ==============================================================================
``arrays``          arrays in the one form that every library takes
``artifact``        artefacts on disk
``backends``        the only imports of onnxruntime, TensorRT and Polygraphy, each inside a
                    function
``caches``          caches: their paths, and files that several processes share
``errors``          every error that ``exporters`` and ``swin_deploy`` raise on purpose
``flavors``         features of the TensorRT flavours: one table
``float32_uses``    parts of a graph that stay float32 in its half-precision form
``half_precision``  write half precision into an ONNX graph
``int8``            products in 8-bit integers: QuantizeLinear and DequantizeLinear
``locks``           locks on open files
``memory``          give free memory back to the system, between one large model and the next
``norm_folding``    fold the norm before an MLP into its first layer, in half precision
``outputs``         places that files may go to
``precisions``      the facts of every precision: one table
``progress``        progress of long work, and the functions that are told of it
``quantisation``    FP8 storage of what products read: Q/DQ, named by module path
``shared_weights``  weights of several graphs in one data file, each stored once
``signals``         interrupts (SIGINT) and requests to end (SIGTERM)
``soundness``       checks that every ONNX file must pass before anything computes with it
``spec``            options of exports and builds, as frozen values without behaviour
``staging``         files that get their names when they are whole, and what killed processes left
                    of them
``text_files``      text and JSON that somebody else wrote
``to_onnx``         export a module to ONNX, at the opset asked for, and check that the file is
                    what was asked
``weights``         the structure of a graph apart from its large weights
==================  ==============================================================================
"""

__version__ = "0.2.0"  # of the distribution
