"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const controls = [...document.querySelectorAll("nav select")];
const figures = [...document.querySelectorAll("figure")];

// The choice stands in the address, so that a link leads to what is shown: #function=gradient&dtype=float32&peer=numpy
function readAddress() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  for (const control of controls) {
    const value = wanted.get(control.id);
    if ([...control.options].some((option) => option.value === value)) control.value = value;
  }
}

function show() {
  const choice = Object.fromEntries(controls.map((control) => [control.id, control.value]));
  for (const figure of figures) {
    figure.hidden = Object.entries(figure.dataset).some(([key, value]) => value && value !== choice[key]);
  }
  const missing = [];
  for (const section of document.querySelectorAll("section.figures")) {
    section.hidden = [...section.querySelectorAll("figure")].every((figure) => figure.hidden);
    if (section.hidden) missing.push(section.querySelector("h2").textContent);
  }
  const none = document.getElementById("none");
  none.hidden = !missing.length;
  none.textContent = `Not measured for this choice: ${missing.join("; ").toLowerCase()}.`;
}

function change() {
  history.replaceState(null, "", "#" + new URLSearchParams(controls.map((control) => [control.id, control.value])));
  show();
}

// --- what a mark stands for: every contender of its record

function duration(seconds) {
  for (const [unit, size] of [["s", 1], ["ms", 1e-3]]) {
    if (seconds >= 0.9995 * size) return `${+(seconds / size).toPrecision(3)} ${unit}`;
  }
  return `${+(seconds / 1e-6).toPrecision(3)} us`;
}

function element(name, text, parent) {
  const made = document.createElement(name);
  made.textContent = text;
  parent.append(made);
  return made;
}

function describe(record) {
  const tip = document.getElementById("tip");
  tip.replaceChildren();
  const shape = `${record.n_rows.toLocaleString("en")} x ${record.n_classes.toLocaleString("en")}`;
  element("b", `${shape}, ${record.dtype}`, tip);
  const table = element("table", "", tip);
  const lines = Object.entries(record.times).sort(([, a], [, b]) => a.median - b.median)
    .map(([name, t]) => [record.titles[name], duration(t.median), `${duration(t.q25)} to ${duration(t.q75)}`]);
  for (const [name, values] of Object.entries(record.values)) {
    lines.push([record.titles[name], ...Object.entries(values).map(([key, v]) => `${key} ${+v.toPrecision(3)}`)]);
  }
  for (const line of lines) {
    const row = element("tr", "", table);
    for (const cell of line) element("td", cell, row);
  }
  tip.hidden = false;
  return tip;
}

function place(tip, x, y) {
  tip.style.left = `${Math.max(8, Math.min(x + 16, innerWidth - tip.offsetWidth - 8))}px`;
  tip.style.top = `${Math.max(8, Math.min(y + 16, innerHeight - tip.offsetHeight - 8))}px`;
}

for (const mark of document.querySelectorAll(".mark")) {
  const record = data.records[mark.dataset.record];
  mark.querySelector("title").remove(); // the panel says it, and more
  mark.setAttribute("tabindex", "0");
  mark.addEventListener("pointermove", (event) => place(describe(record), event.clientX, event.clientY));
  mark.addEventListener("focus", () => {
    const box = mark.getBoundingClientRect();
    place(describe(record), box.right, box.bottom);
  });
  for (const end of ["pointerleave", "blur"]) {
    mark.addEventListener(end, () => { document.getElementById("tip").hidden = true; });
  }
}

const save = document.getElementById("save");
save.href = URL.createObjectURL(new Blob([JSON.stringify(data, null, 1)], { type: "application/json" }));
for (const control of controls) control.addEventListener("change", change);
addEventListener("hashchange", () => { readAddress(); show(); });
readAddress();
show();
