from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewslice import io
from fewslice.errors import InputError
from fewslice.report import write_report

NO_WEBGL = (
    "const g = HTMLCanvasElement.prototype.getContext;"
    "HTMLCanvasElement.prototype.getContext = function (k, ...r)"
    "{ return /webgl/.test(k) ? null : g.call(this, k, ...r); }"
)
TEACHER = (0.45, (0.1, 3.0, 3.0))
STUDENT = (0.2, (2.0, 4.0, 4.0))


@dataclass(frozen=True)
class Compared:
    """A page about two runs that several tests look at; none of them changes it."""

    runs: list[Path]
    page: Path
    truth: np.ndarray

    def found(self, run: int) -> np.ndarray:
        output = self.runs[run].with_name(f"{self.runs[run].name}_out.ome.zarr")
        return io.open_labels(output / "labels" / "segmentation").read()[0] > 0


@pytest.fixture(scope="module")
def compared(fabricate_in, tmp_path_factory: pytest.TempPathFactory) -> Compared:
    made = fabricate_in(tmp_path_factory.mktemp("compared"))
    runs = [made.run("teacher", "slices_2d", noise=TEACHER), made.run("student", "pseudo_labels", noise=STUDENT)]
    return Compared(runs, write_report(runs), made.truth)


class Links(HTMLParser):
    """Collects everything a page could load."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]


def embedded(page: Path) -> dict[str, Any]:
    text = page.read_text(encoding="utf-8")
    match = re.search(r'<script type="application/json" id="report-data">(.*?)</script>', text, re.S)
    assert match is not None
    return dict(json.loads(match[1]))


def visible(page: Path) -> str:
    text = re.sub(r"<(script|style)\b.*?</\1>", " ", page.read_text(encoding="utf-8"), flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text))


def test_report_of_a_compared_run_holds_all_its_parts(compared) -> None:
    runs, page = compared.runs, compared.page
    assert page == runs[0] / "report.html"
    assert page.stat().st_size < 15e6
    data = embedded(page)
    (case,) = data["cases"]
    assert [arm["name"] for arm in case["browser"]["arms"]] == ["teacher · slices_2d", "student · pseudo_labels"]
    assert [view["axis"] for view in case["browser"]["views"]] == ["z", "y", "x"]
    planes = case["browser"]["views"][0]["planes"]
    assert len(planes) == 20
    assert [scene["title"] for scene in case["scenes"]] == ["truth", "teacher · slices_2d", "student · pseudo_labels"]
    assert [len(stages) for stages in data["training"]] == [1, 2]
    roles = {plane["at"]: plane["role"] for plane in planes}
    assert {z for z, role in roles.items() if role == "trained"} == {2, 6, 14, 18}
    assert {z for z, role in roles.items() if role == "held_out"} == {10}
    text = visible(page)
    scores = [json.loads(line) for line in (runs[1] / "results.jsonl").read_text().splitlines()][-1]["scores"]
    assert f"{scores['dice']:.3f}" in text
    assert f"{scores['confusion'][1][0]:,}".replace(",", " ") in text
    assert "Planes 2, 6, 14, 18 trained, 10 held out for validation." in text
    assert "fewslice evaluate" in text
    assert "4 of the 20 planes judged here also trained the model" in text
    for name in ("planes", "isosurfaces", "confusion"):
        assert (runs[0] / "figures" / f"{name}.png").stat().st_size > 5_000
        assert (runs[0] / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")


PLAN = {
    "annotated": 5,
    "confidence": 0.8,
    "steps": 300,
    "curve": [
        {"planes": n, "dice": 0.5 + 0.05 * n, "low": 0.45 + 0.05 * n, "high": 0.55 + 0.05 * n, "measured": n < 5}
        for n in (1, 2, 4, 5, 9)
    ],
    "next_planes": [{"image": "image", "axis": "z", "plane": z, "score": s} for z, s in ((0, 0.9), (12, 0.44))],
    "regions": [{"image": "image", "axis": "z", "plane": 12, "y": [8, 24], "x": [0, 16], "score": 1.0}],
    "advice": "4 more planes should bring +0.020 ± 0.010 Dice <b>soon</b>.",
}


def test_report_shows_the_plan_of_each_run(fabricated) -> None:
    """The advice, a figure of the curve in words and in print, the planes with their windows."""
    run, other = fabricated.run("run", "sparse_3d"), fabricated.run("other", "slices_2d")
    page = write_report([run])
    assert 'id="plan"' not in page.read_text() and not (run / "figures" / "plan.png").exists()
    (run / "plan.json").write_text(json.dumps(PLAN))
    text = visible(write_report([run]))
    assert "+0.020 ± 0.010 Dice &lt;b&gt;soon&lt;/b&gt;" in text, "markup in a file is text"
    assert "z 12" in text and "y 8–23, x 0–15" in text and "0.44" in text and "300 steps" in text
    html = page.read_text()
    assert 'href="#plan"' in html and "number of annotated planes: 0.55 at 1, 0.60 at 2" in html
    assert (run / "figures" / "plan.png").exists() and (run / "figures" / "plan.pdf").exists()
    (other / "plan.json").write_text(json.dumps(PLAN | {"curve": [], "steps": None}))
    both = write_report([run, other]).read_text().split('id="plan"')[1].split("</section>")[0]
    assert both.count("<figure") == 1 and both.count("<table") == 2 and both.count("<h3") == 2


def test_report_loads_nothing_from_elsewhere(compared) -> None:
    page = compared.page
    text = page.read_text(encoding="utf-8")
    links = Links()
    links.feed(re.sub(r"<script>.*?</script>", "", text, flags=re.S))
    assert links.found
    assert all(link.startswith(("#", "data:")) for link in links.found)
    assert "default-src 'none'" in text
    assert not re.search(r"url\((?!data:)", re.search(r"<style>(.*?)</style>", text, re.S)[1])
    assert text.count("plotly.js v") == 1, "plotly.js is embedded once"


def test_report_before_any_prediction_shows_training(fabricated) -> None:
    page = write_report([fabricated.run("run", "sparse_3d")])
    data = embedded(page)
    assert data["cases"] == []
    assert len(data["training"][0][0]["data"]) == 2
    assert "has not been applied to an image yet" in visible(page)


def test_report_before_evaluation_shows_planes_without_scores(fabricated) -> None:
    page = write_report([fabricated.run("run", "sparse_3d", noise=STUDENT, evaluated=False)])
    text = visible(page)
    assert "Not evaluated yet: run · sparse_3d" in text
    assert "Shown as truth is the annotation that trained" in text
    planes = embedded(page)["cases"][0]["browser"]["views"][0]["planes"]
    assert [plane["at"] for plane in planes] == [2, 6, 10, 14, 18]
    assert "covers single planes" in text


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("image.tif", "The image cannot be shown"),
        ("labels.tif", "The truth cannot be shown"),
        ("run_out.ome.zarr", "is gone"),
    ],
)
def test_report_says_what_is_gone_and_goes_on(fabricated, gone: str, said: str) -> None:
    run = fabricated.run("run", "sparse_3d", noise=STUDENT)
    path = fabricated.folder / gone
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    page = write_report([run])
    assert said in visible(page)
    assert "Dice" in visible(page)


def test_report_of_two_classes_scores_each(fabricate: Callable[..., Any]) -> None:
    made = fabricate(classes=2, channels=2)
    page = write_report([made.run("run", "pseudo_labels", noise=STUDENT)])
    text = visible(page)
    assert "class 1" in text
    assert "class 2" in text
    (case,) = embedded(page)["cases"]
    assert case["browser"]["classes"] == ["1", "2"]
    assert [len(scene["figure"]["data"]) for scene in case["scenes"]] == [2, 2]


def test_report_of_one_plane_has_no_surfaces(fabricate: Callable[..., Any]) -> None:
    made = fabricate(shape=(1, 72, 80))
    page = write_report([made.run("run", "slices_2d", noise=(0.2, (0.0, 4.0, 4.0)))])
    assert embedded(page)["cases"][0]["scenes"] == []
    assert 'id="surfaces"' not in page.read_text() and 'href="#surfaces"' not in page.read_text()


def test_planes_and_dice_are_those_of_the_prediction(compared) -> None:
    (case,) = embedded(compared.page)["cases"]
    plane = next(p for p in case["browser"]["views"][0]["planes"] if p["at"] == 7)
    for arm in (0, 1):
        true, found = compared.truth[7] > 0, compared.found(arm)[7]
        assert plane["dice"][arm] == pytest.approx(2 * (found & true).sum() / (found.sum() + true.sum()), abs=1e-4)


def test_same_run_is_named_by_its_predictions_when_it_has_several(fabricated) -> None:
    run = fabricated.run("run", "sparse_3d", noise=STUDENT)
    second = run.parent / "again.ome.zarr"
    shutil.copytree(run.parent / "run_out.ome.zarr", second)
    page = write_report([run], predictions=[run.parent / "run_out.ome.zarr", second])
    names = [arm["name"] for arm in embedded(page)["cases"][0]["browser"]["arms"]]
    assert names == ["run · sparse_3d/run_out", "run · sparse_3d/again"]


def test_paths_with_markup_in_them_are_text(fabricated) -> None:
    run = fabricated.run("a<b>&c", "sparse_3d", noise=STUDENT)
    text = write_report([run]).read_text(encoding="utf-8")
    assert "a<b>" not in re.sub(r"<script\b.*?</script>", "", text, flags=re.S)


def test_what_is_no_run_is_refused_and_nothing_is_written(tmp_path: Path, fabricated) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="not a run folder"):
        write_report([tmp_path / "empty"])
    assert list((tmp_path / "empty").iterdir()) == []
    run = fabricated.run("run", "sparse_3d")
    with pytest.raises(InputError, match="not an output of fewslice predict"):
        write_report([run], predictions=[tmp_path / "missing.ome.zarr"])
    page = write_report([run])
    before = page.read_bytes()
    with pytest.raises(InputError, match="exists"):
        write_report([run], overwrite=False)
    assert page.read_bytes() == before


# ------------------------------------------------------------------------------------------------- in a real browser


def errors(console: list[str]) -> list[str]:
    """What the page logged, without the hint about speed that plotly.js provokes."""
    return [line for line in console if "willReadFrequently" not in line and "GPU stall" not in line]


def test_page_works_offline_in_a_browser(compared, browser) -> None:
    page = compared.page
    for width in (1400, 420):
        browser.console.clear()
        browser.requests.clear()
        browser.open(page, width, 900)
        assert errors(browser.console) == []
        assert [r for r in browser.requests if not r.startswith(("data:", "blob:", page.resolve().as_uri()))] == []
        assert browser.run("document.documentElement.scrollWidth") <= width, "nothing sticks out sideways"

        for index, colour in enumerate(((138, 143, 152), (0, 114, 178), (230, 159, 0))):
            scene = browser.picture(".scene", index).astype(float)
            assert coloured_like(scene, colour) > 0.05, f"scene {index} is blank at {width} px"

        before = browser.picture(".panels canvas", 2)
        assert before.std() > 10
        there = browser.run("document.querySelector('.where').textContent")
        step = "previous" if there.startswith("plane 19 ") else "next"
        browser.run(f"document.querySelector('.browser .{step}').click()")
        after = browser.picture(".panels canvas", 2)
        assert not np.array_equal(before, after), "the slider changes the plane"
        browser.run("document.querySelector('.overlay input[value=segmentation]').click()")
        assert not np.array_equal(after, browser.picture(".panels canvas", 2)), "the switch changes the overlay"


def coloured_like(picture: np.ndarray, colour: tuple[int, int, int]) -> float:
    """Share of the pixels that have the hue of a colour in any brightness, background left out."""
    corner = picture[3, 3]
    differs = np.abs(picture - corner).sum(axis=2) > 60
    wanted = np.array(colour) / np.linalg.norm(colour)
    norm = np.maximum(np.linalg.norm(picture, axis=2), 1)
    return float((differs & ((picture @ wanted) / norm > 0.98)).mean())


def test_disagreement_is_drawn_where_the_masks_disagree(compared, browser) -> None:
    browser.open(compared.page, 1400, 900)
    name = browser.run("document.querySelector('.where').textContent")
    z = int(re.search(r"plane (\d+)", name)[1])
    found, true = compared.found(0)[z], compared.truth[z] > 0
    picture = browser.picture(".panels canvas", 2).astype(float)
    rows = (np.arange(found.shape[0]) + 0.5) * picture.shape[0] / found.shape[0]
    columns = (np.arange(found.shape[1]) + 0.5) * picture.shape[1] / found.shape[1]
    sampled = picture[rows.astype(int)][:, columns.astype(int)]
    red_over_green = sampled[..., 0] - sampled[..., 1]
    blue_over_red = sampled[..., 2] - sampled[..., 0]
    missed, alarms, agreed = true & ~found, found & ~true, true & found
    assert min(missed.sum(), alarms.sum(), agreed.sum()) > 20
    assert np.median(red_over_green[missed]) > 15, "missed voxels are red"
    assert np.median(blue_over_red[alarms]) > 15, "false alarms are blue"
    assert np.median(red_over_green[agreed]) < -15, "found voxels are green"
    assert abs(np.median(red_over_green[~true & ~found])) < 3, "the rest shows the image alone"


def test_surfaces_turn_unless_less_motion_is_wanted(compared, browser) -> None:
    page = compared.page
    eye = (  # to nine decimals: drawn again from the same angles, the last digits differ
        "Object.values(document.querySelector('.scene')._fullLayout.scene._scene.getCamera().eye)"
        ".map((v) => v.toFixed(9)).join()"
    )
    browser.open(page, 900, 500, still=True)
    browser.run("document.querySelector('.surfaces').scrollIntoView({behavior: 'instant'})")
    first = browser.run(eye)
    browser.run("new Promise((done) => setTimeout(done, 700))")
    assert browser.run(eye) == first
    browser.run(
        "document.querySelector('.scene').dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowLeft'}));"
        "new Promise((done) => setTimeout(done, 500))"
    )
    assert browser.run(eye) != first, "the arrow keys turn it"

    browser.open(page, 900, 500, still=False)
    browser.run("document.querySelector('.surfaces').scrollIntoView({behavior: 'instant'})")
    turning = browser.run(eye)
    browser.run("new Promise((done) => setTimeout(done, 2500))")
    assert browser.run(eye) != turning, "it turns by itself"
    each = "[...document.querySelectorAll('.scene')].map((s) => s._fullLayout.scene.camera.eye.x.toFixed(4))"
    browser.run("document.querySelector('.play').click(); new Promise((done) => setTimeout(done, 800))")
    stopped = browser.run(eye)
    assert len(set(browser.run(each))) == 1, "all scenes turn together"
    browser.run("new Promise((done) => setTimeout(done, 500))")
    assert browser.run(eye) == stopped, "the button stops it"


def test_page_without_webgl_shows_the_picture(compared, browser) -> None:
    page = compared.page
    handle = browser.send("Page.addScriptToEvaluateOnNewDocument", source=NO_WEBGL)
    browser.console.clear()
    browser.open(page, 1000, 800)
    browser.send("Page.removeScriptToEvaluateOnNewDocument", identifier=handle["identifier"])
    assert errors(browser.console) == []
    assert browser.picture("#surfaces .static").std() > 10
    empty = (
        "[...document.querySelectorAll('#surfaces .scenes, #surfaces .controls')].filter((e) => e.checkVisibility())"
    )
    assert browser.run(empty + ".length") == 0, "no empty frames above the picture"


# ------------------------------------------------------------------------------------------- for everybody, on paper


@pytest.fixture(scope="module")
def grown(fabricate_in, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page that has every section."""
    made = fabricate_in(tmp_path_factory.mktemp("grown"))
    run, other = made.run("run", "sparse_3d", noise=STUDENT), made.contour_run("contours")
    made.count(made.folder / "run_out.ome.zarr")
    (run / "plan.json").write_text(json.dumps(PLAN))
    return write_report([run, other])


