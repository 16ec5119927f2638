import assert from "node:assert/strict";
import { test } from "node:test";

import { connected, FakeStorage, outcome, sent, setUp, take } from "./fakes.mjs";

// --- servers that say what makes no sense -------------------------------------------------------

const drain = { type: "drain", reason: "" };

test("a pong or a ping of no number ends the connection, not the choice of the next one", () => {
  for (const frame of [{ type: "pong" }, { type: "ping", sent_at: 1, rtt: "fast" }]) {
    const { client, clock, sockets, last } = connected();
    last().say(frame);
    clock.pass(10_000);
    assert.equal(sockets.length, 2);
    last().welcome();
    assert.equal(client.state, "connected");
  }
});

test("a notice without times, or with the largest, is no reason to dial at once", () => {
  for (const times of [{}, { reconnect_in: 3e12, close_in: 3e12 }]) {
    const { clock, sockets, last } = connected();
    for (let n = 0; n < 20 && sockets.length < 10; n++) {
      last().say({ ...drain, ...times });
      clock.pass(20);
      if (!last().closedWith && sockets.length > 1) last().welcome();
    }
    assert.ok(sockets.length <= 2, `${sockets.length} dials`);
  }
});

test("acknowledgements of what was never sent settle nothing", async () => {
  const { client, last } = connected();
  const sends = [..."abcdef"].map((data) => client.send(data)); // four of them are on their way
  last().say({ type: "ack", seq: 1000, results: null });
  assert.deepEqual(await outcome(sends[3]), { value: null });
  assert.equal(await outcome(sends[4]), "pending");
});

test("a number that is none is a hole", () => {
  for (const seq of ["1", true, 0.5, 7]) {
    const { last, of } = connected();
    last().say({ type: "message", seq, data: "x" });
    assert.equal(last().closedWith?.[0], 4000, String(seq));
    assert.deepEqual(of("message"), []);
  }
});

test("a server that knows less than it has acknowledged is told numbers that it can take", () => {
  const { client, clock, last } = connected();
  for (const data of "abc") client.send(data);
  last().say({ type: "ack", seq: 3 });
  last().lose();
  clock.pass(10_000);
  last().welcome({ resumed: true, session_token: null, last_client_seq: 1 });
  client.send("d");
  assert.deepEqual(sent(last()), [[2, "d"]]);
});

// --- pages that do what they like ---------------------------------------------------------------

test("closing in a close listener ends", () => {
  const { client, of } = connected();
  let calls = 0;
  client.addEventListener("close", () => {
    if (++calls < 100) client.close();
  });
  client.close();
  assert.equal(calls, 1);
  assert.equal(of("close").length, 1);
});

test("the argument of an event listener is no reason", () => {
  const { client, last } = connected();
  client.close({ type: "click" });
  assert.equal(typeof take(last(), "bye")[0].reason, "string");
});

test("a request without end does not time out at once", async () => {
  const { client, clock } = connected();
  const request = client.request("x", { timeout: Infinity });
  clock.pass(60_000);
  assert.equal(await outcome(request), "pending");
});

test("a constructor of WebSockets that throws is a try that failed", () => {
  let broken = true;
  class Picky {
    constructor() {
      if (broken) throw new SyntaxError("mixed content");
      return { protocol: "", close() {}, send() {} };
    }
  }
  const { client, clock, of } = setUp({ WebSocket: Picky });
  client.connect();
  clock.pass(200);
  assert.equal(client.state, "waiting");
  broken = false;
  clock.pass(20_000);
  assert.ok(of("retry").length >= 1);
});

test("a storage that is broken is none", () => {
  const storage = new FakeStorage();
  storage.getItem = () => "not JSON";
  const { client } = setUp({ storage });
  assert.equal(client.state, "disconnected");
});

test("a page that comes back to find its session taken begins a new one", async () => {
  const storage = new FakeStorage();
  const { client, page, clock, last, of } = connected({ storage });
  page.dispatchEvent(new Event("pagehide"));
  for (const key of storage.items.keys()) storage.items.set(key, '["token",[],"another instance"]');
  const waits = client.send("of A");
  page.dispatchEvent(Object.assign(new Event("pageshow"), { persisted: true }));
  clock.pass(0);
  last().open();
  const hello = last().take().find(({ type }) => type === "hello");
  assert.equal("session_token" in hello, false);
  last().welcome();
  assert.equal(of("gap").at(-1).reason, "expired");
  assert.deepEqual(sent(last()), [[1, "of A"]]);
  last().say({ type: "ack", seq: 1, results: { 1: "A's" } });
  assert.deepEqual(await outcome(waits), { value: "A's" });
});
