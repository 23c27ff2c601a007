"""A run folder as training, prediction and evaluation leave it, fabricated from a small generated volume; a browser."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from scipy import ndimage

from fewslice import io
from fewslice.annotation import Annotation
from fewslice.evaluation import evaluate
from fewslice.evaluation.instances import evaluate_instances
from fewslice.geometry import Box
from fewslice.measurement import Source, find_prediction, measure_objects
from fewslice.morphology.proposals import Proposals
from fewslice.segmenters.contours import painted, write_geojson
from fewslice.volume import Volume

VOXEL = (2.0, 0.88, 0.88)
SHAPE = (20, 72, 80)


def smooth(generator: np.random.Generator, sigma: tuple[float, float, float], shape: tuple[int, ...]) -> np.ndarray:
    field = ndimage.gaussian_filter(generator.normal(size=shape), sigma)
    return field / field.std()


class Fabricated:
    """A folder with an image, its labels, and runs with predictions of it."""

    def __init__(self, folder: Path, shape: tuple[int, int, int] = SHAPE, classes: int = 1, channels: int = 1) -> None:
        self.folder, self.shape, self.classes = folder, shape, classes
        self.generator = np.random.default_rng(5)
        self.field = smooth(self.generator, (2.0, 5.0, 5.0), shape)
        self.kind = (smooth(self.generator, (4.0, 9.0, 9.0), shape) > 0).astype(np.uint8)
        self.truth = self.labelled(self.field)
        signal_ = np.clip(40 + 55 * self.field, 0, None)[None] * np.array([1.0, 0.5, 0.3])[:channels, None, None, None]
        image = np.clip(self.generator.poisson(signal_ / 4) * 4 + 8, 0, 255).astype(np.uint8)
        self.image = folder / "image.tif"
        self.labels = folder / "labels.tif"
        io.save_volume(self.image, Volume.from_array(image, VOXEL))
        io.save_labels(self.labels, self.truth, voxel_size_um=VOXEL)

    def labelled(self, field: np.ndarray) -> np.ndarray:
        found = field > 1.1
        return (found * (1 + self.kind if self.classes == 2 else 1)).astype(np.uint8)

    def run(
        self,
        name: str,
        strategy: str,
        *,
        noise: tuple[float, tuple[float, float, float]] | None = None,
        evaluated: bool = True,
    ) -> Path:
        run = self.folder / name
        (run / "model").mkdir(parents=True)
        stages = {"teacher": 400, "student": 900} if strategy == "pseudo_labels" else {"network": 700}
        experiment = {
            "version": 1,
            "strategy": strategy,
            "settings": {"network": {"kind": "unet", "dims": 3, "features": 16}, "alpha": [0.1, 0.5]},
            "images": [str(self.image)],
            "labels": [str(self.labels)],
            "planes": ["2,6,10,14,18"],
            "seed": 0,
            "steps": stages,
        }
        (run / "experiment.yaml").write_text(yaml.safe_dump(experiment, sort_keys=False))
        provenance = {
            "command": ["fewslice", "train", str(self.image), "--labels", str(self.labels), "--strategy", strategy],
            "inputs": {str(self.image): "3f9a" * 16},
            "samples": [
                {
                    "name": "image",
                    "image": str(self.image),
                    "shape": list(self.shape),
                    "channels": 1,
                    "voxel_size_um": list(VOXEL),
                    "axes_note": None,
                    "annotated_planes": [2, 6, 10, 14, 18],
                    "annotated_share": 5 / self.shape[0],
                }
            ],
            "validation": {"how": "planes", "note": "Plane 10 is held out, with a gap of 3 planes.", "planes": [[10]]},
            "versions": {"fewslice": "0.1.0", "python": "3.11", "torch": "2.13.0"},
            "hardware": {"device": "cpu", "cores": 2},
        }
        (run / "provenance.json").write_text(json.dumps(provenance))
        lines: list[dict[str, Any]] = []
        for stage, steps in stages.items():
            lines.append({"event": "stage", "stage": stage, "state": "started", "step": 0, "steps": steps})
            for step in range(10, steps + 1, 10):
                loss = 0.9 * np.exp(-step / 180) + 0.12 + 0.02 * self.generator.random()
                lines.append(
                    {"event": "step", "stage": stage, "step": step, "steps": steps, "loss": {"total": loss}, "lr": 1e-3,
                     "seconds": step * 0.21}
                )  # fmt: skip
                if step % 100 == 0:
                    dice = 0.86 - 0.7 * np.exp(-step / 150)
                    lines.append({"event": "validation", "stage": stage, "step": step, "score": dice, "dice": dice})
            lines.append({"event": "stage", "stage": stage, "state": "finished", "step": steps, "steps": steps})
        (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"event": "st')
        values = list(range(1, self.classes + 1))
        (run / "model" / "model.json").write_text(json.dumps({"threshold": 0.45, "class_values": values}))
        if noise is not None:
            self.predict(run, noise, evaluated=evaluated)
        return run

    def predict(self, run: Path, noise: tuple[float, tuple[float, float, float]], *, evaluated: bool) -> Path:
        field = self.field + noise[0] * smooth(self.generator, noise[1], self.shape)
        labels = self.labelled(field)
        probability = (255 / (1 + np.exp(-6 * (field - 1.1)))).astype(np.uint8)
        channels = [probability * (labels != other) for other in ((2, 1) if self.classes == 2 else (0,))]
        output = run.parent / f"{run.name}_out.ome.zarr"
        values = list(range(1, self.classes + 1))
        names = ["foreground"] if self.classes == 1 else [f"class_{v}" for v in values]
        attributes = {
            "image": str(self.image),
            "run": str(run.resolve()),
            "axes": None,
            "model_hash": "c0ffee",
            "threshold": 0.45,
            "class_values": values,
            "block": [10, 36, 40],
            "outputs": [{"name": n, "kind": "probability", "range": [0, 1], "dtype": "uint8"} for n in names],
        }
        store = io.create_output(
            output,
            shape=self.shape,
            channel_names=names,
            voxel_size_um=VOXEL,
            chunks=(10, 64, 64),
            attributes=attributes,
        )
        store.write(Box.of(self.shape), np.stack(channels))
        segmentation = io.create_labels(
            output, "segmentation", shape=self.shape, dtype=np.uint8, chunks=(10, 64, 64), voxel_size_um=VOXEL
        )
        segmentation.write(Box.of(self.shape), labels)
        lines = [{"kind": "prediction", "output": str(output.resolve()), "image": str(self.image)}]
        if evaluated:
            truth = Annotation(self.truth.astype(np.uint8), np.ones(self.shape, dtype=bool), "classes", tuple(values))
            scores = evaluate(output, truth)
            lines.append(
                {"kind": "evaluation", "prediction": str(output.resolve()), "truth": str(self.labels), "axes": None,
                 "planes": [], "background": None, "unlabelled": None, "label_kind": None, "scores": scores}
            )  # fmt: skip
        with (run / "results.jsonl").open("a") as stream:
            stream.writelines(json.dumps(line) + "\n" for line in lines)
        return output

    def count(self, output: Path) -> dict[str, Any]:
        """Segment a prediction into objects and measure them."""
        labels = ndimage.label(io.open_labels(output / "labels" / "segmentation").read()[0])[0].astype(np.uint16)
        attributes = {"objects": int(labels.max()), "segmenter": "connected_components", "settings": {"min_size": 0}}
        store = io.create_labels(
            output, "instances", shape=self.shape, dtype=np.uint16, chunks=(10, 64, 64), voxel_size_um=VOXEL,
            attributes=attributes, overwrite=True,
        )  # fmt: skip
        store.write(Box.of(self.shape), labels)
        table = output.with_name(f"{output.name.removesuffix('.ome.zarr')}.objects.csv")
        source = Source(str(output / "labels" / "instances"))
        return measure_objects(source, table, prediction=find_prediction(output), overwrite=True).summary

    def contour_run(self, name: str) -> Path:
        """Make a run of strategy ``synthetic`` that refined images and proposes contours, with a prediction of it."""
        run = self.run(name, "synthetic")
        output = self.folder / f"{name}_out.ome.zarr"
        attributes = {
            "image": str(self.image), "run": str(run.resolve()), "class_values": [1], "threshold": 0.5,
            "block": list(self.shape), "plane_axis": 0,
            "outputs": [{"name": "foreground", "kind": "contour", "range": [0, 1], "dtype": "uint8"}],
        }  # fmt: skip
        store = io.create_output(
            output, shape=self.shape, channel_names=["foreground"], voxel_size_um=VOXEL, chunks=(10, 64, 64),
            attributes=attributes,
        )  # fmt: skip
        store.write(Box.of(self.shape), np.zeros((1, *self.shape), np.uint8))
        angle = np.linspace(0, 2 * np.pi, 32, endpoint=False)
        circle = np.stack([30 + 8 * np.sin(angle), 40 + 12 * np.cos(angle)], axis=1).astype(np.float32)
        anchors, scores = np.array([[z, 30, 40] for z in (3, 4)]), np.array([0.9, 0.8], np.float32)
        proposals = Proposals(anchors, scores, np.ones(2, np.uint8), np.stack([circle] * 2), 0)
        write_geojson(self.folder / f"{name}_out.contours.geojson", [proposals], class_values=[1], voxel_size_um=VOXEL)
        labels = painted(proposals, Box.of(self.shape), dtype=np.uint8)
        instances = io.create_labels(
            output, "instances", shape=self.shape, dtype=np.uint8, chunks=(10, 64, 64), voxel_size_um=VOXEL,
            attributes={"objects": 2, "segmenter": "contours", "settings": {"overlap": 0.2}},
        )  # fmt: skip
        instances.write(Box.of(self.shape), labels)
        figures = {
            "kernel_distance": 0.31, "kernel_distance_low": 0.25, "kernel_distance_high": 0.38,
            "kernel_distance_chance": 0.05, "spectrum_distance": 0.2, "histogram_distance": 0.1, "separability": 0.87,
            "recall_before": 0.9, "recall_after": 0.88, "precision_before": 0.8, "precision_after": 0.79,
            "objects": 374,
        }  # fmt: skip
        with (run / "log.jsonl").open("a") as stream:
            stream.write("\n")
            for step, score in ((20, -0.31), (40, -1000.0)):  # the later one lost its annotation
                event = {"event": "validation", "stage": "refine", "step": step, "score": score, **figures}
                line = {"event": "step", "stage": "refine", "step": step, "loss": {"total": 1 / step}, "seconds": step}
                stream.write(json.dumps(line) + "\n" + json.dumps(event | {"kernel_distance": 6.2 / step}) + "\n")
        (run / "stages" / "refine").mkdir(parents=True)
        patches = self.generator.integers(0, 255, (6 * 34, 4 * 34, 3)).astype(np.uint8)
        Image.fromarray(patches).save(run / "stages" / "refine" / "pairs_000020.png")
        lines = [{"kind": "prediction", "output": str(output.resolve()), "image": str(self.image)}]
        truth = self.folder / f"{name}_truth.tif"
        io.save_labels(truth, labels, voxel_size_um=VOXEL)
        found = evaluate_instances(output, Annotation(labels, np.ones(self.shape, bool), "instances"))
        lines.append(
            {"kind": "instance_evaluation", "prediction": str(output.resolve()), "truth": str(truth), "axes": None,
             "planes": [], "background": None, "unlabelled": None, "label_kind": None, "scores": found}
        )  # fmt: skip
        (run / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return run


@pytest.fixture
def fabricated(tmp_path: Path) -> Fabricated:
    return Fabricated(tmp_path)


@pytest.fixture
def fabricate(tmp_path: Path) -> Callable[..., Fabricated]:
    return lambda **options: Fabricated(tmp_path, **options)


@pytest.fixture(scope="session")
def fabricate_in() -> type[Fabricated]:
    return Fabricated


class Browser:
    """Headless Chromium, spoken to over its debugging pipe; records what it logs and what it asks the network for."""

    def __init__(self, program: str, profile: Path) -> None:
        ours, its_out = os.pipe()
        its_in, theirs = os.pipe()
        arguments = [
            program, "--headless=new", "--no-sandbox", "--remote-debugging-pipe", f"--user-data-dir={profile}",
            "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--disable-default-apps", "--disable-extensions", "--disable-dev-shm-usage", "--use-angle=swiftshader",
            "--enable-unsafe-swiftshader", "--hide-scrollbars", "--force-color-profile=srgb", "about:blank",
        ]  # fmt: skip
        log = (profile / "chromium.log").open("wb")
        # Chromium reads commands from descriptor 3 and answers on 4
        self.pid = os.posix_spawn(
            program,
            arguments,
            {**os.environ, "LANGUAGE": "en"},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, its_in, 50), (os.POSIX_SPAWN_DUP2, its_out, 51),
                (os.POSIX_SPAWN_DUP2, 50, 3), (os.POSIX_SPAWN_DUP2, 51, 4),
                (os.POSIX_SPAWN_DUP2, log.fileno(), 1), (os.POSIX_SPAWN_DUP2, log.fileno(), 2),
                (os.POSIX_SPAWN_CLOSE, 50), (os.POSIX_SPAWN_CLOSE, 51),
            ],
            setpgroup=0,
        )  # fmt: skip
        log.close()
        os.close(its_in)
        os.close(its_out)
        self.read, self.write = ours, theirs
        os.set_blocking(self.read, False)
        self.number = 0
        self.buffer = bytearray()
        self.console: list[str] = []
        self.requests: list[str] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, limit: float = 120, **parameters: Any) -> dict[str, Any]:
        self.number += 1
        message: dict[str, Any] = {"id": self.number, "method": method, "params": parameters}
        if hasattr(self, "session"):
            message["sessionId"] = self.session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + limit
        while time.monotonic() < until:
            for answer in self._messages():
                if answer.get("id") == self.number:
                    assert "error" not in answer, (method, answer["error"])
                    return dict(answer["result"])
            time.sleep(0.01)
        raise AssertionError(f"chromium did not answer {method} within {limit} s")

    def _messages(self) -> Iterator[dict[str, Any]]:
        try:
            while part := os.read(self.read, 1 << 20):
                self.buffer += part
        except BlockingIOError:
            pass
        while (end := self.buffer.find(b"\0")) >= 0:
            message = json.loads(self.buffer[:end])
            del self.buffer[: end + 1]
            self._note(message)
            yield message

    def _note(self, message: dict[str, Any]) -> None:
        event, parameters = message.get("method"), message.get("params", {})
        if event == "Runtime.exceptionThrown":
            self.console.append(str(parameters["exceptionDetails"]))
        elif event == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning", "assert"):
            self.console.append(str(parameters["args"]))
        elif event == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
            self.console.append(parameters["entry"]["text"])
        elif event == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])

    def open(self, page: Path, width: int, height: int, *, dark: bool = False, still: bool = True) -> None:
        """Open a page offline at a size, and wait until its script says that everything is drawn."""
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.send("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)
        self.send(
            "Emulation.setEmulatedMedia",
            features=[
                {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
                {"name": "prefers-reduced-motion", "value": "reduce" if still else "no-preference"},
            ],
        )
        self.send("Page.navigate", url=page.resolve().as_uri())
        until = time.monotonic() + 90
        while self.run("document.documentElement?.dataset.ready || ''") != "true":
            assert time.monotonic() < until, f"the page was not drawn within 90 s; console: {self.console}"
            time.sleep(0.1)

    def run(self, script: str) -> Any:
        """Evaluate an expression in the page; promises are awaited."""
        answer = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def picture(self, selector: str | None = None, index: int = 0) -> np.ndarray:
        """Return what is on the screen in an element's box (or of the whole page) as (y, x, 3) uint8."""
        options: dict[str, Any] = {"format": "png"}
        if selector is None:
            size = self.send("Page.getLayoutMetrics")["cssContentSize"]
            options |= {"captureBeyondViewport": True, "clip": {**size, "x": 0, "y": 0, "scale": 1}}
        else:
            box = self.run(
                f"(() => {{ const e = document.querySelectorAll({json.dumps(selector)})[{index}];"
                "e.scrollIntoView({block: 'center', behavior: 'instant'}); const b = e.getBoundingClientRect();"
                "return {x: b.x + scrollX, y: b.y + scrollY, width: b.width, height: b.height}; })()"
            )
            options["clip"] = {**box, "scale": 1}
        time.sleep(0.3)
        data = base64.b64decode(self.send("Page.captureScreenshot", **options)["data"])
        return np.asarray(Image.open(BytesIO(data)).convert("RGB"))

    def printed(self) -> bytes:
        """Return the page as a PDF on A4."""
        paper = {"paperWidth": 8.27, "paperHeight": 11.69, "printBackground": True, "preferCSSPageSize": True}
        return base64.b64decode(self.send("Page.printToPDF", limit=180, **paper)["data"])

    def close(self) -> None:
        os.close(self.write)
        os.close(self.read)
        until = time.monotonic() + 10
        while time.monotonic() < until:
            if os.waitpid(self.pid, os.WNOHANG)[0]:
                break
            time.sleep(0.05)
        else:
            os.killpg(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    program = next((found for name in names if (found := shutil.which(name))), None)
    if program is None or not hasattr(os, "posix_spawn"):
        pytest.skip("no Chromium on this machine; install chromium or google-chrome to run this test")
    opened = Browser(program, tmp_path_factory.mktemp("chromium"))
    yield opened
    opened.close()