AXE = """axe.run(document, {resultTypes: ["violations"]}).then((found) => JSON.stringify(found.violations
    .filter((v) => ["serious", "critical"].includes(v.impact))
    .map((v) => [v.id, v.help, v.nodes.slice(0, 3).map((n) => n.html.slice(0, 160) + " " + n.failureSummary)])))"""


def findings(browser) -> list[list[Any]]:
    """Return what axe-core finds serious or critical in the open page, all of it unfolded."""
    browser.run("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    browser.run((files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8") + "; 0")
    return list(json.loads(browser.run(AXE)))


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False)])
def test_page_passes_axe(grown, browser, width: int, dark: bool) -> None:
    """No serious or critical finding, contrast included, and nothing sticks out sideways; scenes as such only once."""
    handle = None if dark else browser.send("Page.addScriptToEvaluateOnNewDocument", source=NO_WEBGL)
    browser.open(grown, width, 900, dark=dark)
    if handle is not None:
        browser.send("Page.removeScriptToEvaluateOnNewDocument", identifier=handle["identifier"])
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert findings(browser) == []


def test_axe_would_find_what_is_wrong(grown, browser) -> None:
    """Without an alternative text, and in pale grey, the page fails: the check above can."""
    browser.open(grown, 1280, 900)
    browser.run(
        "document.querySelector('.places img').removeAttribute('alt');"
        "document.documentElement.style.setProperty('--soft', '#c8c8c8')"
    )
    assert {found[0] for found in findings(browser)} >= {"image-alt", "color-contrast"}


