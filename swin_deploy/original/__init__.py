"""The original library's own model, built and loaded by that library from the user's own file.

=====================  ============================================================
``construct``          a library's model of given sizes
``stored``             a state dict from a file, as the library's users take it out
``outputs``            the outputs that ours has, from a library's model
``from_timm``          timm: ``create_model`` or its classes, and its own loading
``from_torchvision``   torchvision: its constructor, ``load_state_dict``
``from_transformers``  transformers: ``from_pretrained``
``own_head``           a classifier of the file's own form, after a library's features
``build``              the library, and its model or the reason why there is none
=====================  ============================================================

The reference and everything made from it come from one reading of the checkpoint, so parity cannot
see a wrong one. Here the library reads the same file or folder by its own code.
"""
