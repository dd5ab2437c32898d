// The table of runs: sorted by any column, dimmed where a run is not chosen.
function listenToTable() {
  const table = one("table");
  if (!table) return;
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, at) => {
    heading.querySelector("button").addEventListener("click", () => {
      const down = heading.getAttribute("aria-sort") === "ascending";
      for (const other of headings) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      body.append(...sorted(rows, at, down));
    });
  });
  one("differences").addEventListener("change", (event) => table.classList.toggle("only-differences", event.target.checked));
  for (const row of rows) focusOn(row, Number(row.dataset.run));
  listeners.push(() => {
    for (const row of rows) {
      const run = Number(row.dataset.run);
      row.classList.toggle("out", !drawn(run));
      row.classList.toggle("focus", run === view.focus);
    }
  });
}

const WORDS = new Intl.Collator("en", { numeric: true });
const NAMED = { nan: NaN, inf: Infinity, "-inf": -Infinity };

// By number where all values are numbers; what is missing, and NaN, stands last both ways.
function sorted(rows, at, down) {
  const keyed = rows.map((row) => [row.cells[at].dataset.sort, row]);
  const numberOf = (text) => (text in NAMED ? NAMED[text] : text.trim() === "" ? NaN : Number(text));
  const numeric = keyed.every(([text]) => text === "" || text in NAMED || isNumber(text));
  const missing = ([text]) => text === "" || (numeric && Number.isNaN(numberOf(text)));
  const compare = ([a], [b]) => (numeric ? numberOf(a) - numberOf(b) || 0 : WORDS.compare(a, b));
  const known = keyed.filter((one) => !missing(one)).sort((a, b) => (down ? -compare(a, b) : compare(a, b)));
  return [...known, ...keyed.filter(missing)].map(([, row]) => row);
}

drawCurves();
drawParallel();
listenToTable();
paint();
document.documentElement.dataset.ready = "yes";
