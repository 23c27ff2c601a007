"""The verbs for the screen: a napari plugin that works on the open layers.

What it does is in modules that load no Qt and that programs can use as well:

- :mod:`edits`: labels that are painted on, kept as changed blocks over what is on disk; strokes.
- :mod:`journal`, :mod:`session`: every stroke on disk, undo and redo, planes that are done, restoring, saving.
- :mod:`filling`, :mod:`proofreading`: what strokes a fill, a split, a merge, a deletion makes; the table of objects.
- :mod:`layers`, :mod:`readers`, :mod:`writers`, :mod:`sample_data`: between files and layers.
- :mod:`jobs`, :mod:`training`, :mod:`prediction`, :mod:`settings_form`: the command line, run and understood.

Only :mod:`panel` and the modules named ``*_tab`` are windows.
"""
