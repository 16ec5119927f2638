/**
 * Small charts as SVG: stacked areas, stacked bars and lines over time, with a crosshair that the
 * pointer and the arrow keys move, and the same as a table. It draws with attributes and classes
 * only, as a Content-Security-Policy without 'unsafe-inline' wants it.
 */

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 190, LEFT = 44, RIGHT = 8, TOP = 8, BOTTOM = 22;
const TABLE_ROWS = 20;
const ROOM = 72; // pixels that a label of the time axis needs

const svg = (name, attributes = {}) => {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
};

const html = (name, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
};

const clock = (at, withSeconds) => new Date(at).toLocaleTimeString([], {
  hour: "2-digit", minute: "2-digit", hourCycle: "h23", ...withSeconds && { second: "2-digit" },
});

/** A round number of which `most` takes three or four. */
function tickOf(most, whole) {
  const rough = most / 4, power = 10 ** Math.floor(Math.log10(rough));
  const ticks = [1, 2, 2.5, 5, 10].map((n) => n * power);
  return ticks.find((tick) => tick >= rough && !(whole && tick % 1)) ?? 1;
}

export const short = (value) => {
  if (value === null || value === undefined) return "–";
  if (value >= 1e6) return `${+(value / 1e6).toPrecision(3)} M`;
  if (value >= 1e4) return `${+(value / 1e3).toPrecision(3)} k`;
  return String(value >= 100 ? Math.round(value) : +value.toPrecision(value >= 10 ? 3 : 2));
};

/**
 * `kind`: area, bars (both stacked) or lines. `draw` gets
 * `{times, step, series: [{name, slot, values}]}`: milliseconds, and values or null.
 */
