"""Images that are simulated together with their annotation.

``simulators/``
    One kind of microscopy per file: ``Config`` and ``simulate``.
``simulation``
    What every simulator returns.
``shapes``
    Geometry in µm: where bodies lie, what they enclose, where processes run.
``imaging``
    What a microscope does to an ideal picture: texture, blur, shading, noise.
"""
