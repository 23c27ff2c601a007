from __future__ import annotations

import numpy as np
import pytest

from fewslice.errors import InputError
from fewslice.morphology import interpolate_signed_distance
from fewslice.napari.filling import gap_around, gap_of, stroke_of
from fewslice.napari.session import open_annotation
from fewslice.volume import Volume

SHAPE = (9, 24, 24)


@pytest.fixture
def session(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, SHAPE).astype(np.uint8)
    made = open_annotation(tmp_path / "a", Volume.from_array(image, (2.0, 0.5, 0.5)))
    made.labels[1, 4:10, 4:10] = 1
    made.labels[1, 14:20, 4:20] = 2
    made.labels[5, 6:14, 6:14] = 1
    made.labels[5, 15:19, 8:20] = 2
    for plane in (1, 5):
        made.mark(0, plane)
    yield made
    made.close()


def fill_between(session, axis, index):
    return stroke_of(session, gap_of(session, axis, index).interpolated())


def test_the_gap_is_filled_by_interpolation_and_is_not_done(session):
    before = np.asarray(session.labels).copy()
    stroke = fill_between(session, 0, 3)
    session.apply(stroke, "fill")
    result = np.asarray(session.labels)
    known = np.zeros(9, bool)
    known[[1, 5]] = True
    expected = interpolate_signed_distance(before, known)
    assert np.array_equal(result[2:5], expected[2:5]) and set(np.unique(result[3])) == {0, 1, 2}
    for plane in (0, 1, 5, 6, 7, 8):
        assert np.array_equal(result[plane], before[plane])
    assert session.done == {(0, 1), (0, 5)}


def test_nothing_that_a_hand_made_is_overwritten(session):
    session.labels[3, 0:12, 0:9] = 7  # painted where the fill would paint
    session.commit()
    session.labels[4, 7:9, 7:9] = 1
    session.commit()
    session.labels[4, 7:9, 7:9] = 0  # erased again: a hand says that there is nothing
    session.commit()
    before = np.asarray(session.labels).copy()
    session.apply(fill_between(session, 0, 3), "fill")
    result = np.asarray(session.labels)
    assert np.array_equal(result[before > 0], before[before > 0])
    assert not result[4, 7:9, 7:9].any() and result[4, 9, 9] == 1


def test_what_a_fill_made_can_be_corrected_and_filled_again(session):
    session.apply(fill_between(session, 0, 3), "fill")
    session.labels[3, :12, :] = 0
    session.commit()
    with pytest.raises(InputError, match="nothing to fill"):
        fill_between(session, 0, 3)
    session.undo()
    session.undo()
    assert fill_between(session, 0, 2).size > 0


def test_what_was_painted_while_planes_were_filled_stays(session):
    gap = gap_of(session, 0, 3)
    session.labels[3, 0:12, 0:9] = 7
    session.labels[4, 0:20, 9] = 1
    session.commit()
    session.labels[4, 0:20, 9] = 0  # erased again, by a hand
    session.mark(0, 2)
    filled = gap.interpolated()
    assert not (filled.labels == 7).any(), "it looks at the labels as they were"
    session.apply(stroke_of(session, filled), "fill")
    result = np.asarray(session.labels)
    assert (result[3, 0:12, 0:9] == 7).all() and not result[4, :, 9].any() and not result[2].any()
    assert result[4, 9, 8] == 1 and result[4, 9, 10] == 1


def test_planes_done_along_another_axis_stay(session):
    session.mark(1, 8)
    session.apply(fill_between(session, 0, 3), "fill")
    assert not np.asarray(session.labels)[2:5, 8].any() and np.asarray(session.labels)[3, 9].any()


def test_along_another_axis(session):
    session.labels[2:7, 3, 5:15] = 4
    session.labels[2:7, 12, 5:15] = 4
    session.commit()
    session.mark(1, 3)
    session.mark(1, 12)
    session.apply(fill_between(session, 1, 7), "fill")
    assert (np.asarray(session.labels)[3, 4:12, 8] > 0).all()


@pytest.mark.parametrize(("plane", "message"), [(1, "done already"), (0, "before 0"), (7, "behind 7")])
def test_planes_without_a_gap_around_are_refused(session, plane, message):
    with pytest.raises(InputError, match=message):
        gap_around(session, 0, plane)


def test_undo_takes_a_fill_back(session):
    before = np.asarray(session.labels).copy()
    session.apply(fill_between(session, 0, 3), "fill")
    session.undo()
    assert np.array_equal(np.asarray(session.labels), before)
