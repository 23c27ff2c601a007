"""Operations along z and between planes: masks in, masks out.

`continuity` cleans predicted masks with the annotated planes between which they lie (:func:`clean`), `columns` does the
same for volumes that do not fit in memory (:func:`clean_columns`), `interpolation` fills the space between annotated
planes without a prediction.
"""

from fewslice.morphology.columns import MaskStore, clean_columns
from fewslice.morphology.continuity import (
    Config,
    PixelSizes,
    brackets,
    clean,
    drop_small,
    fill_bracketed,
    fill_supported,
    in_pixels,
    keep_bracketed,
    keep_supported,
    propagate,
)
from fewslice.morphology.interpolation import (
    interpolate_contours,
    interpolate_signed_distance,
)

__all__ = [
    "Config",
    "MaskStore",
    "PixelSizes",
    "brackets",
    "clean",
    "clean_columns",
    "drop_small",
    "fill_bracketed",
    "fill_supported",
    "in_pixels",
    "interpolate_contours",
    "interpolate_signed_distance",
    "keep_bracketed",
    "keep_supported",
    "propagate",
]
