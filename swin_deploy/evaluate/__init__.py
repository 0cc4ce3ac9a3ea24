"""Accuracy on labelled images: the reference, the deploy model and each file made from it.

===============  ================================================================================
``accuracy``     what an evaluation found, as values
``predictions``  predictions of one model, kept on disk as they are made, so that a run can go on
                 where it was
``run``          run every model on the same labelled images, keeping each prediction as it is
                 made
===============  ================================================================================
"""
