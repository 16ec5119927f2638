/**
 * The browser client of the protocol graceful.v1: one session over as many WebSockets as it takes.
 *
 *     const socket = new GracefulSocket("wss://example.com/ws/chat/");
 *     socket.addEventListener("message", ({ detail }) => show(detail.data)); // {seq, stream, data}
 *     socket.connect();
 *     const result = await socket.send({ hello: "world" });
 *
 * What all names mean is in graceful-ws.d.ts. Durations here are milliseconds, on the wire they are
 * what the protocol says.
 */

export const DEFAULTS = Object.freeze({
  maxRetries: 5, baseDelay: 1000, maxDelay: 30000, parkedDelay: 30000, whenExhausted: "park",
  minUptime: 5000, openTimeout: 10000, welcomeTimeout: 15000, wakeProbe: 5000,
  queueMessages: 100, queueBytes: 1048576, probe: "/graceful/ping/", storage: null,
});

/** `sent`: whether the server may have begun with the message. */
export class GracefulError extends Error {
  name = "GracefulError";
  constructor(code, detail, sent = false) {
    super(detail || code);
    this.code = code;
    this.sent = sent;
  }
}

/** What a client does after a close code; codes that it has never seen go by their range. */
export const adviceOf = (code) => code === 4106 ? "park"
  : /^(100[01]|1012|400[01]|41..)$/.test(code) ? "resume"
  : /^4(3..|403)$/.test(code) ? "new_session"
  : /^44..$/.test(code) ? "refresh"
  : /^(3...|4[5-9]..)$/.test(code) ? "stop"
  : "back_off";

/** All but the public face: timers, endpoints and their breakers, the session, its connections, the
 *  page. State is in variables and not in properties, so that its names minify. */
