"""What the sections say: planted faults are found, counts are those that were measured, nothing empty is shown."""

from __future__ import annotations

import base64
import itertools
import json
import re
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewslice import io
from fewslice.geometry import Box
from fewslice.report import write_report
from fewslice.report.checks import Check, check_arm
from fewslice.report.content import collect, open_case
from fewslice.report.crops import hot_spot, window

STUDENT = (0.2, (2.0, 4.0, 4.0))


def checks_of(run: Path, most_voxels: int = 10**9) -> dict[str, Check]:
    (case,) = collect([run]).cases
    return {check.name: check for check in check_arm(open_case(case), 0, most_voxels).checks}


def picture(uri: str) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(base64.b64decode(uri.split(",", 1)[1]))).convert("RGB")).astype(int)


def section(page: Path, anchor: str) -> str:
    found = re.search(rf'<section id="{anchor}".*?</section>', page.read_text(encoding="utf-8"), re.S)
    assert found is not None, f"the page has no section {anchor}"
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", found[0]))


# -------------------------------------------------------------------------------------------------- without truth


def test_a_seam_is_found_where_a_block_was_shifted(fabricated) -> None:
    run = fabricated.run("run", "sparse_3d", noise=STUDENT)
    assert not checks_of(run)["Seams between blocks"].unusual
    store = fabricated.folder / "run_out.ome.zarr"
    values = io.open_volume(store).read().astype(int)
    values[:, :, 36:] += 60
    io.open_output(store).write(Box.of((20, 72, 80)), np.clip(values, 0, 255).astype(np.uint8))
    seams = checks_of(run)["Seams between blocks"]
    assert seams.unusual and seams.places[0].where.startswith("before y 36")
    drawn = picture(seams.places[0].picture)
    blue = drawn[..., 2] - drawn[..., 0] > 60  # the prediction itself is grey
    assert blue.any() and np.ptp(np.nonzero(blue)[0]) <= 4, "the face is marked by one line"


def test_flicker_names_the_plane_that_is_missing(fabricated) -> None:
    run = fabricated.run("run", "sparse_3d", noise=STUDENT)
    store = fabricated.folder / "run_out.ome.zarr"
    labels = io.open_labels(store / "labels" / "segmentation").read()[0].copy()
    labels[7] = 0
    io.open_output(store, labels="segmentation").write(Box.of(labels.shape), labels)
    flicker = checks_of(run)["Flicker along z"]
    assert flicker.places[0].where.startswith("plane 7:") and "Planes 6, 7 and 8" in flicker.places[0].shows
    drawn = picture(flicker.places[0].picture)
    orange = (drawn[..., 0] > 190) & (drawn[..., 2] < 90) & (np.abs(drawn[..., 1] - 159) < 50)
    thirds = [part.sum() for part in np.array_split(orange, 3, axis=1)]
    assert min(thirds[0], thirds[2]) > 20 and thirds[1] < 0.1 * thirds[0], "outlined before and after, not in between"


def test_uncertain_voxels_are_found_where_they_were_put(fabricated) -> None:
    run = fabricated.run("run", "sparse_3d", noise=STUDENT)
    box = Box((0, 0, 64), (20, 64, 80))
    io.open_output(fabricated.folder / "run_out.ome.zarr").write(box, np.full((1, *box.shape), 127, np.uint8))
    found = checks_of(run)["Uncertain voxels"]
    assert found.unusual and "y 32, x 72: 100 %" in found.places[0].where


def test_unusual_sizes_are_outlined_and_the_image_is_compared_with_training(fabricated) -> None:
    run = fabricated.run("run", "sparse_3d", noise=(0.9, (0.6, 1.5, 1.5)))
    fabricated.count(fabricated.folder / "run_out.ome.zarr")
    normalisation = {"method": "robust", "offset": [400.0], "scale": [50.0]}
    path = run / "model" / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"normalisation": normalisation}))
    found = checks_of(run)
    drift = found["Image against the training images"]
    assert drift.unusual and "level -" in drift.value
    sizes = found["Objects of unusual size"]
    numbers = [int(n) for n in re.findall(r"\d+", sizes.value)]
    assert numbers[2] >= 10, "objects that no side cuts"
    assert len(sizes.places) == min(3, numbers[0] + numbers[1])


def test_large_predictions_are_checked_in_part(fabricated) -> None:
    run = fabricated.run("run", "sparse_3d", noise=STUDENT)
    (case,) = collect([run]).cases
    checked = check_arm(open_case(case), 0, 10 * 72 * 80)
    assert re.match(r"Looked at: \d+ × \d+ × \d+ voxels in the middle", checked.note)
    assert checked.checks
    assert check_arm(open_case(case), 0, 10**9).note == ""


def test_windows_stay_inside_and_hot_spots_are_neighbourhoods() -> None:
    assert window((20, 72, 80), (0, 71, 40), (1, 40, 96)) == Box((0, 32, 0), (1, 72, 80))
    amount = np.zeros((100, 100))
    amount[10, 10] = 5
    amount[60:70, 60:70] = 1
    row, column = hot_spot(amount)
    assert 50 < row < 80 and 50 < column < 80


# ---------------------------------------------------------------------------------------------------------- counts


