"""A trained model: networks chained, with everything prediction needs, and nothing that runs code when loaded.

On disk a model is a folder with ``model.safetensors`` (weights) and ``model.json`` (the rest). Loading checks the
format version, refuses unknown keys and verifies the weights against the hash in the JSON.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import nn

from fewslice import registry
from fewslice.data.neighbours import Neighbours, gather
from fewslice.data.normalisation import Normalisation
from fewslice.errors import InputError
from fewslice.files import write_atomic, write_json
from fewslice.morphology.proposals import Proposals, join

__all__ = [
    "FORMAT_VERSION",
    "Model",
    "NetworkStep",
    "Output",
    "Views",
    "build_network",
    "median_of_planes",
    "outputs_of",
    "views_of",
]

FORMAT_VERSION = 4

Triple = tuple[int, int, int]
Views = Literal[1, 4, 8, 16]

_GROUP_PIXELS = 2**20
"""Planes go through a 2D network together as long as they hold no more pixels, context included."""


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Output(_Frozen):
    """One channel that the model writes."""

    name: str
    kind: Literal["probability", "boundary", "distance", "contour"] = "probability"
    range: tuple[float, float] = (0.0, 1.0)
    dtype: str = "uint8"


class NetworkStep(_Frozen):
    """One network of the chain.

    Attributes
    ----------
    network
        Its settings, with its ``kind``.
    in_channels, out_channels
        Channels in, classes (background included) out, and what is said of objects after them.
    objects
        Of the last step: what its last channel says of objects, ``boundary`` or ``distance``; None: nothing.
    plane_axis
        For 2D networks, the axis (0, 1, 2 = z, y, x) along which planes are stacked.
    views
        Views averaged at prediction: 1, 4 (flips in the plane), 8 (flips and right-angle rotations, where pixels are
        square; elsewhere the 4 flips) or 16 (those 8 and their mirror images along z; 2D networks take 8).
    gather
        Of a 2D network: it sees the probabilities of the step before it on neighbouring planes, and the image, as
        channels. None: it sees what comes out of the step before it, the first step the image.
    """

    network: dict[str, Any]
    in_channels: int
    out_channels: int
    plane_axis: int = 0
    views: Views = 1
    gather: Neighbours | None = None
    objects: Literal["boundary", "distance"] | None = None


class _Stored(_Frozen):
    """The content of ``model.json``."""

    format_version: int
    steps: tuple[NetworkStep, ...]
    outputs: tuple[Output, ...]
    normalisation: dict[str, Any]
    class_values: tuple[int, ...]
    threshold: float
    median: int = 1
    voxel_size_um: tuple[float, float, float] | None
    patch: Triple
    halo: Triple
    provenance: dict[str, Any]
    signal: tuple[float, ...] | None = None
    weights_sha256: str


def build_network(settings: dict[str, Any], in_channels: int, out_channels: int) -> nn.Module:
    """Build a network from its settings.

    Parameters
    ----------
    settings
        ``{"kind": …}`` and that kind's configuration.
    in_channels, out_channels
        Image channels in, classes (background included) out.
    """
    module = registry.load("networks", settings["kind"])
    config = module.Config(**{k: v for k, v in settings.items() if k != "kind"})
    network: nn.Module = module.build(config, in_channels, out_channels)
    return network


class Model:
    """An ordered chain of networks that turns an image into named outputs.

    Attributes
    ----------
    steps, networks
        The chain and its networks, in order.
    normalisation
        Applied to the image before the first step.
    outputs
        What is written: one probability per foreground class, or of a model that proposes contours one score; then, of
        a model that learned objects, their boundary or distance.
    class_values
        The value that class k had in the user's label files, at index k − 1.
    threshold
        Foreground where the summed foreground probability reaches it; contours are proposed where the score does.
    median
        Planes, odd, over which the probabilities' median is taken along the axis of the planes; 1: none is.
    voxel_size_um
        (z, y, x) of the training images, or None.
    patch
        (z, y, x) that training used, in voxels.
    halo
        (z, y, x) context that block prediction reads by default, in voxels.
    provenance
        Strategy, training data, licence, seed.
    signal
        Per channel, an intensity that everything annotated as foreground exceeds by far, in the image's units: what
        is darker everywhere may be skipped. None if unknown.
    """

    def __init__(
        self,
        steps: Sequence[NetworkStep],
        networks: Sequence[nn.Module],
        *,
        normalisation: Normalisation,
        class_values: Sequence[int],
        threshold: float = 0.5,
        median: int = 1,
        voxel_size_um: tuple[float, float, float] | None = None,
        patch: Triple = (1, 256, 256),
        halo: Triple | None = None,
        provenance: dict[str, Any] | None = None,
        signal: tuple[float, ...] | None = None,
    ) -> None:
        self.steps = tuple(steps)
        self.networks = tuple(network.eval() for network in networks)
        self.normalisation = normalisation
        self.class_values = tuple(int(v) for v in class_values)
        names = ["foreground"] if len(self.class_values) == 1 else [f"class_{v}" for v in self.class_values]
        outputs = [Output(name=name, kind="contour" if self.contours else "probability") for name in names]
        objects = self.steps[-1].objects
        if objects is not None:
            outputs.append(Output(name=objects, kind=objects))
        self.outputs = tuple(outputs)
        self.threshold = float(threshold)
        if median < 1 or median % 2 == 0:
            raise InputError(f"median is over {median} planes; give an odd number, 1 for none")
        self.median = median
        self.voxel_size_um = voxel_size_um
        self.patch = patch
        self.halo: Triple = halo if halo is not None else self.receptive_halo
        self.provenance = provenance or {}
        self.signal = signal

    @property
    def in_channels(self) -> int:
        """Number of image channels the model expects."""
        return self.steps[0].in_channels

    @property
    def classes(self) -> int:
        """Number of foreground classes, whose outputs come first."""
        return len(self.class_values)

    @property
    def dims(self) -> int:
        """2 if every network of the chain sees planes alone, else 3."""
        return max(int(network.dims) for network in self.networks)  # type: ignore[arg-type]

    @property
    def contours(self) -> bool:
        """Whether the model proposes contours; see :meth:`proposals`."""
        return hasattr(self.networks[-1], "propose")

    @property
    def plane_axis(self) -> int:
        """The axis (0, 1, 2 = z, y, x) along which planes are stacked: that of 2D networks, else z."""
        return self.steps[0].plane_axis

    @property
    def receptive_halo(self) -> Triple:
        """The full receptive-field radius of the chain, (z, y, x) in voxels."""
        total = np.zeros(3, dtype=int)
        for step, network in zip(self.steps, self.networks, strict=True):
            total += np.asarray(_axes_of(network, step, "halo"))
            total[step.plane_axis] += step.gather.reach if step.gather is not None else 0
            reach = int(getattr(network, "reach", 0))
            total += [0 if axis == step.plane_axis else reach for axis in range(3)]
        total[self.plane_axis] += self.median // 2
        return (int(total[0]), int(total[1]), int(total[2]))

    @property
    def divisor(self) -> Triple:
        """Blocks are aligned to multiples of this, (z, y, x) in voxels."""
        total = np.ones(3, dtype=int)
        for step, network in zip(self.steps, self.networks, strict=True):
            total = np.lcm(total, np.asarray(_axes_of(network, step, "divisor")))
        return (int(total[0]), int(total[1]), int(total[2]))

    def with_views(self, views: int | None) -> Model:
        """Average another number of views at prediction, or keep the model's own with None; return the model."""
        if views is not None:
            self.steps = tuple(step.model_copy(update={"views": views}) for step in self.steps)
        return self

    def to(self, device: torch.device | str) -> Model:
        """Move the networks to `device`, in the memory layout that is fastest there, and return the model."""
        for network in self.networks:
            layout = torch.channels_last if network.dims == 2 else torch.channels_last_3d
            network.to(device=device, memory_format=layout)  # type: ignore[call-overload]
        return self

    def _views(self, step: NetworkStep, network: nn.Module) -> list[View]:
        """Return the step's views, but no right-angle turns where pixels of the plane are not square."""
        square = True
        if self.voxel_size_um is not None:
            axis = step.plane_axis if network.dims == 2 else 0
            across, along = (size for a, size in enumerate(self.voxel_size_um) if a != axis)
            square = abs(across / along - 1) <= 0.1
        # a turned plane must still be a multiple of the network's divisor, which padding made it for each axis
        divisor: Triple = network.divisor  # type: ignore[assignment]
        return views_of(step.views, dims=int(network.dims), square=square and divisor[-1] == divisor[-2])  # type: ignore[arg-type]

    def check_channels(self, channels: int, source: str) -> None:
        """Refuse an image with another number of channels than the model was trained on.

        Raises
        ------
        InputError
            If `channels` of `source` is not the model's number.
        """
        if channels != self.in_channels:
            raise InputError(
                f"{source} has {channels} channels, but the model was trained on {self.in_channels}; "
                "choose channels with --channels or name the axes with --axes"
            )

    @torch.inference_mode()
    def probabilities(self, image: NDArray[np.generic], *, bfloat16: bool | None = None) -> NDArray[np.float32]:
        """Predict one block.

        Parameters
        ----------
        image
            (c, z, y, x) raw intensities, context included; any numeric type.
        bfloat16
            Compute in bfloat16; by default where the device is fast at it.

        Returns
        -------
        ndarray
            (outputs, z, y, x) float32 in 0–1, of the same extent, the probabilities of the classes first; voxels within
            the halo of a border that is not the volume's own are only approximate.

        Raises
        ------
        InputError
            If the number of channels is not the model's.
        """
        self.check_channels(image.shape[0], "the image")
        device = next(self.networks[0].parameters()).device
        use_bfloat16 = prefers_bfloat16(device) if bfloat16 is None else bfloat16
        x = torch.from_numpy(self.normalisation.apply(image))[None].to(device)
        extent = x.shape[2:]
        x = _pad_to(x, self.divisor)
        first = x
        with torch.autocast(device.type, torch.bfloat16, enabled=use_bfloat16):
            for step, network in zip(self.steps, self.networks, strict=True):
                x = _run_step(step, network, x, first, self._views(step, network))
        x = median_of_planes(x, self.median, self.plane_axis)
        x = x[0, :, : extent[0], : extent[1], : extent[2]]
        return np.ascontiguousarray(x.float().cpu().numpy())

    @torch.inference_mode()
    def proposals(
        self, image: NDArray[np.generic], threshold: float | None = None, *, bfloat16: bool | None = None
    ) -> tuple[NDArray[np.float32], Proposals]:
        """Predict one block with a model that proposes contours.

        Parameters
        ----------
        image
            (c, z, y, x) raw intensities, context included; any numeric type.
        threshold
            Scores from which on a contour is proposed, 0–1; by default the model's.
        bfloat16
            Compute in bfloat16; by default where the device is fast at it.

        Returns
        -------
        scores
            (outputs, z, y, x) float32 in 0–1, as from :meth:`probabilities`.
        proposals
            In voxels of the block, none suppressed.

        Raises
        ------
        InputError
            If the model proposes no contours or averages views, or the number of channels is not the model's.
        """
        step, network = self.steps[-1], self.networks[-1]
        if not self.contours or len(self.steps) > 1 or step.views != 1:
            raise InputError(
                f"contours are proposed by one network that sees one view, but this model has {len(self.steps)} "
                f"network(s) and {step.views} view(s); predict with --views 1, with a model of the strategy contours"
            )
        self.check_channels(image.shape[0], "the image")
        device = next(network.parameters()).device
        use_bfloat16 = prefers_bfloat16(device) if bfloat16 is None else bfloat16
        least = self.threshold if threshold is None else threshold
        axis = step.plane_axis
        height, width = (e for a, e in enumerate(image.shape[1:]) if a != axis)
        group = max(1, _GROUP_PIXELS // (height * width))
        found, scores = [], []
        for start in range(0, image.shape[1 + axis], group):
            chosen = np.arange(start, min(start + group, image.shape[1 + axis]))
            x = torch.from_numpy(self.normalisation.apply(image.take(chosen, 1 + axis)))[None].to(device)
            planes = _pad_to(x, self.divisor).movedim(2 + axis, 1)[0].contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, torch.bfloat16, enabled=use_bfloat16):
                maps = network(planes)
            scores.append(network.scores(maps)[:, :, :height, :width].cpu())  # type: ignore[operator]
            proposed = network.propose(maps, least, (height, width))  # type: ignore[operator]
            anchor, score, category, contour = (value.cpu().numpy() for value in proposed)
            places = [anchor[:, 1], anchor[:, 2]]
            places.insert(axis, anchor[:, 0] + start)
            found.append(Proposals(np.stack(places, 1), score, category.astype(np.uint8), contour, axis))
        volume = torch.cat(scores).movedim(0, 1 + axis).float().numpy()
        return np.ascontiguousarray(volume), join(found)

    def save(self, folder: Path) -> None:
        """Write ``model.safetensors`` and ``model.json`` into `folder`, weights first, each atomically."""
        from safetensors.torch import save

        folder.mkdir(parents=True, exist_ok=True)
        tensors = {
            f"{index}.{name}": value.detach().cpu().contiguous().clone()
            for index, network in enumerate(self.networks)
            for name, value in network.state_dict().items()
        }
        data = save(dict(sorted(tensors.items())))
        write_atomic(folder / "model.safetensors", data)
        stored = _Stored(
            format_version=FORMAT_VERSION,
            steps=self.steps,
            outputs=self.outputs,
            normalisation={
                "method": self.normalisation.method,
                "offset": list(self.normalisation.offset),
                "scale": list(self.normalisation.scale),
            },
            class_values=self.class_values,
            threshold=self.threshold,
            median=self.median,
            voxel_size_um=self.voxel_size_um,
            patch=self.patch,
            halo=self.halo,
            provenance=self.provenance,
            signal=self.signal,
            weights_sha256=hashlib.sha256(data).hexdigest(),
        )
        write_json(folder / "model.json", stored.model_dump(mode="json"))

    @classmethod
    def load(cls, folder: Path) -> Model:
        """Read a model written by :meth:`save`. Runs no code from the file.

        Raises
        ------
        InputError
            If a file is missing or damaged, has unknown keys, or was written by a newer version.
        """
        from safetensors.torch import load

        stored = _read_description(folder / "model.json")
        weights = folder / "model.safetensors"
        if not weights.is_file():
            raise InputError(f"{weights} is missing beside model.json; train again or copy the whole model folder")
        data = weights.read_bytes()
        if hashlib.sha256(data).hexdigest() != stored.weights_sha256:
            raise InputError(
                f"{weights} is damaged: its content does not match the hash in model.json; copy it again or retrain"
            )
        tensors = load(data)
        networks = []
        for index, step in enumerate(stored.steps):
            network = build_network(step.network, step.in_channels, step.out_channels)
            prefix = f"{index}."
            own = {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
            try:
                network.load_state_dict(own)
            except RuntimeError as error:
                raise InputError(
                    f"{weights} does not fit the network described in model.json; copy the whole model folder again"
                ) from error
            networks.append(network)
        n = stored.normalisation
        return cls(
            stored.steps,
            networks,
            normalisation=Normalisation(n["method"], tuple(n["offset"]), tuple(n["scale"])),
            class_values=stored.class_values,
            threshold=stored.threshold,
            median=stored.median,
            voxel_size_um=stored.voxel_size_um,
            patch=stored.patch,
            halo=stored.halo,
            provenance=stored.provenance,
            signal=stored.signal,
        )


def model_hash(folder: Path) -> str:
    """Return the identity of a saved model: a hash of its description, which holds the hash of its weights."""
    try:
        return hashlib.sha256((folder / "model.json").read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(
            f"{folder} holds no model.json; train first, or give the run folder that train made"
        ) from error


def prefers_bfloat16(device: torch.device) -> bool:
    """Whether the device computes faster in bfloat16 than in float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


View = tuple[bool, bool, bool, bool]
"""Operations that make a view, in this order: transpose y and x, flip z, flip y, flip x."""


def views_of(count: int, *, dims: int, square: bool = True) -> list[View]:
    """Return the views that a network of `dims` dimensions averages when asked for `count`.

    Parameters
    ----------
    count
        1, 4, 8 or 16.
    dims
        2 or 3; planes have no z to flip.
    square
        Whether pixels of the plane are square, so that a plane may be turned.
    """
    both, one = (False, True), (False,)
    turns = both if count >= 8 and square else one
    flips_z = both if count == 16 and dims == 3 else one
    flips = both if count > 1 else one
    return [(t, z, y, x) for t in turns for z in flips_z for y in flips for x in flips]


def make_view(x: torch.Tensor, view: View) -> torch.Tensor:
    """Show (b, c, [z,] y, x) in another orientation."""
    return _flipped(x.transpose(-1, -2) if view[0] else x, view)


def undo_view(x: torch.Tensor, view: View) -> torch.Tensor:
    """Bring a view back to the orientation of the original."""
    x = _flipped(x, view)
    return x.transpose(-1, -2) if view[0] else x


def _flipped(x: torch.Tensor, view: View) -> torch.Tensor:
    axes = [axis for axis, flip in zip((-3, -2, -1), view[1:], strict=True) if flip]
    return x.flip(axes) if axes else x


def _read_description(path: Path) -> _Stored:
    if not path.is_file():
        raise InputError(f"{path} does not exist; train first, or give the run folder that train made")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = int(content["format_version"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a model description; copy the whole model folder again or retrain") from error
    if version > FORMAT_VERSION:
        raise InputError(
            f"{path} has format version {version}, this fewslice reads up to {FORMAT_VERSION}; update fewslice"
        )
    try:
        return _Stored(**content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{path}: {key}: {first['msg']}; copy the whole model folder again or retrain") from error


def _axes_of(network: nn.Module, step: NetworkStep, name: str) -> Triple:
    """Read `halo` or `divisor` of a network in the axes of the volume; 2D networks give theirs as (0 or 1, y, x)."""
    value = tuple(int(v) for v in getattr(network, name))
    if network.dims == 2:
        rest = list(value[1:])
        rest.insert(step.plane_axis, value[0])
        return (rest[0], rest[1], rest[2])
    return (value[0], value[1], value[2])


def _pad_to(x: torch.Tensor, divisor: Triple) -> torch.Tensor:
    """Extend (b, c, z, y, x) at the far ends to multiples of `divisor` by repeating the last plane."""
    missing = [-extent % d for extent, d in zip(x.shape[2:], divisor, strict=True)]
    if not any(missing):
        return x
    return nn.functional.pad(x, (0, missing[2], 0, missing[1], 0, missing[0]), mode="replicate")


def _run_step(
    step: NetworkStep, network: nn.Module, x: torch.Tensor, image: torch.Tensor, views: list[View]
) -> torch.Tensor:
    """Run one network over (1, c, z, y, x) and return its outputs, 0–1, (1, k, z, y, x)."""
    if network.dims == 3:
        return _mean_of_views(step, network, x.contiguous(memory_format=torch.channels_last_3d), views)
    planes, behind = (t.movedim(2 + step.plane_axis, 1)[0] for t in (x, image))  # (planes, c, h, w)
    group = max(1, _GROUP_PIXELS // (planes.shape[-1] * planes.shape[-2]))
    done = []
    for start in range(0, len(planes), group):
        stop = min(start + group, len(planes))
        part = planes[start:stop] if step.gather is None else _gathered(step.gather, planes, behind, start, stop)
        done.append(_mean_of_views(step, network, part.contiguous(memory_format=torch.channels_last), views))
    return torch.cat(done)[None].movedim(1, 2 + step.plane_axis)


def _gathered(
    neighbours: Neighbours, probabilities: torch.Tensor, image: torch.Tensor, start: int, stop: int
) -> torch.Tensor:
    """Put the planes around start … stop into channels: (planes, c, h, w) of both to (stop − start, channels, h, w)."""
    p = gather(probabilities, neighbours.planes, start, stop)
    if neighbours.threshold is not None:
        p = (p >= neighbours.threshold).to(p.dtype)
    return torch.cat((p, gather(image, neighbours.image_planes, start, stop).to(p.dtype)), dim=1)


def outputs_of(logits: torch.Tensor, objects: str | None) -> torch.Tensor:
    """Turn what a network returns, (b, classes, …), into what a model writes.

    Parameters
    ----------
    logits
        Of the classes, background first; and of ``boundary`` or ``distance``, if `objects` names one, after them.
    objects
        See :class:`NetworkStep`.

    Returns
    -------
    Tensor
        (b, outputs, …), 0–1: probabilities of the foreground classes, then that of the objects.
    """
    if objects is None:
        return logits.softmax(1)[:, 1:]
    return torch.cat((logits[:, :-1].softmax(1)[:, 1:], logits[:, -1:].sigmoid()), dim=1)


def _mean_of_views(step: NetworkStep, network: nn.Module, x: torch.Tensor, views: list[View]) -> torch.Tensor:
    total: torch.Tensor | None = None
    for view in views:
        out = network(make_view(x, view))
        p = outputs_of(out.float(), step.objects) if isinstance(out, torch.Tensor) else network.scores(out)  # type: ignore[operator]
        p = undo_view(p, view)
        total = p if total is None else total + p
    assert total is not None
    return total / len(views)


def median_of_planes(x: torch.Tensor, count: int, axis: int) -> torch.Tensor:
    """Take the median over `count` planes along `axis` (0, 1, 2) of (1, k, z, y, x), the ends repeated."""
    if count == 1:
        return x
    planes = x.movedim(2 + axis, 0)
    middle = [
        gather(planes, count, i, i + 1).reshape(count, *planes.shape[1:]).median(dim=0).values
        for i in range(len(planes))
    ]
    return torch.stack(middle).movedim(0, 2 + axis)
