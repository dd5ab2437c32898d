// One metric of many runs on a canvas, with values under the pointer or under the arrow keys.
const EDGE = { left: 54, right: 10, top: 8, bottom: 22 };
const MOST_READ = 8;

// The exponential mean that weighs by distance in points, without the pull of the first value.
function smoothed(values, weight) {
  if (!weight) return values;
  let [mean, sum] = [0, 0];
  return values.map((value) => {
    if (!Number.isFinite(value)) return value;
    mean = weight * mean + (1 - weight) * value;
    sum = weight * sum + (1 - weight);
    return mean / sum;
  });
}

class Chart {
  constructor(key, series) {
    this.key = key;
    this.series = series;
    this.seen = false;
    this.at = null;
    this.lines = make("canvas");
    this.over = make("canvas");
    this.readout = make("div", { class: "readout", hidden: "" });
    const names = series.length === 1 ? "1 run" : `${series.length} runs`;
    this.plot = make(
      "div",
      { class: "plot", tabindex: "0", role: "group", "aria-label": `${key}, curves of ${names}; arrow keys read values` },
      this.lines,
      this.over,
      this.readout,
    );
    this.said = make("p", { class: "away", role: "status" });
    const points = series.reduce((sum, curve) => sum + curve.points, 0);
    this.element = make(
      "figure",
      { class: "chart" },
      make("h3", {}, ...breakable(key)),
      make("span", { class: "size" }, `${points.toLocaleString("en")} points`),
      this.plot,
      this.said,
    );
    this.listen();
    new IntersectionObserver(([entry]) => {
      this.seen = entry.isIntersecting;
      if (this.seen && this.stale) this.draw();
    }, { rootMargin: "300px" }).observe(this.element);
    new ResizeObserver(() => this.refresh()).observe(this.plot);
    listeners.push(() => this.refresh());
  }

  refresh() {
    this.stale = true;
    if (this.seen) this.draw();
  }

  get shown() {
    return this.series.filter((curve) => drawn(curve.run));
  }

  draw() {
    this.stale = false;
    this.width = this.plot.clientWidth;
    this.height = this.plot.clientHeight;
    if (!this.width) return;
    this.measure();
    const pen = this.pen(this.lines);
    this.frame(pen);
    pen.save();
    pen.beginPath();
    pen.rect(EDGE.left, EDGE.top, this.width - EDGE.left - EDGE.right, this.height - EDGE.top - EDGE.bottom);
    pen.clip();
    for (const curve of this.shown) if (view.bands && curve.min) this.band(pen, curve);
    const order = [...this.shown].sort((a, b) => (a.run === view.focus) - (b.run === view.focus));
    for (const curve of order) {
      if (view.smooth) this.line(pen, curve, curve.mean, 0.22, 1);
      const dim = view.focus !== null && view.focus !== curve.run ? 0.25 : 1;
      this.line(pen, curve, curve.smooth, dim, curve.run === view.focus ? 2.8 : this.shown.length > 24 ? 1.1 : 1.6);
    }
    pen.restore();
    this.point();
  }

  pen(canvas) {
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.round(this.width * ratio);
    canvas.height = Math.round(this.height * ratio);
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    return pen;
  }

  // What is in sight: the range of x, and the least and greatest value in it.
  measure() {
    let [x0, x1, y0, y1] = [Infinity, -Infinity, Infinity, -Infinity];
    for (const curve of this.shown) {
      curve.smooth = smoothed(curve.mean, view.smooth);
      const xs = curve[view.axis];
      x0 = Math.min(x0, xs[0]);
      x1 = Math.max(x1, xs[xs.length - 1]);
    }
    if (view.range) [x0, x1] = view.range;
    for (const curve of this.shown) {
      const xs = curve[view.axis];
      const sources = view.bands && curve.min ? [curve.min, curve.max] : [curve.mean];
      xs.forEach((x, at) => {
        if (x < x0 || x > x1) return;
        for (const values of sources) {
          const value = values[at];
          if (!Number.isFinite(value) || (view.log && value <= 0)) continue;
          y0 = Math.min(y0, value);
          y1 = Math.max(y1, value);
        }
      });
    }
    this.empty = !(y0 <= y1);
    if (this.empty) [y0, y1] = view.log ? [1, 10] : [0, 1];
    if (!(x0 <= x1)) [x0, x1] = [0, 1];
    const flat = y0 === y1;
    const room = flat ? Math.abs(y0) * 0.05 || 0.5 : (y1 - y0) * 0.04;
    [this.y0, this.y1] = view.log ? [y0 / (flat ? 1.5 : 1.05), y1 * (flat ? 1.5 : 1.05)] : [y0 - room, y1 + room];
    [this.x0, this.x1] = x0 === x1 ? [x0 - 1, x1 + 1] : [x0, x1];
    this.x = scale(this.x0, this.x1, EDGE.left, this.width - EDGE.right);
    this.y = scale(this.y0, this.y1, this.height - EDGE.bottom, EDGE.top, view.log);
  }

