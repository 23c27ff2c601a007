"""Proposals block by block: each once, the same as without blocks, resumable, and never mixed with others."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fewslice import io
from fewslice.data.normalisation import Normalisation
from fewslice.errors import InputError
from fewslice.evaluation import open_segmentation
from fewslice.model import Model, NetworkStep, build_network
from fewslice.morphology.proposals import Proposals, ranking, suppress
from fewslice.prediction import predict_volume
from fewslice.prediction.proposals import folder_of, read_proposals
from fewslice.prediction.whole import quantised
from fewslice.volume import Volume

SETTINGS: dict[str, Any] = {
    "kind": "contour_proposals",
    "features": 4,
    "depth": 2,
    "order": 2,
    "samples": 8,
    "radius": 5.0,
    "reach": 9,
}


def _model(axis: int = 0, **options: Any) -> Model:
    """Weights as drawn, but a refinement field that matters."""
    torch.manual_seed(1)
    network = build_network(SETTINGS, 1, 3)
    torch.nn.init.xavier_uniform_(network.refinement[-1].weight, gain=3.0)  # type: ignore[union-attr, index]
    step = NetworkStep(network=SETTINGS, in_channels=1, out_channels=3, plane_axis=axis, **options)
    return Model([step], [network], normalisation=Normalisation("robust", (100.0,), (50.0,)), class_values=(1, 7))


def _image(shape: tuple[int, int, int] = (3, 75, 90)) -> Volume:
    values = np.random.default_rng(0).integers(0, 255, (1, *shape), dtype=np.uint8)
    return Volume.from_array(values, (2.0, 0.5, 0.5))


def _sorted(proposals: Proposals) -> Proposals:
    return proposals.taken(np.lexsort(proposals.anchor.T))


def _gap(scores: Any) -> float:
    """A threshold in the widest gap between scores near their upper quarter, so that no rounding decides."""
    few = np.sort(scores)[int(0.7 * len(scores)) : int(0.8 * len(scores))]
    widest = int(np.diff(few).argmax())
    return float(few[widest : widest + 2].mean())


def _files(folder: Path) -> dict[str, str]:
    found = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in found}


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("block", [(3, 31, 90), (1, 24, 37), (2, 75, 23)])
def test_blocks_propose_what_the_whole_proposes(tmp_path: Path, axis: int, block: tuple[int, int, int]) -> None:
    """Blocks of odd extents, refined contours: every proposal once, with the same score, class and points."""
    model = _model(axis)
    shape = tuple(np.roll((3, 75, 90), axis) if axis != 1 else (75, 3, 90))
    image = _image((int(shape[0]), int(shape[1]), int(shape[2])))
    cut = dict(zip(sorted(shape), sorted(block), strict=True))  # thin along the axis of the planes
    _, everything = model.proposals(image.read(), 0.0)
    threshold = _gap(everything.score)
    scores, whole = model.proposals(image.read(), threshold)
    out = tmp_path / "OUT.ome.zarr"
    blocks = tuple(min(cut[s], s) for s in shape)
    done = predict_volume(model, image, out, model_id="m", block=blocks, threshold=threshold)
    assert done.outcome.done == np.prod([-(-s // b) for s, b in zip(shape, blocks, strict=True)]) > 1
    stored = io.open_volume(out).read()
    assert stored.shape == (2, *shape) and np.abs(stored.astype(int) - quantised(scores).astype(int)).max() <= 1
    found, expected = _sorted(read_proposals(out)), _sorted(whole)
    assert 100 < len(expected) == len(found) < len(everything)
    np.testing.assert_array_equal(found.anchor, expected.anchor)
    np.testing.assert_array_equal(found.category, expected.category)
    np.testing.assert_allclose(found.score, expected.score, atol=2e-3)
    np.testing.assert_allclose(found.contour, expected.contour, atol=0.1)
    assert np.median(np.abs(found.contour - expected.contour)) < 1e-3


def test_the_halo_covers_what_contours_reach(tmp_path: Path) -> None:
    """With the network's own halo alone, points that are refined beyond it differ: the test above would notice."""
    model, image = _model(), _image((1, 75, 90))
    network = model.networks[0]
    assert model.halo == model.receptive_halo == (0, network.halo[1] + 9, network.halo[2] + 9)  # type: ignore[index]
    _, whole = model.proposals(image.read(), 0.0)
    options: dict[str, Any] = {"model_id": "m", "block": (1, 25, 30), "threshold": 0.0}
    predict_volume(model, image, tmp_path / "a.ome.zarr", halo=tuple(network.halo), **options)  # type: ignore[arg-type]
    found = _sorted(read_proposals(tmp_path / "a.ome.zarr"))
    assert np.abs(found.contour - _sorted(whole).contour).max() > 0.5


