// Chosen runs side by side: their curves overlaid, their figures, and the settings in which they differ.
const DASHES = ["solid", "dash", "dot", "dashdot"];

function drawCompared(state, choose) {
  const chosen = state.chosen.map((place) => content.runs[place])
    .map((run) => ({ run, attack: attackOf(run, state.attack) }));
  const note = chosen.length
    ? `${counted(chosen.length, "run")} of at most ${MOST_CHOSEN}, ${state.attack === STRONGEST ? "each with its strongest attack" : `with the attack ${state.attack}`}.`
    : `Tick runs in the table to compare their curves and settings, at most ${MOST_CHOSEN}.`;
  document.getElementById("compare-note").textContent = note;
  document.getElementById("compare").hidden = !chosen.length;
  if (!chosen.length) return;
  drawRoc(chosen);
  drawComparedTable(chosen, state, choose);
  drawDifferences(chosen, state);
}

// The first run less each of the others in the chosen figure: paired over the records that both share, where one attack is
// compared. The largest figure over several attacks has no correlation here; `mia-compare` knows it.
function drawDifferences(chosen, state) {
  const figure = content.figures.findIndex((each) => each.key === state.figure);
  const [first, ...others] = chosen;
  const isOne = state.attack !== STRONGEST || chosen.every(({ run }) => run.attacks.length === 1);
  const lines = others.map((other, place) => {
    const known = isOne && first.attack && other.attack && first.attack.attack === other.attack.attack
      ? correlationOf(state.chosen[0], state.chosen[place + 1], first.attack.attack, state.figure) : null;
    const change = differenceOf(first.attack && first.attack.figures[figure], other.attack && other.attack.figures[figure], known || 0);
    const pairing = known === null ? "as if they shared no record; paired: " : "paired over the records that they share; in all figures: ";
    const doubts = [first.run, other.run].filter((run) => run.doubt).map((run) => `${run.name} (${run.doubt})`);
    const line = element("li", `${doubts.length ? `In doubt: ${doubts.join(", ")}. ` : ""}${first.run.name} less ${other.run.name}, ${content.figures[figure].title}: `
      + (change ? `${signed(change[0])} ${change[1] === null ? "" : `[${signed(change[1])},\u00a0${signed(change[2])}]`}, ${pairing}` : "–; "));
    line.append(element("code", `mia-compare ${quoted(first.run.path)} ${quoted(other.run.path)}`));
    return line;
  });
  document.getElementById("compare-differences").replaceChildren(...lines);
}

function quoted(path) {
  return /^[\w./=,@%+:-]+$/.test(path) ? path : `'${path.replaceAll("'", "'\\''")}'`;
}

function drawRoc(chosen) {
  const drawn = chosen.map((each, place) => ({ ...each, place })).filter(({ attack }) => attack && attack.roc);
  const left = Math.min(...drawn.map(({ attack }) => content.grid[attack.roc[0]]), 0.1);
  const traces = drawn.map(({ run, attack, place }) => {
    const [start, rates] = attack.roc;
    return {
      type: "scatter", mode: "lines", x: content.grid.slice(start), y: rates.map((rate) => Math.max(rate, left)),
      name: plain(short(run.name, 44)), line: { color: looks(place).color, width: 2, dash: DASHES[Math.floor(place / NUM_SERIES) % 4] },
      hovertemplate: "TPR %{y:.3g} at FPR up to %{x:.3g}<extra>%{fullData.name}</extra>",
    };
  });
  const axis = { type: "log", range: [Math.log10(left), 0.02], dtick: 1, tickformat: "~g" };
  const chance = {
    type: "line", x0: left, y0: left, x1: 1, y1: 1, layer: "below", line: { color: css("--muted"), width: 1, dash: "dash" },
  };
  const layout = {
    xaxis: { ...axis, title: { text: "false-positive rate (at most)" } },
    yaxis: { ...axis, title: { text: "true-positive rate" } }, shapes: [chance], margin: { l: 60, r: 16, t: 16, b: 50 },
    legend: { orientation: "h", x: 0, y: 1.02, xanchor: "left", yanchor: "bottom" }, showlegend: true,
    dragmode: isCoarse ? false : "zoom",
  };
  Plotly.react(document.getElementById("roc-plot"), traces, themed(layout), {
    responsive: true, displaylogo: false, modeBarButtons: [["toImage"], ["zoom2d", "pan2d", "resetScale2d"]],
  });
  const missing = chosen.length - drawn.length;
  document.getElementById("compare-missing").textContent = missing
    ? `${counted(missing, "run has", "runs have")} no curve: the attack was not run, there is no scores.parquet, or it lacks members or non-members.` : "";
}

function drawComparedTable(chosen, state, choose) {
  const head = element("tr");
  head.append(element("td"), ...chosen.map(({ run }, place) => {
    const cell = element("th", null, { scope: "col" });
    const remove = element("button", "Remove", { type: "button", "aria-label": `Remove ${run.name}` });
    remove.addEventListener("click", () => choose(state.chosen[place], false));
    cell.append(linked(run), ...(run.doubt ? [element("small", run.doubt)] : []), remove);
    return cell;
  }));
  document.querySelector("#compared thead").replaceChildren(head);
  const utility = utilityOf(chosen.map(({ run }) => run));
  const facts = [
    ["data set", ({ run }) => run.dataset], ["architecture", ({ run }) => run.architecture],
    ["defence", ({ run }) => run.defense], ["attack", ({ attack }) => (attack ? content.attacks[attack.attack] : "–")],
    ...content.figures.map((figure, place) => [figure.title, ({ attack }) => valueAndLimits(attack && attack.figures[place])]),
    [`train ${utility}`, ({ run }) => named(run.train_accuracy, run, utility)], [`test ${utility}`, ({ run }) => named(run.test_accuracy, run, utility)],
    ["generalisation gap", ({ run }) => show(run.generalization_gap)], ["shadow models", ({ run }) => run.num_shadows.toLocaleString("en")],
    ["seed", ({ run }) => String(run.seed)], ["created (UTC)", ({ run }) => shortMoment(run.created)],
  ].map(([title, text]) => [title, chosen.map(text)]);
  document.querySelector("#compared tbody").replaceChildren(...[...facts, ...differences(state.chosen)].map(([title, texts]) => {
    const line = element("tr");
    line.append(element("th", title, { scope: "row" }), ...texts.map((text) => element("td", text)));
    return line;
  }));
}

function valueAndLimits(figure) {
  return figure ? `${show(figure[0])} ${bracket(figure)}`.trim() : "–";
}

function differences(places) {
  return content.settings.filter((setting) => setting.name !== "seed" && new Set(places.map((place) => setting.of[place])).size > 1)
    .map((setting) => [setting.name, places.map((place) => (setting.of[place] < 0 ? "–" : setting.values[setting.of[place]]))]);
}
