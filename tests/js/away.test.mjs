import assert from "node:assert/strict";
import { test } from "node:test";

import { connected, message, outcome, sent } from "./fakes.mjs";

/** A client whose connection was closed 4106. */
function reclaimed(options) {
  const world = connected(options);
  world.last().say(message(1, "before"));
  world.clock.pass(6000);
  world.last().lose(4106, "memory 87 % of 512 MiB, idle 412 s");
  return world;
}

// --- closed for memory -------------------------------------------------------------------------

test("a reclaimed connection is made again in the slow lane only", () => {
  const { client, clock, last, of, sockets } = reclaimed({ random: () => 0.5 });
  assert.equal(client.state, "parked");
  assert.equal(of("parked").length, 1);
  assert.deepEqual(of("retry"), [{ attempt: 0, delayMs: 30_000, lane: "slow" }]);
  assert.equal(of("close").at(-1).code, 4106);
  clock.pass(29_999);
  assert.equal(sockets.length, 1);
  clock.pass(1);
  last().open();
  assert.deepEqual([last().sent[0].session_token, last().sent[0].last_seq_id], ["token", 1]);
});

test("the slow lane after 4106 is not the last of the tries", () => {
  const { client } = reclaimed({ whenExhausted: "stop", maxRetries: 0 });
  assert.equal(client.state, "parked");
});

const uses = {
  send: (client) => client.send("x"),
  request: (client) => client.request("x"),
  volatile: (client) => assert.equal(client.volatile("x"), false),
  connect: (client) => client.connect(),
  "a look at the page": (client, page) => page.show("visible"),
  "a network that is back": (client, page) => page.say("online"),
};
for (const [name, use] of Object.entries(uses)) {
  test(`${name} ends the wait of the reclaimed at once`, async () => {
    const { client, last, page, sockets } = reclaimed();
    const result = use(client, page);
    assert.equal(sockets.length, 2);
    last().welcome();
    assert.equal(client.state, "connected");
    last().say({ type: "ack", seq: 1, results: { 1: "y" } });
    if (result) assert.deepEqual(await outcome(result), { value: "y" });
  });
}

test("what was on its way when it was reclaimed is sent again soon", () => {
  const { client, clock, last } = connected();
  client.send("x");
  clock.pass(6000);
  last().lose(4106);
  assert.equal(client.state, "waiting");
  clock.pass(5000);
  last().welcome();
  assert.deepEqual(sent(last()), [[1, "x"]]);
});

test("sending does not end a wait for a server that is away", () => {
  const { client, clock, last, sockets } = reclaimed();
  client.connect();
  last().lose();
  client.send("x");
  client.volatile("y");
  assert.equal(sockets.length, 2);
  assert.equal(client.state, "waiting");
  clock.pass(1000);
  assert.equal(sockets.length, 3);
});

test("a client that is closed while it is reclaimed stays closed", () => {
  const { client, clock, sockets } = reclaimed();
  client.close();
  assert.equal(client.volatile("x"), false);
  assert.equal(client.state, "closed");
  assert.equal(sockets.length, 1);
  assert.equal(clock.pending, 0);
});

// --- closed for its pace -----------------------------------------------------------------------

const error = (retryAfter) => ({
  type: "error", code: "rate", detail: "too many", retry_after: retryAfter,
});

test("a server that says when to come back is obeyed, and nothing is lost", async () => {
  const { client, clock, last, of, sockets } = connected();
  const told = [];
  client.addEventListener("error", ({ detail }) => told.push(detail));
  const sends = [client.send("a"), client.send("b")];
  clock.pass(6000);
  last().say(error(7000));
  clock.pass(500);
  last().lose(4201);
  assert.deepEqual(told, [error(7000)]);
  assert.deepEqual(of("retry"), [{ attempt: 0, delayMs: 6500, lane: "fast" }]);
  clock.pass(6499);
  assert.equal(sockets.length, 1);
  clock.pass(1);
  last().welcome({ last_client_seq: 1 });
  last().say({ type: "ack", seq: 1, results: { 1: "done before" } });
  assert.deepEqual(sent(last()), [[2, "b"]]);
  last().say({ type: "ack", seq: 2, results: { 2: "done after" } });
  const outcomes = await Promise.all(sends.map(outcome));
  assert.deepEqual(outcomes, [{ value: "done before" }, { value: "done after" }]);
});

test("the server's word has a bound, and the application may come sooner", () => {
  const { client, last, of, sockets } = connected();
  last().say(error(1e9));
  last().lose(4201);
  assert.equal(of("retry").at(-1).delayMs, 300_000);
  client.connect();
  assert.equal(sockets.length, 2);
});

test("an error that asks for nothing delays nothing, and one that asks for nonsense is no frame", () => {
  const { clock, last, of, sockets } = connected();
  last().say({ type: "error", code: "x" });
  last().lose(4201);
  assert.equal(of("retry").at(-1).delayMs, 1000);
  clock.pass(1000);
  last().welcome();
  last().say(error("soon"));
  assert.equal(sockets[1].closedWith[0], 4000);
});
