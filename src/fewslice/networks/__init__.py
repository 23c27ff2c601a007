"""★ Networks: one kind per file, the file's name is the kind's name.

A kind is a module with

``Config``
    A frozen pydantic model, unknown keys forbidden: every setting with its unit, range and default. Its method
    ``adapted(voxel_size_um, patch) -> Config`` returns the settings that suit data of this voxel size ((z, y, x) in µm,
    or None for cubes) seen in patches of this extent ((z, y, x) in voxels); what a person has set is kept. Strategies
    store the adapted settings, so that a model is rebuilt from them alone.
``build(config, in_channels, out_channels) -> torch.nn.Module``
    `in_channels` image channels in, `out_channels` classes out, background included. Weights are drawn from torch's
    global generator: the same seed gives the same network.
``PURPOSE``
    What it is for, if that is not ``segmentation``:

    ``image_to_image``
        Changes images. The `in_channels` are the intensity and then what it is conditioned on; the `out_channels` are
        the changed intensity instead of logits. All else is as below.
    ``contours``
        Proposes contours of objects, see below.
    ``discriminator``
        Scores patches of images. It keeps no extent, so it has neither `divisor` nor `halo` but ``receptive_field`` and
        ``stride``, (z, y, x): along each axis, score i is that of the voxels from i·stride to i·stride +
        receptive_field.

The module that ``build`` returns has

``dims``
    2 or 3. A 2D network maps float tensors (b, c, y, x) to logits (b, classes, y, x), a 3D network (b, c, z, y, x) to
    (b, classes, z, y, x), always of the same spatial extent. The memory layout ``channels_last`` or
    ``channels_last_3d`` is fastest; results do not depend on it.

    A network with several heads returns a named tuple of maps (b, channels, y, x) instead. Its attribute ``strides``
    holds by name how many pixels a position of a map is wide and high: position (i, j) stands for the pixel
    (stride · i, stride · j).
``divisor``
    (z, y, x): extents must be multiples of it, otherwise ``forward`` raises :class:`~fewslice.errors.InputError`.
    1 along z for 2D networks.
``halo``
    (z, y, x): the full receptive-field radius in voxels; no output depends on an input further away along any axis.
    0 along z for 2D networks. Blocks that start at multiples of the divisor and carry this context give the same
    values as the whole volume.

A network that proposes contours (2D) returns maps that only it can read, and has besides

``reach``
    Contours depend on nothing further from their position than this and the halo, in pixels.
``scores(maps) -> (b, classes, y, x)``
    Scores 0–1 per foreground class.
``propose(maps, threshold, extent) -> (anchor, score, category, contour)``
    The contours of positions whose score reaches the threshold: (n, 3) plane and pixel (y, x) of the position, (n,),
    (n,) class 1, 2, …, and (n, samples, 2) points (y, x) in pixels. What lies beyond `extent` (y, x) is no image.

Images are what :mod:`fewslice.data.normalisation` makes of them. All kinds pass ``tests/contracts/test_networks.py``.
"""

from __future__ import annotations

from fewslice import registry

__all__ = ["kinds", "purpose"]


def purpose(kind: str) -> str:
    """Return what a kind is for: ``segmentation``, ``image_to_image``, ``contours`` or ``discriminator``."""
    return str(getattr(registry.load("networks", kind), "PURPOSE", "segmentation"))


def kinds(wanted: str) -> list[str]:
    """List the kinds for a purpose."""
    return [kind for kind in registry.names("networks") if purpose(kind) == wanted]
