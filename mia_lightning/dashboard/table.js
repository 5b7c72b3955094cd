// The table of runs: sorted by one column, twenty rows at a time.
const ROWS_PER_PAGE = 20;
const MOST_CHOSEN = 8;

const COLUMNS = [
  { key: "name", title: "run", value: (row) => row.run.name },
  ...content.figures.map((figure, place) => ({
    key: figure.key, title: figure.title, figure: (row) => row.attack.figures[place],
    value: (row) => (row.attack.figures[place] ? row.attack.figures[place][0] : null),
  })).filter((column, place) => content.runs.some((run) => run.attacks.some((attack) => attack.figures[place]))),
  { key: "gap", title: "gap", value: (row) => row.run.generalization_gap },
  { key: "test", title: `test ${content.utility}`, value: (row) => row.run.test_accuracy, small: (row) => (row.run.utility === content.utility ? "" : row.run.utility) },
  { key: "shadows", title: "shadows", value: (row) => row.run.num_shadows, cell: (row) => row.run.num_shadows.toLocaleString("en") },
  { key: "created", title: "created, UTC", value: (row) => row.run.created, text: true, cell: (row) => shortMoment(row.run.created), kind: "moment" },
  { key: "dataset", title: "data set", value: (row) => row.run.dataset, text: true },
  { key: "architecture", title: "architecture", value: (row) => row.run.architecture, text: true },
  { key: "defense", title: "defence", value: (row) => row.run.defense, text: true, kind: "long" },
  { key: "attack", title: "attack", value: (row) => row.attackName, text: true },
];

function shortMoment(created) {
  const found = /^(\d{4}-\d{2}-\d{2})T(\d{2}:\d{2})/.exec(created);
  return found ? `${found[1]} ${found[2]}` : created;
}

function element(tag, text = null, attributes = {}) {
  const made = document.createElement(tag);
  if (text !== null) made.textContent = text;
  Object.entries(attributes).forEach(([name, value]) => made.setAttribute(name, value));
  return made;
}

function drawHead(state, sortBy) {
  const cells = COLUMNS.map((column) => {
    const head = element("th", null, { scope: "col" });
    if (column.text) head.className = "text";
    if (state.sort === column.key) head.setAttribute("aria-sort", state.descending ? "descending" : "ascending");
    const button = element("button", column.title, { type: "button", "data-sort": column.key });
    button.addEventListener("click", () => sortBy(column));
    head.append(button);
    return head;
  });
  document.querySelector("#runs thead tr").replaceChildren(element("td"), ...cells);
}

function drawRows(rows, state, choose) {
  const column = COLUMNS.find((each) => each.key === state.sort);
  const ordered = sorted(rows, column.value, state.descending);
  const pages = Math.max(Math.ceil(ordered.length / ROWS_PER_PAGE), 1);
  state.page = Math.min(state.page, pages - 1);
  const first = state.page * ROWS_PER_PAGE;
  const shown = ordered.slice(first, first + ROWS_PER_PAGE);
  document.querySelector("#runs tbody").replaceChildren(...shown.map((row) => tableRow(row, state, choose)));
  document.getElementById("rows").textContent = !ordered.length ? "no run"
    : `${(first + 1).toLocaleString("en")} to ${(first + shown.length).toLocaleString("en")} of ${ordered.length.toLocaleString("en")}`;
  document.getElementById("previous").disabled = state.page === 0;
  document.getElementById("next").disabled = state.page === pages - 1;
}

function tableRow(row, state, choose) {
  const line = element("tr");
  const isChosen = state.chosen.includes(row.place);
  if (isChosen) line.className = "chosen";
  const tick = element("input", null, { type: "checkbox", "aria-label": `Compare ${row.run.name}` });
  tick.checked = isChosen;
  tick.disabled = !isChosen && state.chosen.length >= MOST_CHOSEN;
  tick.dataset.run = row.place;
  tick.addEventListener("change", () => choose(row.place, tick.checked));
  const first = element("td");
  first.append(tick);
  line.append(first, ...COLUMNS.map((column) => tableCell(row, column)));
  return line;
}

function tableCell(row, column) {
  if (column.key === "name") {
    const cell = element("th", null, { scope: "row" });
    cell.append(linked(row.run));
    if (row.run.path !== row.run.name) cell.append(element("small", row.run.path));
    if (row.run.doubt) cell.append(element("small", row.run.doubt));
    return cell;
  }
  const value = column.value(row);
  const cell = element("td", column.cell ? column.cell(row) : column.text ? value : show(value));
  if (column.text) cell.className = `text ${column.kind || ""}`.trim();
  const beside = column.figure ? bracket(column.figure(row)) : column.small ? column.small(row) : "";
  if (beside) cell.append(element("small", beside));
  return cell;
}

function linked(run) {
  const made = run.href ? element("a", null, { href: run.href }) : element("span");
  run.name.split(/(?<=[_=/.])/).forEach((part, place) => made.append(...(place ? [element("wbr")] : []), part));
  return made;
}
