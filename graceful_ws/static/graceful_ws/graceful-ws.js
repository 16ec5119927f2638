/**
 * The browser client of the protocol graceful.v1: one session over as many WebSockets as it takes.
 *
 *     const socket = new GracefulSocket("wss://example.com/ws/chat/");
 *     socket.addEventListener("message", ({ detail }) => show(detail.data)); // {seq, stream, data}
 *     socket.connect();
 *     const result = await socket.send({ hello: "world" });
 *
 * Durations here are milliseconds, on the wire they are what the protocol says.
 */

export const CLOSE_CODES = Object.freeze({
  NORMAL: 1000, GOING_AWAY: 1001, PROTOCOL_ERROR: 1002, UNSUPPORTED_DATA: 1003, NO_STATUS: 1005,
  ABNORMAL: 1006, INVALID_DATA: 1007, POLICY_VIOLATION: 1008, MESSAGE_TOO_BIG: 1009,
  INTERNAL_ERROR: 1011, SERVICE_RESTART: 1012, TRY_AGAIN_LATER: 1013, SUSPENDED: 4000,
  SERVER_SILENT: 4001, HEARTBEAT_LOST: 4102, SLOW_CONSUMER: 4103, RESYNC: 4104, IDLE: 4105,
  RECLAIMED: 4106, LIMIT_EXCEEDED: 4201, SESSION_EXPIRED: 4300, STATE_INVALIDATED: 4301,
  HELLO_TIMEOUT: 4400, CREDENTIALS_EXPIRED: 4401, OTHER_IDENTITY: 4403, SUPERSEDED: 4501,
  CONNECTION_LIMIT: 4503, VERSION: 4505, CLOSED_BY_OPERATOR: 4506, ENDED_BY_APPLICATION: 4507,
});

export const DEFAULTS = Object.freeze({
  maxRetries: 5, baseDelay: 1000, maxDelay: 30000, parkedDelay: 30000, whenExhausted: "park",
  minUptime: 5000, openTimeout: 10000, welcomeTimeout: 15000, queueMessages: 100,
  queueBytes: 1048576, messageBytes: 65536, ackInterval: 1000, ackMessages: 50, ackBytes: 65536,
});

const SUBPROTOCOL = "graceful.v1";
const FRAME_BYTES = 64; // at most so many around the data of a message
const MAX_DEPTH = 63; // the frame itself is one more
const MARGIN = 4000; // before the server closes, when what is unacknowledged is left behind
const ONE_MORE_LOOK = 100; // after a sleep a timer may fire before what has arrived is read
const REFUSALS = 3; // 1002 or 1008 so often in a row: the hello itself must be what is wrong

/** Why a message has no result: `code` is the server's, or queue_full, too_big, poison, closed. */
export class GracefulError extends Error {
  constructor(code, detail = "") {
    super(detail || code);
    this.name = "GracefulError";
    this.code = code;
  }
}

const isFinal = (code) => (code >= 3000 && code < 4000) || code >= 4500;
const isResume = (code) =>
  [1000, 1001, 1012, 4000, 4001].includes(code) || (code >= 4100 && code < 4200);
const bytesOf = (text) => new TextEncoder().encode(text).length;

/** JSON text that the server takes; throws for what it would close the connection for. */
function encode(data, limit) {
  const text = JSON.stringify(data, (key, value) => {
    if (typeof value === "number" && !Number.isFinite(value)) throw new RangeError(`${value} is not JSON`);
    if (/\p{Surrogate}/u.test(key) || (typeof value === "string" && /\p{Surrogate}/u.test(value))) {
      throw new RangeError("not well-formed Unicode");
    }
    return value;
  });
  if (text === undefined) throw new TypeError(`${typeof data} is not JSON`);
  let depth = 0;
  for (const [bracket] of text.matchAll(/"(?:[^"\\]|\\.)*"|[[{]|[\]}]/g)) {
    if (bracket === "[" || bracket === "{") depth++;
    else if (bracket === "]" || bracket === "}") depth--;
    if (depth > MAX_DEPTH) throw new RangeError(`nested deeper than ${MAX_DEPTH}`);
  }
  if (bytesOf(text) + FRAME_BYTES > limit) throw new RangeError(`over ${limit} bytes with its frame`);
  return text;
}