def test_counts_are_those_measured_and_stale_ones_are_not_shown(fabricated) -> None:
    run = fabricated.run("run", "sparse_3d", noise=STUDENT)
    output = fabricated.folder / "run_out.ome.zarr"
    page = write_report([run])
    assert 'id="counts"' not in page.read_text()
    summary = fabricated.count(output)
    said = section(write_report([run]), "counts")
    assert f" {summary['objects']} " in said and f" {summary['counted']} " in said
    assert "touch the last plane, row or column" in said and "95 % interval" in said
    table = np.genfromtxt(fabricated.folder / "run_out.objects.csv", delimiter=",", names=True)
    whole = table["diameter_um"][table["touches_border"] == 0]
    if len(whole) >= 5:
        assert f"{np.median(whole):.3g}" in said
        assert (run / "figures" / "sizes.png").stat().st_size > 5_000
    assert "fewslice segment" in section(page, "settings") and "fewslice measure" in section(page, "settings")
    labels = io.open_output(output, labels="instances")
    labels.write(Box((0, 0, 0), (20, 72, 80)), np.zeros((20, 72, 80), np.uint16))
    page = write_report([run])
    assert "measures other objects than" in section(page, "summary")
    assert f" {summary['counted']} " not in section(page, "counts"), "only how many the store says it holds"


# ------------------------------------------------------------------------------------------- contours, simulation


def test_contours_are_drawn_where_they_lie_and_pairs_are_shown(fabricated) -> None:
    run = fabricated.contour_run("run")
    page = write_report([run])
    data = json.loads(re.search(r'id="report-data">(.*?)</script>', page.read_text(), re.S)[1])  # type: ignore[index]
    browser = data["cases"][0]["browser"]
    by_plane = {plane["at"]: plane["contours"][0] for plane in browser["views"][0]["planes"]}
    assert {at for at, contours in by_plane.items() if contours} == {3, 4}
    points = np.array(by_plane[3][0]).reshape(-1, 2) / 10  # x, y from the edge of the first pixel
    assert points.mean(axis=0) == pytest.approx([40.5, 30.5], abs=0.2)
    assert np.ptp(points, axis=0) == pytest.approx([24, 16], abs=0.3)
    assert 'value="objects" checked' in page.read_text()

    said = section(page, "realism")
    assert "step 20" in said, "the later weights lost the annotation and were not taken"
    assert "0.310" in said and "0.250 to 0.380" in said and "87 %" in said
    assert "90 % before, 88 % after" in said and "374 annotated objects" in said
    assert page.read_text().split('id="realism"')[1].split("</section>")[0].count("<img") == 1
    assert "distance to real 0.310" in section(page, "training"), "of the weights that were taken"
    quality = section(page, "quality")
    assert "F1 at IoU 0.5" in quality and "1.000" in quality and "over 2 objects" in quality
    assert "--instances" in section(page, "settings")


# -------------------------------------------------------------------------------------------------------- the page


def test_sections_are_listed_once_in_order_and_none_is_empty(fabricated) -> None:
    run = fabricated.run("run", "sparse_3d", noise=STUDENT)
    fabricated.count(fabricated.folder / "run_out.ome.zarr")
    bare = fabricated.run("bare", "sparse_3d")
    (bare / "log.jsonl").unlink()
    for page, expected in (
        (write_report([run]), "summary data training quality checks counts planes surfaces settings"),
        (write_report([bare]), "summary data settings"),
    ):
        text = re.sub(r"<script\b.*?</script>", "", page.read_text(encoding="utf-8"), flags=re.S)
        assert re.findall(r'<section id="(\w+)"', text) == expected.split()
        assert re.findall(r'<a href="#(\w+)"', text)[-len(expected.split()) :] == expected.split()
        levels = [int(n) for n in re.findall(r"<h(\d)", text)]
        assert levels[0] == 1 and levels.count(1) == 1
        assert all(b - a <= 1 for a, b in itertools.pairwise(levels)), "no level is left out"
        for image in re.findall(r"<img[^>]*>", text):
            assert re.search(r'alt="[^"]{10,}"', image)


def test_scores_come_with_intervals_that_say_what_they_are(fabricated) -> None:
    run = fabricated.run("run", "sparse_3d", noise=STUDENT)
    scores = json.loads((run / "results.jsonl").read_text().splitlines()[-1])["scores"]
    around = scores["intervals"]["dice"]
    said = section(write_report([run]), "quality")
    assert f"{around['low']:.3f} to {around['high']:.3f}" in said
    assert f"bootstrap over {scores['cells']} boxes" in said and "nothing about other images" in said


def test_the_commands_make_predictions_and_objects_again(fabricated) -> None:
    run = fabricated.run("run", "sparse_3d", noise=STUDENT)
    output = fabricated.folder / "run_out.ome.zarr"
    fabricated.count(output)
    (run / "model" / "model.json").write_text(json.dumps({"threshold": 0.3, "class_values": [1]}))
    said = section(write_report([run]), "settings")
    predict, segment, measure, evaluate = (
        said.index(f"fewslice {verb}") for verb in ("predict", "segment", "measure", "evaluate")
    )
    assert predict < segment < measure < evaluate
    assert "--threshold 0.45" in said, "another than the model's own"
    assert "--segmenter connected_components --set min_size=0" in said
