// Parameters that differ, each an axis, against one metric; ranges of axes choose runs.
const SVG = "http://www.w3.org/2000/svg";
const MOST_AXES = 10;
const [TOP, BOTTOM, SIDE] = [44, 296, 62];

function draw(name, attributes, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}
const short = (text, most) => ([...text].length > most ? `${[...text].slice(0, most - 1).join("")}…` : text);
const isNumber = (text) => text.trim() !== "" && Number.isFinite(Number(text));

// An axis: where each run's value is, and what its ticks say.
function axisOf(name, values) {
  const known = values.filter((value) => value !== undefined);
  const axis = { name, range: null };
  if (known.every((value) => typeof value === "number" || isNumber(value))) {
    const numbers = values.map((value) => (value === undefined ? NaN : Number(value)));
    const real = numbers.filter((value) => !Number.isNaN(value));
    const [low, high] = [Math.min(...real), Math.max(...real)];
    const logarithmic = low > 0 && high / low >= 20;
    const y = low === high ? () => (TOP + BOTTOM) / 2 : scale(low, high, BOTTOM, TOP, logarithmic);
    axis.places = numbers.map((value) => (Number.isNaN(value) ? null : y(value)));
    const inside = low === high ? [] : logarithmic ? logTicks(low, high) : ticks(low, high, 5);
    const apart = (value) => Math.abs(y(value) - BOTTOM) > 14 && Math.abs(y(value) - TOP) > 14;
    axis.ticks = [low, ...inside.filter(apart), ...(low === high ? [] : [high])].map((value) => [y(value), numberText(value, 4)]);
  } else {
    const words = [...new Set(known)].sort();
    const y = (word) => BOTTOM - ((words.indexOf(word) + 0.5) / words.length) * (BOTTOM - TOP);
    axis.places = values.map((value) => (value === undefined ? null : y(value)));
    const every = Math.ceil(words.length / 14);
    axis.ticks = words.filter((_, at) => at % every === 0).map((word) => [y(word), short(word, 11)]);
  }
  return axis;
}

// From the least value to the greatest: dark to bright, or bright to dark on white.
function shade(share) {
  const stops = dark.matches
    ? [[96, 88, 190], [36, 160, 180], [110, 220, 130], [250, 226, 90]]
    : [[68, 20, 110], [38, 96, 140], [22, 140, 110], [190, 130, 0]];
  const at = Math.min(Math.max(share, 0), 1) * (stops.length - 1);
  const low = Math.min(Math.floor(at), stops.length - 2);
  const mixed = stops[low].map((from, channel) => Math.round(from + (stops[low + 1][channel] - from) * (at - low)));
  return `rgb(${mixed.join(" ")})`;
}

function drawParallel() {
  const home = one("parallel");
  if (!home) return;
  const target = one("target");
  const metrics = [...new Set(data.runs.flatMap((run) => Object.keys(run.metrics)))].sort((a, b) => rank(a) - rank(b) || (a < b ? -1 : 1));
  for (const key of metrics) target.append(make("option", { value: key }, key));
  const params = [...new Set(data.runs.flatMap((run) => Object.keys(run.params)))].sort();
  const differing = params.filter((key) => new Set(data.runs.map((run) => run.params[key])).size > 1);
  // Numbers first: they say most.
  differing.sort((a, b) => isAll(b) - isAll(a));
  const axes = differing.slice(0, MOST_AXES).map((key) => axisOf(key, data.runs.map((run) => run.params[key])));
  if (differing.length > MOST_AXES) home.before(make("p", { class: "hint" }, `The first ${MOST_AXES} of ${differing.length} parameters that differ.`));
  const state = { home, axes: [] };
  const choose = () => {
    state.axes = [...axes, axisOf(target.value, data.runs.map((run) => run.metrics[target.value]))];
    state.metric = state.axes.length - 1;
    renderParallel(state);
    select(state);
  };
  target.addEventListener("change", choose);
  one("clear").addEventListener("click", () => {
    for (const axis of state.axes) axis.range = null;
    select(state);
  });
  new ResizeObserver(() => renderParallel(state)).observe(home);
  dark.addEventListener("change", () => renderParallel(state));
  listeners.push(() => markParallel(state));
  choose();
}
// What was measured on data held back is what runs are chosen by.
const rank = (key) => (key.startsWith("system/") ? 2 : Number(!/(^|[^a-z])(test|val|valid|validation|eval)([^a-z]|$)/i.test(key)));
const isAll = (key) => Number(data.runs.every((run) => run.params[key] === undefined || isNumber(run.params[key])));

