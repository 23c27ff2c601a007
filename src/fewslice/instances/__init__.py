"""Objects of a whole volume: the regions of all blocks, stitched.

Four passes, of which each block's part is a pure function of what lies on disk, so that any of them can be killed,
repeated or run elsewhere:

1. label – :class:`~fewslice.instances.passes.LabelBlocks`: the regions of every block and their contacts;
2. link – :class:`~fewslice.instances.passes.LinkBlocks`: what each contact meets in the blocks beside it;
3. union – :func:`~fewslice.instances.union.unite`: which regions are one object, and their names;
4. relabel – :class:`~fewslice.instances.passes.RelabelBlocks`: every block with the objects' names.

:func:`segment_store` runs them. What is needed in between lies beside the output, in ``.OUT.ome.zarr.instances``.
"""

from fewslice.instances.segmentation import Instances, StoredOutputs, open_outputs, segment_store

__all__ = ["Instances", "StoredOutputs", "open_outputs", "segment_store"]
