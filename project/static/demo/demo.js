/** The demo page: a room, a clock, what arrives of both, and ways to stop it from arriving. */

import { DEFAULTS, GracefulSocket } from "../graceful_ws/graceful-ws.js";
import { Counts } from "./counts.js";
import { Room } from "./room.js";
import { Tape } from "./tape.js";
import { Tunnel } from "./tunnel.js";
import { Way } from "./way.js";

const INTERVAL = 200; // ms between two ticks of the clock
const REPORT = 3000; // ms between two reports of this page's counts
const TUNNEL = 10_000; // ms: longer than the grace in which nobody is told
const LOG_LINES = 200;
const LOOK = 250; // ms between two looks at the client
const NAMES = ["Ada", "Alan", "Barbara", "Dennis", "Edsger", "Grace", "Hedy", "Joan", "Ken", "Radia"];
const TRIES = 20; // an order to a node that is just being started again is repeated...
const TRY_AFTER = 250; // ...this often, in ms

const CLOSED = {
  1000: "closed",
  1001: "the server goes away",
  1006: "the connection broke without a word",
  1011: "an error in the server",
  1012: "the node restarts",
  1013: "the node is overloaded",
  4000: "closed by this page",
  4001: "the server fell silent",
  4102: "this page fell silent",
  4501: "another page has taken the session over",
  4506: "an operator closed the session",
};

const SERVERS = { redis: "Redis", postgres: "PostgreSQL" };

const $ = (id) => document.getElementById(id);
const tunnel = new Tunnel();
const tape = new Tape($("tape"));
const room = new Room({ people: $("people"), here: $("here"), lines: $("lines") });
const counts = new Counts();
const way = new Way({ endpoints: $("endpoints"), lane: $("lane"), of: DEFAULTS.maxRetries });
const socket = new GracefulSocket(document.body.dataset.sockets.split(" "), {
  WebSocket: tunnel.WebSocket, fetch: tunnel.fetch,
});

let node = null;
let quickest = Infinity; // ms from the server's clock to ours, on the shortest way so far
let openedAt = 0;
let tickedAt = 0;
let ticks = 0; // the last one
let waiting = null; // timer that draws what the server says while we are away
let written = 0;
let orders = 0;
let reported = "";

// --- what is shown -----------------------------------------------------------------------------

function pill(state, words, where = "") {
  $("pill").dataset.state = state;
  $("pill-words").textContent = where || words;
  if (where) {
    const wide = document.createElement("span");
    wide.className = "wide"; // the dot says as much where there is no room
    wide.textContent = words;
    $("pill-words").prepend(wide);
  }
}

function log(words, kind = "") {
  const time = document.createElement("time");
  time.textContent = new Date().toTimeString().slice(0, 8);
  const text = document.createElement("span");
  text.textContent = words;
  text.className = kind;
  const line = document.createElement("li");
  line.append(time, text);
  $("log").prepend(line);
  if ($("log").children.length > LOG_LINES) $("log").lastChild.remove();
}

const seconds = (ms) => `${(ms / 1000).toFixed(1)} s`;

function count() {
  const total = counts.total(room.me);
  for (const [id, value] of Object.entries(total)) {
    $(id).textContent = value.toLocaleString("en");
    $(id).classList.toggle("bad", value > 0);
  }
  $("verdict").dataset.clean = total.lost + total.duplicated + total.out_of_order === 0;
}

/** Tells the others what this page has counted. */
async function report() {
  const own = counts.own();
  const text = JSON.stringify(own);
  if (text === reported || socket.state !== "connected") return;
  reported = text;
  try {
    await socket.send({ type: "counts", counts: own });
  } catch {
    reported = ""; // the next one says it
  }
}

function connectedTo(name) {
  node = name;
  for (const place of document.querySelectorAll(".node")) place.textContent = name ?? "the node";
  // Not `disabled`, which would take the focus away from a button that was just pressed.
  for (const id of ["cut", "offline", "drain", "kill"]) $(id).ariaDisabled = String(name === null);
}

// --- what arrives --------------------------------------------------------------------------------

/** Whether a message was said before there was this connection: it had to be kept for us. */
function isLate(at) {
  quickest = Math.min(quickest, Date.now() - at);
  const late = at + quickest < openedAt;
  if (late) counts.replayed++;
  return late;
}

const streams = {
  clock: (seq, { tick: number, at }) => {
    const late = isLate(at);
    const before = counts.receive("clock", number);
    for (let hole = before + 1; before && hole < number; hole++) tape.show(hole, "hole");
    tape.show(number, late ? "late" : "live");
    if (!late) tape.settle(number);
    ticks = Math.max(ticks, number);
    tickedAt = Date.now();
    $("now").textContent = number.toLocaleString("en");
  },
  room: (seq, data) => {
    counts.receive("room", seq);
    if (data.type === "line" && data.client_id === room.me) counts.receive("mine", data.number, 1);
    room.receive(seq, data, data.at ? isLate(data.at) : false);
  },
  news: (seq, { type, client_id: client, ...data }) => {
    counts.receive("news", seq);
    if (type === "name") room.named(client, data.name);
    else if (type === "counts") counts.learn(client, data.counts);
  },
};

function expectTicks() {
  const from = ticks;
  if (from === 0 || waiting !== null) return;
  const since = tickedAt;
  waiting = setInterval(() => {
    tape.expect(from + Math.floor((Date.now() - since) / INTERVAL));
  }, INTERVAL);
}

