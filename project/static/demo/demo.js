/** The demo page: counts what arrives, and offers ways to stop it from arriving. */

import { GracefulSocket } from "../graceful_ws/graceful-ws.js";
import { Ledger } from "./ledger.js";
import { Tape } from "./tape.js";

const INTERVAL = 200; // ms between two ticks of the server
const LOG_LINES = 200;
const NOTES = 200;
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

const $ = (id) => document.getElementById(id);
const tape = new Tape($("tape"));
const socket = new GracefulSocket(document.body.dataset.sockets.split(" "));

let session = null;
let ticks = new Ledger();
let answers = new Ledger();
let caughtUp = 0;
let resumes = 0;
let node = null;
let quickest = Infinity; // ms from the server's clock to ours, on the shortest way so far
let openedAt = 0;
let tickedAt = 0;
let waiting = null; // timer that draws what the server says while we are away
let written = 0;
let orders = 0;
const marks = new Map(); // note → its mark

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
  const counts = {
    lost: ticks.lost + answers.lost,
    duplicated: ticks.duplicated + answers.duplicated,
    "out-of-order": ticks.outOfOrder + answers.outOfOrder,
  };
  for (const [id, value] of Object.entries(counts)) {
    $(id).textContent = value;
    $(id).classList.toggle("bad", value > 0);
  }
  $("verdict").dataset.clean = Object.values(counts).every((value) => value === 0);
  $("caught-up").textContent = caughtUp;
  $("resumes").textContent = resumes;
}

function connectedTo(name) {
  node = name;
  for (const place of document.querySelectorAll(".node")) place.textContent = name ?? "the node";
  // Not `disabled`, which would take the focus away from a button that was just pressed.
  for (const id of ["cut", "drain", "kill"]) $(id).ariaDisabled = String(name === null);
}

// --- ticks -------------------------------------------------------------------------------------

function tick({ tick: number, at }) {
  quickest = Math.min(quickest, Date.now() - at);
  const late = at + quickest < openedAt; // it would have come before there was a connection
  if (late) caughtUp++;
  const before = ticks.highest;
  ticks.receive(number);
  for (let hole = before + 1; hole < number; hole++) tape.show(hole, "hole");
  tape.show(number, late ? "late" : "live");
  if (!late) tape.settle(ticks.highest);
  tickedAt = Date.now();
  $("now").textContent = number.toLocaleString("en");
}

function expectTicks() {
  const from = ticks.highest;
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

// --- notes -------------------------------------------------------------------------------------

function mark(number, state, words) {
  const element = marks.get(number);
  if (!element || element.classList.contains("answered")) return;
  element.className = `mark ${state}`;
  element.textContent = words;
}

async function write(text) {
  const number = ++written;
  const line = document.createElement("li");
  for (const [kind, words] of [["number", number], ["text", text], ["mark", ""]]) {
    const cell = document.createElement("span");
    cell.className = kind;
    cell.textContent = words;
    line.append(cell);
  }
  marks.set(number, line.lastChild);
  $("notes").prepend(line);
  if ($("notes").children.length > NOTES) $("notes").lastChild.remove();
  mark(number, "sent", socket.state === "open" ? "✓ sent" : "waits for a connection");
  try {
    await socket.send({ note: number, text });
    mark(number, "acknowledged", "✓✓ acknowledged");
  } catch (error) {
    mark(number, "failed", error.code === "queue_full" ? "not sent: too many wait" : error.message);
  }
}

function answered({ answer, note, node: by }) {
  answers.receive(answer);
  const element = marks.get(note);
  if (element) {
    element.className = "mark answered";
    element.textContent = `✓✓ answered by ${by}`;
  }
}

// --- the connection ----------------------------------------------------------------------------

function opened({ resumed, node: name }) {
  stopExpecting();
  openedAt = Date.now();
  connectedTo(name);
  if (resumed) {
    resumes++;
    log(`resumed on ${name}`, "good");
  } else {
    if (session !== null) startAgain();
    session = socket.sessionId;
    log(`connected to ${name}, new session`, "good");
  }
  pill("open", "connected · ", `${name}${resumes ? ` · resumed ${resumes}×` : ""}`);
  count();
}

function startAgain() {
  log("the old session is gone: counting starts anew", "bad");
  ticks = new Ledger();
  answers = new Ledger();
  written = 0;
  marks.clear();
  $("notes").replaceChildren();
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
  message: ({ data }) => {
    if ("tick" in data) tick(data);
    else if ("answer" in data) answered(data);
    count();
  },
  state: ({ to }) => {
    if (to !== "open" && to !== "closed") pill("waiting", "reconnecting");
  },
  // After the close that it follows, which is told in the same breath.
  retry: ({ delayMs }) => queueMicrotask(() => log(`trying again in ${seconds(delayMs)}`)),
  draining: () => log(`${node} drains: moving to another node`),
  gap: ({ reason }) => log(`the server says messages are gone: ${reason}`, "bad"),
  parked: () => log("nobody answers; trying twice a minute"),
};
for (const [name, listener] of Object.entries(events)) {
  socket.addEventListener(name, (event) => listener(event.detail ?? event));
}

// --- what one can do ---------------------------------------------------------------------------

async function order(action) {
  const target = node;
  const signal = action === "kill" ? "kill -9" : "SIGTERM";
  log(`you send ${signal} to ${target}`);
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

const hurts = {
  cut: () => {
    log("you cut the connection");
    socket.cut();
  },
  drain: () => order("drain"),
  kill: () => order("kill"),
};
for (const [id, hurt] of Object.entries(hurts)) {
  $(id).addEventListener("click", () => node !== null && hurt());
}
$("hurt").addEventListener("submit", (event) => event.preventDefault());

$("write").addEventListener("submit", (event) => {
  event.preventDefault();
  write($("text").value.trim() || "hello");
  $("text").value = "";
});
$("burst").addEventListener("click", () => {
  const text = $("text").value.trim() || "ten at once";
  for (let each = 0; each < 10; each++) write(text);
});

socket.connect();