  frame(pen) {
    const style = getComputedStyle(this.plot);
    const [line, soft] = [style.getPropertyValue("--line"), style.getPropertyValue("--soft")];
    pen.font = `11px ${style.fontFamily}`;
    pen.fillStyle = soft;
    pen.strokeStyle = line;
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    const ys = view.log ? logTicks(this.y0, this.y1) : ticks(this.y0, this.y1, 6);
    const span = this.y1 - this.y0;
    const near = Math.max(Math.abs(this.y0), Math.abs(this.y1)) / span;
    const digits = Math.min(9, Math.max(3, Math.ceil(Math.log10(near || 1)) + 2));
    for (const value of ys) {
      const at = Math.round(this.y(value)) + 0.5;
      pen.beginPath();
      pen.moveTo(EDGE.left, at);
      pen.lineTo(this.width - EDGE.right, at);
      pen.stroke();
      pen.fillText(numberText(value, digits), EDGE.left - 6, at, EDGE.left - 8);
    }
    pen.textBaseline = "alphabetic";
    this.across(pen);
    if (this.empty) {
      pen.textAlign = "center";
      const why = view.log ? "no values above 0 in sight" : "no values in sight";
      pen.fillText(this.shown.length ? why : "no runs are chosen", this.width / 2, this.height / 2);
    }
  }

  across(pen) {
    const apart = view.axis === "step" ? 56 : 84;
    const count = Math.max(2, Math.floor((this.width - EDGE.left) / apart));
    const [unit, text] = {
      step: [1, (x) => numberText(x, 6)],
      time: [this.x1 - this.x0 < 240 ? 1 : this.x1 - this.x0 < 14400 ? 60 : 3600, secondsText],
      clock: [this.x1 - this.x0 < 600000 ? 1000 : 60000, (x) => clockText(x, false).slice(0, this.x1 - this.x0 < 600000 ? 8 : 5)],
    }[view.axis];
    for (const tick of ticks(this.x0 / unit, this.x1 / unit, count)) {
      const at = this.x(tick * unit);
      const label = text(tick * unit);
      const half = pen.measureText(label).width / 2;
      pen.textAlign = at + half > this.width - 2 ? "right" : "center";
      pen.fillText(label, Math.min(at, this.width - 2), this.height - 6);
    }
  }

  band(pen, curve) {
    const xs = curve[view.axis];
    const within = (value) => Math.min(Math.max(this.y(view.log ? Math.max(value, Number.MIN_VALUE) : value), -9999), 9999);
    pen.globalAlpha = this.shown.length > 12 && view.focus !== curve.run ? 0.07 : 0.16;
    pen.fillStyle = colour(curve.run);
    pen.beginPath();
    let piece = [];
    const close = () => {
      piece.forEach((at, index) => pen[index ? "lineTo" : "moveTo"](this.x(xs[at]), within(curve.max[at])));
      for (const at of piece.reverse()) pen.lineTo(this.x(xs[at]), within(curve.min[at]));
      piece = [];
    };
    xs.forEach((_, at) => (Number.isNaN(curve.mean[at]) ? close() : piece.push(at)));
    close();
    pen.fill();
    pen.globalAlpha = 1;
  }

  line(pen, curve, values, alpha, width) {
    const xs = curve[view.axis];
    pen.globalAlpha = alpha;
    pen.strokeStyle = pen.fillStyle = colour(curve.run);
    pen.lineWidth = width;
    pen.lineJoin = "round";
    pen.setLineDash(DASHES[dashOf(curve.run)]);
    pen.beginPath();
    let before = false;
    values.forEach((value, at) => {
      const fits = Number.isFinite(value) && !(view.log && value <= 0);
      if (fits) pen[before ? "lineTo" : "moveTo"](this.x(xs[at]), this.y(value));
      // A value between two gaps has no line: it is a dot.
      const next = values[at + 1];
      if (fits && !before && !(Number.isFinite(next) && !(view.log && next <= 0))) pen.arc(this.x(xs[at]), this.y(value), 1.6, 0, 7);
      before = fits;
    });
    pen.stroke();
    pen.setLineDash([]);
    pen.globalAlpha = 1;
  }

  listen() {
    const spot = (event) => [event.offsetX, event.offsetY];
    this.plot.addEventListener("pointermove", (event) => {
      if (!this.x) return;
      this.at = spot(event);
      this.point();
    });
    this.plot.addEventListener("pointerdown", (event) => {
      if (event.pointerType === "mouse" && event.button === 0) this.from = event.offsetX;
    });
    this.plot.addEventListener("pointerup", (event) => {
      if (this.from !== null && Math.abs(event.offsetX - this.from) > 8) this.zoom(this.from, event.offsetX);
      this.from = null;
    });
    for (const gone of ["pointerleave", "blur"]) {
      this.plot.addEventListener(gone, () => {
        this.at = this.from = null;
        this.point();
      });
    }
    this.from = null;
    this.plot.addEventListener("keydown", (event) => this.key_down(event));
  }

