"use strict";
// Everything here is comfort: the page says all it has to say without it.
const tip = document.getElementById("tip");

// Titles of marks become tooltips that come at once; the browser's own come late.
document.addEventListener("pointerover", (event) => {
  const mark = event.target.closest?.("svg g:not(.names), svg rect.here");
  const title = mark?.querySelector(":scope > title");
  if (title) {
    mark.dataset.tip = title.textContent;
    title.remove();
  }
  tip.hidden = !mark?.dataset.tip;
  if (mark?.dataset.tip) tip.textContent = mark.dataset.tip;
});
document.addEventListener("pointermove", (event) => {
  if (tip.hidden) return;
  const left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8);
  const below = event.clientY + 16;
  tip.style.left = Math.max(left, 8) + "px";
  tip.style.top = (below + tip.offsetHeight < innerHeight ? below : event.clientY - tip.offsetHeight - 10) + "px";
});

// A line through all panels of the run, and the numbers of the moment it stands at.
const run = document.querySelector("svg.run");
if (run) {
  const buckets = JSON.parse(document.getElementById("buckets").textContent);
  const readout = document.getElementById("readout");
  const cursor = run.querySelector(".cursor");
  const { left, right, end, bucket } = Object.fromEntries(Object.entries(run.dataset).map(([k, v]) => [k, +v]));
  run.addEventListener("pointermove", (event) => {
    const box = run.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * run.viewBox.baseVal.width;
    if (x < left || x > right) return;
    const at = ((x - left) / (right - left)) * end;
    const [ok, fail, info, p50, p95, p99, max] = buckets[Math.min(Math.floor(at / bucket), buckets.length - 1)];
    cursor.setAttribute("visibility", "visible");
    cursor.setAttribute("x1", x);
    cursor.setAttribute("x2", x);
    readout.textContent = `${(at / 1e6).toFixed(1)} s: ${ok} ok/s, ${fail} fail/s, ${info} info/s; p50 ${p50}, p95 ${p95}, p99 ${p99}, max ${max}`;
  });
}

// A wide timeline opens where its violation is.
const centre = (wide) => {
  const bars = [...wide.querySelectorAll(".op.marked rect")].map((bar) => bar.getBoundingClientRect());
  if (bars.length === 0) return;
  const [from, to] = [Math.min(...bars.map((bar) => bar.left)), Math.max(...bars.map((bar) => bar.right))];
  const middle = to - from < wide.clientWidth ? (from + to) / 2 : from + wide.clientWidth / 2 - 100;
  wide.scrollLeft += middle - wide.getBoundingClientRect().left - wide.clientWidth / 2;
};
// ...and names its clients wherever it is scrolled to.
document.querySelectorAll(".wide:has(> .timeline)").forEach((wide) => {
  const svg = wide.querySelector("svg");
  wide.addEventListener("scroll", () => {
    const x = wide.scrollLeft * (svg.viewBox.baseVal.width / svg.clientWidth);
    svg.querySelector(".names").setAttribute("transform", `translate(${x} 0)`);
  });
});
const centreAll = (part) => part.querySelectorAll(".wide:has(> .timeline)").forEach(centre);
centreAll(document);
document.querySelectorAll("details").forEach((each) => each.addEventListener("toggle", () => centreAll(each)));

const copy = document.getElementById("copy");
if (copy) {
  copy.hidden = false;
  copy.addEventListener("click", async () => {
    const command = document.getElementById("command");
    try {
      await navigator.clipboard.writeText(command.textContent);
      copy.textContent = "Copied";
    } catch {
      // No clipboard for files in this browser: at least it is marked, ready for the keyboard.
      getSelection().selectAllChildren(command);
      copy.textContent = "Marked: press Ctrl+C";
    }
  });
}

// On paper nothing can be opened.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((each) => (each.open = true)));
