/**
 * The dashboard's tables. Rows are kept and their cells changed, so that what has the keyboard's
 * focus keeps it; everything goes in as text.
 */

const GOOD = { up: "good", connected: "good", idle: "good", closed: "good", attached: "good" };
const WARN = { draining: "warn", drained: "warn", suspect: "warn", half_open: "warn", connecting: "warn" };
const BAD = { dead: "bad", open: "bad" };
const TONES = { ...GOOD, ...WARN, ...BAD };
const LATE = 12; // seconds without a beat after which a node is about to be called dead

const html = (name, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
};

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const units = [[86400, "d"], [3600, "h"], [60, "min"]];
  const [size, unit] = units.find(([size]) => seconds >= size) ?? [1, "s"];
  return `${Math.floor(Math.max(0, seconds) / size)} ${unit}`;
}

const set = (element, text) => {
  if (element.textContent !== text) element.textContent = text;
};

function badge(element, word, text = word) {
  element.className = `gws-badge${TONES[word] ? ` gws-${TONES[word]}` : ""}`;
  set(element, text);
}

/** Rows by key, in the order of the items. */
class Table {
  constructor(table, labels) {
    this.body = table.tBodies[0];
    this.title = table.closest("section").querySelector("h2"); // for the focus of a row that went
    this.labels = labels ?? [...table.tHead.rows[0].cells].map((cell) => cell.textContent);
    this.numbers = [...table.tHead.rows[0].cells].map((cell) => cell.classList.contains("gws-number"));
    this.rows = new Map();
  }

  /** `make(cells)` fills a new row and returns its parts, `change(parts, item)` shows an item. */
  show(items, keyOf, make, change) {
    const focused = document.activeElement, isOurs = this.body.contains(focused);
    const found = new Map();
    for (const item of items) {
      const row = this.rows.get(keyOf(item)) ?? this.row(make);
      change(row.parts, item);
      found.set(keyOf(item), row);
    }
    for (const [key, row] of this.rows) if (!found.has(key)) row.element.remove();
    this.rows = found;
    let before = this.body.firstElementChild;
    for (const { element } of found.values()) { // only what is not in its place is moved
      if (element === before) before = before.nextElementSibling;
      else this.body.insertBefore(element, before);
    }
    if (!isOurs || focused === document.activeElement) return;
    (focused.isConnected && !focused.closest("[hidden]") ? focused : this.title).focus();
  }

  row(make) {
    const cells = this.labels.map((label, i) => {
      const cell = html(i ? "td" : "th", { className: this.numbers[i] ? "gws-number" : "" });
      cell.setAttribute("role", i ? "cell" : "rowheader");
      if (!i) cell.scope = "row";
      cell.dataset.label = label.trim();
      return cell;
    });
    const element = html("tr", {}, ...cells);
    element.setAttribute("role", "row");
    return { element, parts: make(cells) };
  }
}

// --- nodes ---------------------------------------------------------------------------------------

/** Where a drain stands: a word, and how many of how many are left; null: there is none under way. */
export function drainOf({ state, requested_state: requested, drain, connections }) {
  if (state === "up") return requested === "draining" ? { word: "asked" } : null;
  if (state !== "draining") return null;
  const left = drain?.remaining ?? connections;
  return { word: drain?.phase ?? "", left, total: Math.max(drain?.total ?? 0, left) };
}

export class Nodes {
  /** `ask(what, node)`: a button was pressed, to "drain" or "undo". */
  constructor(table, ask, rate) {
    this.table = new Table(table);
    this.ask = ask;
    this.rate = rate; // how a number is written
  }

  show(nodes, now) {
    this.table.show(nodes, ({ id }) => id, (cells) => this.make(cells), (parts, node) => this.change(parts, node, now));
  }

  make([name, state, connections, came, sent, beat, journal, layer, actions]) {
    const parts = {
      name: html("b"), place: html("small", { className: "quiet" }), state: html("span"), step: html("span", { className: "gws-step" }),
      progress: html("progress", { hidden: true }), connections, came, sent, beat, journal: html("span"), layer: html("span"),
      button: html("button", { type: "button", className: "button", hidden: true }),
    };
    name.append(parts.name, " ", parts.place);
    state.append(parts.state, " ", parts.step, parts.progress);
    journal.append(parts.journal);
    layer.append(parts.layer);
    actions.append(parts.button);
    parts.button.addEventListener("click", () => parts.what && this.ask(parts.what, parts.node));
    return parts;
  }

