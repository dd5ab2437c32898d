// Colours of runs, numbers as people read them, and the ticks of axes.
const dark = matchMedia("(prefers-color-scheme: dark)");
const COLOURS = {
  light: ["#0f766e", "#c2410c", "#4338ca", "#be123c", "#0369a1", "#a16207", "#7e22ce", "#4d7c0f"],
  dark: ["#2dd4bf", "#fb923c", "#a5b4fc", "#fb7185", "#38bdf8", "#facc15", "#d8b4fe", "#a3e635"],
};
const DASHES = [[], [7, 3], [2, 2.5]];

function colour(run) {
  const known = COLOURS[dark.matches ? "dark" : "light"];
  if (run < known.length) return known[run];
  // The golden angle keeps neighbours apart, however many there are.
  return `hsl(${Math.round((run * 137.508) % 360)} ${dark.matches ? "75% 68%" : "70% 36%"})`;
}
// Dashes of very many lines are speckles.
const dashOf = (run) => (data.runs.length > 24 ? 0 : Math.floor(run / 8) % DASHES.length);

function paint() {
  for (const swatch of document.querySelectorAll(".swatch[data-run]")) {
    const run = Number(swatch.dataset.run);
    swatch.style.setProperty("--run", colour(run));
    swatch.classList.toggle("dashed", dashOf(run) === 1);
    swatch.classList.toggle("dotted", dashOf(run) === 2);
  }
}
function swatch(run) {
  return make("i", { class: "swatch", "data-run": run, "aria-hidden": "true" });
}
dark.addEventListener("change", () => {
  paint();
  changed();
});

function numberText(value, digits = 5) {
  if (Number.isNaN(value)) return "NaN";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "-∞";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-4 || size >= 1e7)) {
    return value.toExponential(Math.min(digits, 4) - 1).replace(/\.?0+e/, "e").replace("e+", "e");
  }
  return String(Number(value.toPrecision(Math.max(digits, size >= 1 ? Math.ceil(Math.log10(size + 1)) : digits))));
}
function secondsText(seconds) {
  const size = Math.abs(seconds);
  if (size < 120) return `${numberText(seconds, 3)} s`;
  if (size < 7200) return `${numberText(seconds / 60, 3)} min`;
  return size < 172800 ? `${numberText(seconds / 3600, 3)} h` : `${numberText(seconds / 86400, 3)} d`;
}
function clockText(millis, whole = true) {
  const [day, time] = new Date(millis).toISOString().split("T");
  return whole ? `${day} ${time.slice(0, 8)}` : time.slice(0, 8);
}
const place = {
  step: (x) => `step ${Math.round(x).toLocaleString("en")}`,
  time: (x) => `${secondsText(x)} after the start`,
  clock: (x) => `${clockText(x)} UTC`,
};

// Round numbers between two ends, about `count` of them.
function ticks(low, high, count) {
  const rough = (high - low) / Math.max(count, 1);
  if (!(rough > 0) || !Number.isFinite(rough)) return [low];
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((times) => times * power).find((size) => size >= rough);
  const found = [];
  for (let at = Math.ceil(low / step); at * step <= high + step * 1e-9; at += 1) found.push(at * step);
  return found.map((value) => Number(value.toPrecision(12)));
}
function logTicks(low, high) {
  const found = [];
  const first = Math.floor(Math.log10(low));
  const last = Math.ceil(Math.log10(high));
  const times = last - first <= 2 ? [1, 2, 5] : [1];
  const skip = Math.ceil((last - first) / 6);
  for (let power = first; power <= last; power += skip) {
    for (const one of times) if (one * 10 ** power >= low && one * 10 ** power <= high) found.push(one * 10 ** power);
  }
  return found.length > 1 ? found : ticks(low, high, 4).filter((value) => value > 0);
}
// A scale from values to places on the screen.
function scale(low, high, from, to, logarithmic = false) {
  const of = logarithmic ? Math.log : (value) => value;
  const [a, b] = [of(low), of(high)];
  const span = b - a || 1;
  const at = (value) => from + ((of(value) - a) / span) * (to - from);
  at.back = (spot) => {
    const value = a + ((spot - from) / (to - from)) * span;
    return logarithmic ? Math.exp(value) : value;
  };
  return at;
}
