// What check-report.py asks of an open report: each function gives a list of what is wrong.

/** Elements that stick out of the page, unless they lie in a box of their own that scrolls. */
function overflow() {
  const found = [];
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth > width) {
    found.push(`the page is ${document.documentElement.scrollWidth} px wide, the window ${width}`);
  }
  for (const element of document.body.querySelectorAll("*")) {
    if (element.closest(".scroll > *, pre, svg") || !element.checkVisibility()) continue;
    const { left, right } = element.getBoundingClientRect();
    if (right > width + 1 || left < -1) found.push(`<${element.tagName} class="${element.className}"> ends at ${right} px`);
  }
  return found;
}

/** Tables that scroll sideways on a phone: what they say must be seen without. Grids of two swept keys may. */
function sideways() {
  const boxes = [...document.querySelectorAll(".scroll")].filter((box) => box.checkVisibility() && !box.querySelector(".heat"));
  const wide = boxes.filter((box) => box.scrollWidth > box.clientWidth + 1);
  return wide.map((box) => `the table "${box.getAttribute("aria-label")}" is ${box.scrollWidth} px wide in ${box.clientWidth}`);
}

/** Texts of plots that leave their plot or lie on each other. */
function plotTexts() {
  const found = [];
  for (const svg of document.querySelectorAll(".plot svg")) {
    if (!svg.checkVisibility()) continue;
    const frame = svg.getBoundingClientRect();
    const texts = [...svg.querySelectorAll("text")].map((t) => [t.textContent.trim(), t.getBoundingClientRect()]);
    texts.forEach(([text, a], i) => {
      if (text === "") return;
      if (a.left < frame.left - 2 || a.right > frame.right + 2) found.push(`"${text}" leaves its plot`);
      for (const [other, b] of texts.slice(i + 1)) {
        const apart = a.right <= b.left || b.right <= a.left || a.bottom - 3 <= b.top || b.bottom - 3 <= a.top;
        if (other !== "" && !apart) found.push(`"${text}" lies on "${other}"`);
      }
    });
  }
  return found;
}

/** Texts whose colour is too near to what lies behind them. */
function contrast(least) {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const known = new Map();
  const channels = (colour) => {
    if (!known.has(colour)) {
      canvas.clearRect(0, 0, 1, 1);
      canvas.fillStyle = colour;
      canvas.fillRect(0, 0, 1, 1);
      known.set(colour, canvas.getImageData(0, 0, 1, 1).data);
    }
    return known.get(colour);
  };
  const light = (colour) => {
    const [r, g, b] = [...channels(colour)].map((c) => c / 255).map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (a, b) => (Math.max(light(a), light(b)) + 0.05) / (Math.min(light(a), light(b)) + 0.05);
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (channels(colour)[3] === 255) return colour;
    }
    return "white";
  };
  const found = new Set();
  for (const element of document.body.querySelectorAll("*")) {
    const own = [...element.childNodes].some((n) => n.nodeType === Node.TEXT_NODE && n.textContent.trim() !== "");
    if (!own || element.closest("script") || !element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const svg = element.closest("svg");
    const fill = element.getAttribute("fill");
    const stage = fill?.match(/^var\(--on-(.*)\)$/);
    const root = getComputedStyle(document.documentElement);
    const back = stage ? root.getPropertyValue(`--${stage[1]}`) : behind(svg ? svg.parentElement : element);
    const r = ratio(svg ? style.fill : style.color, back);
    if (r < least) found.add(`contrast ${r.toFixed(2)} of <${element.tagName.toLowerCase()} class="${element.getAttribute("class") ?? ""}"> "${element.textContent.trim().slice(0, 30)}"`);
  }
  return [...found];
}

/** Clicks every column of every sortable table twice, and compares the order. */
function sortTables() {
  const found = [];
  for (const table of document.querySelectorAll("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      for (const direction of ["ascending", "descending"]) {
        head.querySelector("button").click();
        const keys = [...table.tBodies[0].rows].map((r) => r.cells[column].dataset.sort).filter((k) => k !== undefined).map(Number);
        const sign = direction === "ascending" ? 1 : -1;
        const sorted = keys.every((k, i) => i === 0 || sign * (k - keys[i - 1]) >= 0);
        if (!sorted || head.getAttribute("aria-sort") !== direction) found.push(`column "${head.textContent}" is not sorted ${direction}`);
      }
    });
  }
  return found;
}

/** Walks through every plot with the arrow keys: each step must tell a value, and mark one thing in the drawing shown. */
function readPlots() {
  const found = [];
  for (const plot of document.querySelectorAll(".plot")) {
    const svg = [...plot.querySelectorAll("svg")].find((s) => s.checkVisibility());
    if (!svg || !plot.querySelector(".hit")) continue;
    const name = plot.getAttribute("aria-label");
    const readout = plot.nextElementSibling;
    plot.focus();
    if (document.activeElement !== plot) found.push(`"${name}" takes no focus`);
    const steps = Number(plot.getAttribute("aria-valuemax"));
    const told = new Set();
    for (let i = 0; i < steps; i++) {
      plot.dispatchEvent(new KeyboardEvent("keydown", { key: i === 0 ? "Home" : "ArrowRight", cancelable: true }));
      told.add(readout.textContent);
      if (svg.querySelectorAll(".hit.at").length !== 1) found.push(`"${name}" marks nothing at step ${i}`);
      if (plot.getAttribute("aria-valuetext") !== readout.textContent) found.push(`"${name}" tells screen readers something else`);
    }
    if (!/\d/.test(readout.textContent)) found.push(`"${name}" tells no value`);
    if (steps > 4 && told.size < steps / 4) found.push(`"${name}" tells the same everywhere`);
    plot.blur();
  }
  return found;
}
