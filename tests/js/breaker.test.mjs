import assert from "node:assert/strict";
import { test } from "node:test";

import { outcome, setUp, take } from "./fakes.mjs";

/** A client that has lost so many dials in a row. */
function failing(count, options, urls) {
  const world = setUp(options, urls);
  world.client.connect();
  for (let each = 0; each < count; each++) {
    world.last().lose();
    if (each < count - 1) world.clock.pass(world.of("retry").at(-1).delayMs);
  }
  return { ...world, breaker: () => world.client.endpoints[0].breaker };
}

test("ten failures in a row open the breaker, for 24 s at least", () => {
  const { client, clock, breaker, of, sockets } = failing(9, { parkedDelay: 100 });
  assert.equal(breaker(), "closed");
  clock.pass(50);
  sockets.at(-1).lose();
  assert.equal(breaker(), "open");
  clock.pass(50);
  assert.equal(client.state, "parked");
  assert.deepEqual(of("retry").at(-1), { attempt: 9, delayMs: 24_000 - 50, lane: "slow" });
  client.connect();
  assert.equal(sockets.length, 10);
  clock.pass(24_000 - 51);
  assert.equal(sockets.length, 10);
  clock.pass(1);
  assert.equal(sockets.length, 11);
  assert.equal(breaker(), "half_open");
});

test("a listener may ask for a dial each time that it hears of the next one", () => {
  const { client, clock, breaker, sockets, of } = failing(9);
  for (const type of ["retry", "parked", "state", "close"]) {
    client.addEventListener(type, () => breaker() === "open" && client.connect());
  }
  sockets.at(-1).lose();
  clock.pass(of("retry").at(-1).delayMs);
  sockets.at(-1).lose();
  assert.equal(breaker(), "open");
  const dialled = sockets.length;
  clock.pass(23_900);
  assert.equal(sockets.length, dialled);
  clock.pass(100);
  assert.equal(sockets.length, dialled + 1);
});

test("how long it is open differs by a fifth either way", () => {
  for (const [random, openFor] of [[0.5, 30_000], [0.999, 35_988]]) {
    const { clock, breaker } = failing(10, { random: () => random });
    clock.pass(openFor - 1);
    assert.equal(breaker(), "open");
    clock.pass(1);
    assert.equal(breaker(), "half_open");
  }
});

test("a welcome and nineteen pongs on it close it", () => {
  const { client, clock, breaker, last } = failing(10);
  clock.pass(30_000);
  last().welcome();
  let pongs = 0;
  for (; breaker() === "half_open"; pongs++) {
    const [{ sent_at }] = take(last(), "ping");
    last().say({ type: "pong", sent_at });
  }
  assert.equal(pongs, 19);
  assert.deepEqual(take(last(), "ping"), []);
  assert.equal(client.state, "connected");
});

test("one failure before that opens it again", () => {
  const { clock, breaker, last } = failing(10);
  clock.pass(30_000);
  last().welcome();
  for (let pongs = 0; pongs < 18; pongs++) last().say({ type: "pong", sent_at: clock.time });
  assert.equal(breaker(), "half_open");
  last().lose();
  assert.equal(breaker(), "open");
});

test("a close in good order begins the twenty anew", () => {
  const { clock, breaker, last } = failing(10);
  clock.pass(30_000);
  for (const count of [18, 18]) {
    last().welcome();
    for (let pongs = 0; pongs < count; pongs++) last().say({ type: "pong", sent_at: clock.time });
    assert.equal(breaker(), "half_open");
    last().lose(4105);
    clock.pass(20_000);
  }
});

test("a welcome in between begins the ten anew", () => {
  const { clock, breaker, last, of } = failing(9);
  clock.pass(of("retry").at(-1).delayMs);
  last().welcome();
  for (let each = 0; each < 9; each++) {
    last().lose();
    clock.pass(of("retry").at(-1).delayMs);
  }
  assert.equal(breaker(), "closed");
  last().lose();
  assert.equal(breaker(), "open");
});

