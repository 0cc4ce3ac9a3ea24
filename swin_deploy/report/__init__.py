"""Results as text: terminal tables, JSON, Markdown and one self-contained HTML file.

Values in, text out: nothing here runs a model or reads a file, but for ``from_json`` and ``write``.

===============  ====================================================
``results``      everything that one run found out, as values
``numbers``      numbers and foreign text, as every report prints them
``words``        the verdict in words, and what each metric means
``summary``      can it be shipped: the tiles on top of a report
``tables``       results as tables of text, for the three renderers
``accuracy``     the same of an evaluation, with its words
``terminal``     those tables for standard output
``markdown``     those tables for a pull request comment
``html``         those tables as one file: ``templates``, charts and sample images
``to_json``      the same results as plain JSON values; ``from_json`` reads them
``schema``       the form of those values, and the check against it
``write``        a report in its three forms
``compare``      two reports: what got worse
===============  ====================================================
"""
