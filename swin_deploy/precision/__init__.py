"""Which precision is right, by measurement.

============  ================================================
``ranges``    what half precision does to each part of a model
``diagnose``  why it fails, and what to keep in float32
``search``    ``--auto``: the first precision that is right
============  ================================================
"""
