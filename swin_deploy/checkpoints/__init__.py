"""Weights files to a config and a state dict in our names: one file a dialect.

====================  ============================================================================
``assemble``          a state dict in our names from one in another dialect; every key is
                      accounted for
``backbone_config``   the part about the Swin in the ``config.json`` of transformers' models
``config_fields``     the effect of every field of other libraries' configs
``config_json``       the fields of other libraries' ``config.json`` that change what a model
                      computes, typed
``dialect``           the definition of a dialect: all that is particular to a source
``files``             the tensors of a weights file, whatever wraps them, read without running
                      what is in it
``folders``           a checkpoint file or folder
``huggingface``       checkpoints of Hugging Face transformers
``image_processors``  image processors of transformers
``infer_config``      the config of a checkpoint as it was saved, and as it is asked for
``infer_sizes``       the sizes of a model from the shapes of its tensors, and from its other facts
``known``             the sources that are known: the one list of dialects
``limits``            the limits of a weights file, checked before it is read and used
``load``              a reference model with its weights, from a model name or a checkpoint
``microsoft``         checkpoints of the authors' code (microsoft/Swin-Transformer)
``notebook``          checkpoints of the notebook's model
``pickles``           the imports and the memory of a pickle, found from its instructions without
                      running them
``pictures``          the preprocessing and the class names of a checkpoint, from its own files
``preprocessors``     the preprocessing of each library
``read``              the library that a checkpoint comes from, and its model in our names
``resize``            other image and window sizes than the checkpoint's
``timm``              checkpoints of timm
``timm_features``     timm's feature extractors: names in their files, and their stages
``timm_steps``        the steps from a picture to an input in timm's ``config.json``
``torchvision``       checkpoints of torchvision
``weights``           the choice among a file's weights
====================  ============================================================================
"""
