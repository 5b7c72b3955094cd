// The page: its state, kept in the address so that a reload shows the same, and what changes it.
const MENUS = {
  figure: content.figures.map((figure) => [figure.key, figure.title]),
  attack: [[STRONGEST, "strongest"], ...content.attacks.map((name) => [name, name])],
  colour: Object.entries(COLOURS),
  ...Object.fromEntries(FILTERS.map((name) => [name, [["", "all"], ...valuesOf(name).map((value) => [value, value])]])),
};

const SWITCHES = ["intervals", "descending", "reload"];

const state = fromAddress();

function standard() {
  const colour = MENUS.colour.map(([name]) => name).find((name) => valuesOf(name).length > 1) || "dataset";
  return {
    figure: "auc", attack: STRONGEST, colour, text: "", intervals: content.runs.length <= FEW,
    ...Object.fromEntries(FILTERS.map((name) => [name, ""])),
    sort: "created", descending: true, page: 0, chosen: [], selected: null, reload: false,
  };
}

function fromAddress() {
  const found = standard();
  const asked = new URLSearchParams(location.hash.slice(1));
  Object.entries(MENUS).forEach(([name, options]) => {
    if (options.some(([value]) => value === asked.get(name))) found[name] = asked.get(name);
  });
  if (asked.has("text")) found.text = asked.get("text");
  SWITCHES.forEach((name) => { if (asked.has(name)) found[name] = asked.get(name) === "1"; });
  if (COLUMNS.some((column) => column.key === asked.get("sort"))) found.sort = asked.get("sort");
  const names = new Map(content.runs.map((run, place) => [run.name, place]));
  found.chosen = asked.getAll("chosen").filter((name) => names.has(name)).map((name) => names.get(name)).slice(0, MOST_CHOSEN);
  return found;
}

function toAddress() {
  const usual = standard();
  const asked = new URLSearchParams();
  [...Object.keys(MENUS), "text", "sort"].forEach((name) => { if (state[name] !== usual[name]) asked.set(name, state[name]); });
  SWITCHES.forEach((name) => { if (state[name] !== usual[name]) asked.set(name, state[name] ? "1" : "0"); });
  state.chosen.forEach((place) => asked.append("chosen", content.runs[place].name));
  history.replaceState(null, "", `#${asked}`);
}

function fillControls() {
  Object.entries(MENUS).forEach(([name, options]) => {
    const place = document.getElementById(name);
    place.replaceChildren(...options.map(([value, title]) => element("option", title, { value })));
    place.value = state[name];
    document.getElementById(`control-${name}`).hidden = FILTERS.includes(name) && options.length <= 2;
  });
  document.getElementById("text").value = state.text;
  document.getElementById("intervals").checked = state.intervals;
}

function drawAll() {
  drawText();
  if (!window.Plotly) return;  // not yet there: what is chosen until then is drawn with the figures
  drawFirst();
  drawRest();
}

// What needs no figures.
function drawText() {
  const rows = rowsFor(state);
  drawStatus(rows, rows.filter((row) => row.leakage));
  drawTable(rows);
  toAddress();
}

// The figure that is seen when the page opens.
function drawFirst() {
  drawGap(rowsFor(state).filter((row) => row.leakage), state);
}

function drawRest() {
  const drawn = rowsFor(state).filter((row) => row.leakage);
  drawCompared(state, choose);
  drawPareto(drawn, state);
  drawTime(drawn, state);
}

function drawStatus(rows, drawn) {
  const named = FILTERS.filter((name) => state[name]).map((name) => `${name === "defense" ? "defence" : name === "dataset" ? "data set" : name} ${state[name]}`);
  const parts = [
    `${rows.length.toLocaleString("en")} of ${counted(content.runs.length, "run")}`,
    state.attack === STRONGEST ? "strongest attack of each in its figure" : `attack ${state.attack}`,
    ...named, ...(state.text ? [`text “${state.text}”`] : []),
    ...(drawn.length < rows.length ? [`${(rows.length - drawn.length).toLocaleString("en")} without this figure`] : []),
    ...(state.selected ? [`${counted(rows.filter((row) => state.selected.has(row.place)).length, "run")} selected`] : []),
  ];
  document.getElementById("status").textContent = `${parts.join(" · ")}.`;
}

