// Bars of shares, a histogram of times, tables. All text is set as text, whoever wrote it.

const SVG = "http://www.w3.org/2000/svg";
const [WIDE, HIGH, FOOT, HEAD] = [400, 170, 22, 16];

export function bars(list, items) {
  list.replaceChildren(...items.map(({ name, share }) => {
    const bar = element("span", "bar");
    bar.style.width = `${Math.max(0, Math.min(1, share)) * 100}%`;
    const row = element("span", "row");
    row.append(element("span", "name", name), element("span", "", `${(share * 100).toFixed(1)}%`));
    const item = element("li");
    item.title = name;
    item.append(bar, row);
    return item;
  }));
}

/** Times in ms; the highest are in the last bar, so that one outlier squeezes no other. */
export function histogram(svg, times, bins = 24) {
  const sorted = [...times].sort((a, b) => a - b);
  const [low, high] = [sorted[0] ?? 0, quantile(sorted, 0.98)];
  const step = Math.max((high - low) / bins, 0.05);
  const counts = Array(bins).fill(0);
  for (const t of times) counts[Math.min(bins - 1, Math.floor((t - low) / step))] += 1;
  const most = Math.max(1, ...counts);
  svg.setAttribute("viewBox", `0 0 ${WIDE} ${HIGH}`);
  svg.replaceChildren(
    drawn("line", { x1: 0, x2: WIDE, y1: HIGH - FOOT, y2: HIGH - FOOT }),
    ...counts.map((count, i) => column(i, count / most, bins)),
    label(`${low.toFixed(1)} ms`, 0, HIGH - 6, "start"),
    label(`${(low + bins * step).toFixed(1)} ms${sorted.at(-1) > high ? " and more" : ""}`, WIDE, HIGH - 6, "end"),
    label(`most in a bar: ${most}`, 0, 11, "start"),
  );
}

export function quantile(sorted, share) {
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? 0;
}

/** Rows of texts; numbers stand to the right. */
export function table(place, heads, rows) {
  const line = (cells, tag) => {
    const found = element("tr");
    found.append(...cells.map((c) => element(tag, typeof c === "number" ? "number" : "", String(c))));
    return found;
  };
  place.replaceChildren(...(heads.length ? [line(heads, "th")] : []), ...rows.map((r) => line(r, "td")));
}

function column(index, share, bins) {
  const tall = share * (HIGH - FOOT - HEAD);
  const step = WIDE / bins;
  return drawn("rect", { x: index * step + 1, y: HIGH - FOOT - tall, width: step - 2, height: tall, rx: 2 });
}

function label(text, x, y, anchor) {
  const found = drawn("text", { x, y, "text-anchor": anchor });
  found.textContent = text;
  return found;
}

function drawn(kind, attributes) {
  const found = document.createElementNS(SVG, kind);
  for (const [name, value] of Object.entries(attributes)) found.setAttribute(name, value);
  return found;
}

function element(tag, kind = "", text = "") {
  const found = document.createElement(tag);
  found.className = kind;
  found.textContent = text;
  return found;
}
