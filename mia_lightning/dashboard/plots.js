// The four figures. Many thousands of points are drawn by WebGL where there is one; fewer are there sooner without it, and
// as quick to filter, most of all where no graphics card draws them.
const SYMBOLS = ["circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x"];
const COLOURS = { dataset: "data set", architecture: "architecture", defense: "defence" };
const NUM_SERIES = 5;
const FEW = 300;  // runs up to which lines join them, and intervals are drawn without being asked for
const MANY = 3000;  // runs from which on WebGL is faster
const POINTS = content.runs.length > MANY && hasWebGL() ? "scattergl" : "scatter";
const isCoarse = matchMedia("(pointer: coarse)").matches;  // there a drag over a figure should scroll the page

function hasWebGL() {
  try {
    return Boolean(document.createElement("canvas").getContext("webgl"));
  } catch {
    return false;
  }
}

function looks(place) {
  return { color: css(`--series-${(place % NUM_SERIES) + 1}`), symbol: SYMBOLS[place % SYMBOLS.length] };
}

// One trace of points for each value of what colours; the colour of a value is the same whatever is filtered.
function pointTraces(rows, state, x) {
  const values = valuesOf(state.colour);
  const byValue = new Map(values.map((value) => [value, []]));
  rows.forEach((row) => byValue.get(valueOf(row.run, state.colour)).push(row));
  return values.flatMap((value, place) => {
    const group = byValue.get(value);
    if (!group.length) return [];
    const { color, symbol } = looks(place);
    const isKept = group.map((row) => !state.selected || state.selected.has(row.place));
    return [{
      type: POINTS, mode: "markers", name: plain(short(value)),
      x: group.map(x), y: group.map((row) => row.leakage[0]),
      customdata: group.map((row) => row.place), text: group.map(describe),
      hovertemplate: "%{text}<extra></extra>",
      marker: { color, symbol, size: 8, opacity: 0.8 },
      selectedpoints: state.selected ? [...isKept.keys()].filter((index) => isKept[index]) : null,
      selected: { marker: { opacity: 0.9 } }, unselected: { marker: { opacity: 0.12 } },
      error_y: {
        visible: state.intervals, type: "data", symmetric: false, color, thickness: 1, width: 0,
        array: group.map((row, index) => (isKept[index] ? reach(row.leakage[2], row.leakage[0]) : 0)),
        arrayminus: group.map((row, index) => (isKept[index] ? reach(row.leakage[0], row.leakage[1]) : 0)),
      },
    }];
  });
}

function reach(high, low) {
  return high === null || low === null ? 0 : Math.max(high - low, 0);
}

function describe(row) {
  const figures = content.figures.map((figure, place) => [figure.title, row.attack.figures[place]])
    .filter(([, figure]) => figure)
    .map(([title, figure]) => `${title} ${show(figure[0])} ${bracket(figure)}`);
  return [
    `<b>${plain(short(row.run.name, 60))}</b>`,
    ...(row.run.doubt ? [`<b>${plain(row.run.doubt)}</b>`] : []),
    plain(short(`${row.run.architecture} on ${row.run.dataset}, defence: ${row.run.defense}`, 70)),
    `attack ${plain(row.attackName)}`, ...figures,
    `test ${plain(row.run.utility)} ${show(row.run.test_accuracy)}, gap ${show(row.run.generalization_gap)}`,
  ].join("<br>");
}

// Room around points that all stand at one place, to which plotly would give that of several gaps, utilities or none.
function roomAround(traces, isDate) {
  const values = new Set(traces.flatMap((trace) => trace.x));
  if (values.size !== 1) return {};
  const [value] = values;
  if (!isDate) return { range: [value - 0.05, value + 0.05] };
  const hours = (count) => new Date(Date.parse(`${value}Z`) + 36e5 * count).toISOString().replace("Z", "");
  return { range: [hours(-12), hours(12)] };
}

