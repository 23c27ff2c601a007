"""Axes are read by the contract and nothing is guessed; a volume reads what is asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from fewslice.errors import InputError
from fewslice.geometry import Box
from fewslice.volume import ArrangedArray, LazyArray, Volume, check_voxel_size, normalise_index, resolve_axes


def resolve(axes: str, shape: Sequence[int], **options: object) -> tuple[str, str | None]:
    return resolve_axes(axes, shape, source="stack.tif", **options)  # type: ignore[arg-type]


class TestAxes:
    @pytest.mark.parametrize("axes", ["zcyx", "czyx", "zyx", "yx", "yxc"])
    def test_stated_axes_count(self, axes: str) -> None:
        assert resolve(axes, (3,) * len(axes)) == (axes, None)

    def test_stated_axes_go_before_given_ones_and_that_is_said(self) -> None:
        axes, note = resolve("czyx", (2, 5, 8, 8), given="zcyx")
        assert axes == "czyx"
        assert note is not None and "zcyx" in note and "czyx" in note

    def test_stated_axes_that_cannot_be_right_give_way_to_given_ones(self) -> None:
        axes, note = resolve("cyx", (5, 8, 8), given="zyx", expected_shape=(5, 8, 8))
        assert axes == "zyx"
        assert note is not None and "cyx" in note

    def test_given_axes_of_another_image_do_not_disturb(self) -> None:
        assert resolve("zyx", (5, 8, 8), given="zcyx")[0] == "zyx"

    @pytest.mark.parametrize("given", ["zcyx", "ZCYX", " zcyx "])
    def test_given_axes_settle_unknown_ones(self, given: str) -> None:
        assert resolve("??yx", (21, 2, 8, 8), given=given) == ("zcyx", None)

    @pytest.mark.parametrize("given", ["zyx", "zcyxt", "zzyx", "abyx", "zcyq", "", "zctx"])
    def test_impossible_given_axes_are_refused(self, given: str) -> None:
        with pytest.raises(InputError, match="axes"):
            resolve("????", (21, 2, 8, 8), given=given)

    def test_labels_leave_one_reading(self) -> None:
        axes, note = resolve("??yx", (21, 2, 8, 9), expected_shape=(21, 8, 9))
        assert axes == "zcyx"
        assert note is not None and note.count(".") == 2 and "zcyx" in note and "21 x 8 x 9" in note  # stack.tif, end

    def test_channels_leave_one_reading(self) -> None:
        axes, note = resolve("??yx", (21, 2, 8, 9), expected_channels=2)
        assert axes == "zcyx"
        assert note is not None and "2 channels" in note
        assert resolve("??yx", (2, 21, 8, 9), expected_channels=2)[0] == "czyx"

    def test_several_readings_are_refused_with_the_choices(self) -> None:
        with pytest.raises(InputError, match="--axes zcyx or --axes czyx"):
            resolve("??yx", (21, 2, 8, 9))
        with pytest.raises(InputError, match="--axes zcyx or --axes czyx"):
            resolve("??yx", (4, 4, 8, 9), expected_channels=4)
        with pytest.raises(InputError, match="--axes zyx or --axes cyx"):
            resolve("?yx", (3, 8, 9))

    def test_no_reading_is_refused(self) -> None:
        with pytest.raises(InputError, match="none of zcyx, czyx"):
            resolve("??yx", (21, 2, 8, 9), expected_shape=(20, 8, 9))
        with pytest.raises(InputError, match="too few or too many axes"):
            resolve("??????", (1, 2, 3, 4, 5, 6))

    def test_three_axes_are_planes_without_a_word(self) -> None:
        assert resolve("???", (21, 8, 9)) == ("zyx", None)
        assert resolve("?yx", (2, 8, 9), expected_shape=(2, 8, 9)) == ("zyx", None)
        assert resolve("?yx", (2, 8, 9), expected_channels=1) == ("zyx", None)

    def test_three_axes_can_be_channels(self) -> None:
        axes, note = resolve("?yx", (2, 8, 9), expected_channels=2)
        assert axes == "cyx" and note is not None
        assert resolve("?yx", (2, 8, 9), expected_shape=(1, 8, 9))[0] == "cyx"

    def test_colours_come_last(self) -> None:
        assert resolve("?yxc", (5, 8, 9, 3)) == ("zyxc", None)
        assert resolve("????", (5, 8, 9, 3), expected_shape=(5, 8, 9))[0] == "zyxc"

    def test_time_is_refused_unless_it_means_planes(self) -> None:
        with pytest.raises(InputError, match="--axes zyx"):
            resolve("tyx", (7, 8, 9))
        assert resolve("tyx", (7, 8, 9), given="zyx")[0] == "zyx"
        with pytest.raises(InputError, match="7 time points"):
            resolve("tzyx", (7, 5, 8, 9))
        assert resolve("tczyx", (1, 2, 5, 8, 9)) == ("tczyx", None)


@pytest.mark.parametrize("axes", ["zcyx", "czyx", "zyxc", "xyzc", "tczyx", "zyx", "yx", "cyx", "yxc"])
def test_arranged_like_numpy(axes: str) -> None:
    extents = {"t": 1, "c": 3, "z": 4, "y": 5, "x": 6}
    shape = [extents[a] for a in axes]
    values = np.arange(math.prod(shape), dtype=np.int32).reshape(shape)
    expected = np.einsum(
        values, [ord(a) - 97 for a in axes], [ord(a) - 97 for a in "czyx" if a in axes] + [19] * ("t" in axes)
    )
    expected = expected.reshape([extents[a] if a in axes else 1 for a in "czyx"])
    array = ArrangedArray(values, axes)
    assert isinstance(array, LazyArray)
    np.testing.assert_array_equal(array[...], expected)
    np.testing.assert_array_equal(np.asarray(array), expected)
    part = (slice(0, 2), slice(0, 1), slice(1, 4), slice(2, 3))
    np.testing.assert_array_equal(array[part], expected[part])
    np.testing.assert_array_equal(array[0, 0, 1:4, -1], expected[0, 0, 1:4, -1])
    if "c" in axes:
        np.testing.assert_array_equal(ArrangedArray(values, axes, [2, 0])[...], expected[[2, 0]])


def test_index_with_a_step_or_outside_is_refused() -> None:
    for index in (slice(0, 4, 2), 7, (0, 0, 0)):
        with pytest.raises(IndexError):
            normalise_index(index, (5, 5))


class TestVolume:
    def test_reads_boxes_and_channels(self) -> None:
        values = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
        volume = Volume.from_array(values, (2, 1, 1), ["a", "b"])
        assert (volume.shape, volume.channels, volume.voxel_size_um) == ((3, 4, 5), 2, (2.0, 1.0, 1.0))
        np.testing.assert_array_equal(volume.read(Box((1, 0, 2), (3, 4, 4))), values[:, 1:3, :, 2:4])
        np.testing.assert_array_equal(volume.read(channels=[1]), values[1:])
        np.testing.assert_array_equal(volume.with_channels(["b", "0"]).read(), values[[1, 0]])
        assert volume.with_channels(["b"]).channel_names == ("b",)

    def test_box_outside_is_refused(self) -> None:
        with pytest.raises(InputError, match="leaves the volume"):
            Volume.from_array(np.zeros((3, 4, 5))).read(Box((0, 0, 0), (4, 4, 5)))

    def test_missing_channel_is_refused_with_the_choices(self) -> None:
        volume = Volume.from_array(np.zeros((2, 3, 4, 5)), channel_names=["soma", "glia"])
        with pytest.raises(InputError, match=r"no channel 'nuclei'.*0 \(soma\), 1 \(glia\)"):
            volume.with_channels(["nuclei"])

    @pytest.mark.parametrize("shape", [(0, 4, 5), (2, 0, 4, 5), (3, 4, 0)])
    def test_no_voxels_is_refused(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(InputError, match="at least 1"):
            Volume.from_array(np.zeros(shape))

    @pytest.mark.parametrize("size", [(0, 1, 1), (-2, 1, 1), (math.nan, 1, 1), (math.inf, 1, 1), (1, 1), (1, 1, 1, 1)])
    def test_impossible_voxel_size_is_refused(self, size: tuple[float, ...]) -> None:
        with pytest.raises(InputError, match="above 0"):
            check_voxel_size(size)
        with pytest.raises(InputError, match="above 0"):
            Volume.from_array(np.zeros((3, 4, 5)), size)

    def test_hash_depends_on_values_shape_and_type_only(self) -> None:
        values = np.arange(60, dtype=np.uint16).reshape(3, 4, 5)
        first = Volume.from_array(values).content_hash()
        assert Volume.from_array(values.astype(">u2")).content_hash() == first
        assert Volume.from_array(values.copy(order="F"), (1, 1, 1)).content_hash() == first
        changed = values.copy()
        changed[2, 3, 4] += 1
        others = [changed, values.reshape(3, 5, 4), values.astype(np.uint32)]
        assert first not in {Volume.from_array(v).content_hash() for v in others}

    def test_hash_of_a_large_volume_samples_every_part(self) -> None:
        class Huge:
            """Forty terabytes of zeros that count what is read."""

            shape = (1, 10000, 64000, 64000)
            dtype = np.dtype(np.uint8)
            bytes_read = 0
            planes: set[int] = set()

            def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
                values = np.zeros([s.stop - s.start for s in index], np.uint8)
                Huge.bytes_read += values.nbytes
                Huge.planes.add(index[1].start)
                return values

        assert len(Volume(Huge()).content_hash()) == 64
        assert Huge.bytes_read < 100_000
        assert min(Huge.planes) == 0 and max(Huge.planes) == 9999 and len(Huge.planes) == 16


def test_beyond_its_ends_an_image_is_mirrored() -> None:
    """As NumPy does it, several times over where the box is much larger than the image; inside nothing changes."""
    values = np.arange(2 * 3 * 5 * 4).reshape(2, 3, 5, 4).astype(np.int32)
    image = Volume.from_array(values)
    padded = np.pad(values, ((0, 0), (7, 6), (2, 3), (1, 0)), mode="reflect")
    np.testing.assert_array_equal(image.read_mirrored(Box((-7, -2, -1), (9, 8, 4))), padded)
    np.testing.assert_array_equal(image.read_mirrored(Box((1, 2, 0), (3, 4, 4))), values[:, 1:3, 2:4])
    flat = Volume.from_array(values[:, :1])
    assert (flat.read_mirrored(Box((-2, 0, 0), (2, 5, 4))) == values[:, :1]).all()
