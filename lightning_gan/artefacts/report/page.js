// Draws the page from the JSON in it. Text of a run reaches the document as text alone (textContent, never markup).
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const several = data.runs.length > 1;
// Readable on white and on black: their luminance is in the middle.
const COLOURS = ["#2f7ed8", "#d9662b", "#2a9d6f", "#b94a9c", "#8a6fd1", "#9c8420", "#1f9bb0", "#d1495b", "#6f7f8f", "#a0674b"];
const DASHES = { solid: "", dot: "2 3", dash: "7 4", dashdot: "7 3 2 3", longdash: "12 5" };
const STATES = { done: "done", running: "running", stopped: "stopped", waiting: "to be started again" };
const MARKS = {
  collapse: "▼",
  discriminator: "◆",
  memorisation: "■",
  divergence: "✕",
  rollback: "↶",
  resumed: "▷",
  stopped: "▮",
};
const MOST_MARKS = 60;
const view = { axis: "images", log: false, smoothing: 0, shown: data.runs.map(() => true) };

const byId = (id) => document.getElementById(id);
const colour = (i) => COLOURS[i % COLOURS.length];
const whole = (n) => Math.round(n).toLocaleString("en-US");
const short = (x) => (x === null || x === undefined ? "" : String(Number(x.toPrecision(4))));
const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;"); // Plotly reads markup

function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("aria")) node.setAttribute(`aria-${name.slice(4).toLowerCase()}`, value);
    else if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

function duration(seconds) {
  if (seconds === null) return "not noted";
  const minutes = Math.round(seconds / 60);
  if (minutes < 2) return `${Math.round(seconds)} s`;
  return minutes < 120 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
}

function swatch(i) {
  const mark = el("span", { className: "swatch", ariaHidden: "true" });
  mark.style.setProperty("--colour", colour(i));
  return mark;
}

const named = (i) => el("span", { className: "name" }, several ? swatch(i) : null, data.runs[i].name);

function table(label, head, rows) {
  const body = el("tbody");
  for (const { cells, className = "" } of rows) {
    body.append(el("tr", { className }, ...cells));
  }
  return el("table", { ariaLabel: label }, el("thead", {}, el("tr", {}, ...head)), body);
}

const column = (text, className = "") => el("th", { scope: "col", className }, text);
const rowHead = (...content) => el("th", { scope: "row" }, ...content);
const cell = (text, className = "") => el("td", { className }, text ?? "–");

// Overview ------------------------------------------------------------------------------------------------------------

function drawOverview() {
  const names = data.runs.map((run) => run.name);
  const title = several ? `${names.length} runs: ${names.join(", ")}` : `Run ${names[0]}`;
  byId("title").textContent = title;
  document.title = title;
  byId("made").textContent = `Made by lightning_gan ${data.version} at ${data.made}`;
  const notes = data.runs.flatMap((run) => run.notes.map((note) => (several ? `${run.name}: ${note}` : note)));
  byId("warnings").append(...[...data.warnings, ...notes].map((text) => el("p", { className: "warning", role: "note" }, text)));

  const head = ["Run", "State", "Images seen", "Training", "Images/s", "Device", "Best score", "Seed"];
  const rows = data.runs.map((run, i) => {
    const show = el("input", { type: "checkbox", checked: true, ariaLabel: `Show ${run.name} in pictures and curves` });
    show.addEventListener("change", () => {
      view.shown[i] = show.checked;
      refresh();
    });
    const best = run.best && `${run.best.name} ${short(run.best.value)} after ${whole(run.best.images_seen)}`;
    const seen = run.max_images === null ? whole(run.images_seen) : `${whole(run.images_seen)} of ${whole(run.max_images)}`;
    const written = el("small", {}, ` last written ${run.written}`);
    const cells = [
      ...(several ? [el("td", { className: "show" }, show)] : []),
      rowHead(named(i)),
      el(
        "td",
        { className: "number" },
        el("span", { className: "state" }, STATES[run.state]),
        run.state === "done" ? null : written,
      ),
      cell(seen, "number"),
      cell(duration(run.seconds), "number"),
      cell(run.images_per_second === null ? null : whole(run.images_per_second), "number"),
      cell(run.device),
      cell(best, "number"),
      cell(run.seed),
    ];
    return { cells, className: "rule" };
  });
  byId("overview").append(
    table("Runs", [...(several ? [column("Show", "show")] : []), ...head.map((text) => column(text))], rows),
  );
}

