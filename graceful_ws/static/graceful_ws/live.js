/**
 * The live dashboard: asks for a snapshot, then follows what the nodes publish, over the client that
 * every page has. Its modules come by the names that the page gives: those of a site may have a hash
 * in them.
 */

const page = document.getElementById("gws-live");
const given = page.dataset;
const [{ GracefulSocket }, { History, quantile }, { Chart, short }, { Nodes, Sessions, duration, showStates }, { Asking }] =
  await Promise.all([given.client, given.history, given.charts, given.tables, given.asking].map((url) => import(url)));

const LOOK = 5000; // between two questions, while somebody looks
const TYPED = 300; // after the last key of a search
const TICK = 1000; // ages count up
const DRAW = 2000; // charts go on
const FINE = 60; // up to so many steps each has its own bar; beyond, four share one
const GROUPED = 4;
const LEAST = 20; // steps that a chart of a young site has
const RATES = 15_000; // of a node that is silent for longer they are not known
const UNAUTHORIZED = 4401;
const SLOTS = 7; // colours

const $ = (name) => document.getElementById(`gws-${name}`);

// --- what is known -------------------------------------------------------------------------------

let history = null;
let early = []; // what was published before the snapshot came
let ahead = 0; // of the server's clock, before that of this page
const nodes = new Map();
const sessions = { found: [], more: false };
let totals = null;
const serverNow = () => Date.now() + ahead;

function learnNodes(rows, now) {
  const known = new Set(rows.map(({ id }) => id));
  for (const id of nodes.keys()) if (!known.has(id)) nodes.delete(id);
  for (const row of rows) {
    const before = nodes.get(row.id), heardAt = now - row.beat_age * 1000;
    const newer = before && before.beat > row.beat ? { beat: before.beat, heardAt: before.heardAt } : { heardAt };
    nodes.set(row.id, { ...before, ...row, ...newer });
    if (!row.is_live) history?.forget(row.id);
  }
}

function begin(snapshot) {
  ahead = snapshot.now - Date.now();
  history = new History(snapshot);
  learnNodes(snapshot.nodes, snapshot.now);
  totals = snapshot.totals;
  if (!$("text").value) sessions.found = snapshot.sessions;
  for (const message of early) learn(message);
  early = [];
  showAll();
}

/** A node's own word. */
function learn({ node, at, figures }) {
  if (!history) return early.push({ node, at, figures });
  const rates = history.add(node, at, figures);
  const before = nodes.get(node.id) ?? {};
  const isLate = before.heardAt > at; // its row is newer
  nodes.set(node.id, {
    ...before, figures, ...rates && { rates, ratesAt: at },
    ...!isLate && {
      ...node, is_live: ["up", "draining", "drained"].includes(node.state),
      connections: figures.connections, drain: figures.drain, heardAt: at,
    },
  });
}

// --- what is shown -------------------------------------------------------------------------------

const slots = new Map(); // a colour stays with what it means, for as long as the page lives

function slotOf(kind, name) {
  if (name === "others") return "slot-others";
  const key = `${kind} ${name}`;
  if (!slots.has(key)) slots.set(key, [...slots.keys()].filter((each) => each.startsWith(`${kind} `)).length % SLOTS);
  return `slot-${slots.get(key)}`;
}

const charts = $("charts");
const pictures = {
  connections: new Chart(charts, { title: "Connections", kind: "area", whole: true, hint: "by node" }),
  messages: new Chart(charts, { title: "Messages", kind: "lines", unit: "/s", hint: "a second, of all nodes" }),
  rtt: new Chart(charts, { title: "Round trips", kind: "lines", unit: "ms", hint: "of pings, in ms: half, 95 % and 99 % are faster" }),
  resumes: new Chart(charts, { title: "Resumes", kind: "bars", whole: true, hint: "by what became of them" }),
  closes: new Chart(charts, { title: "Closed connections", kind: "bars", whole: true, hint: "by close code" }),
};

