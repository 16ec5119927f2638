import assert from "node:assert/strict";
import { test } from "node:test";

import { Clock, fakeFetch, setUp, take } from "./fakes.mjs";

const THREE = ["ws://a/", "ws://b/", "ws://c/"];

/** A client of hosts that answer a request after so many ms, and what it asked over HTTP. A probe is
 *  two requests, of which the second is measured. */
async function among(delays, options = {}, urls = THREE) {
  const { clock = new Clock() } = options;
  const { asked, fetch } = fakeFetch(clock, delays);
  const world = setUp({ clock, fetch, probe: "/graceful/ping/", ...options }, urls);
  world.client.connect();
  await clock.passing(0);
  return { ...world, asked };
}

const rtts = (client) => client.endpoints.map(({ rtt }) => rtt);

// --- the first choice --------------------------------------------------------------------------

test("a single endpoint is dialled at once", async () => {
  const { asked, sockets } = await among({ a: 5 }, {}, ["ws://a/"]);
  assert.equal(sockets.length, 1);
  assert.deepEqual(asked, []);
});

test("several are asked over HTTP first, and the nearest is dialled", async () => {
  const { asked, client, clock, sockets } = await among({ "a:8000": 80, b: 5, c: 200 }, {}, [
    "ws://a:8000/x/", "wss://b/ws/?q=1", "ws://c/",
  ]);
  assert.deepEqual(asked, [
    "http://a:8000/graceful/ping/", "https://b/graceful/ping/", "http://c/graceful/ping/",
  ]);
  assert.equal(client.state, "connecting");
  await clock.passing(2 * 5 + 15);
  assert.deepEqual(sockets.map(({ url }) => url), ["wss://b/ws/?q=1"]);
  assert.deepEqual(rtts(client), [null, 5, null]);
});

test("two that are nearly equal are shared at random", async () => {
  for (const [random, url] of [[0.49, "ws://a/"], [0.51, "ws://b/"], [0.99, "ws://b/"]]) {
    const { clock, sockets } = await among({ a: 100, b: 119, c: 140 }, { random: () => random });
    await clock.passing(2 * 120);
    assert.equal(sockets[0].url, url);
  }
});

test("when all have answered nobody waits any longer", async () => {
  const { clock, sockets } = await among({ a: 100, b: 101, c: 102 });
  await clock.passing(2 * 102);
  assert.equal(sockets.length, 1);
});

test("a dead endpoint does not delay the choice", async () => {
  const { client, clock, sockets } = await among({ b: 30 }, { random: () => 0.99 });
  await clock.passing(2 * 30 + 14);
  assert.equal(sockets.length, 0);
  await clock.passing(1);
  assert.equal(sockets[0].url, "ws://b/");
  assert.deepEqual(rtts(client), [null, 30, null]);
});

test("one that answers 503 drains, and counts as silent", async () => {
  const { client, clock, sockets } = await among({ a: 3, b: 50, c: 51 });
  await clock.passing(2 * 51);
  assert.equal(sockets[0].url, "ws://b/");
  assert.deepEqual(rtts(client), [null, 50, 51]);
});

test("what connecting costs is not measured", async () => {
  const clock = new Clock(), connected = new Set();
  const fetch = ({ host }) => new Promise((resolve) => {
    const delay = { a: 30, b: 40 }[host] + (connected.has(host) ? 0 : 20);
    connected.add(host);
    clock.setTimeout(() => resolve({ status: 204 }), delay);
  });
  const { client } = await among({}, { clock, fetch }, THREE.slice(0, 2));
  await clock.passing(100);
  assert.deepEqual(rtts(client), [30, 40]);
});

test("without any answer within 1.5 s one is taken at random", async () => {
  const { clock, sockets } = await among({ a: 751 }, { random: () => 0.99 });
  await clock.passing(1499);
  assert.equal(sockets.length, 0);
  await clock.passing(1);
  assert.equal(sockets[0].url, "ws://c/");
});

test("with the probe switched off it is random too", async () => {
  const { asked, sockets } = await among({ a: 5 }, { probe: null, random: () => 0.5 });
  assert.equal(sockets[0].url, "ws://b/");
  assert.deepEqual(asked, []);
});

test("a client that is closed while it chooses dials nobody", async () => {
  const { client, clock, sockets } = await among({ a: 5 });
  client.close();
  await clock.passing(20);
  assert.equal(sockets.length, 0);
  assert.equal(clock.pending, 0);
});

// --- round trips -------------------------------------------------------------------------------

test("the client pings once behind each welcome, and averages what it learns", () => {
  const { client, clock, last } = setUp();
  client.connect();
  clock.pass(1000);
  last().welcome();
  assert.deepEqual(take(last(), "ping"), [{ type: "ping", sent_at: 2000 }]);
  assert.equal(client.rtt, null);
  clock.pass(100);
  last().say({ type: "pong", sent_at: 2000 });
  assert.equal(client.rtt, 100);
  last().say({ type: "ping", sent_at: 7, rtt: 0.2 });
  assert.equal(client.rtt, 120);
  assert.deepEqual(take(last(), "ping"), []);
  assert.deepEqual(client.endpoints, [{ url: "ws://a/", rtt: 120, breaker: "closed", current: true }]);
});

