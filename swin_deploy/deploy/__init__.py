"""The deploy model, and the fold that computes its constants from a reference.

=================  =======================================================================
``fold``           fold a reference model's weights into the constants of the deploy model
``fold_notebook``  fold the notebook's model
``fold_parts``     what the folds of all families share
``fold_pixels``    a deploy model that takes pixels, with the normalisation inside
``fold_swin``      fold the Swin Transformers of the papers, V1 and V2
``model``          the deploy model
=================  =======================================================================
"""
