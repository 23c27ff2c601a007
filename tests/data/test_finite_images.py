"""An image with NaN is refused wherever the NaN is, also on planes that normalisation does not sample."""

from __future__ import annotations

import numpy as np
import pytest

from fewslice.data.normalisation import check_finite, fit_normalisation
from fewslice.errors import InputError
from fewslice.volume import Volume


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_single_value_between_the_sampled_planes(value: float) -> None:
    image = np.zeros((40, 8, 8), np.float32)
    image[21, 3, 4] = value
    volume = Volume.from_array(image)
    fit_normalisation([volume])  # samples 16 of the 40 planes: 21 is none of them
    with pytest.raises(InputError, match="z=21"):
        check_finite(volume)


def test_integers_are_not_even_read() -> None:
    class Unreadable:
        shape = (1, 4, 4, 4)
        dtype = np.dtype(np.uint8)

        def __getitem__(self, index: object) -> np.ndarray:
            raise AssertionError("read")

    check_finite(Volume(Unreadable()))
