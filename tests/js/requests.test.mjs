import assert from "node:assert/strict";
import { test } from "node:test";

import { connected, outcome, sent, setUp } from "./fakes.mjs";

const busy = { type: "nack", code: "try_again", detail: "busy", retry: true };

const failure = (promise) => promise.then(() => null, ({ code, sent }) => [code, sent]);

test("a request is a message whose result comes back", async () => {
  const { client, last } = connected();
  const request = client.request("q");
  assert.deepEqual(sent(last()), [[1, "q"]]);
  last().say({ type: "ack", seq: 1, results: { 1: "A" } });
  assert.deepEqual(await outcome(request), { value: "A" });
});

test("it is tried three times, 50 ms apart and doubling, and taken back", async () => {
  const { client, clock, last } = connected();
  const request = client.request("q");
  assert.deepEqual(sent(last()), [[1, "q"]]);
  for (const wait of [50, 100]) {
    last().say({ ...busy, seq: 1 });
    clock.pass(wait - 1);
    assert.deepEqual(sent(last()), []);
    clock.pass(1);
    assert.deepEqual(sent(last()), [[1, "q"]]);
  }
  const behind = client.send("next");
  last().take();
  last().say({ ...busy, seq: 1 });
  assert.deepEqual(await failure(request), ["try_again", false]);
  clock.pass(200);
  assert.deepEqual(sent(last()), [[1, "next"]]); // its number
  last().say({ type: "ack", seq: 1, results: { 1: "N" } });
  assert.deepEqual(await outcome(behind), { value: "N" });
});

test("the server's own delay counts where it is longer", () => {
  const { client, clock, last } = connected();
  client.request("q");
  last().take();
  last().say({ ...busy, seq: 1, retry_after: 300 });
  clock.pass(299);
  assert.deepEqual(sent(last()), []);
  clock.pass(1);
  assert.deepEqual(sent(last()), [[1, "q"]]);
});

test("a message of send is tried for ever, at most a second apart", () => {
  const { client, clock, last } = connected();
  client.send("m");
  for (const wait of [50, 100, 200, 400, 800, 1000, 1000]) {
    last().take();
    last().say({ ...busy, seq: 1 });
    clock.pass(wait - 1);
    assert.deepEqual(sent(last()), []);
    clock.pass(1);
    assert.deepEqual(sent(last()), [[1, "m"]]);
  }
});

test("one that was not sent in time is taken back", async () => {
  const { client, clock, last } = connected();
  last().lose();
  const requests = [client.request("a", { timeout: 500 }), client.request("b")];
  clock.pass(500);
  assert.deepEqual(await failure(requests[0]), ["timeout", false]);
  clock.pass(500);
  last().welcome();
  assert.deepEqual(sent(last()), [[1, "b"]]);
});

test("the outcome of one that is on its way is unknown, and its number is used", async () => {
  const { client, clock, last } = connected();
  const request = client.request("q");
  clock.pass(9999);
  last().say({ type: "ping", sent_at: 1 });
  assert.equal(await outcome(request), "pending");
  clock.pass(1);
  assert.deepEqual(await failure(request), ["timeout", true]);
  last().take();
  client.send("next");
  assert.deepEqual(sent(last()), [[2, "next"]]);
  last().say({ type: "ack", seq: 1, results: { 1: "late" } });
});

test("one that a lost connection may have carried is in doubt, and keeps its number", async () => {
  const { client, clock, last } = connected();
  const request = client.request("q", { tries: 1 });
  last().lose();
  clock.pass(1000);
  last().welcome();
  last().say({ ...busy, seq: 1 });
  assert.deepEqual(await failure(request), [busy.code, true]);
  client.send("next");
  clock.pass(1000);
  assert.deepEqual(sent(last()).slice(-2), [[1, "q"], [2, "next"]]);
});

test("one that the server had begun with keeps its number, too", async () => {
  const { client, clock, last } = connected();
  const request = client.request("q", { tries: 1 });
  last().say({ ...busy, seq: 1, code: "interrupted" });
  assert.deepEqual(await failure(request), ["interrupted", true]);
  client.send("next");
  clock.pass(1000);
  assert.deepEqual(sent(last()).slice(-2), [[1, "q"], [2, "next"]]);
});

test("what was given up or nacked is not sent into a new session", async () => {
  const { client, clock, last } = connected();
  const results = ["given up", "nacked", "waits"].map((data) => failure(client.request(data, {
    timeout: data === "given up" ? 10 : 60_000,
  })));
  last().say({ type: "nack", seq: 2, code: "error", detail: "no" });
  clock.pass(10);
  assert.deepEqual(await Promise.all(results.slice(0, 2)), [["timeout", true], ["error", true]]);
  last().lose(4300);
  clock.pass(1000);
  last().welcome();
  assert.deepEqual(sent(last()), [[1, "waits"]]);
});

test("without a connection and with every breaker open it fails at once", async () => {
  const { client, clock, last, of } = setUp();
  client.connect();
  const before = client.request("q", { timeout: 300_000 });
  for (let each = 0; each < 10; each++) {
    last().lose();
    if (each < 9) clock.pass(of("retry").at(-1).delayMs);
  }
  assert.equal(client.endpoints[0].breaker, "open");
  assert.deepEqual(await failure(client.request("q")), ["circuit_open", false]);
  assert.equal(await outcome(before), "pending");
  assert.equal(await outcome(client.send("m")), "pending");
});

test("a closed client takes no requests", async () => {
  const { client } = connected();
  const request = client.request("q");
  client.close();
  assert.deepEqual(await failure(request), ["closed", true]);
  assert.deepEqual(await failure(client.request("q")), ["closed", false]);
});
