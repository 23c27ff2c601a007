"""Simulators: one kind of microscopy per file; the name of the file is the name of the kind.

A simulator is a module with these public names:

``Config``
    A frozen pydantic model; unknown keys are refused and every field has a unit, a range, a default and a description.
    It has at least ``shape`` (z, y, x) in voxels and ``voxel_size_um`` (z, y, x).
``simulate(config, generator)``
    ``Config`` and :class:`numpy.random.Generator` to :class:`fewslice.synthesis.simulation.Simulation`: an image with
    annotation that is exact to the voxel. A generator in the same state gives the same bytes.
``ideal(config)``
    The same layout as an ideal picture: the background has one colour, and in one channel every annotated voxel, and no
    other, lies on one side of it.
``channels(config)``
    Names of the channels that come out.
``adjusted(config, wanted, got)``
    How measurements move settings, for :func:`fewslice.synthesis.fitting.fit`: ``wanted`` and ``got`` are
    :class:`fewslice.synthesis.statistics.Statistics` of target images and of images simulated at ``config``; ``got`` is
    None before there are any. Where both are the same, nothing moves; what comes out is a valid ``Config``.
``CONTRAST``
    ``"dark"`` or ``"bright"``: how objects differ from their background.
``VERSION``
    An integer that grows whenever the same configuration and seed begin to give other bytes; benchmarks put it into the
    identity of their data.

What holds for every kind:

- Truth is decided by continuous surfaces in µm, evaluated at the centres of voxels. Voxel size changes how finely a
  shape is sampled, never the shape.
- Layout, texture and noise draw from separate streams: other optics leave the annotation as it is.
- Where objects overlap in a projection, ``instances`` shows the topmost and ``footprints`` holds the whole of each.
- What is drawn and not annotated (processes, debris, cells far out of focus) vanishes in the ideal picture.
- No module state and no global seed; numpy and SciPy only.
"""
