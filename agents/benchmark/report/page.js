"use strict";
// Tables that sort by a click on a head, and learning curves that can be switched on and off. No library, no network.

const { settings } = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";

function make(name, attributes = {}, ...children) {
  const drawn = ["svg", "g", "line", "path", "polygon", "circle", "text"].includes(name);
  const element = drawn ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

function sortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = make("button", { type: "button" }, head.textContent);
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const cells = [...table.tBodies[0].rows].map((row) => row.cells[column]);
      // What is more comes first at the first click; text begins with A.
      const numeric = cells.some((cell) => "sort" in cell.dataset);
      const before = head.getAttribute("aria-sort");
      const rising = before ? before === "descending" : !numeric;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", rising ? "ascending" : "descending");
      const value = (row) => {
        const cell = row.cells[column];
        return numeric ? ("sort" in cell.dataset ? Number(cell.dataset.sort) : NaN) : cell.textContent;
      };
      const order = (one, other) => {
        const [a, b] = [value(one), value(other)];
        if (!numeric) return (rising ? 1 : -1) * a.localeCompare(b);
        if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b); // unknown ones last
        return (rising ? 1 : -1) * (a - b);
      };
      table.tBodies[0].append(...[...table.tBodies[0].rows].sort(order));
    });
  });
}

function ticks(low, high, count) {
  const raw = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= raw);
  const found = [];
  for (let at = Math.ceil(low / step); at * step <= high + step / 1e6; at++) found.push(at * step);
  return found;
}

function shown(value, span) {
  const decimals = Math.min(Math.max(2 - Math.floor(Math.log10(span || 1)), 0), 4);
  return value.toLocaleString("en-US", { maximumFractionDigits: decimals });
}

const X = { steps: 0, seconds: 1 }, VALUE = 2, LOW = 3, HIGH = 4; // columns of a curve

