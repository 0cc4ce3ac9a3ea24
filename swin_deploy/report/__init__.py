"""Results as text: terminal tables, JSON, Markdown and one self-contained HTML file.

================  ================================================================================
``results``       all results of one run, as values
``numbers``       numbers and foreign text, as every report prints them
``words``         the verdict in words, and the meaning of each metric
``summary``       the tiles on top of a report: equal, right, fast, small, fused
``tables``        results as tables of text, for the three renderers
``accuracy``      the same of an evaluation, with its words
``terminal``      those tables for standard output
``markdown``      those tables for a pull request comment
``html``          those tables as one file: ``templates``, charts and sample images
``to_json``       the same results as plain JSON values; ``from_json`` reads them
``schema``        the form of those values, made from the dataclasses that hold the results
``plan_figures``  the figures of a kernel plan, as reports hold them
``write``         write a report in its three forms
``compare``       changes between two reports of one model
``bench_words``   results of a benchmark in words
``charts``        bar charts as values for the templates, and the templates filled
``drift_svg``     distance of each hop from the reference along the model, as inline SVG
``from_json``     a report read back from its JSON form, to add to it or to render it again
``grids``         tables that fit the width of the terminal
``make``          make a report of a run, or read the one in a folder to add to it
``models``        models, sources and findings about a machine, as Rich renderables
``plan_svg``      bytes moved by each part of a plan, as one SVG file that loads nothing
``plan_tables``   a kernel plan as tables of text
``precision``     ranges and noise of a model's parts as tables, facts and JSON
``servers``       checks of a server, as a table and as JSON
``swaps``         a model around the deploy model beside the unmodified one, as a table
``sample_cards``  a few images with each model's answers, as values for a template
================  ================================================================================

These modules turn values into text: none runs a model, and only ``from_json``, ``make`` and
``write`` touch files of a report.
"""
