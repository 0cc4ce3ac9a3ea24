"""Accuracy on labelled images: the reference, the deploy model and each file made from it."""
