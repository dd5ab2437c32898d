// What the page holds: runs, and curves whose columns are 16-bit numbers (tessera.pages.curves).
const data = JSON.parse(document.getElementById("data").textContent);
const one = (id) => document.getElementById(id);

const pool = data.columns.map((text) => {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  return Array.from({ length: bytes.length / 2 }, (_, place) => view.getUint16(2 * place, true));
});

function decoded([index, low, scale, logarithmic]) {
  return pool[index].map((number) => {
    if (number > 65532) return [-Infinity, Infinity, NaN][number - 65533];
    const half = number >> 1;
    const value = low + half * scale + (number - half) * scale;
    return logarithmic ? Math.exp(value) : value;
  });
}

const curves = data.curves.map((curve) => {
  const clock = decoded(curve.time);
  const start = data.runs[curve.run].start;
  return {
    ...curve,
    step: decoded(curve.step),
    clock,
    time: clock.map((at) => (at - start) / 1000),
    mean: decoded(curve.mean),
    min: curve.min && decoded(curve.min),
    max: curve.max && decoded(curve.max),
  };
});

// How all curves are drawn; whoever changes it calls `changed`.
const view = { axis: "step", log: false, smooth: 0, bands: true, range: null, focus: null, hidden: new Set(), out: new Set() };
const listeners = [];
let waiting = false;
function changed() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    for (const listener of listeners) listener();
  });
}
const drawn = (run) => !view.hidden.has(run) && !view.out.has(run);

// A name that may be broken behind its slashes and underscores.
const breakable = (name) => name.split(/(?<=[/_])/).flatMap((part, at) => (at ? [make("wbr"), part] : [part]));

function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}