  key_down(event) {
    if (!this.x) return;
    const [left, right] = [EDGE.left, this.width - EDGE.right];
    let [x, y] = this.at || [(left + right) / 2, this.height / 2];
    const quarter = (right - left) / 4;
    if (event.key === "ArrowLeft") x -= 6;
    else if (event.key === "ArrowRight") x += 6;
    else if (event.key === "ArrowUp") y -= 6;
    else if (event.key === "ArrowDown") y += 6;
    else if (event.key === "+") return this.zoom(Math.max(left, x - quarter), Math.min(right, x + quarter));
    else if (event.key === "0") return this.zoom(null);
    else if (event.key === "Escape") [x, y] = [null, null];
    else return undefined;
    event.preventDefault();
    this.at = x === null ? null : [Math.min(Math.max(x, left), right), Math.min(Math.max(y, EDGE.top), this.height - EDGE.bottom)];
    this.point();
    this.said.textContent = this.readout.hidden ? "" : [...this.readout.children].map((row) => row.textContent).slice(0, 4).join("; ");
    return undefined;
  }

  zoom(a, b) {
    const ends = [this.x?.back(a), this.x?.back(b)].sort((one, two) => one - two);
    view.range = a === null ? null : ends;
    changed();
  }

  // Draws what is under the pointer, and reads it out.
  point() {
    if (!this.x) return;
    const pen = this.pen(this.over);
    this.readout.hidden = true;
    if (!this.at || this.at[0] < EDGE.left) return;
    const [x, y] = this.at;
    const soft = getComputedStyle(this.plot).getPropertyValue("--soft");
    if (this.from !== null && Math.abs(x - this.from) > 8) {
      pen.fillStyle = soft;
      pen.globalAlpha = 0.25;
      pen.fillRect(Math.min(x, this.from), EDGE.top, Math.abs(x - this.from), this.height - EDGE.top - EDGE.bottom);
      pen.globalAlpha = 1;
    }
    const read = this.read(this.x.back(x));
    if (!read.length) return;
    const away = (one) => (Number.isFinite(one.value) ? Math.abs(this.y(one.value) - y) : Infinity);
    const near = read.reduce((best, one) => (away(one) < away(best) ? one : best));
    pen.strokeStyle = soft;
    pen.beginPath();
    pen.moveTo(this.x(near.x), EDGE.top);
    pen.lineTo(this.x(near.x), this.height - EDGE.bottom);
    pen.stroke();
    for (const one of read) {
      if (!Number.isFinite(one.value) || (view.log && one.value <= 0)) continue;
      pen.fillStyle = colour(one.curve.run);
      pen.beginPath();
      pen.arc(this.x(one.x), this.y(one.value), one === near ? 4.5 : 2.5, 0, 7);
      pen.fill();
    }
    this.tell(near, read.sort((a, b) => away(a) - away(b)).slice(0, MOST_READ), read.length);
  }

  // The point of each run nearest to a place.
  read(x) {
    return this.shown.flatMap((curve) => {
      const xs = curve[view.axis];
      let [low, high] = [0, xs.length - 1];
      while (high - low > 1) {
        const middle = (low + high) >> 1;
        if (xs[middle] < x) low = middle;
        else high = middle;
      }
      const at = x - xs[low] < xs[high] - x ? low : high;
      const far = (this.x1 - this.x0) / 20;
      if (xs[at] < this.x0 || xs[at] > this.x1 || Math.abs(xs[at] - x) > Math.max(far, (xs[high] - xs[low]) / 2)) return [];
      return [{ curve, at, x: xs[at], value: curve.smooth[at] }];
    });
  }

  tell(near, read, all) {
    this.readout.replaceChildren(make("p", {}, place[view.axis](near.x)));
    for (const one of read.sort((a, b) => b.value - a.value)) {
      const row = make("div", one === near ? { class: "near" } : {}, swatch(one.curve.run));
      row.append(make("bdi", {}, data.runs[one.curve.run].name), make("b", {}, numberText(one.value)));
      this.readout.append(row);
    }
    const { curve, at } = near;
    const notes = [];
    if (view.bands && curve.min && Number.isFinite(curve.min[at])) notes.push(`${numberText(curve.min[at])} to ${numberText(curve.max[at])}`);
    if (view.smooth) notes.push(`${numberText(curve.mean[at])} unsmoothed`);
    if (all > read.length) notes.push(`${all - read.length} more`);
    if (notes.length) this.readout.append(make("p", {}, notes.join(", ")));
    this.readout.hidden = false;
    const size = this.readout.offsetWidth;
    const left = this.at[0] > this.width / 2 ? this.at[0] - 14 - size : this.at[0] + 14;
    this.readout.style.left = `${Math.min(Math.max(left, 0), Math.max(this.width - size, 0))}px`;
    paint();
  }
}
