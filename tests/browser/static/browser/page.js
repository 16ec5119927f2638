/**
 * Keeps a ledger of what a client of the endpoints in the query string sends, gets and does. Times
 * are milliseconds of the page's clock, performance.now().
 *
 *     ?ws=URL&ws=URL&options={"baseDelay": 100}&storage=1
 */

const asked = new URLSearchParams(location.search);
const now = () => performance.now();

const sockets = []; // one line for each WebSocket of the client
const received = []; // {seq, stream, data, at}
const sent = [], acked = [], refused = []; // numbers; of those refused with the error's code
const events = []; // {type, at, ...detail}: all that the client says besides messages
const life = []; // {type, at, ...}: what happens to the page

// --- before the client is loaded: what it does with its sockets, seen from outside ---------------

globalThis.WebSocket = class extends WebSocket {
  constructor(url, protocols) {
    super(url, protocols);
    const line = { socket: this, url, dialledAt: now() };
    sockets.push(line);
    this.line = line;
    this.addEventListener("message", ({ data }) => { // before the client's own listener
      if (![JSON.parse(data)].flat().some(({ type }) => type === "welcome")) return;
      const others = sockets.filter((each) => each !== line && each.socket.readyState === WebSocket.OPEN);
      Object.assign(line, { welcomedAt: now(), othersAtWelcome: others.length });
    });
    this.addEventListener("close", ({ code }) => Object.assign(line, { endedAt: now(), code }));
  }

  close(code, reason) {
    Object.assign(this.line, { closedAt: now(), closedWith: code });
    super.close(code, reason);
  }
};

addEventListener("securitypolicyviolation", ({ violatedDirective, blockedURI }) => {
  life.push({ type: "violation", at: now(), violatedDirective, blockedURI });
});
addEventListener("pageshow", ({ persisted }) => {
  if (persisted) life.push({ type: "restored", at: now() });
});
for (const type of ["online", "offline"]) addEventListener(type, () => life.push({ type, at: now() }));
for (const type of ["freeze", "resume"]) {
  document.addEventListener(type, () => life.push({ type, at: now() }));
}
document.addEventListener("visibilitychange", () => {
  life.push({ type: document.visibilityState, at: now() });
});

// --- the client ----------------------------------------------------------------------------------

const { client } = document.querySelector("[data-client]").dataset;
const { GracefulSocket } = await import(client);

const options = JSON.parse(asked.get("options") ?? "{}");
if (asked.has("storage")) options.storage = sessionStorage;
const socket = new GracefulSocket(asked.getAll("ws"), options);

socket.addEventListener("message", ({ detail }) => received.push({ ...detail, at: now() }));
for (const type of ["open", "state", "retry", "draining", "gap", "parked", "close", "error"]) {
  socket.addEventListener(type, ({ detail }) => events.push({ type, at: now(), ...detail }));
}
socket.addEventListener("open", () => {
  document.getElementById("since").textContent = new Date().toISOString();
});

function send() {
  const n = sent.length + 1;
  sent.push(n);
  socket.send({ n }).then(() => acked.push(n), ({ code }) => refused.push([n, code]));
}

let sending = null;

globalThis.page = {
  socket,
  client,
  send,
  /** Sends a number every so many milliseconds, until `rest`. */
  keepSending(interval) { sending ??= setInterval(send, interval); },
  /** Returns how many it has sent. */
  rest() {
    sending = clearInterval(sending) ?? null;
    return sent.length;
  },
  get acks() { return acked.length; },
  /** How many numbers have come back. */
  get echoes() { return received.filter(({ stream }) => stream === null).length; },
  /** The last number that was published. */
  get tick() { return received.findLast(({ stream }) => stream !== null)?.data.n ?? 0; },
  get connected() {
    return events.findLast(({ type }) => type === "open" || type === "close")?.type === "open";
  },
  /** How often something has happened to the client, or to the page. */
  count: (name) => [...events, ...life].filter(({ type }) => type === name).length,
  ledger: () => ({
    sessionId: socket.sessionId, timeOrigin: performance.timeOrigin,
    received, sent, acked, refused, events, life,
    sockets: sockets.map(({ socket, ...line }) => line),
  }),
};

// For the page that a reload makes of this one.
page.leftAt = Number(localStorage.getItem("tick"));
addEventListener("pagehide", () => localStorage.setItem("tick", page.tick));

socket.connect();