function drawCharts() {
  if (!history) return;
  history.roll(serverNow());
  const { start, step, count } = history, shown = history.shown(LEAST), first = count - shown;
  const times = Array.from({ length: shown }, (_, i) => start + (first + i) * step);
  const all = Object.entries(history.nodes);
  const named = all.filter(([, { connections }]) => connections.slice(first).some((value) => value));
  pictures.connections.draw({
    times, step, series: named.map(([name, { connections }]) => ({ name, slot: slotOf("node", name), values: connections.slice(first) })),
  });
  const isKnown = (i) => i < count - 1 && all.some(([, { connections }]) => connections[i] !== null); // the last has not passed
  const rate = (which) => times.map((_, i) => (
    !isKnown(first + i) ? null : all.reduce((sum, [, series]) => sum + series[which][first + i], 0) / (step / 1000)));
  pictures.messages.draw({
    times, step, series: [{ name: "in", slot: "slot-0", values: rate("in") }, { name: "out", slot: "slot-1", values: rate("out") }],
  });
  const group = grouped(shown > FINE ? GROUPED : 1, first);
  const bars = (kind, counts) => Object.keys(counts).sort().map((name) => ({ name, values: group.sums(counts[name]) }))
    .filter(({ values }) => values.some(Boolean)).map((series) => ({ ...series, slot: slotOf(kind, series.name) }));
  pictures.resumes.draw({ ...group, series: bars("resume", history.resumes) });
  pictures.closes.draw({ ...group, series: bars("close", history.closes) });
  const observed = group.lists(history.rtt.counts);
  pictures.rtt.draw({
    ...group,
    series: [["p50", 0.5], ["p95", 0.95], ["p99", 0.99]].map(([name, part]) => ({
      name, slot: `slot-${name}`,
      values: observed.map((counts) => {
        const value = counts && quantile(counts, history.rtt.bounds, part);
        return value === null ? null : value * 1000;
      }),
    })),
  });
}

/** Steps in groups of `size`, whose edges do not move as time goes by. */
function grouped(size, first) {
  const { start, step, count } = history, wide = step * size;
  const of = (i) => Math.floor((start + i * step) / wide);
  const from = of(first), length = of(count - 1) - from + 1;
  const times = Array.from({ length }, (_, i) => (from + i) * wide);
  return {
    times, step: wide,
    sums: (values) => values.slice(first).reduce((into, value, i) => (into[of(first + i) - from] += value, into), new Array(length).fill(0)),
    lists: (rows) => rows.slice(first).reduce((into, row, i) => {
      const at = of(first + i) - from;
      if (row) into[at] = row.map((number, k) => number + (into[at]?.[k] ?? 0));
      return into;
    }, new Array(length).fill(null)),
  };
}

function showNow() {
  const now = serverNow(), live = [...nodes.values()].filter((node) => node.is_live);
  const sum = (of) => live.reduce((all, node) => all + (of(node) ?? 0), 0);
  const rate = (which) => sum(({ rates, ratesAt }) => (now - ratesAt < RATES ? rates?.[which] : 0));
  const states = { resumable: totals?.detached ?? 0 };
  for (const { figures } of live) {
    for (const [state, count] of Object.entries(figures?.states ?? {})) states[state] = (states[state] ?? 0) + count;
  }
  showStates($("bar"), $("states"), states);
  $("connections").textContent = short(sum(({ connections }) => connections));
  $("in").textContent = short(rate("in"));
  $("out").textContent = short(rate("out"));
  $("detached").textContent = short(totals?.detached);
  $("unacked").textContent = short(totals?.unacked);
  $("oldest").textContent = totals ? duration(totals.oldest_unacked) : "–";
  const order = [...nodes.values()].sort((a, b) => b.is_live - a.is_live || a.name.localeCompare(b.name, [], { numeric: true }) || b.heardAt - a.heardAt);
  nodeTable.show(order, now);
}

function showSessions() {
  sessionTable.show(sessions.found);
  $("more").textContent = sessions.more ? "There are more: search for what you look for."
    : sessions.found.length ? "" : "No session that lives.";
}

function showAll() {
  showNow();
  drawCharts();
  showSessions();
}

// --- what can be done ----------------------------------------------------------------------------

const token = page.querySelector("[name=csrfmiddlewaretoken]").value;
const asking = new Asking($("dialog"), token, say, (what) => $(what === "close" ? "sessions-title" : "nodes-title"));

function say(text) {
  if (socket.state !== "closed") $("said").textContent = text; // else why it was closed stays
  look();
}

function ask(what, subject) {
  const isLast = what === "drain" && ![...nodes.values()].some(({ id, state }) => id !== subject.id && state === "up");
  asking.ask(what, subject, isLast ? "No other node is up: its clients have nowhere to go." : "");
}