def test_an_interrupted_prediction_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    model, image = _model(), _image()
    options: dict[str, Any] = {"model_id": "m", "block": (3, 25, 30), "threshold": 0.5}
    predict_volume(model, image, tmp_path / "a" / "x.ome.zarr", **options)

    def stop(done: int, blocks: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_volume(model, image, tmp_path / "b" / "x.ome.zarr", progress=stop, **options)
    with pytest.raises(InputError, match="is not finished"):
        read_proposals(tmp_path / "b" / "x.ome.zarr")
    resumed = predict_volume(model, image, tmp_path / "b" / "x.ome.zarr", **options)
    assert resumed.outcome.skipped >= 2
    assert _files(tmp_path / "a") == _files(tmp_path / "b")
    assert len(list(folder_of(tmp_path / "a" / "x.ome.zarr").iterdir())) == 9
    assert predict_volume(model, image, tmp_path / "b" / "x.ome.zarr", **options).already_finished


def test_proposals_of_others_are_never_overwritten_unasked(tmp_path: Path) -> None:
    model, image, out = _model(), _image((1, 20, 20)), tmp_path / "x.ome.zarr"
    folder_of(out).mkdir()
    (folder_of(out) / "mine.txt").write_text("kept")
    for overwrite in (False, True):
        with pytest.raises(InputError, match=r"also holds mine\.txt"):
            predict_volume(model, image, out, model_id="m", overwrite=overwrite)
    assert (folder_of(out) / "mine.txt").read_text() == "kept" and not out.exists()
    (folder_of(out) / "mine.txt").rename(folder_of(out) / "0_0_7.npz")
    with pytest.raises(InputError, match="exists without its output"):
        predict_volume(model, image, out, model_id="m")
    predict_volume(model, image, out, model_id="m", overwrite=True, threshold=0.4)
    assert [p.name for p in folder_of(out).iterdir()] == ["0_0_0.npz"]
    with pytest.raises(InputError, match="another image, model or settings"):
        predict_volume(model, image, out, model_id="other")
    predict_volume(model, image, out, model_id="other", overwrite=True, threshold=1.0)
    assert len(read_proposals(out)) == 0
    (folder_of(out) / "mine.txt").write_text("kept")
    with pytest.raises(InputError, match=r"also holds mine\.txt"):
        predict_volume(model, image, out, model_id="m", overwrite=True)
    assert len(read_proposals(out)) == 0 and (folder_of(out) / "mine.txt").exists()


def test_damaged_files_and_other_outputs_are_refused(tmp_path: Path) -> None:
    model, image, out = _model(), _image((1, 20, 20)), tmp_path / "x.ome.zarr"
    predict_volume(model, image, out, model_id="m", threshold=0.4)
    (path,) = folder_of(out).iterdir()
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="is damaged"):
        read_proposals(out)
    np.savez(path, anchor=np.array([{}], dtype=object))
    with pytest.raises(InputError, match="is damaged"):
        read_proposals(out)
    np.savez(path, **{name: np.zeros(1) for name in ("anchor", "score", "category", "contour")})
    with pytest.raises(InputError, match="holds anchor of type float64"):
        read_proposals(out)
    io.save_volume(tmp_path / "y.ome.zarr", image)
    with pytest.raises(InputError, match="was not made by a model that proposes contours"):
        read_proposals(tmp_path / "y.ome.zarr")


def test_scores_are_no_segmentation(tmp_path: Path) -> None:
    model, image, out = _model(), _image((1, 20, 20)), tmp_path / "x.ome.zarr"
    predict_volume(model, image, out, model_id="m")
    attributes = io.open_volume(out).attributes
    assert [o["kind"] for o in attributes["outputs"]] == ["contour", "contour"]
    assert [o["name"] for o in attributes["outputs"]] == ["class_1", "class_7"] and not (out / "labels").exists()
    with pytest.raises(InputError, match="scores of a contour model"):
        open_segmentation(out)


def test_what_a_contour_model_cannot_do_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not resample"):
        predict_volume(_model(), _image(), tmp_path / "x.ome.zarr", model_id="m", factor=(1.0, 2.0, 2.0))
    with pytest.raises(InputError, match="sees one view"):
        predict_volume(_model(views=4), _image(), tmp_path / "x.ome.zarr", model_id="m")
    settings: dict[str, Any] = {"kind": "unet", "dims": 2, "features": 4, "depth": 2}
    step = NetworkStep(network=settings, in_channels=1, out_channels=2)
    other = Model([step], [build_network(settings, 1, 2)], normalisation=_model().normalisation, class_values=(1,))
    with pytest.raises(InputError, match="proposed by one network"):
        other.proposals(_image().read())


def test_a_saved_model_proposes_the_same(tmp_path: Path) -> None:
    model, image = _model(), _image((1, 40, 40))
    model.save(tmp_path)
    loaded = Model.load(tmp_path)
    assert loaded.contours and loaded.halo == model.halo and loaded.outputs == model.outputs
    (scores, found), (same, again) = (m.proposals(image.read(), 0.4) for m in (model, loaded))
    np.testing.assert_array_equal(scores, same)
    np.testing.assert_array_equal(found.contour, again.contour)
    np.testing.assert_allclose(model.probabilities(image.read()), scores, atol=1e-6)
    assert json.loads((tmp_path / "model.json").read_text())["outputs"][0]["kind"] == "contour"


def test_suppression_does_not_depend_on_the_order_of_blocks(tmp_path: Path) -> None:
    _, found = _model().proposals(_image((1, 60, 60)).read(), 0.3)
    shuffled = found.taken(np.random.default_rng(0).permutation(len(found)))
    np.testing.assert_array_equal(suppress(found).contour, suppress(shuffled).contour)
    assert (np.diff(found.score[ranking(found)]) <= 0).all() and 0 < len(suppress(found)) < len(found)