// Pictures ------------------------------------------------------------------------------------------------------------

const times = [...new Set(data.runs.flatMap((run) => run.grids.map(([seen]) => seen)))].sort((a, b) => a - b);
const figures = [];

const nearest = (grids, seen) =>
  grids.reduce((best, grid) => (Math.abs(grid[0] - seen) < Math.abs(best[0] - seen) ? grid : best), grids[0]);

function showGrids() {
  const seen = times[byId("slider").value];
  byId("slider-value").textContent = whole(seen);
  byId("slider").setAttribute("aria-valuetext", `${whole(seen)} images`);
  for (const { run, i, image, when, figure } of figures) {
    const grid = nearest(run.grids, seen);
    if (image.src !== grid[1]) image.src = grid[1];
    image.alt = `Images generated by ${run.name} after ${whole(grid[0])} images seen`;
    when.textContent = ` after ${whole(grid[0])} images `;
    figure.hidden = !view.shown[i];
  }
}

function goTo(seen) {
  byId("slider").value = times.indexOf(seen);
  showGrids();
}

function play() {
  const slider = byId("slider");
  let timer = null;
  const stop = () => {
    clearInterval(timer);
    timer = null;
    byId("play").textContent = "Play";
  };
  byId("play").addEventListener("click", () => {
    if (timer !== null) return stop();
    if (Number(slider.value) === times.length - 1) slider.value = 0;
    byId("play").textContent = "Stop";
    timer = setInterval(() => {
      if (Number(slider.value) === times.length - 1) return stop();
      slider.value = Number(slider.value) + 1;
      showGrids();
    }, 400);
  });
}

function gridFigure(run, i) {
  const image = el("img");
  const when = el("span");
  const best = run.best && nearest(run.grids, run.best.images_seen)[0];
  const button = el("button", { type: "button", ariaLabel: `Show the grid of ${run.name} nearest to its best score` }, "best");
  button.addEventListener("click", () => goTo(best));
  const figure = el(
    "figure",
    { className: "grid" },
    image,
    el("figcaption", {}, named(i), when, best === null ? null : button),
  );
  figures.push({ run, i, image, when, figure });
  return figure;
}

function realFigures() {
  const distinct = [...new Set(data.runs.map((run) => run.real).filter((real) => real !== null))];
  return distinct.map((src) => {
    const of = data.runs
      .filter((run) => run.real === src)
      .map((run) => run.name)
      .join(", ");
    const what = distinct.length > 1 ? `Real images, of ${of}` : "Real images";
    return el("figure", {}, el("img", { src, alt: what }), el("figcaption", {}, what));
  });
}

function walkFigure(run, i) {
  const after = `Walk between latents after ${whole(run.walk_images_seen)} images`;
  const picture = el("img", { src: run.walk, alt: `${after}, ${run.name}` });
  const moving = !window.matchMedia("(prefers-reduced-motion: reduce)").matches;
  return el("figure", {}, el("details", { open: moving }, el("summary", {}, after), picture), el("figcaption", {}, named(i)));
}

function drawPictures() {
  const withGrids = data.runs.map((run, i) => [run, i]).filter(([run]) => run.grids.length > 0);
  const walks = data.runs.map((run, i) => [run, i]).filter(([run]) => run.walk !== null);
  byId("grids").append(...withGrids.map(([run, i]) => gridFigure(run, i)), ...realFigures());
  byId(several ? "walks" : "grids").append(...walks.map(([run, i]) => walkFigure(run, i)));
  const notes = withGrids.length ? ["Each run's pictures are of the same latents throughout."] : ["There are no pictures yet."];
  if (withGrids.length > 1)
    notes.push("They are shown side by side at the number of images seen that is nearest to the slider's.");
  const thinned = withGrids.filter(([run]) => run.grids.length < run.grids_in_all);
  if (thinned.length) {
    const counts = thinned.map(([run]) => `${run.name}: ${run.grids.length} of ${whole(run.grids_in_all)}`).join(", ");
    notes.push(`Not all are here, but the first, the last, the best and some evenly between (${counts}).`);
  }
  if (withGrids.some(([run]) => run.grids.some(([, src]) => src.startsWith("data:image/jpeg"))))
    notes.push("Large ones are JPEGs here.");
  byId("pictures-note").textContent = notes.join(" ");
  byId("when").hidden = times.length < 2;
  if (times.length) {
    byId("slider").max = times.length - 1;
    byId("slider").value = times.length - 1;
    byId("slider").addEventListener("input", showGrids);
    play();
    showGrids();
  }
}

