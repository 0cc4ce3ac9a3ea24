"""Accuracy on labelled images: the reference, the deploy model and each file made from it.

===============  ================================================================================
``accuracy``     results of an evaluation, as values
``predictions``  predictions of one model, kept on disk as they are made, so that an interrupted
                 run can be resumed
``run``          run every model on the same labelled images, keeping each prediction as it is
                 made
===============  ================================================================================
"""
