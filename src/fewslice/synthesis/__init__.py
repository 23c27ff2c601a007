"""Images that are simulated together with their annotation.

``simulators/``
    One kind of microscopy per file: ``Config`` and ``simulate``.
``simulation``, ``store``
    What every simulator returns, and how it is kept on disk.
``settings``
    What the settings of simulators are made of.
``fitting``, ``statistics``, ``moves``
    A simulator's settings from unlabelled images: what is measured, and how measurements move settings.
``layout``, ``outlines``, ``stacking``
    Geometry of many cells at once: where they lie, their outlines in a plane, which of them is seen.
``shapes``
    Geometry in space: bodies and where they lie, processes, vessels.
``imaging``
    What a microscope does to an ideal picture: texture, blur, shading, noise.
``patch_pairs``, ``refinement_losses``, ``refinement``
    Training of a refiner from simulated and real patches that do not belong together.
``refiner``
    The trained refiner, applied to simulations.
``realism``
    How far refined images are from real ones.
``survival``
    Whether their annotation has survived.
"""
