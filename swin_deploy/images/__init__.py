"""Pictures on disk to batches for a model, and the classes that their folders stand for.

=================  =================================================================
``preprocessing``  the steps from a picture to a model's input, as values
``decode``         one image file through these steps
``sets``           images, seeded noise and extreme inputs, ready for a model
``labelled``       image files with their classes, none opened yet
``class_names``    names of classes to the model's indices
``batches``        images decoded ahead of a model, a few batches at a time
``chance``         whether a model's right answers are more than guessing would give
=================  =================================================================
"""