// Curves --------------------------------------------------------------------------------------------------------------

const plots = [];
const faded = (hex, alpha) => `rgba(${[1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)).join(",")},${alpha})`;

// Scores that are 0 or less somewhere have no place on a log scale.
function logarithmic(panel) {
  if (!view.log || panel.group !== "scores") return false;
  const found = data.runs.flatMap((run, i) => (view.shown[i] ? panel.series.map((series) => points(run, panel, series)) : []));
  return found.every((curve) => curve === null || curve.y.every((value) => value > 0));
}

// The average of all values so far, a value that is k back counting weight^k times.
function smoothed(values, weight) {
  let sum = 0;
  let total = 0;
  return values.map((value) => {
    sum = weight * sum + value;
    total = weight * total + 1;
    return sum / total;
  });
}

function points(run, panel, series) {
  const numbers = run[panel.table];
  const x = numbers[view.axis];
  const y = numbers.columns[series.column];
  if (!x || !y) return null;
  const rows = y.flatMap((value, row) => (value === null ? [] : [row]));
  const errors = series.error && numbers.columns[series.error];
  const [xs, images] = [x, numbers.images].map((values) => rows.map((row) => values[row]));
  return { x: xs, images, y: rows.map((row) => y[row]), errors: errors && rows.map((row) => errors[row] ?? 0) };
}

// An area of one standard error up and down; on a log scale one that reaches to 0 is cut at a tenth of the value.
function band(x, y, errors, shade, onLog) {
  const lower = y.map((value, i) => (onLog && value - errors[i] <= 0 ? value / 10 : value - errors[i]));
  const upper = y.map((value, i) => value + errors[i]);
  const back = (values) => [...values].reverse();
  const shape = { x: [...x, ...back(x)], y: [...upper, ...back(lower)] };
  return { ...shape, fill: "toself", fillcolor: faded(shade, 0.18), line: { width: 0 }, mode: "lines", hoverinfo: "skip" };
}

function curve(run, i, panel, series, k) {
  const found = points(run, panel, series);
  if (!found || found.x.length === 0) return [];
  const shade = colour(several ? i : k);
  const few = panel.group === "scores";
  const unit = view.axis === "images" ? "%{x:,} images" : "%{x:.3f} h";
  const line = {
    x: found.x,
    y: found.y,
    name: plain([several ? run.name : null, series.label || panel.title].filter((part) => part).join(", ")),
    mode: few ? "lines+markers" : "lines",
    line: { color: shade, width: 1.7, dash: several ? Object.keys(DASHES)[k % 5] : "solid" },
    marker: { color: shade, size: 5 },
    hovertemplate: `%{y:.5g} after ${unit}`,
  };
  const traces = found.errors ? [band(found.x, found.y, found.errors, shade, logarithmic(panel))] : [];
  if (panel.smooth && view.smoothing > 0) {
    traces.push({ ...line, line: { color: faded(shade, 0.3), width: 1 }, hoverinfo: "skip", hovertemplate: null });
    line.y = smoothed(found.y, view.smoothing);
  }
  traces.push(line);
  const isBest = (y, row) => found.images[row] === run.best.images_seen && short(y) === short(run.best.value);
  const best = run.best && run.best.name === series.column ? found.y.findIndex(isBest) : -1;
  if (best >= 0) {
    const marker = { symbol: "star", size: 12, color: shade };
    traces.push({
      x: [found.x[best]],
      y: [found.y[best]],
      mode: "markers",
      marker,
      name: line.name,
      hovertemplate: "best: %{y:.5g}",
    });
  }
  return traces;
}

// What held-out real images reach: one line where it is the same for all runs.
function floors(panel, traces) {
  const known = panel.floors
    .map((floor, i) => ({ ...floor, i }))
    .filter(({ value, i }) => value !== undefined && value !== null && view.shown[i] && (value > 0 || !logarithmic(panel)));
  const ends = traces.flatMap((trace) => [trace.x[0], trace.x[trace.x.length - 1]]);
  if (ends.length === 0) return [];
  const x = [Math.min(0, ...ends), Math.max(...ends)];
  const distinct = [...new Map(known.map((floor) => [floor.value, floor])).values()];
  return distinct.flatMap(({ value, error, i }) => {
    const shade = distinct.length > 1 ? colour(i) : "#808080";
    const y = [value, value];
    const line = { x, y, mode: "lines", line: { color: shade, width: 1.3, dash: "dash" }, name: "real images" };
    const area = error ? [band(x, y, [error, error], shade, logarithmic(panel))] : [];
    return [...area, { ...line, hovertemplate: "held-out real images: %{y:.5g}" }];
  });
}

