"""Answers to a data set: images of folders or Parquet files in, part files of Parquet out.

=============  ==================================================================
``libraries``  pyarrow and Ray, each imported inside a function
``parts``      the images of one part file, and the name that follows from them
``columns``    the column of a Parquet file that holds the images
``sources``    folders and Parquet files, listed and cut into parts
``pictures``   the pictures of a part, as they are needed
``answers``    answers as the bytes of a Parquet file
``output``     the folder of part files: whose it is, and which parts are whole
``work``       a part made: pictures in, its file out
``on_ray``     parts made by the workers of a Ray cluster
=============  ==================================================================
"""
