"""Images that are simulated together with their annotation.

``simulators/``
    One kind of microscopy per file: ``Config`` and ``simulate``.
``simulation``, ``store``
    What every simulator returns, and how it is kept on disk.
``fitting``, ``statistics``, ``moves``
    A simulator's settings from unlabelled images: what is measured, and how measurements move settings.
``layout``, ``outlines``, ``stacking``
    Geometry of many cells at once: where they lie, their outlines in a plane, which of them is seen.
``shapes``
    Geometry in space: bodies and where they lie, processes, vessels.
``imaging``
    What a microscope does to an ideal picture: texture, blur, shading, noise.
"""
