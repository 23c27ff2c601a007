"""Numbers that say how good a segmentation is: arrays in, numbers out.

`semantic` counts voxels, `surface` measures between surfaces, `along_z` measures consistency between planes,
`intervals` gives the uncertainty of paired differences. Nothing here reads files.
"""
