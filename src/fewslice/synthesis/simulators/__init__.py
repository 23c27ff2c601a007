"""Simulators: one kind of microscopy per file; the name of the file is the name of the kind.

A simulator is a module with two public names:

``Config``
    A frozen pydantic model; unknown keys are refused and every field has a unit, a range and a default. It has at least
    ``shape`` (z, y, x) in voxels and ``voxel_size_um`` (z, y, x).
``simulate(config, generator)``
    ``Config`` and :class:`numpy.random.Generator` to :class:`fewslice.synthesis.simulation.Simulation`: an image with
    annotation that is exact to the voxel. A generator in the same state gives the same bytes.

A third name, ``VERSION``, is an integer that grows whenever the same configuration and seed begin to give other bytes;
benchmarks put it into the identity of their data.

What holds for every kind:

- Truth is decided by continuous surfaces in µm, evaluated at the centres of voxels. Voxel size changes how finely a
  shape is sampled, never the shape.
- Centre of voxel ``i`` is at ``i * voxel_size_um``.
- Layout, texture and noise draw from separate streams: other optics leave the annotation as it is.
- No module state and no global seed; numpy and SciPy only.
"""
