import assert from "node:assert/strict";
import { test } from "node:test";

import { GracefulSocket } from "../../graceful_ws/static/graceful_ws/graceful-ws.js";
import { connected, FakeSocket, message, outcome, sent, setUp, welcome } from "./fakes.mjs";

// --- hello and welcome -------------------------------------------------------------------------

test("the first hello names instance and attempt and nothing to resume", () => {
  const { client, last, of } = setUp();
  client.connect();
  assert.equal(last().offered, "graceful.v1");
  last().open();
  const [{ instance, ...hello }] = last().take();
  assert.deepEqual(hello, { type: "hello", version: 1, attempt: 1 });
  assert.match(instance, /^[0-9-]{8,64}$/);
  last().say(welcome({ node: "n1" }));
  assert.deepEqual(of("open"), [{ resumed: false, node: "n1", endpoint: "ws://a/" }]);
  assert.deepEqual([client.state, client.sessionId, client.node, client.endpoint], ["connected", "s", "n1", "ws://a/"]);
});

test("a server without the subprotocol is left", () => {
  const { client, last } = setUp();
  client.connect();
  last().onopen();
  assert.deepEqual(last().take(), []);
  assert.equal(client.state, "waiting");
});

test("a resume says what was received and what waits, and sends the rest in order", async () => {
  const { client, clock, last, of } = connected();
  last().say({ type: "subscribed", stream: "room", epoch: "e", head: 7 });
  last().say(message(1, "a"), message(8, "b", "room"));
  const sends = ["x", "y", "z"].map((data) => client.send(data));
  last().take();
  last().say({ type: "ack", seq: 1, results: { 1: "X" } });
  last().lose();
  clock.pass(1000);
  last().open();
  const [{ instance, ...hello }] = last().take();
  assert.deepEqual(hello, {
    type: "hello", version: 1, attempt: 2, session_token: "token", last_seq_id: 1, pending_from: 2,
    positions: { room: ["e", 8] },
  });
  last().say(welcome({ resumed: true, session_token: null, last_client_seq: 2, streams: { room: { state: "resumed" } } }));
  assert.deepEqual(sent(last()), [[3, "z"]]);
  assert.deepEqual(await outcome(sends[1]), "pending");
  last().say({ type: "ack", seq: 2, results: { 2: "Y" } });
  last().say({ type: "ack", seq: 3 });
  assert.deepEqual(await Promise.all(sends), ["X", "Y", null]);
  assert.deepEqual(of("open").map(({ resumed }) => resumed), [false, true]);
});

test("a lost session is told once, and what waits goes into the next", async () => {
  const { client, clock, last, of } = connected();
  last().say(message(1), message(2));
  const sends = ["x", "y"].map((data) => client.send(data));
  last().say({ type: "ack", seq: 1 });
  last().lose();
  clock.pass(1000);
  last().open();
  last().take();
  last().say(welcome({ session_token: "new" }), { type: "gap", reason: "expired", head: 0 }, message(1, "new"));
  assert.deepEqual(of("gap"), [{ type: "gap", reason: "expired", head: 0 }]);
  assert.deepEqual(of("message").at(-1), { seq: 1, stream: null, data: "new" });
  assert.deepEqual(sent(last()), [[1, "y"]]);
  last().say({ type: "ack", seq: 1, results: { 1: "Y" } });
  assert.deepEqual(await sends[1], "Y");
});

// --- receiving ---------------------------------------------------------------------------------

test("copies are dropped, and a hole is closed 4000", () => {
  const { last, of, sockets } = connected();
  last().say(message(1, "a"), message(1, "a"), message(2, "b"), message(4, "d"));
  assert.deepEqual(of("message").map(({ data }) => data), ["a", "b"]);
  assert.equal(sockets[0].closedWith[0], 4000);
  sockets[0].say(message(3, "late"));
  assert.equal(of("message").length, 2);
});

test("a gap that nobody listens for is complained about", ({ mock }) => {
  const complain = mock.method(console, "error", () => {});
  const gap = { type: "gap", reason: "trimmed", head: 9 };
  const client = new GracefulSocket("ws://a/", { WebSocket: FakeSocket });
  client.connect();
  FakeSocket.all.at(-1).welcome();
  FakeSocket.all.at(-1).say(gap);
  assert.equal(complain.mock.callCount(), 1);
  client.addEventListener("gap", () => {});
  FakeSocket.all.at(-1).say(gap);
  assert.equal(complain.mock.callCount(), 1);
  client.close();
});

test("a client without a URL is refused", () => {
  assert.throws(() => new GracefulSocket([]), TypeError);
});

test("a gap moves the position by itself", () => {
  const { last, of } = connected();
  last().say({ type: "gap", reason: "trimmed", from: 1, oldest: 5, head: 9 }, message(10, "on"));
  assert.deepEqual(of("message"), [{ seq: 10, stream: null, data: "on" }]);
});