export class GracefulSocket extends EventTarget {
  #urls; #o; #timers = new Map(); #page = null; #hearsGaps = false;
  #state = "idle"; #link = null; #next = null; // the connection, and the one that succeeds it
  #turn = 0; #try = -1; #window = 1000; #drain = null; #holding = false; #refusals = 0;
  #instance = ""; #attempt = 0; #token = null; #joined = false; #expired = false;
  #own = { seq: 0 }; #streams = new Map();
  #pending = new Map(); #nextSeq = 1; #sent = 0; #renumber = false; // seq → {data, size, resolve, reject}
  #limits = {};

  /** `options`: see DEFAULTS; WebSocket, random, now, setTimeout, clearTimeout, window for tests. */
  constructor(urlOrUrls, options = {}) {
    super();
    this.#urls = [urlOrUrls].flat();
    if (!this.#urls.length) throw new TypeError("at least one URL is needed");
    this.#o = {
      ...DEFAULTS, WebSocket: globalThis.WebSocket, random: Math.random, now: () => performance.now(),
      setTimeout: (...args) => globalThis.setTimeout(...args), window: globalThis.window,
      clearTimeout: (id) => globalThis.clearTimeout(id), ...options,
    };
    this.#turn = Math.floor(this.#o.random() * this.#urls.length);
    this.#limits = { message_bytes: this.#o.messageBytes };
    this.#newInstance();
    this.sessionId = this.rtt = this.node = null; // rtt: as the server measured it last
  }

