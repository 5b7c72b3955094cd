"use strict";
const plots = JSON.parse(document.getElementById("plots").textContent);
const scheme = matchMedia("(prefers-color-scheme: dark)");

// Colours are written as the names of the page's CSS variables, so that light, dark and print differ in one place.
function coloured(value, key) {
  if (Array.isArray(value)) return value.map((item) => coloured(item));
  if (value && typeof value === "object")
    return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, coloured(item, name)]));
  return typeof value === "string" && /color$/.test(key || "") && value.startsWith("--") ? css(value) : value;
}

function css(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function themed(layout) {
  const axis = { gridcolor: css("--line"), zeroline: false, linecolor: css("--faint"), automargin: true };
  return {
    ...layout,
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: css("--muted") },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: css("--faint"), activecolor: css("--ink") },
    hoverlabel: { bgcolor: css("--panel"), bordercolor: css("--faint"), font: { color: css("--ink") } },
    xaxis: { ...axis, ...layout.xaxis }, yaxis: { ...axis, ...layout.yaxis },
  };
}

// "all" is the view of the overall curve with every class behind it; otherwise one class beside the overall curve.
function chosen(trace, group) {
  if (!trace.meta || group === "all") return trace;
  if (trace.meta.group === "overall") return trace.meta.kind === "line" ? trace : { ...trace, visible: false };
  if (String(trace.meta.group) !== group) return { ...trace, visible: false };
  if (trace.meta.kind === "decision") return { ...trace, visible: true };
  return { ...trace, visible: true, showlegend: true, line: { color: "--series-1", width: 2.5 } };
}

function draw(id) {
  const place = document.getElementById(id);
  const menu = document.querySelector(`select[data-plot="${id}"]`);
  const group = menu ? menu.value : "all";
  const data = plots[id].data.map((trace) => coloured(chosen(trace, group)));
  const config = {
    responsive: true, displaylogo: false,
    modeBarButtons: [["toImage"], ["zoom2d", "pan2d", "resetScale2d"]],
  };
  Plotly.react(place, data, themed(coloured(plots[id].layout)), config);
}

function drawAll() {
  Object.keys(plots).forEach(draw);
}

document.querySelectorAll("select[data-plot]").forEach((menu) =>
  menu.addEventListener("change", () => draw(menu.dataset.plot)));
scheme.addEventListener("change", drawAll);
matchMedia("print").addEventListener("change", drawAll);
addEventListener("beforeprint", () =>
  document.querySelectorAll("details.print").forEach((part) => { part.open = true; }));
drawAll();
