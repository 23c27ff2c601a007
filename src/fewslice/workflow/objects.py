"""From a prediction to objects: find, measure, mesh."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from fewslice import io, registry
from fewslice.errors import InputError
from fewslice.experiment import checked
from fewslice.workflow.common import Listener, check_complete, check_outputs, ignore_event, open_engine

if TYPE_CHECKING:
    from fewslice.blocks.cluster import SlurmConfig
    from fewslice.blocks.engine import Engine, Retry
    from fewslice.blocks.preflight import Estimate
    from fewslice.measurement import Source
    from fewslice.volume import Volume

__all__ = ["estimate_measurement", "estimate_meshes", "estimate_segmentation", "measure", "mesh", "segment"]


def segment(
    prediction: str | Path,
    *,
    segmenter: str | None = None,
    settings: Mapping[str, Any] | None = None,
    output: str | Path | None = None,
    threshold: float | None = None,
    block: tuple[int, int, int] | None = None,
    axes: str | None = None,
    channels: Sequence[int] | None = None,
    voxel_size_um: tuple[float, float, float] | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    slurm: SlurmConfig | None = None,
    retries: int = 2,
    overwrite: bool = False,
    listener: Listener | None = None,
) -> dict[str, Any]:
    """Find the objects of a prediction, stitched across blocks, and write them as its ``labels/instances``.

    Parameters
    ----------
    prediction
        ``OUT.ome.zarr`` from predict; or, for a segmenter that works without a model, an image.
    segmenter
        Its kind; by default the one that suits the prediction's outputs.
    settings
        Its settings; what is not named has its default.
    output
        ``OUT.ome.zarr``, for an image only.
    threshold
        Foreground threshold, 0–1; by default the prediction's. Of contours, which have no foreground, the lowest score.
    block
        (z, y, x) voxels per block; the objects do not depend on it. Contours have no blocks.
    axes, channels, voxel_size_um
        Of an image.
    workers, scheduler, slurm, retries
        Where blocks are computed; see :func:`fewslice.predict`.
    overwrite
        Replace objects that were found with other settings.
    listener
        Called with progress events.

    Returns
    -------
    dict
        JSON-safe: ``output``, ``segmenter``, ``settings``, ``threshold``, ``objects``, ``dropped`` (below the smallest
        size), ``dtype``, ``block``, ``halo``, ``already_finished``.

    Raises
    ------
    InputError
        If the prediction cannot be segmented so, or holds objects that were found otherwise.
    PartialError
        If some blocks could not be read; the others are kept.
    """
    from fewslice.blocks.engine import Retry
    from fewslice.instances import open_outputs, segment_store

    tell = listener or ignore_event

    def progress(name: str, done: int, blocks: int) -> None:
        tell({"event": "block", "pass": name, "image": str(prediction), "done": done, "blocks": blocks})

    asked = _asked(prediction, segmenter, settings, output, threshold, axes, channels, voxel_size_um)
    retry = Retry(again=retries)
    with open_engine(workers, scheduler, slurm) as engine:
        if asked.output is not None:
            _mask(asked, overwrite, tell, progress, engine, retry)
        stored = open_outputs(asked.output or prediction)
        if stored.image.voxel_size_um is None:
            tell({"event": "note", "note": f"{stored.path} has no voxel size, so lengths count in voxels."})
        if hasattr(asked.module, "segment_store"):
            if block is not None:
                raise InputError(
                    f"--block does not apply to segmenter {asked.kind}, which works plane by plane; leave it out"
                )
            config = asked.config if threshold is None else asked.config.model_copy(update={"threshold": threshold})
            said: dict[str, Any] = asked.module.segment_store(
                config, stored.path, overwrite=overwrite, engine=engine, retry=retry, listener=listener
            )
            return said
        found = segment_store(
            stored, asked.kind, asked.config, threshold=threshold, block=block, overwrite=overwrite, engine=engine,
            retry=retry, progress=progress,
        )  # fmt: skip
    what = (
        "blocks could not be segmented; the same command tries again, after fewslice verify "
        f"{stored.path} --repair and the command that wrote it have mended what is damaged"
    )
    check_complete(found.failed, str(stored.path), what, tell)
    if found.already_finished:
        tell({"event": "note", "note": f"{stored.path / 'labels' / 'instances'} is finished; nothing to do"})
    return {
        "output": str(found.output),
        "segmenter": found.segmenter,
        "settings": found.settings,
        "threshold": found.threshold,
        "objects": found.objects,
        "dropped": found.dropped,
        "dtype": found.dtype,
        "block": list(found.block),
        "halo": list(found.halo),
        "already_finished": found.already_finished,
    }


def estimate_segmentation(
    prediction: str | Path,
    *,
    segmenter: str | None = None,
    settings: Mapping[str, Any] | None = None,
    output: str | Path | None = None,
    threshold: float | None = None,
    block: tuple[int, int, int] | None = None,
    axes: str | None = None,
    channels: Sequence[int] | None = None,
    voxel_size_um: tuple[float, float, float] | None = None,
    workers: int | None = None,
) -> list[Estimate]:
    """Measure on two blocks what :func:`segment` would take on this machine; nothing is kept.

    Parameters are those of :func:`segment`. Of an image, the mask is measured, not yet the objects in it.

    Raises
    ------
    InputError
        As :func:`segment`, and if it cannot fit into memory or onto the disk.
    """
    from fewslice.instances import open_outputs, preflight

    asked = _asked(prediction, segmenter, settings, output, threshold, axes, channels, voxel_size_um)
    if hasattr(asked.module, "segment_store"):
        raise InputError(f"--dry-run measures blocks, but {asked.kind} paints planes one by one; run it without")
    if asked.output is not None:
        image, source = asked.image()
        mask = preflight.estimate_mask(image, asked.output, asked.kind, asked.config, source, workers=workers or 1)
        return [mask]
    stored = open_outputs(prediction)
    return [
        preflight.estimate_segmentation(
            stored, asked.kind, asked.config, threshold=threshold, block=block, workers=workers or 1
        )
    ]


@dataclass(frozen=True)
class _Asked:
    """What is to be segmented how; `output` is the store to make of an image, None where there is a prediction."""

    kind: str
    module: ModuleType
    config: Any
    output: Path | None
    source: io.VolumeSource

    def image(self) -> tuple[Volume, io.VolumeSource]:
        """Open the image of a segmenter that works without a model."""
        assert self.output is not None
        if self.output.suffix != ".zarr":
            raise InputError(f"-o {self.output} must be named like OUT.ome.zarr; choose such a name")
        check_outputs([self.source.path], [self.output])
        return self.source.open(), self.source


def _asked(
    prediction: str | Path,
    segmenter: str | None,
    settings: Mapping[str, Any] | None,
    output: str | Path | None,
    threshold: float | None,
    axes: str | None,
    channels: Sequence[int] | None,
    voxel_size_um: tuple[float, float, float] | None,
) -> _Asked:
    """Check what :func:`segment` was asked for before anything is written."""
    from fewslice.instances import open_outputs
    from fewslice.segmenters import choose_kind

    if threshold is not None and not 0 <= threshold <= 1:
        raise InputError(f"threshold {threshold} must be between 0 and 1")
    module = None
    if segmenter is not None:
        registry.check("segmenters", segmenter)
        module = registry.load("segmenters", segmenter)
    from_image = module is not None and hasattr(module, "foreground")
    if output is not None and not from_image:
        raise InputError(
            f"-o {output} is for segmenters that work on an image, such as threshold_watershed; the objects of a "
            "prediction are written into it, so leave -o out"
        )
    if not from_image and (axes is not None or channels is not None or voxel_size_um is not None):
        raise InputError("--axes, --channels and --voxel-size-um are for images; a prediction states its own")
    if from_image and output is None:
        raise InputError(f"segmenter {segmenter} works on an image; name the store to make with -o OUT.ome.zarr")
    if from_image and threshold is not None:
        raise InputError(f"--threshold does not apply to segmenter {segmenter}, which finds its own")
    kind = segmenter or choose_kind(open_outputs(prediction).outputs)
    module = module or registry.load("segmenters", kind)
    config = checked(module.Config, dict(settings or {}), where=f"settings of {kind}")
    chosen = None if channels is None else tuple(channels)
    source = io.VolumeSource(_absolute(prediction), axes, chosen, voxel_size_um)
    return _Asked(kind, module, config, None if output is None else Path(output), source)


def _mask(
    asked: _Asked,
    overwrite: bool,
    tell: Listener,
    progress: Callable[[str, int, int], None],
    engine: Engine | None,
    retry: Retry,
) -> None:
    """Make the store that a segmenter without a model works on."""
    from fewslice.blocks.job import how_to_mend
    from fewslice.instances.from_image import mask_image

    assert asked.output is not None
    image, source = asked.image()
    if image.axes_note:
        tell({"event": "note", "note": image.axes_note})
    facts = {"axes": source.axes, "channels": source.channels and list(source.channels)}
    outcome = mask_image(
        image, asked.output, asked.kind, asked.config, attributes=facts, overwrite=overwrite, source=source,
        engine=engine, retry=retry, progress=progress,
    )  # fmt: skip
    what = f"blocks of {image.source} have no mask; {how_to_mend('image')}"
    check_complete(outcome.failed, image.source, what, tell)


def measure(
    path: str | Path,
    *,
    labels: str | None = None,
    image: str | None = None,
    regions: str | None = None,
    axes: str | None = None,
    voxel_size_um: tuple[float, float, float] | None = None,
    block: tuple[int, int, int] | None = None,
    parquet: bool = False,
    output: str | Path | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    slurm: SlurmConfig | None = None,
    retries: int = 2,
    overwrite: bool = False,
    listener: Listener | None = None,
) -> dict[str, Any]:
    """Measure and count objects, block by block; see :func:`fewslice.measurement.measure_objects`.

    Parameters
    ----------
    path
        ``OUT.ome.zarr`` with ``labels/instances`` in it, or any label image of objects.
    labels
        Name of other labels in the store.
    image, regions
        Intensities to measure, and labels of regions to count in, on the same grid.
    axes
        What the axes of files that do not state them mean.
    voxel_size_um
        z, y, x; by default what the labels state.
    block
        (z, y, x) voxels per block.
    parquet
        Write ``OUT.objects.parquet`` as well.
    output
        ``OUT.objects.csv``; by default beside `path`, named after it.
    workers, scheduler, slurm, retries
        Where blocks are computed; see :func:`fewslice.predict`.
    overwrite
        Replace a measurement of other labels or settings.
    listener
        Called with progress events.

    Returns
    -------
    dict
        Counts, densities and settings, as ``OUT.objects.json`` holds them, and ``table``, the CSV file.

    Raises
    ------
    InputError
        If there are no such labels, a shape differs, or the voxel size is unknown.
    PartialError
        If some blocks could not be measured; what is done is kept.
    """
    from fewslice.blocks.engine import Retry
    from fewslice.blocks.job import how_to_mend
    from fewslice.measurement import find_prediction, measure_objects

    source, store = _label_source(path, labels, axes)
    table = _output(output, path, "objects.csv")
    tell = listener or ignore_event
    with open_engine(workers, scheduler, slurm) as engine:
        measurement = measure_objects(
            source,
            table,
            voxel_size_um=voxel_size_um,
            image=_source(image, axes),
            regions=_source(regions, axes),
            prediction=find_prediction(store) if store is not None else None,
            block=block,
            parquet=parquet,
            overwrite=overwrite,
            engine=engine,
            retry=Retry(again=retries),
            progress=_block_teller(tell, source.path, "measure"),
        )
    what = f"blocks could not be measured, so there is no table yet; {how_to_mend('input')}"
    check_complete(measurement.outcome.failed, source.path, what, tell)
    if measurement.already_finished:
        tell({"event": "note", "note": f"{measurement.table} is finished; nothing to do"})
    return {"table": str(measurement.table), **measurement.summary}


def estimate_measurement(
    path: str | Path,
    *,
    labels: str | None = None,
    image: str | None = None,
    regions: str | None = None,
    axes: str | None = None,
    voxel_size_um: tuple[float, float, float] | None = None,
    block: tuple[int, int, int] | None = None,
    output: str | Path | None = None,
    workers: int | None = None,
) -> list[Estimate]:
    """Measure on two blocks what :func:`measure` would take on this machine; nothing is kept.

    Parameters are those of :func:`measure`.

    Raises
    ------
    InputError
        As :func:`measure`, and if it cannot fit into memory or onto the disk.
    """
    from fewslice.measurement import find_prediction, preflight

    source, store = _label_source(path, labels, axes)
    return [
        preflight.estimate_measurement(
            source,
            _output(output, path, "objects.csv"),
            voxel_size_um=voxel_size_um,
            image=_source(image, axes),
            regions=_source(regions, axes),
            prediction=find_prediction(store) if store is not None else None,
            block=block,
            workers=workers or 1,
        )
    ]


def mesh(
    path: str | Path,
    *,
    labels: str | None = None,
    objects: Sequence[int] | None = None,
    classes: Sequence[int] | None = None,
    kind: str = "glb",
    axes: str | None = None,
    voxel_size_um: tuple[float, float, float] | None = None,
    error_um: float | None = None,
    smoothing: int = 10,
    output: str | Path | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    slurm: SlurmConfig | None = None,
    retries: int = 2,
    overwrite: bool = False,
    listener: Listener | None = None,
) -> Path:
    """Write the surfaces of objects or classes; see :func:`fewslice.measurement.meshes.mesh_objects`.

    Parameters
    ----------
    path, labels, axes, voxel_size_um
        As for :func:`measure`.
    objects
        Ids; all when None.
    classes
        Values of classes whose surfaces are written instead of objects', from ``labels/segmentation``.
    kind
        ``glb``, ``ply``, ``stl``, ``obj`` or ``neuroglancer``.
    error_um
        How far a simplified surface may lie from the full one; by default half the smallest extent of a voxel.
    smoothing
        Rounds of smoothing; 0 keeps the staircase of voxels.
    output
        A folder; by default ``OUT.meshes`` beside `path`.
    workers, scheduler, slurm, retries
        Where blocks are computed; see :func:`fewslice.predict`.
    overwrite
        Replace meshes of other labels or settings.
    listener
        Called with progress events.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    InputError
        If there are no such labels, objects or classes, the voxel size is unknown, or a library is not installed.
    PartialError
        If some objects could not be done; what is done is kept.
    """
    from fewslice.blocks.engine import Retry
    from fewslice.blocks.job import how_to_mend
    from fewslice.measurement.meshes import mesh_objects

    source, objects = _mesh_source(path, labels, objects, classes, axes)
    tell = listener or ignore_event
    with open_engine(workers, scheduler, slurm) as engine:
        found = mesh_objects(
            source,
            _output(output, path, "meshes"),
            objects,
            kind=kind,
            voxel_size_um=voxel_size_um,
            error_um=error_um,
            smoothing=smoothing,
            table=_sidecar(path, "objects.csv"),
            prefix="class_" if classes is not None and kind != "neuroglancer" else "",  # which asks for numbers
            names=classes,
            overwrite=overwrite,
            engine=engine,
            retry=Retry(again=retries),
            progress=_block_teller(tell, source.path, "mesh"),
        )
    what = f"objects of {source.path} could not be meshed; {how_to_mend('label image')}"
    check_complete(found.failed, source.path, what, tell)
    if not found.written:
        tell({"event": "note", "note": f"{found.folder} is finished; nothing to do"})
    return found.folder


def estimate_meshes(
    path: str | Path,
    *,
    labels: str | None = None,
    objects: Sequence[int] | None = None,
    classes: Sequence[int] | None = None,
    kind: str = "glb",
    axes: str | None = None,
    voxel_size_um: tuple[float, float, float] | None = None,
    error_um: float | None = None,
    smoothing: int = 10,
    output: str | Path | None = None,
    workers: int | None = None,
) -> list[Estimate]:
    """Measure on a few objects what :func:`mesh` would take on this machine; nothing is kept.

    Parameters are those of :func:`mesh`.

    Raises
    ------
    InputError
        As :func:`mesh`, and if it cannot fit into memory or onto the disk.
    """
    from fewslice.measurement import preflight

    source, objects = _mesh_source(path, labels, objects, classes, axes)
    return [
        preflight.estimate_meshes(
            source,
            _output(output, path, "meshes"),
            objects,
            kind=kind,
            voxel_size_um=voxel_size_um,
            error_um=error_um,
            smoothing=smoothing,
            table=_sidecar(path, "objects.csv"),
            workers=workers or 1,
        )
    ]


def _mesh_source(
    path: str | Path,
    labels: str | None,
    objects: Sequence[int] | None,
    classes: Sequence[int] | None,
    axes: str | None,
) -> tuple[Source, Sequence[int] | None]:
    """Return the labels whose surfaces are meant, and which of them; all when None."""
    from fewslice.measurement import find_prediction

    if classes is not None and (objects is not None or labels is not None):
        raise InputError("classes are surfaces of their own; give either --class or --objects and --labels")
    source, store = _label_source(path, "segmentation" if classes is not None else labels, axes)
    if classes is not None:
        prediction = find_prediction(store) if store is not None else None
        if prediction is None:
            raise InputError(f"{path} is no output of fewslice predict, so it has no classes; give --objects")
        absent = [c for c in classes if c not in prediction.class_values]
        if absent:
            known = ", ".join(map(str, prediction.class_values))
            raise InputError(f"{path} has no class {absent[0]}; its classes are {known}")
        objects = [prediction.class_values.index(c) + 1 for c in classes]
    return source, objects


def _source(path: str | None, axes: str | None) -> Source | None:
    """Return a volume by its path, which workers with other folders find as well."""
    from fewslice.measurement import Source

    return None if path is None else Source(_absolute(path), axes)


def _absolute(path: str | Path) -> str:
    return str(path) if io.is_address(path) else str(Path(path).absolute())


def _label_source(path: str | Path, labels: str | None, axes: str | None) -> tuple[Source, Path | None]:
    """Return the labels that are meant, and the OME-Zarr image they belong to, if any."""
    from fewslice.measurement import Source
    from fewslice.segmenters import check_finished

    place = Path(path)
    if not place.exists() and ":" not in str(path):
        raise InputError(f"{path} does not exist; check the path")
    known = [entry["name"] for entry in io.describe(place, axes=axes)["labels"]] if place.is_dir() else []
    if labels is None and not known and not (place / "labels").is_dir():
        check_finished(place)
        volume = io.open_labels(path, axes=axes)
        if "outputs" in volume.attributes:
            raise InputError(f"{path} holds no labels of objects; make them with fewslice segment first")
        return Source(_absolute(path), axes), None
    name = labels or "instances"
    if name not in known:
        has = f"its labels are {', '.join(known)}" if known else "it has none"
        raise InputError(f"{path} has no labels '{name}' ({has}); run fewslice segment first, or choose with --labels")
    check_finished(place / "labels" / name)
    return Source(_absolute(place / "labels" / name)), place


def _output(asked: str | Path | None, path: str | Path, what: str) -> Path:
    """Return the place that was asked for, if something can be made there, or the usual one beside an image."""
    place = Path(asked) if asked is not None else _sidecar(path, what)
    check_outputs([], [place])
    return place


def _sidecar(path: str | Path, what: str) -> Path:
    """Return the name of a file beside an image, or beside the store that the image lies in."""
    place = Path(str(path).partition(":")[0]).absolute() if not Path(path).exists() else Path(path).absolute()
    stores = [p for p in (place, *place.parents) if p.suffix.lower() == ".zarr"]
    outer = stores[-1] if stores else place
    name = outer.name
    for ending in (".zarr", ".tiff", ".tif", ".h5", ".hdf5", ".ome"):
        name = name[: -len(ending)] if name.lower().endswith(ending) else name
    return outer.with_name(f"{name}.{what}")


def _block_teller(tell: Listener, source: str, verb: str) -> Callable[[int, int], None]:
    return lambda done, blocks: tell({"event": "block", "pass": verb, "image": source, "done": done, "blocks": blocks})
