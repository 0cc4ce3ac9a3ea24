"""Weights files to a config and a state dict in our names: one file a dialect.

====================  ============================================================================
``assemble``          a state dict in our names from one in another dialect; every key is
                      accounted for
``config_fields``     the effect of every field of other libraries' configs
``config_json``       the fields of other libraries' ``config.json`` that change what a model
                      computes, typed
``dialect``           what a dialect is: all that is particular to a source
``files``             read the tensors of a weights file, whatever wraps them, without running
                      what is in it
``folders``           a checkpoint file or folder
``huggingface``       checkpoints of Hugging Face transformers
``image_processors``  image processors of transformers
``infer_config``      the config of a checkpoint as it was saved, and as it is asked for
``infer_sizes``       the sizes of a model from the shapes of its tensors, and from what is known
                      besides
``known``             the sources that are known: the one list of dialects
``limits``            what a weights file may ask for
``load``              from a model name or a checkpoint to a reference model with its weights
``microsoft``         checkpoints of the authors' code (microsoft/Swin-Transformer)
``notebook``          checkpoints of the notebook's model
``pickles``           what a pickle would do, found from its instructions without following one of
                      them
``pictures``          what a checkpoint's own files say of pictures
``preprocessors``     how each library prepares pictures
``read``              which library a checkpoint comes from, and its model in our names
``resize``            other image and window sizes than the checkpoint's
``timm``              checkpoints of timm
``torchvision``       checkpoints of torchvision
``weights``           the weights of a file that are meant
====================  ============================================================================
"""