export class Chart {
  constructor(parent, { title, kind, unit = "", whole = false, hint }) {
    Object.assign(this, { title, kind, unit, whole, at: null, data: null, width: 0 });
    this.picture = svg("svg", { role: "img", tabindex: 0, height: HEIGHT, class: "gws-svg" });
    this.tip = html("div", { className: "gws-tip", hidden: true });
    this.spoken = html("p", { className: "visually-hidden" });
    this.spoken.setAttribute("aria-live", "polite");
    this.legend = html("ul", { className: "gws-legend" });
    this.body = html("tbody");
    this.head = html("tr");
    this.details = html("details", {}, html("summary", { textContent: "As a table" }),
      html("div", { className: "gws-scroll" }, html("table", {}, html("thead", {}, this.head), this.body)));
    this.details.addEventListener("toggle", () => this.tabulate());
    const caption = html("figcaption", {}, html("h2", { textContent: title }), html("p", { className: "quiet", textContent: hint }));
    this.plot = html("div", { className: "gws-plot" }, this.picture, this.tip);
    parent.append(html("figure", { className: "module gws-chart" },
      caption, this.plot, this.legend, this.spoken, this.details));
    this.picture.addEventListener("pointermove", (event) => this.point(event));
    this.picture.addEventListener("pointerdown", (event) => this.point(event));
    this.picture.addEventListener("pointerleave", () => this.mark(null));
    this.picture.addEventListener("blur", () => this.mark(null));
    this.picture.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => {
      if (this.plot.clientWidth !== this.width) this.redraw();
    }).observe(this.plot);
  }

  draw(data) {
    const moved = this.data ? Math.round((data.times[0] - this.data.times[0]) / data.step) : 0;
    this.data = data;
    if (this.at !== null) this.at = Math.min(Math.max(0, this.at - moved), data.times.length - 1);
    this.redraw();
    if (this.details.open) this.tabulate();
  }

  redraw() {
    const { data, plot: { clientWidth: width } } = this;
    this.width = width;
    if (!data || !width) return;
    const { times, series, step } = data, stacked = this.kind !== "lines";
    const totals = times.map((_, i) => series.reduce((sum, { values }) => (
      stacked ? sum + (values[i] ?? 0) : Math.max(sum, values[i] ?? 0)), 0));
    const most = Math.max(...totals, 0) || (this.whole ? 4 : 1);
    const tick = tickOf(most, this.whole), top = Math.ceil(most / tick) * tick;
    this.totals = totals;
    this.x = (i) => LEFT + (i + 0.5) * (width - LEFT - RIGHT) / times.length;
    this.y = (value) => TOP + (1 - value / top) * (HEIGHT - TOP - BOTTOM);
    const parts = [];
    for (let value = 0; value <= top + tick / 2; value += tick) {
      const y = Math.round(this.y(value)) + 0.5;
      parts.push(svg("line", { class: value ? "gws-grid" : "gws-axis", x1: LEFT, x2: width - RIGHT, y1: y, y2: y }));
      parts.push(this.label(LEFT - 6, y + 4, short(value), "end"));
    }
    const each = Math.ceil(times.length / Math.max(1, Math.floor((width - LEFT) / ROOM)));
    for (let i = Math.floor(each / 2); i < times.length && this.x(i) < width - ROOM / 2; i += each) {
      parts.push(this.label(this.x(i), HEIGHT - 6, clock(times[i], step * each < 60_000), "middle"));
    }
    parts.push(...this[this.kind](times.length));
    this.cross = svg("line", { class: "gws-cross", y1: TOP, y2: HEIGHT - BOTTOM });
    this.cross.toggleAttribute("hidden", true);
    parts.push(this.cross);
    this.picture.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.picture.setAttribute("width", width);
    this.picture.replaceChildren(...parts);
    this.explain();
    this.mark(this.at);
  }

  label(x, y, text, anchor) {
    const element = svg("text", { x, y, "text-anchor": anchor, class: "gws-label" });
    element.textContent = text;
    return element;
  }

  area(count) {
    const floor = new Array(count).fill(0), edge = (this.x(1) - this.x(0)) / 2;
    return this.data.series.map(({ slot, values }) => {
      const low = floor.map((value) => this.y(value));
      for (let i = 0; i < count; i++) floor[i] += values[i] ?? 0;
      const path = (ys) => ys.map((y, i) => `${this.x(i).toFixed(1)},${y.toFixed(1)}`);
      const left = this.x(0) - edge, right = this.x(count - 1) + edge, high = floor.map((value) => this.y(value));
      const points = [`${left},${high[0]}`, ...path(high), `${right},${high.at(-1)}`,
        `${right},${low.at(-1)}`, ...path(low).reverse(), `${left},${low[0]}`];
      return svg("path", { d: `M${points.join("L")}Z`, class: `gws-area gws-${slot}` });
    });
  }

  bars(count) {
    const floor = new Array(count).fill(0), room = this.x(1) - this.x(0), gap = room > 5 ? 1 : 0;
    return this.data.series.map(({ slot, values }) => {
      let d = "";
      for (let i = 0; i < count; i++) {
        if (!values[i]) continue;
        const low = this.y(floor[i]), high = this.y(floor[i] += values[i]);
        d += `M${(this.x(i) - room / 2 + gap).toFixed(1)},${low.toFixed(1)}V${high.toFixed(1)}h${(room - 2 * gap).toFixed(1)}V${low.toFixed(1)}Z`;
      }
      return svg("path", { d, class: `gws-area gws-${slot}` });
    });
  }

  lines(count) {
    return this.data.series.flatMap(({ slot, values }) => {
      let d = "", alone = "", pen = false;
      for (let i = 0; i < count; i++) {
        const known = (values[i] ?? null) !== null;
        if (!known) {
          pen = false;
          continue;
        }
        const point = `${this.x(i).toFixed(1)},${this.y(values[i]).toFixed(1)}`;
        const isAlone = !pen && (values[i + 1] ?? null) === null;
        if (isAlone) alone += `M${point}h0`;
        else d += `${pen ? "L" : "M"}${point}`;
        pen = true;
      }
      return [svg("path", { d, class: `gws-line gws-${slot}` }), svg("path", { d: alone, class: `gws-line gws-alone gws-${slot}` })];
    });
  }

  /** The legend, and what a screen reader says of the picture. */
  explain() {
    const { series, times } = this.data;
    const names = series.map(({ name }) => name).join("\n");
    if (this.names !== names) {
      this.names = names;
      this.legend.replaceChildren(...series.map(({ name, slot }) => html("li", {}, html("span", { className: `gws-key gws-${slot}` }), name)));
    }
    const last = series.map(({ name, values }) => `${name} ${this.text([...values].reverse().find((value) => value !== null))}`).join(", ");
    const most = this.totals.indexOf(Math.max(...this.totals));
    const said = series.length && this.totals[most]
      ? `Now ${last}. Most at ${clock(times[most])}: ${this.text(this.totals[most])}.` : "Nothing so far.";
    this.picture.setAttribute("aria-label", `${this.title}. ${said} Arrow keys read the values.`);
  }

  text(value) {
    return value === null || value === undefined ? "–" : `${short(value)}${this.unit && ` ${this.unit}`}`;
  }

  valuesAt(i) {
    const rows = this.data.series.map(({ name, slot, values }) => ({ name, slot, value: values[i] }));
    return rows.length > 1 && this.kind !== "lines" ? [...rows, { name: "all", slot: "none", value: this.totals[i] }] : rows;
  }

  // --- the crosshair -------------------------------------------------------------------------------

  point({ clientX }) {
    if (!this.data) return;
    const x = clientX - this.picture.getBoundingClientRect().left, room = this.x(1) - this.x(0);
    this.mark(Math.min(this.data.times.length - 1, Math.max(0, Math.floor((x - LEFT) / room))));
  }

  key(event) {
    if (!this.data) return;
    const end = this.data.times.length - 1, at = this.at ?? end + 1;
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: end, PageUp: at - 10, PageDown: at + 10, Escape: null }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.mark(to === null ? null : Math.min(end, Math.max(0, to)));
    if (this.at === null) return;
    const values = this.valuesAt(this.at).map(({ name, value }) => `${name} ${this.text(value)}`);
    this.spoken.textContent = `${clock(this.data.times[this.at], true)}: ${values.join(", ")}`;
  }

  mark(i) {
    this.at = i;
    this.tip.hidden = i === null;
    this.cross?.toggleAttribute("hidden", i === null);
    if (i === null) return;
    const x = this.x(i);
    this.cross.setAttribute("x1", x);
    this.cross.setAttribute("x2", x);
    const rows = this.valuesAt(i).reverse().map(({ name, slot, value }) => html("li", {},
      html("span", { className: `gws-key gws-${slot}` }), html("span", { textContent: name }), html("b", { textContent: this.text(value) })));
    this.tip.replaceChildren(html("p", { textContent: clock(this.data.times[i], true) }), html("ul", {}, ...rows));
    const isRight = x > this.width / 2; // through the CSSOM, which a policy lets pass
    this.tip.style.left = isRight ? "auto" : `${x + 10}px`;
    this.tip.style.right = isRight ? `${this.width - x + 10}px` : "auto";
  }

  // --- the same as a table -------------------------------------------------------------------------

  tabulate() {
    if (!this.details.open || !this.data) return;
    const { times, series } = this.data, head = (text) => html("th", { scope: "col", textContent: text });
    this.head.replaceChildren(head("time"), ...series.map(({ name }) => head(name)));
    const rows = [];
    const each = this.kind === "bars" ? 1 : Math.ceil(times.length / TABLE_ROWS); // of counts none is left out
    for (let i = times.length - 1; i >= 0; i -= each) {
      rows.push(html("tr", {}, html("th", { scope: "row", textContent: clock(times[i], true) }),
        ...series.map(({ values }) => html("td", { textContent: this.text(values[i]) }))));
    }
    this.body.replaceChildren(...rows);
  }
}
