"""The deploy model, and the fold that computes its constants from a reference.

=================  =======================================================================
``cpu_form``       the deploy model in the layout of CPU runtimes, from the deploy model
``cpu_model``      the deploy model's modules in that layout
``fold``           the fold of a reference model's weights into the deploy model's constants
``fold_notebook``  the fold of the notebook's model
``fold_parts``     parts that the folds of all families share
``fold_pixels``    a deploy model that takes pixels, with the normalisation inside
``fold_swin``      the fold of the Swin Transformers of the papers, V1 and V2
``half_form``      the deploy model as half-precision files compute it, norms folded into MLPs
``model``          the deploy model, one architecture for every Swin family
=================  =======================================================================
"""