test("the others are asked every five minutes while somebody looks", async () => {
  const delays = { a: 10, b: 50 };
  const { asked, client, clock, last, page } = await among(delays, { random: () => 0.5 }, THREE);
  await clock.passing(35);
  last().welcome();
  const live = async (ms) => {
    for (let passed = 0; passed < ms; passed += 10_000) {
      await clock.passing(10_000);
      last().say({ type: "ping", sent_at: 1 });
    }
  };
  asked.length = 0;
  await live(290_000);
  assert.deepEqual(asked, []);
  await live(20_000);
  assert.deepEqual(new Set(asked), new Set(["http://b/graceful/ping/", "http://c/graceful/ping/"]));
  assert.deepEqual(rtts(client), [10, 50, null]);
  delays.b = 100;
  await live(300_000);
  assert.deepEqual(rtts(client), [10, 60, null]);
  delete delays.b;
  await live(300_000);
  assert.deepEqual(rtts(client), [10, null, null]);
  asked.length = 0;
  page.show("hidden");
  await live(600_000);
  assert.deepEqual(asked, []);
});

test("round trips of probes and of connections are not averaged with each other", async () => {
  const { client, clock, last } = await among({ a: 50 }, {}, THREE.slice(0, 2));
  await clock.passing(2 * 50 + 20);
  assert.deepEqual(rtts(client), [50, null]);
  last().welcome();
  last().say({ type: "ping", sent_at: 1, rtt: 0.01 });
  assert.deepEqual(rtts(client), [10, null]);
  last().say({ type: "ping", sent_at: 1, rtt: 0.02 });
  assert.deepEqual(rtts(client), [12, null]);
});

test("a nearer endpoint is no reason to leave a connection", async () => {
  const delays = { a: 100, b: 300 };
  const { client, clock, sockets, last } = await among(delays, {}, ["ws://a/", "ws://b/"]);
  await clock.passing(600);
  last().welcome();
  delays.b = 1;
  for (let passed = 0; passed < 700; passed += 10) {
    await clock.passing(10_000);
    last().say({ type: "ping", sent_at: 1, rtt: 0.5 });
  }
  assert.ok(rtts(client)[1] < rtts(client)[0]);
  assert.equal(sockets.length, 1);
  assert.equal(client.endpoint, "ws://a/");
});

// --- put aside ---------------------------------------------------------------------------------

test("one that was lost comes after all others, and a welcome forgives it", async () => {
  const { again, clock, last, sockets } = await among({ a: 10, b: 50, c: 90 });
  await clock.passing(180);
  last().welcome();
  for (let each = 0; each < 4; each++) await again(1006);
  last().welcome();
  await again(4105);
  const dialled = sockets.map(({ url }) => url.at(-2)).join("");
  assert.equal(dialled, "abcaba"); // the first to be put aside is the first to be tried again
});

test("a close in good order puts nobody aside", async () => {
  const { again, clock, last, sockets } = await among({ a: 10, b: 50 }, {}, THREE.slice(0, 2));
  await clock.passing(120);
  for (const code of [1000, 4102, 4105, 4300]) {
    last().welcome();
    await again(code);
  }
  assert.deepEqual(new Set(sockets.map(({ url }) => url)), new Set(["ws://a/"]));
});

for (const code of [1001, 1006, 1011, 1012, 1013]) {
  test(`after ${code} another one comes first`, async () => {
    const { again, clock, last } = await among({ a: 10, b: 50 }, {}, THREE.slice(0, 2));
    await clock.passing(120);
    last().welcome();
    await again(code);
    assert.equal(last().url, "ws://b/");
  });
}

test("one that drains comes after all others at once", async () => {
  const { again, clock, last } = await among({ a: 10, b: 50 }, {}, THREE.slice(0, 2));
  await clock.passing(120);
  last().welcome();
  last().say({ type: "drain", reconnect_in: 5000, close_in: 9000, reason: "deploy" });
  await again(4105);
  assert.equal(last().url, "ws://b/");
});

test("a client that moves takes any other endpoint, however far", async () => {
  const { clock, sockets, last } = await among({ a: 10, b: 900 }, {}, ["ws://a/", "ws://b/"]);
  await clock.passing(1500);
  last().welcome();
  last().say({ type: "drain", reconnect_in: 0, close_in: 9000, reason: "deploy" });
  await clock.passing(0);
  assert.equal(sockets[1].url, "ws://b/");
  sockets[1].lose();
  await clock.passing(1000);
  assert.equal(sockets[2].url, "ws://b/");
  sockets[2].welcome();
  sockets[2].lose(4105);
  await clock.passing(10_000);
  assert.equal(last().url, "ws://a/");
});
