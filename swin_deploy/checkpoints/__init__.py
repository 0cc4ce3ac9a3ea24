"""Weights files to a config and a state dict in our names: one file a dialect.

====================  ============================================================================
``assemble``          a state dict in our names from one in another dialect; every key is
                      accounted for
``backbone_config``   the part about the Swin in the ``config.json`` of transformers' models
``config_fields``     the effect of every field of other libraries' configs
``config_json``       the fields of other libraries' ``config.json`` that change what a model
                      computes, typed
``detectors``         the preprocessing of detectors' backbones, and mean and std in their files
``dialect``           the definition of a dialect: all that is particular to a source
``files``             the tensors of a weights file, whatever wraps them, read without running
                      what is in it
``folders``           a checkpoint file or folder
``head_layers``       the modules next to an encoder's layers that may be its classifier
``heads``             the classifier, whatever its name and its form
``huggingface``       checkpoints of Hugging Face transformers
``image_processors``  image processors of transformers
``infer_config``      the config of a checkpoint as it was saved, and as it is asked for
``infer_sizes``       the sizes of a model from the shapes of its tensors, and from its other facts
``known``             the sources that are known: the one list of dialects
``limits``            the limits of a weights file, checked before it is read and used
``load``              a reference model with its weights, from a model name or a checkpoint
``microsoft``         checkpoints of the authors' code (microsoft/Swin-Transformer)
``nearest_names``     the names that are nearest to another one, for messages
``notebook``          checkpoints of the notebook's model
``not_weights``       the kind of a file that is not a weights file, and what to do with it
``objects``           plain values from the stand-ins of a pickle, and the state of modules
``openmmlab``         checkpoints of OpenMMLab: MMPretrain, MMDetection, MMSegmentation
``other_models``      weights that are not a plain Swin's, told by their names
``own_windows``       the windows of a model as it was saved, where tables belong to several
``pickles``           the values of a pickle, with inert stand-ins for whatever it would import
``pictures``          the preprocessing and the class names of a checkpoint, from its own files
``plain_names``       weights without what wrappers and pruning put around them
``positions``         absolute position embeddings: the values of each place
``preprocessors``     the preprocessing of each library
``processors``        the defaults of transformers' image processors
``read``              the library that a checkpoint comes from, and its model in our names
``resize``            other image and window sizes than the checkpoint's
``roles``             the roles of keys whose names mislead
``semantic``          SOLIDER's semantic embedding, folded into the merges
``settings``          fields that no tensor shows, as libraries write them
``timm``              checkpoints of timm
``tensors``           tensors and arrays, rebuilt from arguments that are checked
``timm_features``     timm's feature extractors: names in their files, and their stages
``timm_steps``        the steps from a picture to an input in timm's ``config.json``
``torch_files``       the pickle and the storages of a PyTorch file
``torchvision``       checkpoints of torchvision
``training``          the hints that a training script left next to the weights
``training_fields``   the fields that it left, each by its spellings
``variants``          the published variant that a config is, and the sizes of a model in words
``weights``           the choice among a file's weights
``weights_file``      the weights file in a folder
``window_tables``     the windows that the tables and buffers of a file belong to
====================  ============================================================================
"""
