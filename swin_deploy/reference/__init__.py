"""Readable, trainable models: the oracle that the deploy model is checked against."""