function client(emit, urls, options) {
  const SUBPROTOCOL = "graceful.v1";
  const SUSPENDED = 4000, SERVER_SILENT = 4001;
  const FAILURE_CODES = [1006, 1011, 1013, 1014, SERVER_SILENT]; // the endpoint does not work
  const MARGIN = 4000; // before the server closes, when what is unacknowledged is left behind
  const ONE_MORE_LOOK = 100; // a throttled timer may run before what has arrived is read
  const REFUSALS = 3; // 1002 or 1008 so often in a row: the hello itself must be what is wrong
  const OVERLOADED_ATTEMPT = 2; // after 1013 the back-off begins here
  const RETRY_FIRST = 50, RETRY_MOST = 1000; // after a nack with retry; doubles with each
  const MOST_WINDOW = 60000, MOST_RETRY_AFTER = 300000, MOST_NOTICE = 3600000; // of a server's word
  const REQUEST_TIMEOUT = 10000, REQUEST_TRIES = 3;
  const ACK_INTERVAL = 1000, ACK_MESSAGES = 50, ACK_BYTES = 65536;
  const MESSAGE_BYTES = 65536; // until a welcome says otherwise

  const FAILURES = 10, PROBES = 20, OPEN_FOR = 30000; // of a breaker
  const ALPHA = 0.2; // the weight of the newest round trip in the moving average
  const NEAR = 15, NEAR_PART = 0.2; // beyond the best, or this part of it: equally near
  const PROBE_EVERY = 300000, PROBE_TIMEOUT = 1500;

  const { floor, max, min } = Math;
  const { fetch, now, probe, random, setTimeout, clearTimeout, storage, window: page } = options;
  const key = `graceful-ws ${urls[0]}`; // of what a storage keeps

  let state = "disconnected", attempt = -1, spread = 1000, refusals = 0;
  let link = null, live = false, welcomedAt = 0; // the connection; live: it has been welcomed
  let asked = false; // when it was last asked whether it works: until the answer all may be old
  let next = null; // the one that is to succeed it
  let hurried = 0; // moves in a row that were asked for soon after the welcome
  // aside: when it could not be reached, was lost or began to drain, until a welcome anywhere
  if (!urls.length) throw new TypeError("no URL");
  const all = urls.map((url) => ({ url, rtt: null, aside: 0, ...breaker() }));
  let used = null; // the endpoint that welcomed last
  let leaveBy = 0, tries = 0, holding = false; // holding: nothing new is sent, for it will move
  let idle = false; // parked until the application sends something
  let awayUntil = 0; // no try by itself before: the server said so
  let bySelf = false; // superseded by a hello of ours whose welcome did not come
  let put, listening = null, asleep = false; // asleep: the page is frozen or put away

  let instance, hellos, joined, expired; // joined: this instance has been welcomed to the session
  let token = null, offered = null; // offered: with the last hello
  let sessionId = null, node = null, limits = { message_bytes: MESSAGE_BYTES };

  // Where a sequence stands: `seq` has been received, `handed` is with the application; `seen` came
  // on this connection, and `told` has been acknowledged on it. It is stored as it is.
  const track = (seq, epoch) => ({ seq, handed: seq, epoch, seen: 0, told: 0 });
  const fresh = () => new Map([[null, track(0)]]);
  let tracks = fresh(); // by stream; null: the session's own sequence
  let unread = null, takers = []; // of iterators
  let unacked = 0, unackedBytes = 0;

  // What has been sent and has no outcome, or waits: queue[i] has the number first + i.
  let queue = [], first = 1, sent = 0, renumber = false;

  const running = new Map(); // timers by key, one of each
  const own = () => tracks.get(null);
  const isHidden = () => page?.document?.hidden;
  const isOffline = () => page?.navigator?.onLine === false;
  const isAway = () => asleep || isHidden() || isOffline();
  // Between the server's close frame and the close event a browser complains of what is sent.
  const isClosing = (it) => it.ws.readyState > 1;
  const write = (it, text) => isClosing(it) || it.ws.send(text);
  // A server's word, as far as it is reasonable; throws for what is no number.
  const within = (value, most) => {
    if (!(value >= 0)) throw value;
    return min(value, most);
  };
  const tell = (it, frame) => write(it, JSON.stringify(frame));

  function setState(to) {
    const from = state;
    state = to;
    if (from === to) return;
    emit("state", { from, to });
    if (to === "parked") emit("parked");
  }

  function start(key, delay, call) {
    stop(key);
    running.set(key, setTimeout(() => (running.delete(key), call()), min(delay, 2e9)));
  }

  function stop(key) {
    clearTimeout(running.get(key));
    running.delete(key);
  }

  // --- endpoints ---------------------------------------------------------------------------------

  /** Ten failures in a row open it; after a while it is half open, and twenty successes in a row
   *  close it, or one failure opens it again. */
  function breaker() {
    const openFor = OPEN_FOR * (0.8 + 0.4 * random()); // not all clients come back at once
    let until = 0; // no dial before; 0: closed
    let count = 0; // of failures in a row, of successes while half open
    const wait = () => max(0, until - now());
    return {
      wait,
      breaker: () => until ? wait() ? "open" : "half_open" : "closed",
      // Results that come while it is open are of before, and prove nothing.
      passed() {
        if (!until || (!wait() && ++count >= PROBES)) until = count = 0;
      },
      failed() {
        if (until ? wait() : ++count < FAILURES) return;
        until = now() + openFor;
        count = 0;
      },
      left() { // closed in good order: neither
        if (until) count = 0;
      },
    };
  }

  /** How long until one may be dialled. */
  const wait = () => min(...all.map((at) => at.wait()));

  const rttOf = ({ rtt }) => rtt ?? Infinity;

  const reach = (best) => best + max(NEAR, best * NEAR_PART);

  /** Those of probes and those of connections are never averaged with each other. */
  function measured(at, rtt, probed = false) {
    if (at.probed !== probed) at.rtt = null;
    at.probed = probed;
    at.rtt ??= rtt;
    at.rtt += ALPHA * (rtt - at.rtt);
  }

  /** Gives `open` the one to dial: one that works, and of those one of the nearest. At once, unless
   *  several have to be asked first. Of those put aside only the first, if there is no other;
   *  `besides`, which is to be left, comes last. */
  function choose(besides, open) {
    const rank = (at) => at === besides ? Infinity : at.aside;
    const allowed = all.filter((at) => !at.wait());
    const least = min(...allowed.map(rank));
    const found = allowed.filter((at) => rank(at) === least);
    const pick = () => {
      const best = min(...found.map(rttOf));
      const near = found.filter((at) => rttOf(at) <= reach(best));
      open(near[floor(random() * near.length)]);
    };
    if (probe && found.length > 1 && found.every(({ rtt }) => rtt === null)) ask(found, pick);
    else pick();
  }

  /** Asks them over HTTP. `decided`, if given, is called when it is clear which are the nearest:
   *  nobody waits for the others. */
  function ask(list, decided) {
    const began = now(), abort = new AbortController();
    let left = list.length, first;
    const end = () => {
      if (abort.signal.aborted) return;
      stop(abort);
      abort.abort();
      decided?.();
    };
    start(abort, PROBE_TIMEOUT, end);
    list.forEach(async (at) => {
      const get = () => fetch(new URL(probe, at.url.replace("ws", "http")), abort);
      try {
        await get(); // it connects, which is not to be measured
        const asked = now(), { status } = await get();
        if (status > 499) throw status; // it drains
        const answered = now();
        measured(at, answered - asked, true);
        first ??= answered - began;
        if (decided) start(abort, reach(first) - answered + began, end);
      } catch {
        at.rtt = null;
      }
      if (!--left) end();
    });
  }

  /** Measures those that are not in use, for the next choice. */
  function keepAsking() {
    if (!probe || !all[1] || running.has("probe")) return;
    start("probe", PROBE_EVERY * (0.8 + 0.4 * random()), () => {
      if (live && !isHidden()) ask(all.filter((at) => at !== used));
      keepAsking();
    });
  }

  // --- the session -------------------------------------------------------------------------------

  function newInstance() {
    instance = crypto.getRandomValues(new Uint32Array(4)).join("-");
    hellos = sent = 0;
    first = 1;
    joined = expired = renumber = false;
  }

  // --- a connection: made by `dial`, never used twice, ignored once it is `over` -----------------

  function dial(besides) {
    const it = { over: false };
    expect(it, options.openTimeout);
    choose(besides, (at) => {
      if (it.over) return;
      it.at = at;
      let ws;
      try { ws = it.ws = new options.WebSocket(at.url, SUBPROTOCOL); } catch { return expect(it, 0); }
      ws.onopen = () => it.over || hello(it);
      ws.onmessage = ({ data }) => it.over || read(it, data);
      ws.onclose = ({ code, reason }) => end(it, code, reason);
    });
    return it;
  }

  function hello(it) {
    if (it.ws.protocol !== SUBPROTOCOL) return end(it, SUSPENDED);
    if (it === link) forget();
    it.hello = ++hellos;
    offered = token;
    tell(it, {
      type: "hello", version: 1, instance, attempt: hellos,
      ...token && {
        session_token: token, last_seq_id: own().seq,
        positions: Object.fromEntries([...tracks].flatMap( // a stream may be named __proto__
          ([name, { epoch, seq }]) => epoch ? [[name, [epoch, seq]]] : [],
        )),
       
        pending_from: joined ? first : undefined,
      },
    });
    expect(it, options.welcomeTimeout);
  }

  /** From now on something has to be heard within `silence`. */
  function expect(it, silence) {
    it.silence = silence;
    it.due = now() + silence;
    watch(it);
  }

  function watch(it, again) {
    start(it, again ? ONE_MORE_LOOK : it.due - now(), () => {
      if (now() < it.due) watch(it);
      else if (again) end(it, SERVER_SILENT);
      else watch(it, true);
    });
  }

  function read(it, text) {
    try {
      const frames = [JSON.parse(text)].flat();
      for (const frame of frames) {
        if (it.over) return;
        if (live && it === link) handlers[frame.type]?.(frame, text.length / frames.length);
        else if (frame.type === "welcome") welcome(it, frame);
      }
    } catch {
      end(it, SUSPENDED); // a hole, or nothing that can be read
    }
    if (live && it === link) it.due = now() + (asked ? options.wakeProbe : it.silence);
    flush();
  }

  /** Asks for a sign of life, which also is a round trip. */
  function ping(sent_at = floor(now())) {
    tell(link, { type: "ping", sent_at });
  }

  /** Whatever its events say, it counts no longer. */
  function shut(it, code) {
    it.over = true;
    stop(it);
    try { it.ws?.close(code); } catch { /* it is closed, with a code that only a server may use */ }
  }

  // --- in ----------------------------------------------------------------------------------------

  function welcome(it, frame) {
    const { resumed, last_client_seq: last, heartbeat: beat } = frame;
    const silence = within((beat.interval + beat.timeout * beat.max_missed) * 1000, MOST_NOTICE);
    const window = within(frame.reconnect_window * 1000, MOST_WINDOW);
    // What the session had is lost. A server that was offered its token tells that itself.
    const lost = !resumed && !offered && (joined || expired);
    if (it === next) {
      shut(link, SUSPENDED);
      used.left();
    }
    calm();
    link = it;
    next = null;
    used = it.at;
    used.passed();
    for (const at of all) at.aside = 0;
    keepAsking();
    welcomedAt = now();
    expect(it, silence);
    spread = window;
    ({ session_id: sessionId, node, limits } = frame);
    token = frame.session_token ?? (resumed ? token : null);
    sent = last; // results of what is done come right behind the welcome
    if (!resumed || !joined || renumber || !queue.length || last + 1 < first) {
      queue = queue.filter((message) => !message.done
        && (message.size <= limits.message_bytes || fail(message, "too_big")));
      first = last + 1;
    }
    if (!resumed) tracks = fresh();
    takeStreams(frame.streams);
    unacked = unackedBytes = 0;
    live = joined = true;
    asked = expired = renumber = bySelf = false;
    ping();
    setState("connected");
    emit("open", { resumed, node, endpoint: used.url });
    if (lost) emit("gap", { reason: "expired", head: 0 });
  }

  function takeStreams(streams) {
    for (const [name, at] of tracks) {
      at.seen = at.told = 0;
      if (name !== null && !Object.hasOwn(streams, name)) tracks.delete(name);
    }
    for (const [name, told] of Object.entries(streams)) {
      const at = tracks.get(name);
      // The old connection may have brought the subscription, and messages, since the hello left.
      const isAhead = at?.epoch === told.epoch && at?.seq >= told.head;
      if (told.state === "gap" || (told.state === "new" && !isAhead)) restart({ ...told, stream: name });
      else if (told.state === "denied") tracks.delete(name);
    }
  }

  function restart({ stream = null, head, epoch }) {
    tracks.set(stream, track(head, epoch));
  }

  const handlers = {
    __proto__: null, // the type of a frame may be that of what every object has

    message({ seq, stream = null, data }, size) {
      // Without a track: the subscription's own frame was lost with an earlier connection.
      const at = tracks.get(stream) ?? track(seq - 1);
      tracks.set(stream, at);
      if (floor(seq) !== seq || seq > at.seq + 1) throw seq; // a hole, or no number
      at.seen = seq;
      if (seq <= at.seq) return dueAck(size); // a copy
      at.seq = seq;
      const message = { at, size, detail: { seq, stream, data } };
      if (!unread) return handOver(message);
      unread.push(message);
      feed();
    },

    ping({ sent_at, rtt }) {
      if (rtt) measured(used, within(rtt * 1000, MOST_NOTICE));
      ack({ type: "pong", sent_at });
    },

    pong({ sent_at }) {
      if (sent_at === asked) asked = false;
      measured(used, within(now() - sent_at, MOST_NOTICE));
      used.passed();
      if (used.breaker() === "half_open") ping();
    },

    ack({ seq, results }) {
      used.passed();
      while (queue.length && first <= seq && first <= sent) {
        settled(queue.shift()).resolve(results?.[first] ?? null);
        first++;
      }
    },

    nack({ seq, code, detail, retry, retry_after: after = 0 }) {
      const message = queue[seq - first];
      if (!message) return;
      if (!retry) return fail(message, code, detail); // it leaves the queue with the next ack
      // Nothing was done with what was sent behind it, nor with this one unless its handler had begun.
      for (const each of queue.slice(seq - first, sent + 1 - first)) each.doubts--;
      if (code === "interrupted") message.doubts++;
      sent = min(sent, seq - 1);
      const growing = min(RETRY_MOST, RETRY_FIRST * 2 ** message.nacks++);
      start("hold", max(min(after, MOST_RETRY_AFTER), growing), flush);
      if (message.nacks >= message.tries && !withdraw(message, code, detail)) fail(message, code, detail);
    },

    gap(frame) {
      restart(frame);
      emit("gap", frame);
    },

    drain({ reconnect_in: slot, close_in: closeIn, reason }) {
      closeIn = within(closeIn, MOST_NOTICE);
      slot = within(slot, closeIn);
      if (!leaveBy) {
        // Once is a node that was about to drain. Servers that go on to welcome and tell to move must
        // not make a client dial as fast as they answer.
        hurried = now() - welcomedAt < options.minUptime ? hurried + 1 : 0;
        if (hurried > 1) slot = max(slot, backOff(min(hurried - 1, options.maxRetries) - 1));
        leaveBy = now() + max(slot, closeIn - MARGIN);
        used.aside = now();
        start("move", slot, move);
      }
      setState("draining");
      emit("draining", { reconnectIn: slot, closeIn, reason });
    },

    superseded(frame) {
      bySelf = frame.instance === instance;
    },

    subscribed: restart,
    unsubscribed: ({ stream }) => tracks.delete(stream),
    volatile: (frame) => emit("volatile", frame),
    error(frame) {
      awayUntil = now() + within(frame.retry_after ?? 0, MOST_RETRY_AFTER);
      emit("error", frame);
    },
  };

  /** The application has it: only now may the server hear of it. */
  function handOver({ at, size, detail }) {
    const { seq, stream, data } = detail;
    at.handed = seq;
    dueAck(size);
    emit("message", detail);
    if (stream !== null && data?.type === "client_exit") emit("exit", { ...data, stream });
    return detail;
  }

  function dueAck(size) {
    unackedBytes += size;
    if (!live) return;
    if (++unacked >= ACK_MESSAGES || unackedBytes >= ACK_BYTES) ack();
    else if (!running.has("ack")) start("ack", ACK_INTERVAL, ack);
  }

  function ack(frame = { type: "ack" }) {
    stop("ack");
    unacked = unackedBytes = 0;
    // Only what came on this connection: the server knows no more. And nothing while the next one's
    // hello is on its way: it asks for what came since, and what is acknowledged may be deleted.
    for (const [name, at] of next?.hello ? [] : tracks) {
      const seq = min(at.handed, at.seen);
      if (seq <= at.told) continue;
      at.told = seq;
      if (name === null) frame.seq = seq;
      else (frame.streams ??= { __proto__: null })[name] = seq;
    }
    if (Object.keys(frame).length > 1) tell(link, frame);
  }

  /** Gives iterators what they wait for. */
  function feed() {
    while (takers.length && unread.length) {
      takers.shift().take({ value: handOver(unread.shift()) });
    }
    if (state === "closed") endIteration();
  }

  /** Of one iterator, or of all of them. */
  function endIteration(of) {
    takers = takers.filter((it) => (of && it.of !== of) || it.take({ done: true }));
  }

  /** What no iterator took is asked for again, but for what the server would not send any more. Not
   *  while a hello is on its way that has said that it is here. */
  function forget() {
    unread = unread?.filter(({ at, detail }) => tracks.get(detail.stream) !== at);
    for (const at of tracks.values()) at.seq = at.handed;
  }

  // --- out ---------------------------------------------------------------------------------------

  /** JSON text that the server takes; throws for what it would close the connection for. */
  function encode(data) {
    const MAX_DEPTH = 63; // the frame itself is one more
    const FRAME_BYTES = 64; // at most so many around the data of a message
    const depthOf = (value) => value && typeof value === "object"
      ? Object.values(value).reduce((most, each) => max(most, depthOf(each)), 0) + 1 : 0;
    let isJSON = true;
    const text = JSON.stringify(data, (key, value) => {
      if (typeof value === "number" && !isFinite(value)) isJSON = false;
      return value;
    });
    const size = new TextEncoder().encode(text).length + FRAME_BYTES;
    // Surrogates without a partner are the only ones that come out escaped.
    const wrong = !isJSON || !text || text.replaceAll("\\\\", "").includes("\\ud") ? "not JSON"
      : depthOf(JSON.parse(text)) > MAX_DEPTH ? "nested too deep"
      : size > limits.message_bytes ? `over ${limits.message_bytes} bytes`
      : "";
    if (wrong) throw new RangeError(wrong);
    return { text, size };
  }

  function send(data, most = Infinity, timeout = 0) {
    const encoded = encode(data);
    const code = state === "closed" ? "closed"
      : timeout && !live && wait() ? "circuit_open"
      : queue.length >= options.queueMessages
        || queue.reduce((sum, { size }) => sum + size, 0) >= options.queueBytes ? "queue_full"
      : "";
    return new Promise((resolve, reject) => {
      // doubts: how often it was sent without the server having said that it did nothing with it
      const message = { ...encoded, tries: most, resolve, reject, nacks: 0, doubts: 0 };
      if (code) return fail(message, code);
      queue.push(message);
      const at = used;
      if (timeout) start(message, timeout, () => {
        if (withdraw(message, "timeout")) return;
        fail(message, "timeout");
        if (live && at === used) at.failed();
      });
      flush();
    });
  }

  /** Sends what credit allows, in order; or, when it is to move, nothing until nothing is
   *  unacknowledged: no handler is to be started twice. */
  function flush() {
    if (idle) return connect();
    if (!live || isClosing(link)) return;
    if (holding) return next || first <= sent || succeed();
    if (running.has("hold")) return;
    let bytes = 0;
    for (const [i, message] of queue.entries()) {
      bytes += message.size;
      if (i && (i >= limits.unacked || bytes > limits.unacked_bytes)) return;
      if (first + i <= sent) continue;
      sent = first + i;
      message.doubts++;
      link.ws.send(`{"type":"message","seq":${sent},"data":${message.text}}`);
    }
  }

  function settled(message) {
    stop(message);
    message.done = true;
    return message;
  }

  function fail(message, code, detail) {
    settled(message).reject(new GracefulError(code, detail, message.doubts > 0));
  }

  /** Fails it so that it is never handled; its number goes to the next one. False if it may have
   *  been handled. */
  function withdraw(message, code, detail) {
    if (message.doubts) return false;
    queue.splice(queue.indexOf(message), 1);
    fail(message, code, detail);
    return true;
  }

  /** Fails all, or those that were sent; numbers begin anew with the next welcome. */
  function failAll(code, count = Infinity) {
    for (const message of queue.splice(0, count)) fail(message, code);
    first = sent + 1;
    renumber = true;
  }

  // --- make before break -------------------------------------------------------------------------

  function move() {
    holding = true;
    start("move", leaveBy - now(), succeed);
    flush();
  }

  function succeed() {
    stop("move");
    if (wait()) stay();
    else next = dial(used);
  }

  /** Told to stop, it waits for what the end of this connection brings. */
  function stay(code) {
    tries = least(tries, code);
    const delay = adviceOf(code) === "stop" ? null : backOff(tries++);
    next = null;
    holding = false;
    if (delay !== null) start("move", delay, move);
    ack(); // what could not be said while a hello was on its way
    flush();
  }

  // --- the end of a connection, and the next one -------------------------------------------------

  /** Nothing of the connection is under way any longer. */
  function calm() {
    ["retry", "move", "hold", "ack"].forEach(stop);
    leaveBy = tries = 0;
    live = holding = idle = false;
  }

  /** Ended, by this side or by the other, or never begun. This side does not wait for the event:
   *  that of a dead network comes much later. */
  function end(it, code, reason = "") {
    if (it.over) return;
    const { at } = it, welcomed = live && it === link, advice = adviceOf(code);
    shut(it, code);
    if (at && (!welcomed || [1001, 1012, ...FAILURE_CODES].includes(code))) at.aside = now();
    if (FAILURE_CODES.includes(code) && !isOffline()) at?.failed(); // offline: it is not to blame
    else at?.left();
    if (it.hello && (code === 1002 || code === 1008)) refusals++;
    else if (welcomed) refusals = 0;
    if (welcomed && (code === 1007 || code === 1009)) {
      failAll("poison", max(0, sent + 1 - first));
    }
    if (advice === "new_session" || refusals >= REFUSALS) {
      expired ||= joined || token;
      joined = false;
      token = null;
      refusals = 0;
      if (code === 4403) failAll("other_identity"); // not to be sent in another one's name
    }
    if (it === next) {
      if (!expired) return stay(code); // refused
      next = null;
      return end(link, SUSPENDED);
    }
    if (advice === "stop" && !bySelf) return finish(code, reason);
    calm();
    [link, next] = [next, null];
    const hasLived = welcomed && now() - welcomedAt >= options.minUptime;
    if (hasLived) attempt = 0;
    else if (!welcomed && !isAway()) attempt++;
    if (link) setState("connecting");
    else {
      attempt = least(attempt, code);
      idle = advice === "park" && !queue.length; // a connection that nobody used, and nobody does
      const delay = idle ? parkedDelay()
        : hasLived && /resume|park/.test(advice) ? random() * spread // nothing is wrong; only not all at once
        : backOff(attempt);
      if (delay === null) return finish(code, reason);
      pause(max(delay, awayUntil - now()), idle || attempt >= options.maxRetries);
    }
    if (state !== "closed") emit("close", { code, reason, final: false });
  }

  const least = (n, code) => max(n, (code === 1013) * OVERLOADED_ATTEMPT);

  const parkedDelay = () => options.parkedDelay * (0.5 + random());

  /** How long to wait before the next try; null: there is none. */
  function backOff(n) {
    if (n >= options.maxRetries) return options.whenExhausted === "stop" ? null : parkedDelay();
    const growing = min(options.maxDelay, options.baseDelay * 2 ** n);
    return growing + random() * max(1000, spread);
  }

  /** Waits for the next try: in the slow lane when nobody looks, or there is no network. */
  function pause(delayMs, slow) {
    if (isAway()) [delayMs, slow] = [parkedDelay(), true];
    start("retry", delayMs, connectNow);
    setState(slow ? "parked" : "waiting");
    emit("retry", { attempt: max(0, attempt), delayMs, lane: slow ? "slow" : "fast" });
  }

  function connectNow() {
    const blocked = wait();
    asleep = idle = false;
    // While it waits it tells nobody: a listener may be who asks.
    if (blocked) return running.has("retry") ? start("retry", blocked, connectNow) : pause(blocked, true);
    stop("retry");
    link = dial();
    setState("connecting");
  }

  function connect() {
    if (link) return;
    listen();
    // Another page of the tab has taken the session out.
    if (put && put !== storage.getItem(key)) {
      token = null;
      expired = true;
    }
    put = storage?.removeItem(key);
    attempt = -1;
    connectNow();
  }

  function finish(code, reason) {
    for (const it of [link, next]) if (it) shut(it, 1000);
    link = next = null;
    calm();
    failAll("closed");
    for (const key of running.keys()) {
      key.abort?.(); // what is asked over HTTP
      stop(key);
    }
    if (code === 1000) { // a bye: nothing to resume
      token = null;
      tracks = fresh();
    }
    newInstance();
    listening?.abort();
    listening = null;
    setState("closed");
    if (unread) feed();
    emit("close", { code, reason, final: true });
  }

  // --- the page ----------------------------------------------------------------------------------

  function listen() {
    if (listening || !page?.addEventListener) return;
    listening = new AbortController();
    const on = (target, calls) => {
      for (const type in calls) target?.addEventListener(type, calls[type], listening);
    };
    on(page, {
      online: wake,
      offline: slowDown,
      pageshow: ({ persisted }) => persisted && wake(),
      pagehide() {
        suspend();
        if (token) storage?.setItem(key, put = JSON.stringify([token, [...tracks], instance]));
      },
    });
    on(page.document, {
      visibilitychange: () => isHidden() ? slowDown() : wake(),
      freeze: suspend,
      resume: wake,
    });
  }

  /** Somebody looks, or there is a network: dials now, or sees whether the connection works. */
  function wake() {
    if (!link) return connect();
    if (!live) return; // a dial has a limit of its own
    ping(asked = floor(now()));
    link.due = min(link.due, now() + options.wakeProbe);
    watch(link);
  }

  function slowDown() {
    if (state === "waiting" && isAway()) pause();
  }

  /** An open socket keeps a page out of the back/forward cache; what is frozen answers nobody. */
  function suspend() {
    asleep = true;
    for (const it of [link, next]) if (it) end(it, SUSPENDED);
  }

  newInstance();
  // Taken out of it: a duplicated tab has a copy of the storage, and gets a session of its own.
  try {
    const kept = JSON.parse(storage?.getItem(key) ?? null);
    storage?.removeItem(key);
    if (kept) [token, tracks] = [kept[0], new Map(kept[1])];
  } catch { /* none */ }

  return {
    get state() { return state; },
    get sessionId() { return sessionId; },
    get node() { return node; },
    get lastSeq() { return own().seq; },
    get rtt() { return used?.rtt ?? null; },
    get endpoint() { return live ? used.url : null; },
    get endpoints() {
      return all.map((at) => (
        { url: at.url, rtt: at.rtt, breaker: at.breaker(), current: live && at === used }
      ));
    },

    connect,

    /** Says bye, which ends the session, and closes. */
    close(reason = "") {
      if (live) tell(link, { type: "bye", reason: `${reason}` });
      if (state !== "closed") finish(1000, reason);
    },

    /** Drops the connection as a lost network would; the session is resumed. */
    cut() {
      if (link) end(link, SUSPENDED);
    },

    send: (data) => send(data),

    request: (data, { timeout = REQUEST_TIMEOUT, tries = REQUEST_TRIES } = {}) =>
      send(data, tries, timeout),

    volatile(data) {
      const { text } = encode(data);
      flush();
      if (live) write(link, `{"type":"volatile","data":${text}}`);
      return live;
    },

    [Symbol.asyncIterator]() {
      const of = {
        next: () => new Promise((take) => {
          takers.push({ of, take });
          unread ??= [];
          feed();
        }),
        async return() {
          endIteration(of);
          return { done: true };
        },
      };
      return of;
    },
  };
}

export class GracefulSocket extends EventTarget {
  #hearsGaps = false;

  constructor(urls, options) {
    super();
    const emit = (type, detail) => {
      if (type === "gap" && !this.#hearsGaps) console.error("graceful-ws: unheard", detail);
      this.dispatchEvent(new CustomEvent(type, { detail }));
    };
    const { WebSocket, window } = globalThis;
    const inside = client(emit, [urls].flat(), {
      ...DEFAULTS, WebSocket, fetch, random: Math.random, setTimeout, clearTimeout, window,
      now: () => performance.now(), ...options,
    });
    Object.defineProperties(this, Object.getOwnPropertyDescriptors(inside));
  }

  addEventListener(type, ...rest) {
    if (type === "gap") this.#hearsGaps = true;
    super.addEventListener(type, ...rest);
  }
}