function renderParallel(state) {
  const { home, axes } = state;
  const width = Math.max(home.clientWidth, axes.length * 92 + SIDE);
  if (width === state.width && axes === state.rendered) if (state.dark === dark.matches) return;
  Object.assign(state, { width, rendered: axes, dark: dark.matches });
  const gap = axes.length > 1 ? (width - 2 * SIDE) / (axes.length - 1) : 0;
  const svg = draw("svg", { width, height: 330, viewBox: `0 0 ${width} 330`, role: "group", "aria-label": "Parallel coordinates" });
  state.lines = data.runs.map((run, place) => {
    const points = axes.map((axis, at) => [SIDE + at * gap, axis.places[place] ?? BOTTOM + 16]);
    const height = axes[state.metric].places[place];
    const line = draw("path", { d: `M${points.map((point) => point.join(" ")).join("L")}` });
    line.style.stroke = height === null ? "var(--soft)" : shade((BOTTOM - height) / (BOTTOM - TOP));
    line.append(draw("title", {}, run.name));
    focusOn(line, place);
    return line;
  });
  svg.append(...state.lines, ...axes.map((axis, at) => drawAxis(state, axis, SIDE + at * gap, at)));
  home.replaceChildren(svg);
  markParallel(state);
}

function drawAxis(state, axis, x, at) {
  const last = at === state.axes.length - 1;
  const label = draw("text", { x, y: 20, "text-anchor": "middle" }, short(axis.name, 13));
  label.append(draw("title", {}, axis.name));
  if (last) label.style.fontWeight = "600";
  const marks = axis.ticks.map(([y, text]) =>
    draw("text", { class: "tick", x: last ? x + 6 : x - 6, y: y + 4, "text-anchor": last ? "start" : "end" }, text),
  );
  if (axis.places.includes(null)) marks.push(draw("text", { class: "tick", x: x - 6, y: BOTTOM + 20, "text-anchor": "end" }, "none"));
  axis.brush = draw("rect", { class: "brush", x: x - 8, width: 16, rx: 3, y: 0, height: 0, visibility: "hidden" });
  const grip = draw("rect", { class: "grip", x: x - 22, y: TOP - 6, width: 44, height: BOTTOM - TOP + 12, rx: 6 });
  const group = draw(
    "g",
    { class: "axis", tabindex: "0", role: "group", "aria-label": `${axis.name}: choose a range with the arrow keys` },
    draw("line", { x1: x, x2: x, y1: TOP, y2: BOTTOM }),
    ...marks,
    axis.brush,
    grip,
  );
  listenToAxis(state, axis, group);
  return draw("g", {}, label, group);
}

function listenToAxis(state, axis, group) {
  const height = (event) => Math.min(Math.max(event.clientY - state.home.getBoundingClientRect().top, TOP - 4), BOTTOM + 4);
  let from = null;
  group.addEventListener("pointerdown", (event) => {
    from = height(event);
    group.setPointerCapture(event.pointerId);
  });
  group.addEventListener("pointermove", (event) => {
    if (from === null) return;
    axis.range = [from, height(event)].sort((a, b) => a - b);
    select(state);
  });
  group.addEventListener("pointerup", (event) => {
    if (from !== null && Math.abs(height(event) - from) < 4) axis.range = null;
    from = null;
    select(state);
  });
  group.addEventListener("keydown", (event) => {
    const by = { ArrowUp: -10, ArrowDown: 10 }[event.key];
    if (event.key === "Escape") axis.range = null;
    else if (by === undefined) return;
    else {
      let [low, high] = axis.range || [TOP - 4, (TOP + BOTTOM) / 2];
      if (axis.range && event.shiftKey) [low, high] = by < 0 ? [low + by, high] : [low, high + by];
      else if (axis.range) [low, high] = [low + by, high + by];
      const size = Math.min(high - low, BOTTOM - TOP + 8);
      low = Math.min(Math.max(low, TOP - 4), BOTTOM + 4 - size);
      axis.range = [low, low + size];
    }
    event.preventDefault();
    select(state);
  });
}

// Tells everybody which runs are out of the chosen ranges.
function select(state) {
  const ranges = state.axes.filter((axis) => axis.range);
  const within = (axis, run) => axis.places[run] !== null && axis.places[run] >= axis.range[0] && axis.places[run] <= axis.range[1];
  view.out = new Set([...data.runs.keys()].filter((run) => !ranges.every((axis) => within(axis, run))));
  one("clear").hidden = !ranges.length;
  one("chosen").textContent = ranges.length ? `${data.runs.length - view.out.size} of ${data.runs.length} runs are chosen below` : "";
  changed();
}

function markParallel(state) {
  state.lines.forEach((line, run) => {
    line.classList.toggle("out", !drawn(run));
    line.classList.toggle("focus", run === view.focus);
  });
  for (const axis of state.axes) {
    axis.brush.setAttribute("visibility", axis.range ? "visible" : "hidden");
    if (!axis.range) continue;
    axis.brush.setAttribute("y", axis.range[0]);
    axis.brush.setAttribute("height", Math.max(axis.range[1] - axis.range[0], 2));
  }
}
