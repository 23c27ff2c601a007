"""Files in and out: describe, convert, simulate, export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewslice import io, registry
from fewslice.errors import InputError
from fewslice.experiment import checked, merged, read_experiment
from fewslice.workflow.common import Listener, check_outputs, find_model, ignore_event

if TYPE_CHECKING:
    from fewslice.volume import Volume

__all__ = ["convert", "export", "info", "simulate"]

_LARGEST_SIMULATION = 2**30


def info(path: str | Path, *, axes: str | None = None) -> dict[str, Any]:
    """Describe a volume, its voxel, chunks and labels, without reading it; `axes` if the file does not name them."""
    return io.describe(path, axes=axes)


def convert(source: str | Path, target: str | Path, **options: Any) -> Path:
    """Convert a volume to another format; see :func:`fewslice.io.convert`."""
    io.convert(source, target, **options)
    return Path(target)


def simulate(
    kind: str,
    output: str | Path,
    *,
    like: Sequence[str] = (),
    shape: tuple[int, int, int] | None = None,
    count: int = 1,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    description: str | Path | None = None,
    axes: str | None = None,
    channels: Sequence[int] | None = None,
    voxel_size_um: tuple[float, float, float] | None = None,
    overwrite: bool = False,
    listener: Listener | None = None,
) -> dict[str, Any]:
    """Simulate images with exact annotation; images of the same request that exist are kept.

    Parameters
    ----------
    kind
        Simulator, such as ``stained_section``.
    output
        ``OUT.ome.zarr`` for one image, else a folder. Every image has ``labels/instances`` and ``labels/classes``.
    like
        Unlabelled images, as paths or quoted globs, that the settings are fitted to.
    shape
        (z, y, x); by default that of the first image in `like`, else the simulator's.
    count, seed
        How many images, and of which random numbers; image i of a seed is the same for any count.
    settings
        Nested settings of the simulator, which a fit leaves as they are.
    description
        The ``simulation.yaml`` of an earlier simulation, whose settings are used.
    axes, channels
        For the images in `like`, as in :func:`fewslice.io.open_volume`.
    voxel_size_um
        (z, y, x); by default that of the images in `like`, else the simulator's.
    overwrite
        Replace another simulation.
    listener
        Called with events.

    Returns
    -------
    dict
        JSON values: ``outputs``, ``description`` (where the settings are), ``voxel_size_um``, ``voxel_size_from``, and
        ``fit`` (see :func:`fewslice.synthesis.fitting.fit`) or None.

    Raises
    ------
    InputError
        If a setting or an image in `like` cannot be used, or `output` holds something else.
    """
    import numpy as np

    from fewslice.data.samples import expand
    from fewslice.synthesis import store
    from fewslice.synthesis.fitting import fit

    module = registry.load("synthesis.simulators", kind)
    place, tell = Path(output), listener or ignore_event
    paths = store.outputs(place, count)
    content: dict[str, Any] = {}
    if description is not None:
        known = store.read_description(Path(description))
        if known["kind"] != kind:
            raise InputError(f"{description} describes a {known['kind']}, not a {kind}; name that kind")
        content = known["config"]
    wanted = {"shape": shape, "voxel_size_um": voxel_size_um}
    own = dict(settings or {}) | {name: list(value) for name, value in wanted.items() if value is not None}
    content = merged(content, own)
    config = checked(module.Config, content, where=f"settings of {kind}")
    sources = expand(like)
    check_outputs(sources, [place])
    fitted, origin = None, "set" if "voxel_size_um" in content else f"the default of {kind}"
    if sources:
        images = [io.open_volume(path, axes=axes, channels=channels) for path in sources]
        for image in images:
            if image.axes_note:
                tell({"event": "note", "note": image.axes_note})
        if origin != "set" and images[0].voxel_size_um is not None:
            origin = f"from {images[0].source}"
        config, fitted = fit(kind, images, settings=content, seed=seed)
    values = config.model_dump(mode="json")
    if np.prod(values["shape"], dtype=np.float64) > _LARGEST_SIMULATION:
        raise InputError(
            f"shape {tuple(values['shape'])} is too large to simulate at once; give a smaller --shape and --count"
        )
    tell({"event": "note", "note": f"voxel size z,y,x {_by_comma(values['voxel_size_um'])} µm: {origin}"})
    about = {"kind": kind, "version": module.VERSION, "seed": seed, "count": count}
    about |= {"like": [str(Path(path).absolute()) for path in sources], "voxel_size_from": origin}
    store.claim(place, about | {"config": values, "fit": fitted}, overwrite=overwrite)
    for index, path in enumerate(paths):
        if not path.exists():
            simulation = module.simulate(config, np.random.default_rng([seed, index]))
            store.write_simulation(path, simulation, {"kind": kind, "seed": [seed, index]})
        tell({"event": "simulated", "image": str(path), "done": index + 1, "images": count})
    return {
        "outputs": [str(path) for path in paths],
        "description": str(store.description_path(place)),
        "voxel_size_um": values["voxel_size_um"],
        "voxel_size_from": origin,
        "fit": fitted,
    }


def _by_comma(values: Sequence[float]) -> str:
    return ",".join(f"{value:g}" for value in values)


def export(
    run_or_model: str | Path,
    kind: str,
    output: str | Path,
    *,
    image: str | None = None,
    axes: str | None = None,
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a trained model for other tools; see :mod:`fewslice.export`.

    Parameters
    ----------
    run_or_model
        A run folder, or the folder of a model.
    kind
        ``onnx`` or ``bioimageio``.
    output
        The file; the kind's suffix is added where it has none.
    image, axes
        An image to show the model, and the order of its axes; by default the first one it was trained on.
    settings
        Of the kind.
    overwrite
        Replace an existing file.

    Raises
    ------
    InputError
        If the model, the kind, its settings or the image cannot be used, or the file exists.
    """
    component = registry.load("export", kind)
    run_folder, model_folder = find_model(run_or_model)
    config = checked(component.Config, dict(settings or {}), where=f"the settings of {kind}")
    target = Path(output)
    if target.suffix != component.SUFFIX:
        target = target.with_name(target.name + component.SUFFIX)
    if target.exists() and not overwrite:
        raise InputError(f"{target} exists; choose another output or pass --overwrite")
    if not target.absolute().parent.is_dir():
        raise InputError(f"{target.absolute().parent} is not a folder; create it first")

    from fewslice.model import Model

    model = Model.load(model_folder)
    if model.contours:
        raise InputError(f"{run_or_model} proposes contours, which {kind} cannot hold; export a segmentation model")
    volume = _image_to_show(run_folder, image, axes, model.in_channels)
    component.export(config, model, target, volume, str(run_folder))
    return target


def _image_to_show(run_folder: Path, image: str | None, axes: str | None, channels: int) -> Volume:
    """Open an image that the model can be shown, by default the first one it was trained on."""
    if image is None:
        path = run_folder / "experiment.yaml"
        if not path.exists():
            raise InputError(f"{run_folder} is a model without its run, so there is no image to show it; give --image")
        experiment = read_experiment(path)
        image, axes = experiment.images[0], axes or experiment.axes
        try:
            return io.open_volume(image, axes=axes, channels=experiment.channels, expected_channels=channels)
        except InputError as error:
            raise InputError(
                f"the image that {run_folder} was trained on cannot be used: {error}; give --image"
            ) from None
    return io.open_volume(image, axes=axes, expected_channels=channels)
