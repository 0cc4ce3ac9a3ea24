"""Batches for a model from pictures on disk, and the classes that their folders stand for.

=================  =================================================================
``preprocessing``  the steps from a picture to a model's input, as values
``rules``          a source's way to prepare pictures for any image size
``pages``          pages of documents: margin, long axis and thumbnail
``fitting``        the resize of a picture, and its place in an image
``arrays``         pictures as arrays of any number of channels, and in `.npy` files
``opening``        a picture opened but not decoded: its size, and failures in one line
``decode``         one image file through these steps
``sets``           images, seeded noise and extreme inputs, ready for a model
``listing``        the files below a folder, one after the other
``labelled``       image files with their classes, none opened yet
``class_names``    names of classes and their indices in a model
``scores``         scores of classes from logits: softmax, sigmoid or none
``tag_list``       the tags of a tagger, from its CSV file
``batches``        images decoded ahead of a model, a few batches at a time
``chance``         a check that a model's right answers are more than guessing would give
=================  =================================================================
"""
