/** A clock that a test moves, and WebSockets whose other end the test is. */

import { GracefulSocket } from "../../graceful_ws/static/graceful_ws/graceful-ws.js";

export class Clock {
  time = 0;
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
      const due = [...this.#timers].filter(([, { at }]) => at <= end).sort((a, b) => a[1].at - b[1].at || a[0] - b[0])[0];
      if (!due) break;
      this.#timers.delete(due[0]);
      this.time = Math.max(this.time, due[1].at);
      due[1].call();
    }
    this.time = end;
  }
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
  close(code, reason) {
    this.closedWith ??= [code, reason];
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

/** A page that can be hidden, shown and put online. */
export class Page extends EventTarget {
  document = Object.assign(new EventTarget(), { visibilityState: "visible" });
}

/** A client, its clock, its sockets so far, and everything it told. */
export function setUp(options = {}, urls = "ws://a/") {
  FakeSocket.all = [];
  const clock = new Clock(), page = new Page(), told = [];
  const { now, setTimeout, clearTimeout } = clock;
  const client = new GracefulSocket(urls, {
    WebSocket: FakeSocket, random: () => 0, window: page, now, setTimeout, clearTimeout, ...options,
  });
  for (const type of ["open", "message", "state", "retry", "draining", "gap", "parked", "close", "volatile"]) {
    client.addEventListener(type, ({ detail }) => told.push([type, detail]));
  }
  const of = (type) => told.filter(([name]) => name === type).map(([, detail]) => detail);
  return { client, clock, page, of, sockets: FakeSocket.all, last: () => FakeSocket.all.at(-1) };
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
export const sent = (socket) => socket.take().map(({ seq, data }) => [seq, data]);