function eventMarks() {
  const shapes = [];
  const annotations = [];
  data.runs.forEach((run, i) => {
    if (!view.shown[i]) return;
    for (const event of run.events.slice(-MOST_MARKS)) {
      const x = view.axis === "images" ? event.images_seen : event.hours;
      if (x === null) continue;
      const shade = several ? colour(i) : "#808080";
      shapes.push({
        type: "line",
        x0: x,
        x1: x,
        y0: 0,
        y1: 1,
        yref: "paper",
        line: { color: shade, width: 1, dash: "dot" },
        opacity: 0.6,
      });
      const said = `${run.name}, ${event.kind}: ${event.text}`;
      const words = plain(said.length > 160 ? `${said.slice(0, 160)}…` : said).replace(/(.{34}\S*) /g, "$1<br>");
      annotations.push({
        x,
        y: 1,
        yref: "paper",
        yanchor: "bottom",
        showarrow: false,
        captureevents: true,
        xshift: several ? 9 * (i - (data.runs.length - 1) / 2) : 0, // runs may have theirs at the same place
        text: MARKS[event.kind] ?? "●",
        font: { size: 10, color: shade },
        hovertext: words,
      });
    }
  });
  return { shapes, annotations };
}

function decades(traces) {
  const values = traces.flatMap(({ y }) => y).filter((value) => value > 0);
  return Math.log10(Math.max(...values) / Math.min(...values));
}

function layout(panel, traces) {
  const positive = traces.every(({ y }) => y.every((value) => value >= 0)); // or all zeros would have an axis from -1 to 1
  const grid = {
    gridcolor: "rgba(128,128,128,0.2)",
    zerolinecolor: "rgba(128,128,128,0.45)",
    automargin: true,
    tickfont: { size: 11 },
  };
  return {
    margin: { l: 40, r: 12, t: 16, b: 34 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: "system-ui, Segoe UI, Helvetica Neue, Arial, sans-serif", color: "#808080" },
    showlegend: false,
    hovermode: "closest",
    hoverlabel: { bgcolor: "#22262b", bordercolor: "#22262b", font: { color: "#ffffff", size: 12 }, namelength: 40 },
    xaxis: {
      ...grid,
      rangemode: "tozero",
      tickformat: view.axis === "images" ? "~s" : "~g",
      nticks: 6,
      title: { text: view.axis === "images" ? "images seen" : "hours of training", font: { size: 11 }, standoff: 6 },
    },
    yaxis: {
      ...grid,
      type: logarithmic(panel) ? "log" : "linear",
      dtick: logarithmic(panel) && decades(traces) > 1 ? "D2" : undefined, // 1, 2 and 5: more would overlap
      rangemode: positive ? "nonnegative" : "normal",
      tickformat: "~g",
      nticks: 6,
    },
    ...eventMarks(),
  };
}

function inWords(panel) {
  const ends = data.runs.flatMap((run, i) =>
    panel.series.map((series) => {
      const found = view.shown[i] && points(run, panel, series);
      return found && found.y.length ? `${run.name} ${series.label} ends at ${short(found.y[found.y.length - 1])}` : null;
    }),
  );
  const over = view.axis === "images" ? "images seen" : "hours of training";
  return `Diagram of ${panel.title} over ${over}: ${ends.filter((end) => end).join("; ") || "no values"}`;
}

function drawPanel({ panel, node }) {
  const curves = data.runs.flatMap((run, i) =>
    view.shown[i] ? panel.series.flatMap((series, k) => curve(run, i, panel, series, k)) : [],
  );
  const traces = [...floors(panel, curves), ...curves];
  Plotly.react(node, traces, layout(panel, traces), { responsive: true, displaylogo: false, displayModeBar: false });
  node.setAttribute("aria-label", inWords(panel));
}

