"""Results as text: terminal tables, JSON, Markdown and one self-contained HTML file.

================  ================================================================================
``results``       everything that one run found out, as values
``numbers``       numbers and foreign text, as every report prints them
``words``         the verdict in words, and what each metric means
``summary``       can it be shipped: the tiles on top of a report
``tables``        results as tables of text, for the three renderers
``accuracy``      the same of an evaluation, with its words
``terminal``      those tables for standard output
``markdown``      those tables for a pull request comment
``html``          those tables as one file: ``templates``, charts and sample images
``to_json``       the same results as plain JSON values; ``from_json`` reads them
``schema``        the form of those values, made from the dataclasses that hold the results
``plan_figures``  the figures of a kernel plan, as reports hold them
``write``         a report in its three forms
``compare``       two reports: what got worse
``bench_words``   what a benchmark found, in words
``charts``        bar charts as inline SVG between their labels and values
``drift_svg``     how far each hop is from the reference behind every part of the model, as inline
                  SVG
``from_json``     a report read back from its JSON form, to add to it or to render it again
``grids``         tables for the width there is
``make``          one report of what was made and found, and the one in a folder to go on with
``models``        what there is, in the package and on a machine, as Rich renderables
``plan_svg``      where the bytes of a plan go, as one SVG file that loads nothing
``plan_tables``   a kernel plan as tables of text
``precision``     the ranges and the noise of a model's parts as tables, facts and JSON, and what
                  follows
``sample_cards``  a few images with what each model sees in them, as values for a template
================  ================================================================================

Values in, text out: nothing here runs a model or reads a file, but for ``from_json`` and ``write``.
"""
