"""Images that are simulated together with their annotation.

``simulators/``
    One kind of microscopy per file: ``Config`` and ``simulate``.
``simulation``
    What every simulator returns.
``shapes``
    Geometry in µm: where bodies lie, what they enclose, where processes run.
``imaging``
    What a microscope does to an ideal picture: texture, blur, shading, noise.
``patch_pairs``, ``refinement_losses``, ``refinement``
    Training of a refiner from simulated and real patches that do not belong together.
``refiner``
    The trained refiner: applied to simulations, stored, loaded.
``realism``
    How far refined images are from real ones.
``survival``
    Whether their annotation has survived.
"""
