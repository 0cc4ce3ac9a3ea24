"""What is written of a model, and what travels with it.

``facts``  what a file says of the model that it was made from, its one reader
``newest``  the export that is meant where no file is named
"""
