"""The intensity below which there is nothing lies far below what was annotated, and above what was not."""

from __future__ import annotations

import numpy as np
import pytest

from fewslice.annotation import Annotation
from fewslice.data.samples import Sample
from fewslice.training.signal import fit_signal
from fewslice.volume import Volume


def _sample(object_value: float, background: float = 10.0) -> Sample:
    """Two discs of 6 × 6 pixels on one annotated plane; the second is fainter by 20."""
    image = np.full((1, 3, 40, 40), background, np.float32)
    labels = np.zeros((3, 40, 40), np.uint8)
    for corner, value in ((5, object_value), (25, object_value - 20)):
        labels[1, corner : corner + 6, 5:11] = 1
        image[0, 1, corner : corner + 6, 5:11] = value
    annotated = np.zeros(labels.shape, bool)
    annotated[1] = True
    return Sample("a", Volume.from_array(image), Annotation(labels, annotated))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (110.0, 10 + (90 - 10) / 2),  # half-way to the inside of the fainter disc
        (8.0, (5 * 10 - 4 * 12) / 9),  # the corner of the fainter disc, of whose nine pixels four are -12
    ],
)
def test_worked_by_hand(value: float, expected: float) -> None:
    """Of dark discs the brightest place is a corner, darker than the background: everything else is computed."""
    assert fit_signal([_sample(value)]) == pytest.approx((expected,))


def test_without_foreground_there_is_none() -> None:
    sample = _sample(110.0)
    assert sample.annotation is not None
    nothing = Annotation(np.zeros_like(sample.annotation.labels), sample.annotation.annotated)
    assert fit_signal([Sample("a", sample.image, nothing)]) is None
    assert fit_signal([Sample("a", sample.image, None)]) is None