for (const code of [1000, 1001, 1012, 4102, 4201, 4300]) {
  test(`${code} is no failure`, () => {
    const { client, clock, last, of } = setUp();
    client.connect();
    for (let each = 0; each < 12; each++) {
      last().open();
      last().lose(code);
      clock.pass(of("retry").at(-1).delayMs);
    }
    assert.equal(client.endpoints[0].breaker, "closed");
  });
}

test("each endpoint has its own breaker, and one that is open is not dialled", () => {
  const urls = ["ws://a/", "ws://b/"];
  const { client, clock, last, of, sockets } = failing(20, { parkedDelay: 10 }, urls);
  assert.deepEqual(client.endpoints.map(({ breaker }) => breaker), ["open", "open"]);
  const before = sockets.length;
  clock.pass(24_000);
  assert.equal(sockets.length, before + 1);
  last().welcome();
  assert.equal(client.state, "connected");
  assert.equal(of("retry").at(-1).lane, "slow");
});

test("requests without an answer in time are failures, until something is answered", async () => {
  const { client, clock, last } = setUp();
  client.connect();
  last().welcome({ limits: { message_bytes: 1000, unacked: 64, unacked_bytes: 100000 } });
  const timeOut = async (count) => {
    for (let each = 0; each < count; each++) {
      const request = client.request("q", { timeout: 10 });
      clock.pass(10);
      await assert.rejects(request, { code: "timeout", sent: true });
    }
  };
  const breaker = () => client.endpoints[0].breaker;
  await timeOut(9);
  last().say({ type: "ack", seq: 9 });
  await timeOut(9);
  assert.equal(breaker(), "closed");
  await timeOut(1);
  assert.equal(breaker(), "open");
  assert.equal(client.state, "connected");
  assert.equal(await outcome(client.request("r")), "pending"); // there is a connection
});

test("results that come while it is open prove nothing", async () => {
  const { client, clock, last } = setUp();
  client.connect();
  last().welcome({ limits: { message_bytes: 1000, unacked: 64, unacked_bytes: 100000 } });
  const requests = Array.from({ length: 10 }, () => client.request("q", { timeout: 10 }));
  const late = client.request("q", { timeout: 5000 });
  clock.pass(10);
  for (let each = 0; each < 20; each++) last().say({ type: "ack", seq: 10 });
  assert.equal(client.endpoints[0].breaker, "open");
  clock.pass(9000);
  last().say({ type: "ping", sent_at: 1 });
  clock.pass(9000);
  last().say({ type: "ping", sent_at: 1 });
  clock.pass(5999);
  assert.equal(client.endpoints[0].breaker, "open");
  clock.pass(1);
  assert.equal(client.endpoints[0].breaker, "half_open");
  for (const request of [...requests, late]) await assert.rejects(request, { code: "timeout" });
});

test("while it is open a connection that is to move stays", async () => {
  const { client, clock, last, sockets } = setUp();
  client.connect();
  last().welcome({ limits: { message_bytes: 1000, unacked: 64, unacked_bytes: 100000 } });
  const requests = Array.from({ length: 10 }, () => client.request("q", { timeout: 10 }));
  clock.pass(10);
  last().say({ type: "ack", seq: 10 });
  last().say({ type: "drain", reconnect_in: 0, close_in: 90_000, reason: "" });
  clock.pass(5000);
  assert.equal(sockets.length, 1);
  assert.equal(client.state, "draining");
  for (const request of requests) await assert.rejects(request, { code: "timeout" });
});

test("what is neither does not begin the ten anew", () => {
  const { clock, breaker, last, of } = failing(9);
  for (const code of [4201, 1006]) {
    clock.pass(of("retry").at(-1).delayMs);
    assert.equal(breaker(), "closed");
    last().lose(code);
  }
  assert.equal(breaker(), "open");
});

test("the twenty have to be of one connection", () => {
  const { clock, breaker, last } = failing(10);
  clock.pass(30_000);
  last().welcome();
  for (let pongs = 0; pongs < 18; pongs++) last().say({ type: "pong", sent_at: clock.time });
  last().say({ type: "drain", reconnect_in: 0, close_in: 9000, reason: "" });
  clock.pass(0);
  last().welcome();
  assert.equal(breaker(), "half_open");
});