  change(parts, node, now) {
    const drain = drainOf(node), live = node.is_live, age = (now - node.heardAt) / 1000;
    parts.node = node;
    set(parts.name, node.name);
    set(parts.place, `${node.server}, ${node.host}:${node.pid}`);
    badge(parts.state, node.state);
    set(parts.step, drain ? drain.word + (drain.total ? `, ${drain.left} of ${drain.total} left` : "") : "");
    parts.progress.hidden = !drain?.total;
    if (drain?.total) {
      parts.progress.max = drain.total;
      parts.progress.value = drain.total - drain.left;
      parts.progress.setAttribute("aria-label", `drain of ${node.name}`);
    }
    set(parts.connections, live ? String(node.connections) : "–");
    set(parts.came, live && node.rates ? this.rate(node.rates.in) : "–");
    set(parts.sent, live && node.rates ? this.rate(node.rates.out) : "–");
    set(parts.beat, duration(age));
    parts.beat.classList.toggle("gws-late", live && age > LATE);
    const { journal, layer } = live && node.figures?.breakers || {};
    breaker(parts.journal, journal);
    breaker(parts.layer, layer);
    this.offer(parts, node);
  }

  /** What its button does. It stays while there is nothing to do, so that the focus does: one that
   *  drains unasked is about to stop, and one that was asked to come back will soon. */
  offer(parts, { is_live: live, name, state, requested_state: requested }) {
    const { button } = parts, isUndo = requested === "draining" || state !== "up";
    parts.what = requested === "draining" ? "undo" : state === "up" ? "drain" : "";
    button.hidden = !this.ask || !live;
    button.setAttribute("aria-disabled", String(!parts.what));
    set(button, isUndo ? "Undo" : "Drain");
    button.setAttribute("aria-label", isUndo ? `Undo the drain of ${name}` : `Drain ${name}`);
  }
}

/** In the words of an operator: a closed circuit works. */
function breaker(element, state) {
  const words = { closed: "works", open: "fails", half_open: "is tried", none: "none", memory: "in memory" };
  if (state) badge(element, state, words[state] ?? state);
  else {
    element.className = "";
    set(element, "–");
  }
}

// --- sessions ------------------------------------------------------------------------------------

export class Sessions {
  constructor(table, ask) {
    this.table = new Table(table);
    this.ask = ask; // null: who looks may not close
  }

  show(sessions) {
    this.table.show(sessions, ({ uuid }) => uuid, (cells) => this.make(cells), (parts, session) => this.change(parts, session));
  }

  make([id, state, user, address, node, consumer, unacked, rtt, since, actions]) {
    const parts = { id: html("span", { className: "gws-id" }), state: html("span"), user, address, node, consumer, unacked, rtt, since };
    id.append(parts.id);
    state.append(parts.state);
    if (this.ask) {
      parts.button = html("button", { type: "button", className: "button", textContent: "Close" });
      parts.button.addEventListener("click", () => this.ask("close", parts.session));
      actions.append(parts.button);
    }
    return parts;
  }

  change(parts, session) {
    parts.session = session;
    set(parts.id, session.uuid.slice(0, 8));
    parts.id.title = session.uuid;
    badge(parts.state, session.state, session.attached ? session.state : "resumable");
    set(parts.user, session.user ?? "anonymous");
    parts.user.classList.toggle("quiet", session.user === null);
    set(parts.address, session.address || "–");
    set(parts.node, session.node ?? "–");
    set(parts.consumer, session.consumer);
    set(parts.unacked, String(session.unacked));
    set(parts.rtt, session.rtt_ms === null ? "–" : `${session.rtt_ms} ms`);
    set(parts.since, duration(session.age));
    parts.button?.setAttribute("aria-label", `Close session ${session.uuid.slice(0, 8)} of ${session.user ?? "an anonymous user"}`);
  }
}

// --- states --------------------------------------------------------------------------------------

const STATES = ["connected", "idle", "suspect", "connecting", "draining", "closing", "resumable"];

/** Sessions by state: a bar, and its legend. `counts`: {state: number}. */
export function showStates(bar, legend, counts) {
  const all = STATES.reduce((sum, state) => sum + (counts[state] ?? 0), 0);
  if (!bar.children.length) {
    for (const state of STATES) {
      bar.append(html("span", { className: `gws-state-${state}` }));
      legend.append(html("li", {}, html("span", { className: `gws-key gws-state-${state}` }), html("span"), html("b")));
    }
  }
  STATES.forEach((state, i) => {
    const count = counts[state] ?? 0, [, name, number] = legend.children[i].children;
    bar.children[i].style.flexGrow = all ? count : 0;
    bar.children[i].hidden = !count;
    set(name, state);
    set(number, String(count));
  });
}