def test_print_has_still_pictures_and_all_settings(grown, browser) -> None:
    browser.open(grown, 1280, 900)
    browser.send("Emulation.setEmulatedMedia", media="print")
    shown = "[...document.querySelectorAll({!r})].filter((e) => e.checkVisibility()).length"
    assert browser.run(shown.format(".scene, .browser, .controls, .charts, nav")) == 0
    assert browser.run(shown.format("#surfaces .static, #planes .static, #training .static")) == 4
    browser.send("Emulation.setEmulatedMedia", media="")
    browser.send("Emulation.setEmulatedMedia", media="print")
    browser.send("Emulation.setDeviceMetricsOverride", width=703, height=1032, deviceScaleFactor=1, mobile=False)
    assert browser.run("document.documentElement.scrollWidth") <= 703, "tables fit between the margins of A4"
    browser.send("Emulation.setEmulatedMedia", media="")
    pdf = browser.printed()
    assert pdf.startswith(b"%PDF")
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 14
    assert browser.run("[...document.querySelectorAll('details')].every((d) => d.open)"), "nothing folded on paper"


def test_browser_goes_along_every_axis_by_keyboard_and_fades(grown, browser) -> None:
    browser.open(grown, 1280, 900)
    where = "document.querySelector('.where').textContent"

    def after(script: str) -> str:
        later = f"new Promise((done) => setTimeout(() => done({where}), 400))"
        return str(browser.run(f"{{ {script} }} {later}"))

    def pressed(name: str) -> str:
        event = f"new KeyboardEvent('keydown', {{key: '{name}'}})"
        return after(f"document.querySelector('.panels canvas').dispatchEvent({event});")

    def across(index: int) -> str:
        return after(f"document.querySelectorAll('.axis input')[{index}].click();")

    assert pressed("Home").startswith("plane 0 ") and pressed("ArrowRight").startswith("plane 1 ")
    assert pressed("End").startswith("plane 19 ") and pressed("ArrowLeft").startswith("plane 18 ")
    legend = "document.querySelector('.agreement').checkVisibility()"
    assert not browser.run(legend), "objects are shown, of which the legend says nothing"
    assert across(2).startswith("plane x ") and pressed("Home").startswith("plane x 0 of 0–79")
    assert across(0).startswith("plane ") and pressed("Home").startswith("plane 0 ")
    for _ in range(3):
        pressed("ArrowRight")
    contour = browser.picture(".panels canvas", 3).astype(int)
    after("const o = document.querySelector('.strength'); o.value = 0; o.dispatchEvent(new Event('input'));")
    changed = np.abs(contour - browser.picture(".panels canvas", 3).astype(int)).sum(axis=2) > 60
    rows, columns = (np.ptp(np.nonzero(changed)[k]) / changed.shape[k] for k in (0, 1))
    assert (rows, columns) == pytest.approx((16 / 72, 24 / 80), abs=0.05), "the contour, where it lies, and no more"
