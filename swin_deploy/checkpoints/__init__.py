"""Weights files to a config and a state dict in our names: one file a dialect."""