test("unknown frames are ignored, unreadable ones are closed 4000", () => {
  const { last } = connected();
  last().say({ type: "news" }, { type: "__defineGetter__" }, { type: "welcome" });
  assert.equal(last().closedWith, null);
  last().onmessage({ data: "nonsense" });
  assert.equal(last().closedWith[0], 4000);
});

test("acks go after a second, after 50 messages and with a pong", () => {
  const { client, clock, last } = connected();
  last().say(message(1), message(2));
  clock.pass(999);
  assert.deepEqual(last().take(), []);
  clock.pass(1);
  assert.deepEqual(last().take(), [{ type: "ack", seq: 2 }]);
  for (let seq = 3; seq <= 52; seq++) last().say(message(seq));
  assert.deepEqual(last().take(), [{ type: "ack", seq: 52 }]);
  last().say(message(53), { type: "ping", sent_at: 7, rtt: 0.25 });
  assert.deepEqual(last().take(), [{ type: "pong", sent_at: 7, seq: 53 }]);
  assert.equal(client.rtt, 250);
});

// --- sending -----------------------------------------------------------------------------------

test("credit is not exceeded", () => {
  const { client, last } = connected();
  for (const data of "abcdef") client.send(data);
  assert.deepEqual(sent(last()).map(([seq]) => seq), [1, 2, 3, 4]);
  last().say({ type: "ack", seq: 1 });
  assert.deepEqual(sent(last()).map(([seq]) => seq), [5]);
});

test("credit is of bytes too, and one message may always go", () => {
  const { client, last } = setUp();
  client.connect();
  last().welcome({ limits: { message_bytes: 1000, unacked: 4, unacked_bytes: 300 } });
  for (const data of ["x".repeat(500), "y".repeat(100), "z".repeat(100)]) client.send(data);
  assert.deepEqual(sent(last()).map(([seq]) => seq), [1]);
  last().say({ type: "ack", seq: 1 });
  assert.deepEqual(sent(last()).map(([seq]) => seq), [2]);
});

test("what is too big for the server that answers fails", async () => {
  const { client, last } = setUp();
  const sends = ["x".repeat(2000), "y"].map((data) => client.send(data));
  client.connect();
  last().welcome();
  assert.deepEqual(await outcome(sends[0]), { error: "too_big" });
  assert.deepEqual(sent(last()), [[1, "y"]]);
});

test("what waits is not sent in another one's name", async () => {
  const { client, clock, last } = connected();
  const send = client.send("x");
  last().lose(4403);
  assert.deepEqual(await outcome(send), { error: "other_identity" });
  clock.pass(1000);
  last().welcome();
  assert.deepEqual(sent(last()), []);
});

test("a nack rejects, and one with retry sends again after its time", async () => {
  const { client, clock, last } = connected();
  const sends = ["a", "b", "c"].map((data) => client.send(data));
  last().take();
  last().say({ type: "nack", seq: 1, code: "error", detail: "no" }, { type: "ack", seq: 1 });
  assert.deepEqual(await outcome(sends[0]), { error: "error" });
  last().say({ type: "nack", seq: 2, code: "try_again", retry: true, retry_after: 500 });
  clock.pass(499);
  assert.deepEqual(last().take(), []);
  clock.pass(1);
  assert.deepEqual(sent(last()), [[2, "b"], [3, "c"]]);
});

test("what the server would close for is refused here", () => {
  const { client } = connected();
  const deep = JSON.parse("[".repeat(64) + "]".repeat(64));
  for (const data of [NaN, { a: Infinity }, "hi 😀".slice(0, 4), { "\ud83d": 1 }, "x".repeat(990), deep, undefined]) {
    assert.throws(() => client.send(data));
    assert.throws(() => client.volatile(data));
  }
  client.send(JSON.parse("[".repeat(63) + "]".repeat(63)));
  client.send('"[[[[' + "{".repeat(70));
});

test("the queue is bounded", async () => {
  const { client } = setUp({ queueMessages: 2 });
  client.send(1);
  client.send(2);
  assert.deepEqual(await outcome(client.send(3)), { error: "queue_full" });
});

for (const code of [1007, 1009]) {
  test(`what was in flight at a ${code} fails and the rest goes on`, async () => {
    const { client, clock, last } = connected();
    const sends = [..."abcdef"].map((data) => client.send(data));
    last().lose(code);
    for (const poison of sends.slice(0, 4)) assert.deepEqual(await outcome(poison), { error: "poison" });
    clock.pass(1000);
    last().welcome({ last_client_seq: 1 });
    assert.deepEqual(sent(last()), [[2, "e"], [3, "f"]]);
  });
}

test("a 1009 before the welcome is not for what was sent before", async () => {
  const { client, clock, last } = connected();
  const send = client.send("x");
  last().lose();
  clock.pass(1000);
  last().open();
  last().lose(1009);
  assert.equal(await outcome(send), "pending");
});
