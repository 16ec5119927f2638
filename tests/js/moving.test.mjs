import assert from "node:assert/strict";
import { test } from "node:test";

import { connected, message, outcome, sent, take, welcome } from "./fakes.mjs";

const drain = { type: "drain", reconnect_in: 500, close_in: 9000, reason: "deploy" };

test("at its slot it waits for acks, sends nothing new, and moves to the next endpoint", () => {
  const { client, clock, sockets, of } = connected({}, ["ws://a/", "ws://b/"]);
  client.send("before");
  sockets[0].take();
  sockets[0].say(drain);
  assert.deepEqual(of("draining"), [{ reconnectIn: 500, closeIn: 9000, reason: "deploy" }]);
  clock.pass(500);
  client.send("during");
  assert.deepEqual(sockets[0].take(), []);
  assert.equal(sockets.length, 1);
  sockets[0].say({ type: "ack", seq: 1 });
  assert.equal(sockets[1].url, "ws://b/");
  sockets[0].say(message(1, "from the old one"));
  sockets[1].open();
  assert.equal(client.state, "draining");
  sockets[1].say(welcome({ resumed: true, session_token: null, last_client_seq: 1 }));
  assert.equal(sockets[0].closedWith[0], 4000);
  sockets[0].say(message(2, "late"));
  sockets[1].say(message(1, "a copy"), message(2, "from the new one"));
  assert.deepEqual(of("message").map(({ data }) => data), ["from the old one", "from the new one"]);
  assert.deepEqual(sent(sockets[1]).at(-1), [2, "during"]);
  assert.equal(client.endpoint, "ws://b/");
});

test("nothing is acknowledged while the next connection's hello is on its way", () => {
  const { clock, sockets } = connected();
  sockets[0].say({ ...drain, reconnect_in: 0 });
  clock.pass(0);
  sockets[1].open();
  sockets[0].say(message(1), { type: "ping", sent_at: 1 });
  clock.pass(2000);
  assert.deepEqual(sockets[0].take(), [{ type: "pong", sent_at: 1 }]);
  sockets[1].lose();
  assert.deepEqual(sockets[0].take(), [{ type: "ack", seq: 1 }]);
});

test("a successor that is told to try later is followed by one after the third delay", () => {
  const { clock, sockets } = connected();
  sockets[0].say({ ...drain, reconnect_in: 0, close_in: 60_000 });
  clock.pass(0);
  sockets[1].open();
  sockets[1].lose(1013);
  clock.pass(3999);
  assert.equal(sockets.length, 2);
  clock.pass(1);
  assert.equal(sockets.length, 3);
  sockets[2].lose(1013);
  clock.pass(7999);
  assert.equal(sockets.length, 3);
  clock.pass(1);
  assert.equal(sockets.length, 4);
});

for (const code of [4503, 4505]) {
  test(`a successor that is closed ${code} is the last one while the old connection works`, async () => {
    const { client, clock, sockets, of } = connected();
    sockets[0].say({ ...drain, reconnect_in: 0, close_in: 60_000 });
    clock.pass(0);
    sockets[1].open();
    sockets[1].lose(code);
    const send = client.send("x");
    assert.deepEqual(sent(sockets[0]), [[1, "x"]]);
    sockets[0].say({ type: "ack", seq: 1, results: { 1: "y" } });
    assert.deepEqual(await outcome(send), { value: "y" });
    for (let second = 0; second < 50; second += 5) {
      clock.pass(5000);
      sockets[0].say({ type: "ping", sent_at: 1 });
    }
    assert.equal(sockets.length, 2);
    sockets[0].lose(1012);
    clock.pass(10_000);
    assert.equal(sockets.length, 3);
    sockets[2].open();
    sockets[2].lose(code, "no");
    assert.deepEqual(of("close").at(-1), { code, reason: "no", final: true });
  });
}

test("what the old connection brought meanwhile is acknowledged when its copy comes", () => {
  const { clock, sockets } = connected();
  sockets[0].say({ ...drain, reconnect_in: 0 });
  clock.pass(0);
  sockets[1].open();
  sockets[0].say(message(1));
  sockets[1].say(welcome({ resumed: true, session_token: null }), { type: "ping", sent_at: 1 });
  assert.deepEqual(take(sockets[1], "pong"), [{ type: "pong", sent_at: 1 }]);
  sockets[1].say(message(1));
  clock.pass(1000);
  assert.deepEqual(take(sockets[1], "ack"), [{ type: "ack", seq: 1 }]);
});

