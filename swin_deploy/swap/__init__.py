"""The Swin inside somebody's model, replaced by the deploy model, and the proof of it.

===============  ================================================================================
``find``         the Swins inside a module, told by classes and attributes, not by imports
``known``        the kinds of Swins that are known: names, attributes, outputs
``own_facts``    facts that a module tells by itself: sizes, windows, activation
``prove``        the Swin's and the whole model's outputs, beside those of the unmodified model
``rebuild``      a module with parts replaced, and everything else shared
``replace``      the whole way: find, load, fold, put in its place, prove
``stand_ins``    modules with the calls and outputs of those that they replace
``structures``   tensors in outputs of any form, by name
``users_model``  the model of a user's own function, or of a folder of transformers
``whole_onnx``   the whole model as an ONNX file, compared with the unmodified model
===============  ================================================================================
"""
