"""What a detector finds of the annotation before and after is counted right."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from fewslice.errors import InputError
from fewslice.synthesis.simulation import Simulation
from fewslice.synthesis.survival import annotation_survival, fit_pixel_detector


def _simulation(image: npt.NDArray[np.uint8], instances: npt.NDArray[np.uint32]) -> Simulation:
    return Simulation(image[None], (instances > 0).astype(np.uint8), instances, (1.0, 1.0, 1.0), ("light",), ("cell",))


def _squares() -> Simulation:
    """Four bright squares of 8 × 8 on dark ground, with some noise."""
    instances = np.zeros((1, 40, 40), np.uint32)
    for index, (y, x) in enumerate([(2, 2), (2, 24), (24, 2), (24, 24)]):
        instances[0, y : y + 8, x : x + 8] = index + 1
    noise = np.random.default_rng(0).integers(0, 20, instances.shape)
    return _simulation((noise + 150 * (instances > 0)).astype(np.uint8), instances)


def test_survival_by_hand() -> None:
    """One of four cells is erased and one is invented: recall 3/4, precision 3/4; labels and masks give the same."""
    before = _squares()
    image = before.image.copy()
    image[:, :, 24:32, 24:32] = 10
    image[:, :, 14:20, 14:20] = 200
    after = replace(before, image=image)

    def labels(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
        return np.asarray(ndimage.label(image[0] > 100)[0], dtype=np.int32)

    def masks(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
        found = labels(image)
        return np.stack([found == k for k in range(1, found.max() + 1)])

    for detect in (labels, masks, fit_pixel_detector([before], 8.0)):
        found = annotation_survival(detect, [before, before], [after, after])
        assert (found.recall_before, found.precision_before) == (1.0, 1.0)
        assert (found.recall_after, found.precision_after) == (0.75, 0.75)
        assert found.objects == 8 and found.kept == pytest.approx(0.75)


def test_survival_needs_enough_overlap() -> None:
    """A square moved by 3 of 8 pixels has IoU 40 / 88 = 0.45: lost at 0.5, found at 0.4. Nothing found is no error."""
    before = _squares()
    after = replace(before, image=np.roll(before.image, 3, axis=3))

    def labels(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
        return np.asarray(ndimage.label(image[0] > 100)[0], dtype=np.int32)

    assert annotation_survival(labels, [before], [after]).recall_after == 0.0
    assert annotation_survival(labels, [before], [after], threshold=0.4).recall_after == 1.0
    none = annotation_survival(lambda image: np.zeros((0, 1, 40, 40), bool), [before], [before])
    assert (none.recall_after, none.precision_after, none.kept) == (0.0, 0.0, 1.0)
    other = replace(before, instances=before.instances[:, ::-1])
    with pytest.raises(InputError, match="different annotation"):
        annotation_survival(labels, [before], [other])


def test_masks_that_overlap_are_matched_one_to_one() -> None:
    """Two masks of one cell count once; two cells of which one mask holds both get a pair each if the other allows."""
    truth = np.zeros((1, 4, 40), np.uint32)
    truth[0, :, 0:10], truth[0, :, 20:28] = 1, 2
    cells = _simulation(np.full(truth.shape, 9, np.uint8), truth)

    def survive(*spans: tuple[int, int], threshold: float = 0.5) -> tuple[float, float]:
        masks = np.zeros((len(spans), *truth.shape), bool)
        for mask, (low, high) in zip(masks, spans, strict=True):
            mask[..., low:high] = True
        found = annotation_survival(lambda image: masks, [cells], [cells], threshold=threshold)
        return found.recall_before, found.precision_before

    assert survive((0, 10), (1, 10)) == (0.5, 0.5)
    assert survive((0, 10), (20, 28)) == (1.0, 1.0)
    assert survive((0, 28), (0, 10), threshold=0.25) == (1.0, 1.0)  # 10/28 and 1 for cell 1, 8/28 for cell 2
    assert survive((0, 4)) == (0.0, 0.0)