function stopExpecting() {
  clearInterval(waiting);
  waiting = null;
}

// --- what one says ------------------------------------------------------------------------------

async function write(text) {
  const number = ++written;
  room.write(number, text, socket.state === "connected" ? "on its way" : "waits for a connection");
  try {
    await socket.send({ type: "line", number, text });
    counts.sent++;
    room.mark(number, "kept");
  } catch (error) {
    const words = error.code === "queue_full" ? "not sent: too many wait" : error.message;
    room.mark(number, words, true);
  }
}

/** Says the name, at first or anew, and learns who is here. */
async function enter() {
  const name = $("name").value.trim() || NAMES[0];
  try {
    const { online, visitors } = await socket.send({ type: "enter", name });
    for (const [client, visitor] of Object.entries(visitors)) {
      counts.learn(client, visitor.counts);
      room.named(client, visitor.name);
    }
    room.found(online);
    count();
  } catch (error) {
    log(`the room did not hear the name: ${error.message}`, "bad");
  }
}

// --- the connection ----------------------------------------------------------------------------

function opened({ resumed, node: name, endpoint }) {
  way.opened({ node: name, endpoint });
  stopExpecting();
  openedAt = Date.now();
  connectedTo(name);
  if (resumed) {
    counts.resumed++;
    log(`resumed on ${name}`, "good");
  } else {
    if (room.me !== null) startAgain();
    room.me = socket.sessionId;
    log(`connected to ${name}, new session`, "good");
    enter();
  }
  const times = counts.resumed;
  pill("open", "connected · ", `${name}${times ? ` · resumed ${times}×` : ""}`);
  count();
}

function startAgain() {
  log("the old session is gone: counting starts anew", "bad");
  counts.startAgain();
  room.startAgain();
  tape.clear();
}

function closed({ code, reason, final }) {
  const words = code === 1006 && node === null ? "nobody answers" : (CLOSED[code] ?? "closed");
  const said = reason && code !== 1006 ? `: “${reason}”` : "";
  log(`${words} (${code})${said}`, final || code === 1006 ? "bad" : "");
  connectedTo(null);
  if (final) pill("closed", "closed");
  else expectTicks();
}

const events = {
  open: opened,
  close: closed,
  message: ({ seq, stream, data }) => {
    counts.received++;
    streams[stream]?.(seq, data);
    count();
  },
  state: ({ to }) => {
    if (!["connected", "draining", "closed"].includes(to)) pill("waiting", "reconnecting");
    way.draw(socket);
  },
  // After the close that it follows, which is told in the same breath.
  retry: (detail) => {
    way.retries(detail);
    queueMicrotask(() => log(`trying again in ${seconds(detail.delayMs)}`));
  },
  draining: () => log(`${node} drains: moving to another node`),
  gap: ({ reason, stream }) => {
    log(`the server says messages are gone${stream ? ` from “${stream}”` : ""}: ${reason}`, "bad");
    if (stream === "room") enter(); // who is here?
  },
  parked: () => log("nobody answers; trying twice a minute"),
};
for (const [name, listener] of Object.entries(events)) {
  socket.addEventListener(name, (event) => listener(event.detail ?? event));
}

// --- what one can do ---------------------------------------------------------------------------

async function order(action, target, what) {
  log(`you send ${action === "kill" ? "kill -9" : "SIGTERM"} to ${what}`);
  const body = new FormData($("hurt"));
  body.set("action", action);
  body.set("node", target);
  body.set("order", `${performance.timeOrigin}-${++orders}`); // repeated, it is still one order
  for (let attempt = 0; attempt < TRIES; attempt++) {
    try {
      const answer = await fetch("/order/", { method: "POST", body });
      if (!answer.ok) log(`refused: ${answer.status}`, "bad");
      return;
    } catch {
      await new Promise((resolve) => setTimeout(resolve, TRY_AFTER));
    }
  }
  log("nobody took the order", "bad");
}

function offline() {
  log(`offline for ${seconds(TUNNEL)}`);
  tunnel.enter();
  socket.cut();
  setTimeout(() => {
    tunnel.leave();
    log("out of the tunnel");
    socket.connect();
  }, TUNNEL);
}

const hurts = {
  cut: () => {
    log("you cut the connection");
    socket.cut();
  },
  offline,
  drain: () => order("drain", node, node),
  kill: () => order("kill", node, node),
};
for (const [id, hurt] of Object.entries(hurts)) {
  $(id).addEventListener("click", () => node !== null && hurt());
}
for (const [id, name] of Object.entries(SERVERS)) {
  $(id)?.addEventListener("click", () => order("kill", id, name)); // only where the demo runs it
}
$("hurt").addEventListener("submit", (event) => event.preventDefault());

$("name").value = sessionStorage.getItem("name") ?? NAMES[Math.floor(Math.random() * NAMES.length)];
$("name").addEventListener("change", () => {
  sessionStorage.setItem("name", $("name").value);
  enter();
});
$("write").addEventListener("submit", (event) => {
  event.preventDefault();
  if (document.activeElement === $("name")) return $("text").focus();
  write($("text").value.trim() || "hello");
  $("text").value = "";
});
$("burst").addEventListener("click", () => {
  const text = $("text").value.trim() || "ten at once";
  for (let each = 1; each <= 10; each++) write(`${text} (${each})`);
});

setInterval(report, REPORT);
setInterval(() => way.draw(socket), LOOK);
socket.connect();