  /** idle, connecting, open, waiting (to try again), parked (the same, far apart) or closed. */
  get state() { return this.#state; }
  get lastSeq() { return this.#own.seq; }
  get endpoint() { return this.#link?.welcomed ? this.#link.url : null; }

  addEventListener(type, ...rest) {
    if (type === "gap") this.#hearsGaps = true;
    super.addEventListener(type, ...rest);
  }

  /** Dials now, from any state, and the count of tries starts afresh. */
  connect() {
    if (this.#link) return;
    this.#listen();
    this.#try = -1;
    this.#link = this.#dial();
  }

  /** Says bye, which ends the session, and closes. */
  close(reason = "") {
    const link = this.#link;
    if (link?.welcomed) link.ws.send(JSON.stringify({ type: "bye", reason }));
    this.#finish(CLOSE_CODES.NORMAL, reason);
  }

  /** Drops the connection as a lost network would; the session is resumed. */
  cut() {
    if (this.#link) this.#drop(this.#link, CLOSE_CODES.SUSPENDED, "cut");
  }

  /** A promise of what the handler returned. Rejects with GracefulError, throws for what is not JSON. */
  send(data) {
    const text = encode(data, this.#limits.message_bytes);
    const size = bytesOf(text) + FRAME_BYTES;
    let waiting = 0;
    for (const message of this.#pending.values()) waiting += message.size;
    if (this.#state === "closed") return Promise.reject(new GracefulError("closed"));
    if (this.#pending.size >= this.#o.queueMessages || waiting >= this.#o.queueBytes) {
      return Promise.reject(new GracefulError("queue_full"));
    }
    return new Promise((resolve, reject) => {
      this.#pending.set(this.#nextSeq++, { data: text, size, resolve, reject });
      this.#flush();
    });
  }

  /** A message without a number; false when it was dropped for want of a connection. */
  volatile(data) {
    const text = encode(data, this.#limits.message_bytes);
    if (this.#link?.welcomed) this.#link.ws.send(`{"type":"volatile","data":${text}}`);
    return Boolean(this.#link?.welcomed);
  }

  // --- one WebSocket: made by #dial, never used twice, ignored once it is `over` ----------------

  #dial() {
    this.#stop("retry");
    const url = this.#urls[this.#turn % this.#urls.length];
    const link = { url, ws: new this.#o.WebSocket(url, SUBPROTOCOL), welcomed: false, over: false,
      attempt: 0, heardAt: this.#o.now(), seen: new Map(), told: new Map(), unacked: 0, unackedBytes: 0 };
    if (!this.#link) this.#setState("connecting");
    link.ws.onopen = () => !link.over && this.#hello(link);
    link.ws.onmessage = ({ data }) => !link.over && this.#read(link, data);
    link.ws.onclose = ({ code, reason }) => this.#ended(link, code, reason);
    this.#start(link, this.#o.openTimeout, () => this.#drop(link, CLOSE_CODES.SERVER_SILENT, "no connection"));
    return link;
  }

  #hello(link) {
    if (link.ws.protocol !== SUBPROTOCOL) return this.#drop(link, CLOSE_CODES.SUSPENDED, `no ${SUBPROTOCOL}`);
    link.attempt = ++this.#attempt;
    link.hadToken = this.#token !== null;
    const hello = { type: "hello", version: 1, instance: this.#instance, attempt: link.attempt };
    if (link.hadToken) {
      hello.session_token = this.#token;
      hello.last_seq_id = this.#own.seq;
      hello.positions = Object.create(null); // a stream may be named __proto__
      for (const [name, at] of this.#streams) if (at.epoch) hello.positions[name] = [at.epoch, at.seq];
      if (this.#joined) [hello.pending_from = this.#nextSeq] = this.#pending.keys();
    }
    link.ws.send(JSON.stringify(hello));
    link.heardAt = this.#o.now();
    this.#watch(link, this.#o.welcomeTimeout);
  }

  /** Closes when nothing is heard for so long, after one more look at what may have arrived. */
  #watch(link, silence, delay = silence, again = false) {
    this.#start(link, delay, () => {
      const left = link.heardAt + silence - this.#o.now();
      if (left > 0) this.#watch(link, silence, left);
      else if (!again) this.#watch(link, silence, ONE_MORE_LOOK, true);
      else this.#drop(link, CLOSE_CODES.SERVER_SILENT, "nothing heard");
    });
  }

  #drop(link, code, reason) {
    const { ws } = link;
    this.#ended(link, code, reason); // now: the close event of a dead network comes much later
    try { ws.close(code, reason); } catch { /* it is closed, or never was open */ }
  }

  #read(link, text) {
    link.heardAt = this.#o.now();
    try {
      const frames = [JSON.parse(text)].flat();
      for (const frame of frames) {
        if (link.over) return;
        if (frame.type === "welcome") this.#welcome(link, frame);
        else if (link.welcomed) this.#frame(link, frame, text.length / frames.length);
      }
    } catch (error) {
      if (!link.over) this.#drop(link, CLOSE_CODES.SUSPENDED, String(error.message).slice(0, 40));
      return;
    }
    if (link.over) return;
    if (link.unacked >= this.#o.ackMessages || link.unackedBytes >= this.#o.ackBytes) this.#ack(link);
    else if (link.unacked && !this.#timers.has("ack")) {
      this.#start("ack", this.#o.ackInterval, () => this.#link && this.#ack(this.#link));
    }
    this.#flush();
    this.#moveIfQuiet();
  }

  #welcome(link, frame) {
    const old = this.#link, beat = frame.heartbeat, lost = this.#joined || link.hadToken || this.#expired;
    if (link === this.#next) {
      this.#next = null;
      this.#link = link;
      this.#leave(old, CLOSE_CODES.SUSPENDED, "moved to another connection");
    }
    Object.assign(link, { welcomed: true, welcomedAt: this.#o.now() });
    this.#drain = null;
    this.#holding = false;
    for (const name of ["move", "hold", "ack"]) this.#stop(name);
    this.#watch(link, (beat.interval + beat.timeout * beat.max_missed) * 1000);
    this.#token = frame.session_token ?? (frame.resumed ? this.#token : null);
    this.sessionId = frame.session_id;
    this.node = frame.node;
    this.#window = frame.reconnect_window * 1000;
    this.#limits = frame.limits;
    if (frame.resumed && this.#joined && !this.#renumber) {
      this.#sent = frame.last_client_seq; // results of what is done come right behind the welcome
      this.#nextSeq = Math.max(this.#nextSeq, frame.last_client_seq + 1);
    } else this.#startNumbering(frame.last_client_seq);
    const first = this.#own.seq + 1;
    if (!frame.resumed) this.#own = { seq: 0 };
    for (const name of this.#streams.keys()) if (!Object.hasOwn(frame.streams, name)) this.#streams.delete(name);
    for (const [name, { state, head, epoch }] of Object.entries(frame.streams)) {
      const at = this.#streams.get(name);
      // The old connection may have brought the subscription, and messages, since the hello left.
      const ahead = at !== undefined && at.epoch === epoch && at.seq >= head;
      if (state === "gap" || (state === "new" && !ahead)) this.#streams.set(name, { seq: head, epoch });
      else if (state === "denied") this.#streams.delete(name);
    }
    this.#joined = true;
    this.#expired = false;
    this.#setState("open");
    this.#emit("open", { resumed: frame.resumed, node: frame.node });
    link.gapTold = !frame.resumed && lost;
    if (link.gapTold) this.#gap({ reason: "expired", from: first, head: 0 });
  }

  #startNumbering(last) {
    const waiting = [...this.#pending.values()];
    this.#pending.clear();
    this.#sent = last;
    this.#nextSeq = last + 1;
    this.#renumber = false;
    for (const message of waiting) {
      if (message.size > this.#limits.message_bytes) message.reject(new GracefulError("too_big"));
      else this.#pending.set(this.#nextSeq++, message);
    }
  }

  #frame(link, frame, size) {
    const { type, seq, stream = null } = frame;
    if (type === "message") {
      if (stream !== null && !this.#streams.has(stream)) this.#streams.set(stream, { seq: seq - 1 });
      const at = stream === null ? this.#own : this.#streams.get(stream);
      if (!Number.isSafeInteger(seq) || seq > at.seq + 1) throw new Error(`a hole: ${seq} after ${at.seq}`);
      link.seen.set(stream, seq);
      link.unacked++;
      link.unackedBytes += size;
      if (seq <= at.seq) return; // a copy
      at.seq = seq;
      this.#emit("message", { seq, stream, data: frame.data });
    } else if (type === "ping") {
      if (typeof frame.rtt === "number") this.rtt = frame.rtt * 1000;
      this.#ack(link, { type: "pong", sent_at: frame.sent_at });
    } else if (type === "ack") {
      for (const [number, message] of this.#pending) {
        if (number <= seq) this.#settle(number, message.resolve, frame.results?.[number] ?? null);
      }
    } else if (type === "nack" && frame.retry) {
      this.#sent = Math.min(this.#sent, seq - 1);
      this.#start("hold", frame.retry_after ?? 0, () => this.#flush());
    } else if (type === "nack") {
      this.#settle(seq, this.#pending.get(seq)?.reject, new GracefulError(frame.code, frame.detail));
    } else if (type === "gap" && !(link.gapTold && frame.reason === "expired" && stream === null)) {
      if (stream === null) this.#own = { seq: frame.head };
      else this.#streams.set(stream, { seq: frame.head, epoch: frame.epoch });
      link.seen.delete(stream);
      link.told.delete(stream);
      this.#gap(frame);
    } else if (type === "drain") this.#drained(frame);
    else if (type === "superseded") link.bySelf = frame.instance === this.#instance;
    else if (type === "subscribed") {
      this.#streams.set(stream, { seq: frame.head, epoch: frame.epoch });
      link.seen.delete(stream);
      link.told.delete(stream);
    } else if (type === "unsubscribed") this.#streams.delete(stream);
    else if (type === "volatile" || type === "error") this.#emit(type, frame);
  }

  #gap({ reason, stream = null, from = null, oldest = null, head }) {
    if (!this.#hearsGaps) console.error(`graceful-ws: messages are missing (${reason}); listen for "gap"`);
    this.#emit("gap", { reason, stream, from, oldest, head });
  }

  // --- out -------------------------------------------------------------------------------------

  #ack(link, frame = { type: "ack" }) {
    this.#stop("ack");
    link.unacked = link.unackedBytes = 0;
    // Only what came on this link: the server knows no more. And nothing while the next one's hello
    // is on its way: it asks for what came since, and what is acknowledged may be deleted.
    for (const [name, seq] of this.#next?.attempt ? [] : link.seen) {
      if (seq <= (link.told.get(name) ?? 0)) continue;
      link.told.set(name, seq);
      if (name === null) frame.seq = seq;
      else (frame.streams ??= Object.create(null))[name] = seq;
    }
    if (frame.type === "pong" || frame.seq || frame.streams) link.ws.send(JSON.stringify(frame));
  }

  /** Sends what credit allows, in order. */
  #flush() {
    const link = this.#link, { unacked, unacked_bytes: most } = this.#limits;
    if (!link?.welcomed || this.#holding || this.#timers.has("hold")) return;
    let count = 0, bytes = 0;
    for (const [seq, { data, size }] of this.#pending) {
      if (count && (count >= unacked || bytes + size > most)) return;
      count++;
      bytes += size;
      if (seq <= this.#sent) continue;
      this.#sent = seq;
      link.ws.send(`{"type":"message","seq":${seq},"data":${data}}`);
    }
  }

  #settle(seq, call, value) {
    if (this.#pending.delete(seq)) call(value);
  }

  #fail(code, upto = Infinity) {
    for (const [seq, { reject }] of this.#pending) {
      if (seq > upto) return;
      this.#settle(seq, reject, new GracefulError(code));
      this.#renumber = true;
    }
  }

  // --- make before break -----------------------------------------------------------------------

  #drained({ reconnect_in: slot, close_in: closeIn, reason }) {
    this.#emit("draining", { reconnectIn: slot, closeIn, reason });
    if (this.#drain) return;
    this.#turn++;
    this.#drain = { leaveBy: this.#o.now() + Math.max(slot, closeIn - MARGIN), tries: 0 };
    this.#start("move", slot, () => this.#move());
  }

  /** Stops sending until nothing is unacknowledged: no handler is to be started twice. */
  #move() {
    this.#holding = true;
    const left = Math.max(0, this.#drain.leaveBy - this.#o.now());
    this.#start("move", left, () => { this.#next = this.#dial(); });
    this.#moveIfQuiet();
  }

  #moveIfQuiet() {
    const [first = Infinity] = this.#pending.keys();
    if (!this.#holding || this.#next || first <= this.#sent) return;
    this.#stop("move");
    this.#next = this.#dial();
  }

  // --- the end of a connection, and the next one -----------------------------------------------

  #ended(link, code, reason) {
    if (link.over) return;
    this.#over(link);
    const lived = link.welcomed ? this.#o.now() - link.welcomedAt : null;
    if (lived === null) this.#turn++;
    if ([1002, 1008].includes(code) && link.attempt) this.#refusals++;
    else if (link.welcomed) this.#refusals = 0;
    if (link.welcomed && (code === 1007 || code === 1009)) this.#fail("poison", this.#sent);
    if ((code >= 4300 && code < 4400) || code === 4403 || this.#refusals >= REFUSALS) {
      this.#expired ||= this.#joined || this.#token !== null;
      this.#joined = false;
      this.#token = null;
      this.#refusals = 0;
      if (code === 4403) this.#fail("other_identity"); // not to be sent in another one's name
    }
    this.#holding = false;
    if (link === this.#next) { // refused: it stays on the old one
      this.#next = null;
      const delay = this.#delay(this.#drain.tries++);
      if (delay !== null) this.#start("move", delay, () => this.#move());
      return this.#flush();
    }
    for (const name of ["move", "hold", "ack"]) this.#stop(name);
    this.#drain = null;
    [this.#link, this.#next] = [this.#next, null];
    if (this.#link) this.#setState("connecting");
    else if (isFinal(code) && !link.bySelf) return this.#finish(code, reason);
    else if (!this.#retry(code, lived)) return this.#finish(code, reason);
    this.#emit("close", { code, reason, final: false });
  }

  /** Schedules the next try; false when there is none. */
  #retry(code, lived) {
    const { minUptime, maxRetries, random } = this.#o;
    if (lived === null) this.#try++;
    else if (lived >= minUptime) this.#try = 0;
    this.#try = Math.max(this.#try, code === 1013 ? 2 : 0);
    const attempt = this.#try, delayMs = isResume(code) && lived >= minUptime && lived !== null
      ? random() * this.#window // nothing is wrong; only not all at once
      : this.#delay(attempt);
    if (delayMs === null) return false;
    this.#start("retry", delayMs, () => { this.#link = this.#dial(); });
    const parked = attempt >= maxRetries, news = parked && this.#state !== "parked";
    this.#setState(parked ? "parked" : "waiting");
    if (news) this.#emit("parked", {});
    this.#emit("retry", { attempt, delayMs });
    return true;
  }

  #delay(attempt) {
    const { maxRetries, baseDelay, maxDelay, parkedDelay, whenExhausted, random } = this.#o;
    if (attempt >= maxRetries) return whenExhausted === "stop" ? null : parkedDelay * (0.5 + random());
    return Math.min(maxDelay, baseDelay * 2 ** attempt) + random() * Math.max(1000, this.#window);
  }

  /** The connection counts no longer, whatever its events say. */
  #over(link) {
    link.over = true;
    this.#stop(link);
  }

  #leave(link, code, reason) {
    if (!link) return;
    this.#over(link);
    try { link.ws.close(code, reason); } catch { /* it is closed, or never was open */ }
  }

  #finish(code, reason) {
    this.#leave(this.#link, CLOSE_CODES.NORMAL, "");
    this.#leave(this.#next, CLOSE_CODES.SUSPENDED, "");
    this.#link = this.#next = this.#drain = null;
    this.#holding = false;
    for (const name of [...this.#timers.keys()]) this.#stop(name);
    this.#fail("closed");
    if (code === CLOSE_CODES.NORMAL) { // a bye: nothing to resume
      this.#token = null;
      this.#own = { seq: 0 };
      this.#streams.clear();
    }
    this.#newInstance();
    this.#page?.abort();
    this.#page = null;
    this.#setState("closed");
    this.#emit("close", { code, reason, final: true });
  }

  #newInstance() {
    const bytes = [...crypto.getRandomValues(new Uint8Array(12))];
    this.#instance = bytes.map((byte) => byte.toString(16).padStart(2, "0")).join("");
    this.#attempt = this.#sent = 0;
    this.#nextSeq = 1;
    this.#joined = this.#expired = this.#renumber = false;
  }

  // --- the page, timers, events ----------------------------------------------------------------

  #listen() {
    const { window } = this.#o;
    if (this.#page || !window?.addEventListener) return;
    this.#page = new AbortController();
    const { signal } = this.#page;
    const wake = () => ["waiting", "parked"].includes(this.#state) && this.connect();
    const visible = () => window.document.visibilityState === "visible" && wake();
    window.addEventListener("online", wake, { signal });
    window.addEventListener("pageshow", ({ persisted }) => persisted && wake(), { signal });
    window.document?.addEventListener("visibilitychange", visible, { signal });
    window.addEventListener("pagehide", () => { // an open socket keeps a page out of the cache
      for (const link of [this.#next, this.#link]) {
        if (link) this.#drop(link, CLOSE_CODES.SUSPENDED, "page hidden");
      }
    }, { signal });
  }

  #start(name, delay, call) {
    this.#stop(name);
    this.#timers.set(name, this.#o.setTimeout(() => (this.#timers.delete(name), call()), delay));
  }

  #stop(name) {
    this.#o.clearTimeout(this.#timers.get(name));
    this.#timers.delete(name);
  }

  #setState(to) {
    const from = this.#state;
    this.#state = to;
    if (from !== to) this.#emit("state", { from, to });
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