const nodeTable = new Nodes($("nodes"), given.canDrain && ask, short);
const sessionTable = new Sessions($("sessions"), given.canClose ? ask : null);

// --- the connection ------------------------------------------------------------------------------

/** A path, a port of the same host with a path, or a URL; several with spaces between them. */
const origin = location.origin.replace("http", "ws");
const endpoints = given.urls.split(" ").map((url) => (
  /^wss?:/.test(url) ? url
    : url.startsWith(":") ? `${location.protocol.replace("http", "ws")}//${location.hostname}${url}`
    : origin + url));
const socket = new GracefulSocket(endpoints, { probe: given.probe || null });
let welcomed = false, retryAt = 0;

function showState() {
  const left = Math.max(0, Math.ceil((retryAt - Date.now()) / 1000));
  const text = {
    disconnected: "not connected", connecting: "connecting", waiting: "connection lost",
    connected: `live, by ${socket.node}`, draining: `moving away from ${socket.node}`,
    parked: "no connection", closed: "closed",
  }[socket.state];
  if ($("status").textContent !== text) $("status").textContent = text;
  $("again").textContent = left ? `next try in ${left} s` : "";
  $("pill").dataset.state = socket.state;
  $("reconnect").hidden = !["waiting", "parked", "closed"].includes(socket.state);
}

async function takeSnapshot() {
  try {
    const snapshot = await socket.request({ type: "snapshot" }, { timeout: 30_000 });
    if (snapshot) begin(snapshot); // null: refused, and about to be closed
  } catch (error) {
    if (error.code === "closed") return;
    $("said").textContent = `The server has no snapshot for now (${error.message}); asking again.`;
    setTimeout(() => socket.state === "closed" || takeSnapshot(), LOOK);
  }
}

/** What is not published. Volatile: the next answer is better than a late one. */
function look() {
  if (document.hidden || socket.state !== "connected") return;
  socket.volatile({ type: "totals" });
  lookForSessions();
}

function lookForSessions() {
  socket.volatile({ type: "sessions", search: $("text").value, order: $("order").value });
}

const answers = {
  __proto__: null,
  totals(answer) {
    ({ totals } = answer);
    if (history) learnNodes(answer.nodes, answer.now);
    showNow();
  },
  sessions({ search, order, sessions: found, more }) {
    if (search !== $("text").value || order !== $("order").value) return; // of an earlier search
    Object.assign(sessions, { found, more });
    showSessions();
  },
  unavailable() {
    $("said").textContent = "The database does not answer.";
  },
};

socket.addEventListener("open", ({ detail }) => {
  welcomed = true;
  $("no-route").hidden = $("refused").hidden = true;
  if (!detail.resumed || !history) {
    history = null;
    takeSnapshot();
  }
  look();
});
socket.addEventListener("message", ({ detail: { data } }) => {
  if (data?.type !== "node") return;
  learn(data);
  showNow();
});
socket.addEventListener("volatile", ({ detail: { data } }) => answers[data?.type]?.(data));
socket.addEventListener("gap", () => history && takeSnapshot());
socket.addEventListener("retry", ({ detail }) => {
  retryAt = Date.now() + detail.delayMs;
});
socket.addEventListener("state", ({ detail }) => {
  if (detail.to !== "waiting" && detail.to !== "parked") retryAt = 0;
  showState();
});
socket.addEventListener("close", ({ detail: { code, reason, final } }) => {
  if (code === UNAUTHORIZED) {
    $("refused").hidden = false;
    if (!final) socket.close();
  } else if (final && code !== 1000) $("said").textContent = `Closed: ${reason || code}.`;
  else if (!welcomed && code === 1006) $("no-route").hidden = false; // what a refused handshake looks like
});

$("reconnect").addEventListener("click", () => {
  $("status").parentElement.tabIndex = -1; // the button is about to go
  $("status").parentElement.focus();
  socket.connect();
});
let typing;
$("text").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(lookForSessions, TYPED);
});
$("order").addEventListener("change", lookForSessions);
$("search").addEventListener("submit", (event) => {
  event.preventDefault();
  lookForSessions();
});
document.addEventListener("visibilitychange", look);
setInterval(look, LOOK);
setInterval(() => {
  showState();
  if (!document.hidden) showNow();
}, TICK);
setInterval(() => document.hidden || drawCharts(), DRAW);

showState();
socket.connect();