function key(panel) {
  if (panel.series.length < 2) return [];
  return panel.series.map((series, k) => {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
    const dash = several ? Object.values(DASHES)[k % 5] : "";
    const stroke = several ? "currentColor" : colour(k);
    for (const [name, value] of Object.entries({
      x1: 0,
      x2: 26,
      y1: 4,
      y2: 4,
      stroke,
      "stroke-width": 2,
      "stroke-dasharray": dash,
    })) {
      line.setAttribute(name, value);
    }
    for (const [name, value] of Object.entries({ width: 26, height: 8, "aria-hidden": "true" })) svg.setAttribute(name, value);
    svg.append(line);
    return el("span", { className: "key" }, svg, series.label || panel.title);
  });
}

function noteOnCurves() {
  const notes = ["Bands and ± are one standard error; dashed lines are what held-out real images reach."];
  if (several) notes.push("A run has the same colour everywhere.");
  const best = data.runs.some((run) => run.best);
  if (best) notes.push("A star is the best evaluation.");
  if (data.runs.some((run) => run.events.length)) notes.push("Dotted lines with a mark are events, listed below.");
  for (const run of data.runs.filter((run) => run.metrics.every > 1)) {
    notes.push(`Of what ${run.name} logged in training, one row in ${run.metrics.every} is shown.`);
  }
  if (view.smoothing > 0)
    notes.push("Losses, logits, penalties, gradients and speed are smoothed; the raw values are the faint lines.");
  if (view.log) notes.push("Scores that are 0 or less somewhere stay on a linear scale.");
  const without = data.runs.filter((run) => run.metrics.hours === null).map((run) => run.name);
  if (without.length) notes.push(`${without.join(", ")}: no time was noted (speed.csv), so there are no curves over hours.`);
  byId("curves-note").textContent = notes.join(" ");
}

function refresh() {
  if (times.length) showGrids();
  plots.forEach(drawPanel);
  noteOnCurves();
}

function drawCurves() {
  for (const panel of data.panels) {
    const node = el("div", { className: "plot", role: "img" });
    const note = panel.note && el("span", { className: "quiet" }, `${panel.note} `);
    const caption = el("figcaption", {}, el("b", {}, panel.title), note || null, ...key(panel));
    byId(`${panel.group === "scores" ? "score" : "training"}-panels`).append(el("figure", {}, caption, node));
    plots.push({ panel, node });
  }
  for (const group of ["score", "training"]) {
    const place = byId(`${group}-panels`);
    if (!place.childElementCount) place.append(el("p", { className: "quiet" }, "Nothing has been logged yet."));
  }
  const hours = document.querySelector("[name=axis][value=hours]");
  hours.disabled = data.runs.every((run) => run.metrics.hours === null);
  for (const choice of document.getElementsByName("axis")) {
    choice.addEventListener("change", () => {
      view.axis = choice.value;
      refresh();
    });
  }
  byId("log").addEventListener("change", (event) => {
    view.log = event.target.checked;
    refresh();
  });
  byId("smoothing").addEventListener("input", (event) => {
    view.smoothing = Number(event.target.value) / 100;
    byId("smoothing-value").textContent = view.smoothing
      ? `${view.smoothing.toFixed(2)}, over about ${Math.round(1 / (1 - view.smoothing))} rows`
      : "off";
    refresh();
  });
  refresh();
  window.addEventListener("beforeprint", () =>
    plots.forEach(({ node }) => Plotly.relayout(node, { width: 320, autosize: false })),
  );
  window.addEventListener("afterprint", () =>
    plots.forEach(({ node }) => Plotly.relayout(node, { width: null, autosize: true })),
  );
}

// Tables --------------------------------------------------------------------------------------------------------------