function chart(figure) {
  const setting = settings[Number(figure.dataset.setting)];
  const arms = setting.arms.filter((arm) => arm.curve.length);
  const on = new Set(arms);
  let along = "steps", at = null, points = [];
  const svg = make("svg", { role: "img", tabindex: 0 });
  svg.setAttribute("aria-label", `Learning curves of ${setting.title}. Left and right arrow keys read values.`);
  const readout = make("div", { class: "readout", "aria-live": "polite" });

  const which = make("fieldset", {}, make("legend", {}, "Curves"));
  for (const arm of arms) {
    const box = make("input", { type: "checkbox", checked: "" });
    box.addEventListener("change", () => { box.checked ? on.add(arm) : on.delete(arm); draw(); });
    const line = make("line", { x1: 0, x2: 36, y1: 6, y2: 6, class: "curve", "stroke-dasharray": arm.dash });
    line.style.stroke = `var(--arm-${arm.tint})`;
    which.append(make("label", {}, box, make("svg", { "aria-hidden": "true" }, line), `${arm.label} (${arm.seeds})`));
  }
  const axis = make("fieldset", {}, make("legend", {}, "Along"));
  for (const [name, told] of [["steps", setting.unit], ["seconds", `${setting.seconds} of training`]]) {
    const box = make("input", { type: "radio", name: `along-${figure.dataset.setting}` });
    box.checked = name === along;
    box.addEventListener("change", () => { along = name; at = null; draw(); });
    axis.append(make("label", {}, box, told));
  }

  function draw() {
    const width = Math.max(figure.clientWidth, 280), height = Math.min(380, Math.max(240, width * 0.45));
    const left = 56, right = 12, top = 12, bottom = 40;
    svg.replaceChildren();
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    readout.replaceChildren();
    const curves = [...on].flatMap((arm) => arm.curve);
    if (!curves.length) {
      svg.append(make("text", { x: left, y: height / 2 }, "No curve is switched on."));
      return;
    }
    const levels = curves.flatMap((row) => [row[VALUE], row[LOW] ?? row[VALUE], row[HIGH] ?? row[VALUE]]);
    levels.push(...setting.references.map((reference) => reference.mean));
    let [low, high] = [Math.min(...levels), Math.max(...levels)];
    if (low === high) [low, high] = [low - 1, high + 1];
    points = [...new Set(curves.map((row) => row[X[along]]))].sort((a, b) => a - b);
    const end = points.at(-1) || 1;
    const x = (value) => left + (value / end) * (width - left - right);
    const y = (value) => height - bottom - ((value - low) / (high - low)) * (height - top - bottom);

    for (const tick of ticks(low, high, 5)) {
      svg.append(make("line", { class: "grid", x1: left, x2: width - right, y1: y(tick), y2: y(tick) }));
      svg.append(make("text", { x: left - 6, y: y(tick) + 4, "text-anchor": "end" }, shown(tick, high - low)));
    }
    for (const tick of ticks(0, end, width / 110)) {
      const anchor = tick === end ? "end" : "middle";
      svg.append(make("text", { x: x(tick), y: height - bottom + 16, "text-anchor": anchor }, shown(tick, end)));
    }
    const name = along === "steps" ? setting.unit : `${setting.seconds} of training, median over the seeds`;
    svg.append(make("text", { x: width - right, y: height - 6, "text-anchor": "end" }, name));
    svg.append(make("text", { x: left, y: height - 6 }, setting.measure));
    for (const reference of setting.references) {
      const level = y(reference.mean);
      svg.append(make("line", { class: "reference", x1: left, x2: width - right, y1: level, y2: level }));
      svg.append(make("text", { x: width - right, y: level - 4, "text-anchor": "end" }, reference.name));
    }
    for (const arm of on) {
      const tint = `var(--arm-${arm.tint})`;
      const edge = (column) => arm.curve.map((row) => `${x(row[X[along]])},${y(row[column])}`);
      if (arm.curve.every((row) => row[LOW] !== null)) {
        const band = make("polygon", { class: "band", points: [...edge(LOW), ...edge(HIGH).reverse()].join(" ") });
        band.style.fill = tint;
        svg.append(band);
      }
      const path = make("path", { class: "curve", d: `M${edge(VALUE).join("L")}`, "stroke-dasharray": arm.dash });
      path.style.stroke = tint;
      svg.append(path);
      if (arm.curve.length === 1) { // through which no line goes
        const dot = make("circle", { cx: x(arm.curve[0][X[along]]), cy: y(arm.curve[0][VALUE]), r: 4 });
        dot.style.fill = tint;
        svg.append(dot);
      }
    }
    if (at !== null) point(x, y, top, height - bottom, end, high - low);
    svg.onpointermove = (event) => {
      const value = ((event.clientX - svg.getBoundingClientRect().left - left) / (width - left - right)) * end;
      const near = points.reduce((best, one) => (Math.abs(one - value) < Math.abs(best - value) ? one : best));
      if (near !== at) { at = near; draw(); }
    };
  }

  function point(x, y, top, bottom, end, span) {
    svg.append(make("line", { class: "cursor", x1: x(at), x2: x(at), y1: top, y2: bottom }));
    const list = make("ul");
    for (const arm of on) {
      const near = (best, row) => (Math.abs(row[X[along]] - at) < Math.abs(best[X[along]] - at) ? row : best);
      const row = arm.curve.reduce(near);
      const dot = make("circle", { cx: x(row[X[along]]), cy: y(row[VALUE]), r: 4 });
      dot.style.fill = `var(--arm-${arm.tint})`;
      svg.append(dot);
      const bounds = row[LOW] === null ? "one seed" : `${shown(row[LOW], span)} to ${shown(row[HIGH], span)}`;
      list.append(make("li", {}, `${arm.label}: ${shown(row[VALUE], span)} (${bounds}) at ${shown(row[X[along]], end)}`));
    }
    readout.replaceChildren(list);
  }

  svg.addEventListener("pointerleave", () => { at = null; draw(); });
  svg.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!move || !points.length) return;
    event.preventDefault();
    const index = at === null ? (move > 0 ? 0 : points.length - 1) : points.indexOf(at) + move;
    at = points[Math.min(Math.max(index, 0), points.length - 1)];
    draw();
  });
  figure.replaceChildren(which, axis, svg, readout);
  new ResizeObserver(draw).observe(figure);
}

document.querySelectorAll("table").forEach(sortable);
document.querySelectorAll(".chart").forEach(chart);
