"use strict";
(() => {
  const data = JSON.parse(document.getElementById("report-data").textContent);
  const root = document.documentElement;
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const repaint = [];
  const waiting = [];

  // ---- theme: the system's, until the button is used
  const themed = (name) => { root.dataset.theme = name; repaint.forEach((paint) => paint()); };
  root.dataset.theme = dark.matches ? "dark" : "light";
  dark.addEventListener("change", () => themed(dark.matches ? "dark" : "light"));
  document.getElementById("theme").addEventListener("click", () => themed(root.dataset.theme === "dark" ? "light" : "dark"));
  const css = (name) => getComputedStyle(root).getPropertyValue(name).trim();

  // as many columns as fit, evenly filled: five panels become 5, or 3 + 2, never 4 + 1
  const columns = (grid, least) => {
    const count = grid.children.length;
    const fit = Math.max(1, Math.min(count, Math.floor((grid.clientWidth + 12) / (least + 12))));
    grid.style.setProperty("--columns", Math.ceil(count / Math.ceil(count / fit)));
  };

  // ---- training curves
  const chartStyle = () => {
    const axis = { gridcolor: css("--line"), linecolor: css("--line"), zeroline: false, automargin: true };
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", colorway: [css("--accent"), css("--held"), css("--tp")],
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: css("--soft") },
      hoverlabel: { bgcolor: css("--card"), bordercolor: css("--line"), font: { color: css("--ink") } }, axis,
    };
  };
  document.querySelectorAll(".charts").forEach((grid) => { columns(grid, 330); new ResizeObserver(() => columns(grid, 330)).observe(grid); });
  document.querySelectorAll("[data-training]").forEach((node) => {
    const [run, stage] = node.dataset.training.split(",").map(Number);
    const figure = data.training[run][stage];
    const layout = () => {
      const { axis, ...style } = chartStyle();
      const out = { ...figure.layout, ...style };
      for (const key of Object.keys(figure.layout)) if (/^[xy]axis/.test(key)) out[key] = { ...axis, ...figure.layout[key] };
      return out;
    };
    const traces = () => {
      const colours = [css("--accent"), css("--held")];
      return figure.data.map((trace) => {
        const colour = trace.yaxis === "y2" ? colours[1] : figure.data.filter((t) => t.yaxis !== "y2").length === 1 ? colours[0] : undefined;
        return colour ? { ...trace, line: { ...trace.line, color: colour } } : trace;
      });
    };
    const paint = () => Plotly.react(node, traces(), layout(), { displayModeBar: false, responsive: true });
    waiting.push(paint());
    repaint.push(paint);
  });

  // ---- planes
  const loaded = (uri) => new Promise((resolve, reject) => {
    const picture = new Image();
    picture.onload = () => resolve(picture);
    picture.onerror = () => reject(new Error("an embedded plane could not be decoded"));
    picture.src = uri;
  });
  const surface = (width, height) => {
    const canvas = document.createElement("canvas");
    canvas.width = width; canvas.height = height;
    return canvas;
  };
  const values = (picture) => {
    const canvas = surface(picture.width, picture.height);
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(picture, 0, 0);
    const rgba = context.getImageData(0, 0, canvas.width, canvas.height).data;
    const out = new Uint8Array(canvas.width * canvas.height);
    for (let i = 0; i < out.length; i++) out[i] = rgba[4 * i];
    return out;
  };
  const grey = (picture) => {
    const canvas = surface(picture.width, picture.height);
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(picture, 0, 0);
    const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
    for (let i = 0, p = pixels.data; i < p.length; i += 4) p[i] = p[i + 1] = p[i + 2] = 0.299 * p[i] + 0.587 * p[i + 1] + 0.114 * p[i + 2];
    context.putImageData(pixels, 0, 0);
    return canvas;
  };
  const masked = (width, height, test) => {
    const canvas = surface(width, height);
    const context = canvas.getContext("2d");
    const pixels = context.createImageData(width, height);
    let any = false;
    for (let i = 0; i < width * height; i++) if (test(i)) { pixels.data[4 * i + 3] = 255; any = true; }
    if (!any) return null;
    context.putImageData(pixels, 0, 0);
    return canvas;
  };
  // a colour that is seen on dark and bright images alike
  const lighter = (colour) => "#" + [1, 3, 5].map((i) => Math.min(255, parseInt(colour.slice(i, i + 2), 16) + 48).toString(16).padStart(2, "0")).join("");
  const pattern = (kind, colour) => {
    const tile = surface(8, 8);
    const context = tile.getContext("2d");
    context.globalAlpha = 0.5; context.fillStyle = colour; context.fillRect(0, 0, 8, 8); context.globalAlpha = 0.95;
    context.strokeStyle = context.fillStyle = "#fff"; context.lineWidth = 1.2;
    if (kind === "stripes") { context.beginPath(); for (const o of [-8, 0, 8]) { context.moveTo(o, 8); context.lineTo(o + 8, 0); } context.stroke(); }
    if (kind === "dots") for (const [x, y] of [[2, 2], [6, 6]]) { context.beginPath(); context.arc(x, y, 0.95, 0, 7); context.fill(); }
    if (kind === "bars") { context.beginPath(); context.moveTo(4, 0); context.lineTo(4, 8); context.stroke(); }
    return tile;
  };

  document.querySelectorAll(".browser").forEach((box) => {
    const browser = data.cases[+box.dataset.case].browser;
    const { arms, classes } = browser;
    let { planes } = browser.views[0];
    let shown = browser.views[0];
    const panels = box.querySelector(".panels");
    const slider = box.querySelector(".position");
    const strength = box.querySelector(".strength");
    const where = box.querySelector(".where");
    const view = { zoom: 1, x: 0.5, y: 0.5 };
    let cache = new Map();
    const names = [...(planes.some((p) => p.image) ? ["image"] : []), ...(browser.truth ? ["truth"] : []), ...arms.map((a) => a.name)];
    const figures = names.map((name, index) => {
      const arm = index - (names.length - arms.length);
      const figure = document.createElement("figure");
      const caption = document.createElement("figcaption");
      const title = document.createElement("span");
      const note = document.createElement("span");
      const canvas = document.createElement("canvas");
      if (arm >= 0) { const dot = document.createElement("span"); dot.className = "swatch"; dot.style.setProperty("--c", arms[arm].colour); title.append(dot); }
      title.append(name); note.className = "soft";
      caption.append(title, note);
      canvas.tabIndex = 0;
      canvas.setAttribute("role", "img");
      figure.append(caption, canvas);
      panels.append(figure);
      return { name, arm, canvas, note };
    });
    // the plane with most to see comes first: most foreground of the truth, which compresses worst
    let current = 0;
    const richest = () => planes.reduce((best, plane, i) => { const size = (p) => (p.truth || p.arms[0] || "").length; return size(plane) > size(planes[best]) ? i : best; }, 0);
    current = richest();

    const prepared = (index) => {
      if (!cache.has(index)) cache.set(index, (async () => {
        const plane = planes[index];
        const [image, truth, ...rest] = await Promise.all([plane.image, plane.truth, ...plane.arms, ...plane.objects].map((uri) => (uri ? loaded(uri) : null)));
        const masks = rest.slice(0, arms.length);
        const any = image || truth || masks[0];
        const [width, height] = [any.width, any.height];
        const known = truth && values(truth);
        // objects: ids folded into one byte; those that touch are parted by a line, whatever their colours
        const objects = rest.slice(arms.length).map((picture) => {
          if (!picture) return null;
          const ids = values(picture);
          const tints = data.colours.classes;
          const differs = (i, j) => ids[i] && ids[j] && ids[i] !== ids[j];
          return {
            tinted: tints.map((_, k) => masked(width, height, (i) => ids[i] && ids[i] % tints.length === k)),
            borders: masked(width, height, (i) => (i % width + 1 < width && differs(i, i + 1)) || (i + width < ids.length && differs(i, i + width))),
          };
        });
        const layers = masks.map((mask) => {
          const found = values(mask);
          const perClass = classes.map((_, k) => masked(width, height, (i) => found[i] === k + 1));
          if (!known) return { perClass };
          return {
            perClass,
            tp: masked(width, height, (i) => found[i] && found[i] === known[i]),
            fn: masked(width, height, (i) => !found[i] && known[i] && known[i] !== 255),
            fp: masked(width, height, (i) => found[i] && known[i] === 0),
            other: masked(width, height, (i) => found[i] && known[i] && known[i] !== 255 && found[i] !== known[i]),
          };
        });
        return {
          image, width, height, layers, objects, contours: plane.contours,
          // overlays are drawn on grey, so that theirs are the only colours
          base: image && grey(image),
          truth: known && classes.map((_, k) => masked(width, height, (i) => known[i] === k + 1)),
          veil: known && masked(width, height, (i) => known[i] === 255),
        };
      })());
      return cache.get(index);
    };

    const drawOn = (item, plane) => {
      const { canvas } = item;
      const ratio = Math.min(2, devicePixelRatio || 1);
      const width = Math.max(1, Math.round(canvas.clientWidth * ratio));
      const height = Math.max(1, Math.round((width * plane.height * shown.aspect) / plane.width));
      if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; canvas.style.aspectRatio = `${width} / ${height}`; }
      const context = canvas.getContext("2d");
      const [w, h] = [plane.width / view.zoom, plane.height / view.zoom];
      const [sx, sy] = [view.x * plane.width - w / 2, view.y * plane.height - h / 2];
      const place = (target, source, smooth) => { target.imageSmoothingEnabled = smooth; target.drawImage(source, sx, sy, w, h, 0, 0, width, height); };
      context.globalAlpha = 1;
      context.fillStyle = "#000"; context.fillRect(0, 0, width, height);
      const bare = item.arm < 0 && item.name === "image";
      if (plane.image) place(context, bare ? plane.image : plane.base, view.zoom <= 2);
      const opacity = +strength.value / 100;
      const layer = (mask, fill, colour) => {
        if (!mask || !opacity) return;
        const shape = surface(width, height);
        const inner = shape.getContext("2d");
        place(inner, mask, false);
        const edge = surface(width, height);
        const outer = edge.getContext("2d");
        const d = 1.1 * ratio;
        for (const [dx, dy] of [[-d, 0], [d, 0], [0, -d], [0, d], [-d, -d], [d, d], [-d, d], [d, -d]]) outer.drawImage(shape, dx, dy);
        outer.globalCompositeOperation = "destination-out"; outer.drawImage(shape, 0, 0);
        outer.globalCompositeOperation = "source-in"; outer.fillStyle = colour; outer.fillRect(0, 0, width, height);
        inner.globalCompositeOperation = "source-in"; inner.fillStyle = fill(inner); inner.fillRect(0, 0, width, height);
        context.globalAlpha = opacity;
        context.drawImage(shape, 0, 0); context.drawImage(edge, 0, 0);
        context.globalAlpha = 1;
      };
      // flat lists x, y, x, y, … in tenths of a pixel; dark beneath the colour, so that lines are seen on any image
      const lines = (contours, colour) => {
        const path = new Path2D();
        for (const points of contours) {
          for (let i = 0; i < points.length; i += 2) path[i ? "lineTo" : "moveTo"]((points[i] / 10 - sx) * (width / w), (points[i + 1] / 10 - sy) * (height / h));
          path.closePath();
        }
        context.globalAlpha = opacity; context.lineJoin = "round";
        for (const [ink, thick] of [["rgba(0,0,0,.65)", 3.2], [colour, 1.6]]) { context.strokeStyle = ink; context.lineWidth = thick * ratio; context.stroke(path); }
        context.globalAlpha = 1;
      };
      const flat = (colour, alpha) => () => colour + Math.round(255 * alpha).toString(16).padStart(2, "0");
      const tiled = (kind, colour) => (c) => { const p = c.createPattern(pattern(kind, colour), "repeat"); p.setTransform(new DOMMatrix().scale(ratio)); return p; };
      const veil = () => { if (plane.veil) layer(plane.veil, () => "rgba(20,24,30,.62)", "rgba(0,0,0,0)"); };
      const tints = classes.length > 1 ? data.colours.classes : null;
      if (item.name === "truth" && item.arm < 0) {
        if (plane.truth) plane.truth.forEach((mask, k) => layer(mask, flat(tints ? tints[k % tints.length] : "#f2c14e", 0.35), tints ? tints[k % tints.length] : "#f2c14e"));
        veil();
      } else if (item.arm >= 0) {
        const parts = plane.layers[item.arm];
        const mode = box.querySelector(".overlay input:checked")?.value;
        if (mode === "objects" && plane.contours[item.arm].length) lines(plane.contours[item.arm], lighter(arms[item.arm].colour));
        else if (mode === "objects" && plane.objects[item.arm]) {
          plane.objects[item.arm].tinted.forEach((mask, k) => layer(mask, flat(data.colours.classes[k], 0.4), data.colours.classes[k]));
          layer(plane.objects[item.arm].borders, flat("#ffffff", 0.9), "rgba(0,0,0,0)");
        } else if (plane.truth && mode === "disagreement") {
          const c = data.colours;
          layer(parts.tp, flat(c.tp, 0.4), c.tp);
          layer(parts.fn, tiled("stripes", c.fn), c.fn);
          layer(parts.fp, tiled("dots", c.fp), c.fp);
          layer(parts.other, tiled("bars", css("--other")), css("--other"));
          veil();
        } else parts.perClass.forEach((mask, k) => { const colour = tints ? tints[k % tints.length] : arms[item.arm].colour; layer(mask, flat(colour, 0.35), colour); });
      }
      if (item === figures[0] && shown.pixel_um) {
        const um = (plane.width * shown.pixel_um) / view.zoom;
        const power = 10 ** Math.floor(Math.log10(um / 4));
        const length = [5, 2, 1].map((s) => s * power).find((s) => s <= um / 4);
        const pixels = (length / um) * width;
        context.fillStyle = "#fff"; context.shadowColor = "#000"; context.shadowBlur = 3 * ratio;
        context.fillRect(12 * ratio, height - 15 * ratio, pixels, 3 * ratio);
        context.font = `${12 * ratio}px system-ui, sans-serif`;
        context.fillText(`${+length.toPrecision(3)} µm`, 12 * ratio, height - 20 * ratio);
        context.shadowBlur = 0;
      }
    };

    let latest = 0;
    const draw = async () => {
      const ticket = ++latest;
      const plane = planes[current];
      const ready = await prepared(current);
      if (ticket !== latest) return;
      const { axis } = shown;
      const depth = shown.plane_um ? ` · ${+(plane.at * shown.plane_um).toPrecision(4)} µm` : "";
      const name = axis === "z" ? `plane ${plane.at}` : `plane ${axis} ${plane.at}`;
      where.replaceChildren(`${name} of 0–${shown.depth - 1}${depth}`);
      if (plane.role) { const badge = document.createElement("span"); badge.className = `badge ${plane.role}`; badge.textContent = plane.role === "trained" ? "annotation trained" : "held out"; where.append(badge); }
      slider.value = current;
      slider.setAttribute("aria-valuetext", name);
      figures.forEach((item) => {
        const dice = item.arm >= 0 ? plane.dice[item.arm] : null;
        item.note.textContent = dice === null ? (item.name === "truth" && item.arm < 0 && !plane.truth ? "none on this plane" : "") : `Dice ${dice.toFixed(3)}`;
        item.canvas.setAttribute("aria-label", `${item.name}, ${name}${dice === null ? "" : `, Dice ${dice.toFixed(3)} on this plane`}`);
        item.canvas.classList.toggle("zoomed", view.zoom > 1);
        drawOn(item, ready);
      });
      for (const near of [current + 1, current - 1]) if (planes[near]) prepared(near).catch(() => {});
    };
    const go = (index) => { current = Math.max(0, Math.min(planes.length - 1, index)); draw(); };
    const look = (zoom, x, y) => {
      view.zoom = Math.max(1, Math.min(12, zoom));
      const half = 0.5 / view.zoom;
      view.x = Math.max(half, Math.min(1 - half, x));
      view.y = Math.max(half, Math.min(1 - half, y));
      draw();
    };
    slider.addEventListener("input", () => go(+slider.value));
    strength.addEventListener("input", draw);
    box.querySelectorAll(".axis input").forEach((input) => input.addEventListener("change", () => {
      shown = browser.views[+input.value];
      ({ planes } = shown);
      cache = new Map();
      slider.max = planes.length - 1;
      current = richest();
      look(1, 0.5, 0.5);
    }));
    box.querySelector(".previous").addEventListener("click", () => go(current - 1));
    box.querySelector(".next").addEventListener("click", () => go(current + 1));
    box.querySelector(".in").addEventListener("click", () => look(view.zoom * 1.5, view.x, view.y));
    box.querySelector(".out").addEventListener("click", () => look(view.zoom / 1.5, view.x, view.y));
    const legend = box.querySelector(".agreement");
    const judged = legend.dataset.judged === "yes";
    box.querySelectorAll(".overlay input").forEach((input) => input.addEventListener("change", () => {
      legend.hidden = !judged || box.querySelector(".overlay input:checked").value !== "disagreement";
      draw();
    }));
    figures.forEach(({ canvas }) => {
      let last = null;
      canvas.addEventListener("pointerdown", (e) => { if (view.zoom > 1) { last = [e.clientX, e.clientY]; canvas.setPointerCapture(e.pointerId); } });
      canvas.addEventListener("pointermove", (e) => {
        if (!last) return;
        const [dx, dy] = [(e.clientX - last[0]) / canvas.clientWidth, (e.clientY - last[1]) / canvas.clientHeight];
        last = [e.clientX, e.clientY];
        look(view.zoom, view.x - dx / view.zoom, view.y - dy / view.zoom);
      });
      for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { last = null; });
      canvas.addEventListener("keydown", (e) => {
        const step = 0.1 / view.zoom;
        const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
        if (moves[e.key] && view.zoom > 1) look(view.zoom, view.x + moves[e.key][0], view.y + moves[e.key][1]);
        else if (e.key in { ArrowLeft: 0, ArrowDown: 0 }) go(current - 1);
        else if (e.key in { ArrowRight: 0, ArrowUp: 0 }) go(current + 1);
        else if (e.key === "PageUp" || e.key === "PageDown") go(current + (e.key === "PageUp" ? 5 : -5));
        else if (e.key === "Home" || e.key === "End") go(e.key === "Home" ? 0 : planes.length - 1);
        else if (e.key === "+" || e.key === "=") look(view.zoom * 1.5, view.x, view.y);
        else if (e.key === "-") look(view.zoom / 1.5, view.x, view.y);
        else return;
        e.preventDefault();
      });
    });
    let seen = 0;
    new ResizeObserver(() => { if (panels.clientWidth !== seen) { seen = panels.clientWidth; columns(panels, 210); draw(); } }).observe(panels);
    columns(panels, 210);
    waiting.push(draw());
  });

  // ---- surfaces
  const webgl = (() => { try { return !!surface(1, 1).getContext("webgl"); } catch { return false; } })();
  document.querySelectorAll(".surfaces").forEach((box) => {
    if (!webgl) {
      box.querySelector(".scenes").hidden = box.querySelector(".controls").hidden = true;
      box.querySelector(".nowebgl").hidden = false;
      box.parentElement.classList.add("show-static");
      return;
    }
    const scenes = data.cases[+box.dataset.case].scenes;
    const nodes = [...box.querySelectorAll(".scene")];
    const { x: wide, y: long, z: deep } = scenes[0].figure.layout.scene.aspectratio;
    const flat = 1 - Math.min(1, deep / Math.max(wide, long));  // a thin volume is looked at from higher up
    const home = { turn: -0.9, lift: 0.5 + 0.35 * flat, far: 2.15 - 0.2 * flat };
    const eye = { ...home };
    const play = box.querySelector(".play");
    const grid = box.querySelector(".scenes");
    columns(grid, 250);
    new ResizeObserver(() => columns(grid, 250)).observe(grid);
    let playing = false, busy = false, before = 0, last = 0, slow = 0;
    const visible = new Set();
    const camera = () => ({
      up: { x: 0, y: 0, z: 1 }, center: { x: 0, y: 0, z: -0.06 }, projection: { type: "perspective" },
      eye: { x: eye.far * Math.cos(eye.lift) * Math.cos(eye.turn), y: eye.far * Math.cos(eye.lift) * Math.sin(eye.turn), z: eye.far * Math.sin(eye.lift) },
    });
    const layout = (figure) => {
      const axis = { gridcolor: css("--line"), linecolor: css("--line"), color: css("--soft"), tickfont: { size: 10 } };
      const scene = { ...figure.layout.scene, camera: camera(), bgcolor: "rgba(0,0,0,0)" };
      for (const key of ["xaxis", "yaxis", "zaxis"]) scene[key] = { ...scene[key], ...axis, title: { ...scene[key].title, font: { size: 11 } } };
      return { ...figure.layout, scene, paper_bgcolor: "rgba(0,0,0,0)", font: { family: getComputedStyle(document.body).fontFamily } };
    };
    const config = { displayModeBar: false, responsive: true, scrollZoom: false };
    const paint = () => Promise.all(nodes.map((node, i) => Plotly.react(node, scenes[i].figure.data, layout(scenes[i].figure), config)));
    const turnAll = async (except) => {
      if (busy) return;
      busy = true;
      const update = { "scene.camera": camera() };
      try { await Promise.all([...visible].filter((node) => node !== except).map((node) => Plotly.relayout(node, update))); } finally { busy = false; }
    };
    const set = (on) => { playing = on; play.textContent = on ? "Pause" : "Rotate"; play.setAttribute("aria-pressed", String(on)); };
    const turn = (d) => { eye.turn += d.turn || 0; eye.lift = Math.max(-1.5, Math.min(1.5, eye.lift + (d.lift || 0))); eye.far = Math.max(0.6, Math.min(5, eye.far * (d.zoom || 1))); turnAll(); };
    const follow = (node) => (event) => {
      const moved = event && event["scene.camera"];
      if (!moved || busy) return;
      const { x, y, z } = moved.eye;
      eye.far = Math.hypot(x, y, z); eye.lift = Math.asin(Math.max(-1, Math.min(1, z / eye.far))); eye.turn = Math.atan2(y, x);
      turnAll(node);
    };
    // at most 30 pictures per second, and on a slow machine half of the time is left for everything else
    const frame = async (now) => {
      slow = Math.max(now - last, 0.8 * slow);
      last = now;
      if (!playing || !visible.size || document.hidden) before = now;
      else if (now - before > Math.max(33, 2 * slow)) {
        eye.turn += 0.25 * Math.min(0.2, (now - before) / 1000);
        before = now;
        await turnAll();
      }
      requestAnimationFrame(frame);
    };
    play.addEventListener("click", () => set(!playing));
    box.querySelector(".reset").addEventListener("click", () => { Object.assign(eye, home); turnAll(); });
    box.querySelector(".in").addEventListener("click", () => turn({ zoom: 1 / 1.2 }));
    box.querySelector(".out").addEventListener("click", () => turn({ zoom: 1.2 }));
    waiting.push(paint().then(() => {
      nodes.forEach((node) => {
        node.on("plotly_relayouting", follow(node));
        node.on("plotly_relayout", follow(node));
        node.addEventListener("pointerdown", () => set(false));
        node.addEventListener("keydown", (e) => {
          const keys = { ArrowLeft: { turn: -0.12 }, ArrowRight: { turn: 0.12 }, ArrowUp: { lift: 0.1 }, ArrowDown: { lift: -0.1 }, "+": { zoom: 1 / 1.2 }, "=": { zoom: 1 / 1.2 }, "-": { zoom: 1.2 } };
          if (e.key === " ") set(!playing);
          else if (keys[e.key]) turn(keys[e.key]);
          else return;
          e.preventDefault();
        });
      });
      const watch = new IntersectionObserver((entries) => {
        entries.forEach((e) => (e.isIntersecting ? visible.add(e.target) : visible.delete(e.target)));
        turnAll();
      });
      nodes.forEach((node) => watch.observe(node));
      set(!still.matches);
      still.addEventListener("change", () => set(!still.matches));
      requestAnimationFrame(frame);
    }));
    repaint.push(paint);
  });

  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => { part.open = true; }));

  Promise.all(waiting).then(() => { root.dataset.ready = "true"; });
})();