function drawScores() {
  const { columns, rows } = data.scores;
  if (!rows.length) return byId("scores").append(el("p", { className: "quiet" }, "There are no scores yet."));
  const origins = { evaluation: "last evaluation", best: "best evaluation" };
  const shared =
    rows.every((row) => new Set(row.floors).size === 1) && new Set(columns.map((c) => JSON.stringify(c.made_with))).size === 1;
  const heads = columns.map((c) => el("th", { scope: "col" }, named(c.run), el("small", {}, origins[c.origin] ?? c.origin)));
  const real = columns[0].floor_samples ? `${whole(Number(columns[0].floor_samples))} of them` : "";
  const head = [
    column("Score"),
    ...heads,
    ...(shared ? [el("th", { scope: "col" }, "Held-out real", el("small", {}, real))] : []),
    column("Better"),
  ];
  const facts = [
    ["after images seen", (c) => (c.images_seen === null ? null : whole(c.images_seen))],
    [
      "generated images",
      (c) => c.made_with.samples && (Number(c.made_with.samples) ? whole(Number(c.made_with.samples)) : c.made_with.samples),
    ],
    ["extractor, its digest", (c) => c.made_with.extractor],
    ["fingerprint of the data", (c) => c.made_with.data],
  ].map(([label, of]) => ({
    className: "facts",
    cells: [rowHead(label), ...columns.map((c) => cell(of(c))), ...(shared ? [cell("")] : []), cell("")],
  }));
  let group = null;
  const body = rows.flatMap((row) => {
    const opened =
      row.group === group
        ? []
        : [{ className: "group", cells: [el("th", { scope: "rowgroup", colSpan: head.length }, row.group)] }];
    group = row.group;
    const values = row.cells.map((text, i) => {
      const floor = !shared && row.floors[i] ? el("small", {}, ` real: ${row.floors[i]}`) : null;
      return el("td", { className: "number" }, text || "–", floor);
    });
    const cells = [
      rowHead(row.name, el("small", {}, row.meaning)),
      ...values,
      ...(shared ? [cell(row.floors[0] || "–", "number")] : []),
      cell(row.better),
    ];
    return [...opened, { cells }];
  });
  byId("scores").append(table("Scores", head, [...facts, ...body]));
}

function drawDifferences() {
  byId("differences-section").hidden = !several;
  if (!data.differences.length)
    return byId("differences").append(el("p", { className: "quiet" }, "The runs have the same options."));
  const head = [column("Option"), ...data.runs.map((run, i) => el("th", { scope: "col" }, named(i)))];
  const rows = data.differences.map(([option, values]) => ({
    cells: [rowHead(el("code", {}, option)), ...values.map((value) => cell(value, "value"))],
    className: "rule",
  }));
  return byId("differences").append(table("Options that differ", head, rows));
}

function drawEvents() {
  const events = data.runs.flatMap((run, i) => run.events.map((event) => ({ ...event, i })));
  if (!events.length) return byId("events").append(el("p", { className: "quiet" }, "No events were noted."));
  const head = ["", "Run", "After images", "When", "Event"].map((text) => column(text));
  const rows = events.map((event) => ({
    className: "rule",
    cells: [
      cell(MARKS[event.kind] ?? "●"),
      rowHead(named(event.i)),
      cell(whole(event.images_seen), "number"),
      cell(event.time.replace("T", " ").replace("+00:00", " UTC"), "number"),
      el("td", { className: "text" }, el("b", {}, event.kind), ` ${event.text}`),
    ],
  }));
  for (const run of data.runs.filter((run) => run.events.length < run.events_in_all)) {
    byId("events").append(
      el("p", { className: "quiet" }, `${run.name}: the last ${run.events.length} of ${run.events_in_all} events.`),
    );
  }
  return byId("events").append(table("Events", head, rows));
}

function drawAgain() {
  data.runs.forEach((run, i) => {
    const versions = Object.entries(run.versions)
      .map(([name, version]) => `${name} ${version}`)
      .join(", ");
    const facts = [
      run.seed === null ? null : `Seed ${run.seed}.`,
      run.data ? `Data: ${run.data}.` : null,
      run.commit ? `Code: commit ${run.commit}.` : null,
      versions ? `Versions at its last scores: ${versions}.` : "Versions were not recorded.",
    ].filter((fact) => fact);
    const kept = run.best_kept ? `Best checkpoint: ${run.folder}/checkpoints/best.ckpt` : null;
    const parts = [
      el("h3", {}, named(i)),
      el("pre", { className: "command" }, run.command),
      el("p", { className: "quiet" }, facts.join(" ")),
      kept && el("p", { className: "quiet" }, kept),
      run.state === "done" || run.state === "running" ? null : el("p", {}, "It goes on with ", el("code", {}, run.resume)),
      el("details", {}, el("summary", {}, "Configuration"), el("pre", { tabIndex: 0 }, run.config)),
    ];
    byId("again").append(el("article", {}, ...parts));
  });
}

drawOverview();
drawPictures();
drawCurves();
drawScores();
drawDifferences();
drawEvents();
drawAgain();
