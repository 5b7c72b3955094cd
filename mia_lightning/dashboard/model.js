// What is known of the runs, and what is asked of it: filters, figures, order, fronts. Nothing here touches the page.
const content = JSON.parse(document.getElementById("content").textContent);
const FILTERS = ["dataset", "architecture", "defense", "project", "group"];
const STRONGEST = "strongest";
const collator = new Intl.Collator("en", { numeric: true });  // much faster than localeCompare

// The text in which a search looks: names, and the settings in which runs differ.
const searched = content.runs.map((run, place) => [
  run.name, run.path, run.project, run.group, run.dataset, run.architecture, run.defense, `seed ${run.seed}`,
  ...content.settings.filter((setting) => setting.of[place] >= 0)
    .map((setting) => `${setting.name}=${setting.values[setting.of[place]]}`),
].join("\n").toLowerCase());

// The named attack of a run, or its strongest: for each figure the largest over its attacks, with the limits of that
// maximum, under the name of the attack that is strongest in the chosen figure. Null where it has none.
function attackOf(run, name, figure = 0) {
  if (name !== STRONGEST) return run.attacks.find((attack) => content.attacks[attack.attack] === name) || null;
  const best = content.figures.map((_, place) => run.attacks.filter((attack) => attack.figures[place])
    .reduce((top, each) => (top && top.figures[place][0] >= each.figures[place][0] ? top : each), null));
  const main = best[figure] || best.find(Boolean);
  return main ? { ...main, figures: run.strongest } : null;
}

// Rows are what the figures and the table show: a run with one of its attacks, and the chosen figure as `leakage`.
function rowsFor(state) {
  const words = state.text.toLowerCase().split(/\s+/).filter(Boolean);
  const figure = content.figures.findIndex((each) => each.key === state.figure);
  return content.runs.flatMap((run, place) => {
    if (!FILTERS.every((name) => !state[name] || valueOf(run, name) === state[name])) return [];
    if (!words.every((word) => searched[place].includes(word))) return [];
    const attack = attackOf(run, state.attack, figure);
    if (!attack) return [];
    return [{ place, run, attack, attackName: content.attacks[attack.attack], leakage: attack.figures[figure] }];
  });
}

function valueOf(run, name) {
  return run[name] === null ? "single runs" : String(run[name]);
}

// By what the data of two runs are taken for the same: files of one name need not be.
function dataOf(run) {
  return [run.dataset, run.num_records, run.num_classes];
}

// The values of a filter, the most frequent first.
function valuesOf(name) {
  const counts = new Map();
  content.runs.forEach((run) => counts.set(valueOf(run, name), (counts.get(valueOf(run, name)) || 0) + 1));
  return [...counts.keys()].sort((one, other) => counts.get(other) - counts.get(one) || collator.compare(one, other));
}

// Sorted copies; what has no value comes last in both directions, and equals keep their order.
function sorted(rows, value, descending) {
  const compare = (one, other) => (typeof one === "string" ? collator.compare(one, other) : one - other);
  const isMissing = (each) => each === null || each === undefined;
  return rows.map((row) => [value(row), row]).sort(([one], [other]) => {
    if (isMissing(one) || isMissing(other)) return isMissing(one) - isMissing(other);
    return descending ? compare(other, one) : compare(one, other);
  }).map(([, row]) => row);
}

// What the utility of these runs is called: by its name where it is the same for all.
function utilityOf(runs) {
  const names = new Set(runs.map((run) => run.utility));
  return names.size === 1 ? [...names][0] : "utility";
}

// A utility with its name, where runs beside it have another.
function named(value, run, utility) {
  return utility === run.utility || value === null ? show(value) : `${show(value)} ${run.utility}`;
}

// Of points {accuracy, leakage} the places, by falling accuracy, of those that no other point is as good as in both
// and better than in one: accuracy is good, leakage is not. Equal points are all on the front.
function paretoFront(points) {
  const order = points.map((_, place) => place).sort((one, other) =>
    points[other].accuracy - points[one].accuracy || points[one].leakage - points[other].leakage);
  const front = [];
  let least = Infinity, last = null;
  for (const place of order) {
    const point = points[place];
    const isEqual = last && point.accuracy === last.accuracy && point.leakage === last.leakage;
    if (!isEqual && point.leakage >= least) continue;
    front.push(place);
    least = point.leakage;
    last = point;
  }
  return front;
}

// Spearman's rank correlation, equal values sharing their mean rank; null where it is undefined.
function rankCorrelation(x, y) {
  const across = ranks(x), up = ranks(y), middle = (x.length - 1) / 2;
  let both = 0, ofX = 0, ofY = 0;
  across.forEach((rank, place) => {
    both += (rank - middle) * (up[place] - middle);
    ofX += (rank - middle) ** 2;
    ofY += (up[place] - middle) ** 2;
  });
  return ofX > 0 && ofY > 0 ? both / Math.sqrt(ofX * ofY) : null;
}

function ranks(values) {
  const order = values.map((_, place) => place).sort((one, other) => values[one] - values[other]);
  const found = new Array(values.length);
  for (let first = 0, end; first < order.length; first = end) {
    end = first;
    while (end < order.length && values[order[end]] === values[order[first]]) end += 1;
    order.slice(first, end).forEach((place) => { found[place] = (first + end - 1) / 2; });
  }
  return found;
}

// As the reports write figures: a minus is no hyphen, and what rounds to zero has no sign.
function show(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  const text = Math.abs(value).toFixed(digits);
  return value < 0 && Number(text) > 0 ? `−${text}` : text;
}

// Value and limits of one figure less another, from the limits of both and the correlation of the two over records that
// they share, 0 for none (Zou 2007); null where either has no value.
function differenceOf(one, other, correlation) {
  if (!one || !other) return null;
  const value = one[0] - other[0];
  if ([one[1], one[2], other[1], other[2]].includes(null)) return [value, null, null];
  const joined = (a, b) => Math.sqrt(Math.max(0, a * a + b * b - 2 * correlation * a * b));
  return [value, value - joined(one[0] - one[1], other[2] - other[0]), value + joined(one[2] - one[0], other[0] - other[1])];
}

// How much a figure of two runs, by their places, goes together over shared records; null where that is not known.
function correlationOf(one, other, attack, figure) {
  const pair = content.pairs.find((each) => each.attack === attack && each.runs.includes(one) && each.runs.includes(other));
  if (!pair || !pair[figure] || one === other) return null;
  const [low, high] = [pair.runs.indexOf(one), pair.runs.indexOf(other)].sort((a, b) => a - b);
  return pair[figure][(high * (high - 1)) / 2 + low];
}

function signed(value, digits = 3) {
  const text = show(value, digits);
  return value > 0 && Number(text) > 0 ? `+${text}` : text;
}

function bracket(figure) {
  if (!figure || figure[1] === null) return "";
  return figure[2] === null ? `at least\u00a0${show(figure[1])}` : `[${show(figure[1])},\u00a0${show(figure[2])}]`;
}

function counted(number, one, several = `${one}s`) {
  return `${number.toLocaleString("en")} ${number === 1 ? one : several}`;
}

// plotly reads a little markup in its texts; what comes from data must stay text.
function plain(text) {
  return String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}

function short(text, most = 40) {
  return text.length <= most ? text : `…${text.slice(1 - most)}`;
}