function drawTable(rows) {
  drawHead(state, sortBy);
  drawRows(state.selected ? rows.filter((row) => state.selected.has(row.place)) : rows, state, choose);
  document.getElementById("release").hidden = !state.selected;
}

function sortBy(column) {
  const isSame = state.sort === column.key;
  state.descending = isSame ? !state.descending : !column.text && column.key !== "name";
  state.sort = column.key;
  state.page = 0;
  drawTable(rowsFor(state));
  toAddress();
  document.querySelector(`button[data-sort="${column.key}"]`).focus();
}

function choose(place, isChosen) {
  state.chosen = state.chosen.filter((each) => each !== place);
  if (isChosen) state.chosen.push(place);
  drawTable(rowsFor(state));
  if (window.Plotly) drawCompared(state, choose);
  toAddress();
  const tick = document.querySelector(`input[data-run="${place}"]`);
  if (tick) tick.focus();
}

function select(places) {
  state.selected = places && places.size ? places : null;
  state.page = 0;
  drawAll();
}

function listen() {
  Object.keys(MENUS).forEach((name) => document.getElementById(name).addEventListener("change", (event) => {
    state[name] = event.target.value;
    state.page = 0;
    drawAll();
  }));
  document.getElementById("text").addEventListener("input", (event) => {
    state.text = event.target.value;
    state.page = 0;
    drawAll();
  });
  document.getElementById("intervals").addEventListener("change", (event) => {
    state.intervals = event.target.checked;
    drawAll();
  });
  document.getElementById("reset").addEventListener("click", () => {
    const { figure, colour, intervals, sort, descending, chosen } = state;
    Object.assign(state, standard(), { figure, colour, intervals, sort, descending, chosen });
    fillControls();
    drawAll();
  });
  [["previous", -1], ["next", 1]].forEach(([id, step]) => document.getElementById(id).addEventListener("click", () => {
    state.page += step;
    drawTable(rowsFor(state));
  }));
  document.getElementById("release").addEventListener("click", () => select(null));
  document.getElementById("front").addEventListener("click", () =>
    select(new Set(fronts(rowsFor(state).filter((row) => row.leakage)).flatMap((front) => front.rows.map((row) => row.place)))));
  document.addEventListener("keydown", (event) => { if (event.key === "Escape" && state.selected) select(null); });
}

function listenTo(plots) {
  plots.forEach((id) => {
    const plot = document.getElementById(id);
    // A redraw takes the box away, which plotly announces as a selection of nothing.
    plot.on("plotly_selected", (event) => {
      if (event && event.points.length) select(new Set(event.points.map((point) => point.customdata)));
    });
    plot.on("plotly_deselect", () => select(null));
    plot.on("plotly_click", (event) => select(new Set(event.points.map((point) => point.customdata))));
  });
}

function reloadByItself() {
  const tick = document.getElementById("reload");
  if (!tick) return;
  tick.checked = state.reload;
  tick.addEventListener("change", () => {
    state.reload = tick.checked;
    toAddress();
  });
  setInterval(() => { if (tick.checked && !document.hidden) location.reload(); }, 1000 * Number(tick.dataset.seconds));
}

const datasets = new Set(content.runs.map((run) => JSON.stringify(dataOf(run)))).size;
document.getElementById("headline").textContent = `Membership leakage of ${counted(content.runs.length, "run")} on ${counted(datasets, "data set")}`;
fillControls();
drawText();
listen();
reloadByItself();

// The table is there in a tenth of the time that it takes to read the plotting library: by the second frame it is painted.
requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(() => {
  const library = document.createElement("script");
  library.textContent = document.getElementById("plotly").textContent;
  document.head.append(library);
  drawFirst();
  listenTo(["gap-plot"]);
  setTimeout(() => {
    drawRest();
    listenTo(["pareto-plot", "time-plot"]);
    onThemeChange(drawAll);
  });
})));
