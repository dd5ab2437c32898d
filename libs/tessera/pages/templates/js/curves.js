// All charts in their groups, and the controls that they share.
const LEAST_IN_GROUP = 3;

function drawCurves() {
  const home = one("curves");
  if (!home) return;
  const keys = new Map();
  for (const curve of curves) keys.set(curve.key, [...(keys.get(curve.key) || []), curve]);
  const prefixes = [...keys.keys()].map((key) => key.split("/")[0]);
  const groups = new Map();
  for (const [key, series] of keys) {
    const [first, ...rest] = key.split("/");
    const alike = prefixes.filter((prefix) => prefix === first).length;
    const group = rest.length && (first === "system" || alike >= LEAST_IN_GROUP) ? first : "";
    groups.set(group, [...(groups.get(group) || []), new Chart(key, series)]);
  }
  // What the machine did stands behind what the run measured.
  const names = [...groups.keys()].sort((a, b) => (a === "system") - (b === "system") || (a < b ? -1 : 1));
  for (const name of names) {
    const box = make("div", { class: "charts" }, ...groups.get(name).map((chart) => chart.element));
    if (name) home.append(make("p", { class: "group" }, name === "system" ? "System metrics" : name));
    home.append(box);
  }
  one("find").addEventListener("input", () => {
    const word = one("find").value.toLowerCase();
    for (const charts of groups.values()) for (const chart of charts) chart.element.hidden = !chart.key.toLowerCase().includes(word);
  });
  listenToControls();
  drawLegend();
}

function listenToControls() {
  const on = (id, kind, act) => one(id).addEventListener(kind, () => {
    act(one(id));
    changed();
  });
  on("axis", "change", (field) => {
    view.axis = field.value;
    view.range = null;
  });
  on("log", "change", (field) => (view.log = field.checked));
  on("bands", "change", (field) => (view.bands = field.checked));
  on("smooth", "input", (field) => {
    view.smooth = Number(field.value);
    one("smooth-value").textContent = field.value;
  });
  on("whole", "click", () => (view.range = null));
  listeners.push(() => (one("whole").hidden = !view.range));
}

function drawLegend() {
  const legend = one("legend");
  if (!legend) return;
  const buttons = data.runs.map((run, place) => {
    const button = make("button", { type: "button", "aria-pressed": "true", title: run.name }, swatch(place), make("bdi", {}, run.name));
    button.addEventListener("click", () => {
      if (!view.hidden.delete(place)) view.hidden.add(place);
      button.setAttribute("aria-pressed", String(!view.hidden.has(place)));
      changed();
    });
    focusOn(button, place);
    return button;
  });
  legend.append(...buttons);
  if (data.runs.length < 3) return;
  const all = make("button", { type: "button" }, "all or none");
  all.addEventListener("click", () => {
    const none = view.hidden.size === 0;
    view.hidden = new Set(none ? data.runs.keys() : []);
    for (const button of buttons) button.setAttribute("aria-pressed", String(!none));
    changed();
  });
  legend.append(all);
}

// The run of an element stands out while the pointer or the focus is on it.
function focusOn(element, run) {
  for (const kind of ["pointerenter", "focusin"]) element.addEventListener(kind, () => setFocus(run));
  for (const kind of ["pointerleave", "focusout"]) element.addEventListener(kind, () => setFocus(null));
}
function setFocus(run) {
  if (view.focus === run) return;
  view.focus = run;
  changed();
}
