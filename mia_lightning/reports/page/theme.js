"use strict";
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
    modebar: { bgcolor: "rgba(0,0,0,0)", color: css("--muted"), activecolor: css("--ink") },
    hoverlabel: { bgcolor: css("--panel"), bordercolor: css("--faint"), font: { color: css("--ink") } },
    xaxis: { ...axis, ...layout.xaxis }, yaxis: { ...axis, ...layout.yaxis },
  };
}

// Redraws whatever has colours when they change: light, dark, paper.
function onThemeChange(redraw) {
  scheme.addEventListener("change", redraw);
  matchMedia("print").addEventListener("change", redraw);
}