function drawPoints(id, traces, state, xaxis, chanceAt = "end") {
  const figure = content.figures.find((each) => each.key === state.figure);
  const chance = {
    type: "line", xref: "paper", x0: 0, x1: 1, y0: figure.chance, y1: figure.chance, layer: "below",
    line: { color: css("--muted"), width: 1, dash: "dash" },
    label: { text: "chance", textposition: chanceAt, font: { size: 11, color: css("--muted") } },
  };
  const layout = {
    xaxis: { ...xaxis, ...roomAround(traces, xaxis.type === "date") }, yaxis: { title: { text: state.figure === "auc" ? "AUC" : figure.title } },
    margin: { l: 60, r: 16, t: 16, b: 50 }, shapes: [chance],
    legend: {
      orientation: "h", x: 0, y: 1.02, xanchor: "left", yanchor: "bottom", maxheight: 0.25, itemclick: false, itemdoubleclick: false,
      title: { text: COLOURS[state.colour], side: "left", font: { size: 13 } },
    },
    showlegend: true, hovermode: "closest", dragmode: isCoarse ? false : "select",
    uirevision: `${state.figure} ${state.attack}`, selectionrevision: Math.random(),
  };
  const config = {
    responsive: true, displaylogo: false,
    modeBarButtons: [["toImage"], ["select2d", "lasso2d", "zoom2d", "pan2d", "resetScale2d"]],
  };
  Plotly.react(document.getElementById(id), traces, themed(layout), config);
}

function drawGap(rows, state) {
  const traces = pointTraces(rows, state, (row) => row.run.generalization_gap);
  drawPoints("gap-plot", traces, state, { title: { text: "generalisation gap" } });
  const kept = rows.filter((row) => !state.selected || state.selected.has(row.place));
  const correlation = rankCorrelation(kept.map((row) => row.run.generalization_gap), kept.map((row) => row.leakage[0]));
  document.getElementById("gap-caption").textContent = correlation === null || kept.length < 3 ? ""
    : `Rank correlation over ${counted(kept.length, "run")}: ${show(correlation, 2)}.`;
}

// The rows on the front of each data set and utility, a list for each; runs in doubt are on none.
function fronts(rows) {
  const groups = new Map();
  rows.filter((row) => !row.run.doubt).forEach((row) => {
    const key = JSON.stringify([...dataOf(row.run), row.run.utility]);
    groups.set(key, [...(groups.get(key) || []), row]);
  });
  return [...groups.values()].map((group) => ({
    dataset: group[0].run.dataset,
    rows: paretoFront(group.map((row) => ({ accuracy: row.run.test_accuracy, leakage: row.leakage[0] }))).map((place) => group[place]),
  }));
}

function drawPareto(rows, state) {
  const found = fronts(rows);
  const colours = valuesOf("dataset");
  const lines = found.map(({ dataset, rows: front }, place) => ({
    type: "scatter", mode: "lines", name: found.length > 1 ? "Pareto fronts" : "Pareto front", showlegend: place === 0,
    x: front.map((row) => row.run.test_accuracy), y: front.map((row) => row.leakage[0]), hoverinfo: "skip",
    line: { color: state.colour === "dataset" ? looks(colours.indexOf(dataset)).color : css("--ink"), width: 1.5, shape: "hv" },
  }));
  const traces = [...lines, ...pointTraces(rows, state, (row) => row.run.test_accuracy)];
  drawPoints("pareto-plot", traces, state, { title: { text: plain(`test ${utilityOf(rows.map((row) => row.run))}`) } }, "start");
  const count = found.reduce((sum, front) => sum + front.rows.length, 0);
  document.getElementById("pareto-caption").textContent = `${counted(count, "run")} of ${rows.length.toLocaleString("en")}.`;
  document.getElementById("front").disabled = !count;
}

function drawTime(rows, state) {
  const moment = (row) => row.run.created.replace(/(\+00:00|Z)$/, "");
  const series = new Map();
  sorted(rows, moment, false).forEach((row) => {
    const { project, architecture, defense } = row.run;
    const key = JSON.stringify([project, ...dataOf(row.run), architecture, defense, row.attackName]);
    series.set(key, [...(series.get(key) || []), row]);
  });
  const isFew = rows.length <= FEW;
  const joined = isFew ? [...series.values()].filter((group) => group.length > 1) : [];
  document.getElementById("time-caption").textContent = isFew
    ? "Lines join runs of a project with the same data set, architecture, defence and attack."
    : `With at most ${FEW} runs, lines join those of a project with the same data set, architecture, defence and attack.`;
  const line = {
    type: "scatter", mode: "lines", showlegend: false, hoverinfo: "skip", line: { color: css("--faint"), width: 1 },
    x: joined.flatMap((group) => [...group.map(moment), null]),
    y: joined.flatMap((group) => [...group.map((row) => row.leakage[0]), null]),
  };
  drawPoints("time-plot", [line, ...pointTraces(rows, state, moment)], state, { title: { text: "created (UTC)" }, type: "date" });
}