test("it leaves four seconds before the server closes, whatever is unacknowledged", () => {
  const { client, clock, sockets } = connected();
  client.send("x");
  sockets[0].say(drain);
  clock.pass(4999);
  assert.equal(sockets.length, 1);
  clock.pass(1);
  assert.equal(sockets.length, 2);
});

test("refused it stays, sends on, and tries again", () => {
  const { client, clock, sockets } = connected();
  sockets[0].say({ ...drain, reconnect_in: 0 });
  clock.pass(0);
  sockets[1].lose();
  client.send("x");
  assert.deepEqual(sent(sockets[0]), [[1, "x"]]);
  sockets[0].say({ type: "ack", seq: 1 });
  clock.pass(1000);
  sockets[2].welcome();
  assert.equal(client.state, "connected");
});

test("refused as another one it fails what waits, and leaves the old connection", async () => {
  const { client, clock, sockets } = connected();
  const sends = [..."abcdef"].map((data) => client.send(data)); // four of them are on their way
  sockets[0].take();
  sockets[0].say({ ...drain, reconnect_in: 0, close_in: 4000 });
  clock.pass(0);
  sockets[1].open();
  sockets[1].lose(4403);
  for (const send of sends) assert.deepEqual(await outcome(send), { error: "other_identity" });
  const send = client.send("g");
  assert.deepEqual(sent(sockets[0]), []); // it would be in the old one's name
  assert.equal(sockets[0].closedWith[0], 4000);
  clock.pass(10_000);
  sockets.at(-1).welcome();
  assert.deepEqual(sent(sockets.at(-1)), [[1, "g"]]);
  sockets.at(-1).say({ type: "ack", seq: 1, results: { 1: "G" } });
  assert.deepEqual(await outcome(send), { value: "G" });
});

test("tries before the connection that moves do not count any more", () => {
  const { client, clock, sockets, last, of } = connected({}, ["ws://a/", "ws://b/"]);
  for (let n = 0; n < 5; n++) {
    last().lose();
    clock.pass(60_000);
  }
  last().welcome();
  const old = last();
  clock.pass(6000);
  old.say({ ...drain, reconnect_in: 0 });
  clock.pass(0);
  old.lose(1012);
  last().lose();
  assert.equal(client.state, "waiting");
  assert.equal(of("retry").at(-1).lane, "fast");
  assert.ok(sockets.length > 6);
});

test("an old connection that ends while the new one is dialled costs no back-off", () => {
  const { client, clock, sockets, of } = connected();
  sockets[0].say({ ...drain, reconnect_in: 0 });
  clock.pass(0);
  sockets[0].lose(1012);
  assert.equal(client.state, "connecting");
  sockets[1].welcome();
  assert.equal(client.state, "connected");
  assert.deepEqual(of("retry"), []);
});


test("servers that welcome and tell to move are dialled by the back-off, after once", () => {
  const { clock, sockets } = connected({}, ["ws://a/", "ws://b/"]);
  for (let n = 0; n < 50; n++) {
    const last = sockets.at(-1);
    if (n) {
      last.open();
      last.say(welcome({ resumed: true, session_token: null }));
    }
    last.say({ ...drain, reconnect_in: 0, close_in: 60_000 });
    clock.pass(100);
    if (sockets.at(-1) === last) break;
  }
  assert.equal(sockets.length, 2);
  clock.pass(800);
  assert.equal(sockets.length, 2);
  clock.pass(5000); // one second, and a part of the window
  assert.equal(sockets.length, 3);
});

test("a session that an operator ends while the client moves has ended", () => {
  const { client, clock, sockets, of } = connected({}, ["ws://a/", "ws://b/"]);
  sockets[0].say({ ...drain, reconnect_in: 0 });
  clock.pass(0);
  sockets[1].open();
  sockets[0].lose(4506);
  assert.equal(client.state, "closed");
  assert.equal(of("close").at(-1).final, true);
  assert.ok(sockets[1].closedWith);
});

test("nothing is sent behind the server's close frame, and it goes out on the next connection", () => {
  const { client, clock, sockets, last } = connected();
  sockets[0].take();
  sockets[0].readyState = 2;
  client.send("x");
  assert.equal(client.volatile("y"), true);
  assert.deepEqual(sockets[0].take(), []);
  sockets[0].lose(1012);
  clock.pass(10_000);
  last().welcome();
  assert.deepEqual(sent(last()), [[1, "x"]]);
});
