const plots = JSON.parse(document.getElementById("plots").textContent);

// "all" is the view of the overall curve with every class behind it; otherwise one class beside the overall curve.
function chosen(trace, group) {
  if (!trace.meta || group === "all") return trace;
  if (trace.meta.group === "overall") return trace.meta.kind === "line" ? trace : { ...trace, visible: false };
  if (String(trace.meta.group) !== group) return { ...trace, visible: false };
  if (trace.meta.kind === "decision") return { ...trace, visible: true };
  return { ...trace, visible: true, showlegend: true, line: { color: "--series-1", width: 2.5 } };
}

// On paper a figure has the width that its place will have there: by then no script can measure it any more.
const paper = matchMedia("print");
let isPrinting = false;

function measures(place) {
  if (!isPrinting && !paper.matches) return {};
  return { width: place.closest(".pair") ? 325 : 680, height: place.id.startsWith("precision-recall") ? 400 : 320 };
}

// On a phone the names of points would lie on one another; short ones do not.
const phone = matchMedia("(max-width: 36rem)");

function uncluttered(trace) {
  if (!phone.matches || paper.matches || isPrinting || trace.mode !== "markers+text") return trace;
  return { ...trace, text: trace.text.map((name) => name.length > 3 ? "" : name) };
}

// There each name of the legend has a line of its own: many need a higher figure, or nothing is left for the curves.
const line = 20;

function tall(place, data) {
  place.style.height = "";
  if (!phone.matches || paper.matches || isPrinting) return {};
  const names = data.filter((trace) => trace.showlegend !== false && trace.visible !== false).length;
  const height = Math.max(parseFloat(getComputedStyle(place).height), 300 + line * names);
  return { height, legend: { maxheight: line * (names + 1) } };
}

function draw(id) {
  const place = document.getElementById(id);
  const menu = document.querySelector(`select[data-plot="${id}"]`);
  const group = menu ? menu.value : "all";
  const data = plots[id].data.map((trace) => coloured(chosen(uncluttered(trace), group)));
  const config = {
    responsive: true, displaylogo: false,
    modeBarButtons: [["toImage"], ["zoom2d", "pan2d", "resetScale2d"]],
  };
  const layout = themed(coloured(plots[id].layout));
  const { height, legend } = tall(place, data);
  if (height) place.style.height = `${height}px`;
  Plotly.react(place, data, { ...layout, legend: { ...layout.legend, ...legend }, ...measures(place) }, config);
}

// What lies in a folded part is drawn when it is opened: until then it has no width.
function drawAll() {
  Object.keys(plots).filter((id) => document.getElementById(id).checkVisibility()).forEach(draw);
}

document.querySelectorAll("details").forEach((part) => part.addEventListener("toggle", () => {
  if (part.open) part.querySelectorAll(".plot").forEach((place) => draw(place.id));
}));

document.querySelectorAll("select[data-plot]").forEach((menu) =>
  menu.addEventListener("change", () => draw(menu.dataset.plot)));
onThemeChange(drawAll);
phone.addEventListener("change", drawAll);
addEventListener("beforeprint", () => {
  document.querySelectorAll("details.print").forEach((part) => { part.open = true; });
  isPrinting = true;
  drawAll();
});
addEventListener("afterprint", () => {
  isPrinting = false;
  drawAll();
});
drawAll();
