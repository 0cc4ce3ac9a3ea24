"""What is written of a model, and what travels with it.

============  =================================================================================
``facts``     what a file says of the model that it was made from, its one reader
``newest``    the export that is meant where no file is named
``builds``    which files a build converts and writes, decided before the work
``outputs``   results as files to write, and how ours are told from other people's
``pipeline``  the stages of the line, each from values and files to a file; the commands string
              them
============  =================================================================================
"""
