// Exact values of plots: at the mouse, under a finger, or with the arrow keys; the text stands below the plot.
for (const plot of document.querySelectorAll(".plot")) {
  const hits = [".wide", ".narrow"].map((drawing) => [...plot.querySelectorAll(`${drawing} .hit`)]);
  if (hits[0].length === 0) continue;
  const texts = hits[0].map((hit) => {
    const title = hit.querySelector("title");
    title.remove();
    return title.textContent;
  });
  const readout = plot.nextElementSibling;
  const hint = "Point at a mark of any plot, or use the arrow keys, for its value.";
  // It is said once, below the first plot; the others keep the line free.
  const idle = document.querySelector(".readout.live") ? "" : hint;
  readout.textContent = idle;
  readout.classList.add("live", "hint");
  let at = -1;
  const show = (i) => {
    for (const drawing of hits) {
      drawing[at]?.classList.remove("at");
      drawing[i]?.classList.add("at");
    }
    at = i;
    readout.textContent = texts[i] ?? idle;
    readout.classList.toggle("hint", i < 0);
    plot.setAttribute("aria-valuenow", Math.max(i, 0) + 1);
    plot.setAttribute("aria-valuetext", texts[i] ?? hint);
  };
  // A slider is what screen readers hand the arrow keys to.
  plot.tabIndex = 0;
  plot.setAttribute("role", "slider");
  plot.setAttribute("aria-valuemin", 1);
  plot.setAttribute("aria-valuemax", texts.length);
  plot.setAttribute("aria-valuenow", 1);
  plot.setAttribute("aria-valuetext", hint);
  plot.addEventListener("keydown", (event) => {
    const last = texts.length - 1;
    const next = {
      ArrowRight: Math.min(at + 1, last),
      ArrowUp: Math.min(at + 1, last),
      ArrowLeft: Math.max(at - 1, 0),
      ArrowDown: Math.max(at - 1, 0),
      Home: 0,
      End: last,
    }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    show(next);
  });
  plot.addEventListener("blur", () => show(-1));
  for (const drawing of hits) {
    drawing.forEach((hit, i) => hit.addEventListener("pointerenter", () => show(i)));
  }
}
