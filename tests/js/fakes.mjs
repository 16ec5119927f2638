/** A clock that a test moves, and WebSockets whose other end the test is. */

import assert from "node:assert/strict";
import { afterEach } from "node:test";

import { GracefulSocket } from "../../graceful_ws/static/graceful_ws/graceful-ws.js";

export class Clock {
  time = 1000;
  #timers = new Map();
  #last = 0;
  now = () => this.time;
  setTimeout = (call, delay) => {
    this.#timers.set(++this.#last, { call, at: this.time + delay });
    return this.#last;
  };
  clearTimeout = (id) => this.#timers.delete(id);

  get pending() {
    return this.#timers.size;
  }

  /** Lets time pass; what falls due runs in order. */
  pass(ms) {
    const end = this.time + ms;
    for (;;) {
      const [due] = [...this.#timers].filter(([, { at }]) => at <= end)
        .sort(([a, one], [b, other]) => one.at - other.at || a - b);
      if (!due) break;
      this.#timers.delete(due[0]);
      this.time = Math.max(this.time, due[1].at);
      due[1].call();
    }
    this.time = end;
  }

  /** The same, and what promises make of it happens at its time. */
  async passing(ms) {
    const end = this.time + ms;
    for (;;) {
      await rest();
      const next = Math.min(...[...this.#timers.values()].map(({ at }) => at));
      if (next > end) break;
      this.pass(Math.max(0, next - this.time));
    }
    this.pass(end - this.time);
  }
}

/** Returns when no promise has anything left to do. */
const rest = () => new Promise((resolve) => setImmediate(resolve));

/** An HTTP server for each host in `delays`: it answers after so many ms, 503 when they end in 3. No
 *  other host answers. */
export function fakeFetch(clock, delays) {
  const asked = [];
  const fetch = (url, { signal }) => new Promise((resolve, reject) => {
    asked.push(url.href);
    const { [url.host]: delay } = delays;
    const status = delay % 10 === 3 ? 503 : 204;
    if (delay !== undefined) clock.setTimeout(() => resolve({ status }), delay);
    signal.addEventListener("abort", () => reject(signal.reason));
  });
  return { asked, fetch };
}

/** What sessionStorage is. A duplicated tab begins with a copy. */
export class FakeStorage {
  constructor(original) {
    this.items = new Map(original?.items);
  }
  getItem = (key) => this.items.get(key) ?? null;
  setItem = (key, value) => this.items.set(key, value);
  removeItem = (key) => this.items.delete(key);
}

export class FakeSocket {
  static all = [];
  sent = [];
  closedWith = null;
  protocol = "";

  constructor(url, protocol) {
    this.url = url;
    this.offered = protocol;
    FakeSocket.all.push(this);
  }

  // What the client does.
  send(text) {
    this.sent.push(JSON.parse(text));
  }
  close(code) {
    if (code !== 1000 && !(code >= 3000 && code < 5000)) throw new RangeError(`close ${code}`);
    this.closedWith ??= [code];
  }

  // What the server does.
  open() {
    this.protocol = this.offered;
    this.onopen?.();
  }
  say(...frames) {
    this.onmessage?.({ data: JSON.stringify(frames.length === 1 ? frames[0] : frames) });
  }
  lose(code = 1006, reason = "") {
    this.onclose?.({ code, reason });
  }
  welcome(changes = {}) {
    this.open();
    this.say(welcome({ resumed: "session_token" in this.sent[0], ...changes }));
  }

  /** Takes what was sent since the last time. */
  take() {
    return this.sent.splice(0);
  }
}

export const welcome = (changes = {}) => ({
  type: "welcome", session_id: "s", session_token: "token", resumed: false, last_client_seq: 0, head: 0,
  heartbeat: { interval: 5, timeout: 3, max_missed: 3 }, resume_window: 3600, reconnect_window: 5,
  limits: { message_bytes: 1000, unacked: 4, unacked_bytes: 100000 }, streams: {}, node: "n", ...changes,
});

const failures = []; // of what a listener cannot throw
afterEach(() => assert.deepEqual(failures.splice(0), []));

/** A page that can be hidden, shown and put online. */
export class Page extends EventTarget {
  document = Object.defineProperty(
    Object.assign(new EventTarget(), { visibilityState: "visible" }),
    "hidden", { get() { return this.visibilityState === "hidden"; } },
  );
  navigator = { onLine: true };

  show(state) {
    this.document.visibilityState = state;
    this.document.dispatchEvent(new Event("visibilitychange"));
  }
  /** An event of the page. */
  say(type, properties = {}) {
    this.dispatchEvent(Object.assign(new Event(type), properties));
  }
}

/** What may follow what: as in graceful_ws/core/client_states.py. */
const lost = ["waiting", "parked", "closed", "disconnected"];
export const TRANSITIONS = {
  disconnected: ["connecting", "parked", "closed"],
  connecting: [...lost, "connected"],
  connected: [...lost, "draining", "connecting"],
  draining: [...lost, "connected", "connecting"],
  waiting: ["connecting", "parked", "closed", "disconnected"],
  parked: ["connecting", "closed", "disconnected"],
  closed: ["connecting", "parked"],
};

/** A client, its clock, its sockets so far, and everything it told. */
export function setUp(options = {}, urls = "ws://a/") {
  FakeSocket.all = [];
  const { clock = new Clock(), ...given } = options;
  const page = new Page(), told = [];
  const { now, setTimeout, clearTimeout } = clock;
  const client = new GracefulSocket(urls, {
    WebSocket: FakeSocket, random: () => 0, probe: null, window: page, now, setTimeout, clearTimeout,
    ...given,
  });
  for (const type of [
    "open", "message", "state", "retry", "draining", "gap", "exit", "parked", "close", "volatile",
  ]) {
    client.addEventListener(type, ({ detail }) => told.push([type, detail]));
  }
  client.addEventListener("state", ({ detail: { from, to } }) => {
    if (!TRANSITIONS[from].includes(to)) failures.push(`${from} to ${to}`);
  });
  const of = (type) => told.filter(([name]) => name === type).map(([, detail]) => detail);
  const last = () => FakeSocket.all.at(-1);
  return {
    client, clock, page, of, last, sockets: FakeSocket.all,
    /** Loses the last connection, or dial, and waits for the next one, chosen among near ones. */
    async again(code) {
      last().lose(code);
      await clock.passing(of("retry").at(-1).delayMs + 200);
    },
  };
}

/** The same, welcomed. */
export function connected(options, urls) {
  const world = setUp(options, urls);
  world.client.connect();
  world.last().welcome();
  world.last().take();
  return world;
}

/** What became of a promise by now: "pending", or the value or error code. */
export async function outcome(promise) {
  const settled = promise.then((value) => ({ value }), (error) => ({ error: error.code }));
  return Promise.race([settled, new Promise((resolve) => setImmediate(resolve, "pending"))]);
}

export const message = (seq, data = null, stream) => ({ type: "message", seq, data, stream });

/** The numbered messages that a socket was given since the last time. */
export const sent = (socket) => take(socket, "message").map(({ seq, data }) => [seq, data]);

/** The frames of a type that a socket was given since the last time. */
export const take = (socket, type) => socket.take().filter((frame) => frame.type === type);
