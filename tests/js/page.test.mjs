import assert from "node:assert/strict";
import { test } from "node:test";

import { connected, FakeStorage, message, setUp, take } from "./fakes.mjs";

test("a page that is hidden away closes 4000 at once and comes back with its session", () => {
  const { client, page, sockets } = connected();
  page.dispatchEvent(new Event("pagehide"));
  assert.equal(sockets[0].closedWith[0], 4000);
  assert.equal(client.state, "parked");
  page.dispatchEvent(Object.assign(new Event("pageshow"), { persisted: true }));
  sockets[1].open();
  assert.equal(sockets[1].sent[0].session_token, "token");
});

test("online and visible dial at once", () => {
  const { page, last, sockets } = connected();
  last().lose();
  page.dispatchEvent(new Event("online"));
  assert.equal(sockets.length, 2);
  last().lose();
  page.document.visibilityState = "hidden";
  page.document.dispatchEvent(new Event("visibilitychange"));
  assert.equal(sockets.length, 2);
  page.document.visibilityState = "visible";
  page.document.dispatchEvent(new Event("visibilitychange"));
  assert.equal(sockets.length, 3);
});

test("a closed client hears nothing of the page", () => {
  const { client, page, sockets } = connected();
  client.close();
  page.dispatchEvent(new Event("online"));
  assert.equal(sockets.length, 1);
});


// --- hidden, offline ---------------------------------------------------------------------------

test("hidden for five minutes it dials in the slow lane alone, and visible at once", () => {
  const { clock, page, of, sockets, last } = connected();
  page.show("hidden");
  const dials = [];
  for (let second = 0; second < 300; second++) {
    if (sockets.length > dials.length) dials.push(second);
    last().lose(1012);
    clock.pass(1000);
  }
  const gaps = dials.slice(1).map((second, i) => second - dials[i]);
  assert.ok(gaps.length >= 10 && Math.min(...gaps) >= 15, String(gaps));
  assert.deepEqual(new Set(of("retry").map(({ lane }) => lane)), new Set(["slow"]));
  last().lose(1012);
  const before = sockets.length;
  page.show("visible");
  assert.equal(sockets.length, before + 1);
  last().lose();
  assert.deepEqual(of("retry").at(-1), { attempt: 0, delayMs: 1000, lane: "fast" });
});

test("one that is hidden while it waits goes over to the slow lane", () => {
  const { client, clock, page, last, of, sockets } = connected();
  last().lose();
  assert.equal(client.state, "waiting");
  page.show("hidden");
  assert.equal(client.state, "parked");
  assert.deepEqual(of("retry").at(-1), { attempt: 0, delayMs: 15000, lane: "slow" });
  clock.pass(14999);
  assert.equal(sockets.length, 1);
  clock.pass(1);
  assert.equal(sockets.length, 2);
});

test("a hidden tab whose connection works keeps it, and answers without timers", () => {
  const { clock, client, page, last } = connected();
  page.show("hidden");
  for (let second = 0; second < 300; second += 5) {
    clock.time += 5000; // timers are throttled
    last().say({ type: "ping", sent_at: second });
    assert.deepEqual(last().take(), [{ type: "pong", sent_at: second }]);
  }
  clock.pass(0);
  assert.equal(client.state, "connected");
});

test("after throttled timers there is one more look before the silence counts", () => {
  for (const heard of [true, false]) {
    const { clock, client, page, sockets } = connected();
    page.show("hidden");
    clock.time += 60000; // one timer a minute
    clock.pass(0);
    assert.equal(sockets[0].closedWith, null);
    clock.pass(99);
    if (heard) sockets[0].say({ type: "ping", sent_at: 1 });
    clock.pass(1);
    assert.equal(client.state, heard ? "connected" : "parked");
    assert.equal(sockets[0].closedWith?.[0], heard ? undefined : 4001);
  }
});

test("offline it dials in the slow lane, and online at once", () => {
  const { client, page, last, of, sockets } = connected();
  last().lose();
  page.navigator.onLine = false;
  page.say("offline");
  assert.equal(client.state, "parked");
  page.navigator.onLine = true;
  page.say("online");
  assert.equal(sockets.length, 2);
  page.navigator.onLine = false;
  last().lose();
  assert.equal(of("retry").at(-1).lane, "slow");
});

test("what happens offline is no fault of the endpoint", () => {
  const { client, clock, page, last, of } = setUp();
  page.navigator.onLine = false;
  client.connect();
  for (let each = 0; each < 30; each++) {
    last().lose();
    clock.pass(of("retry").at(-1).delayMs);
  }
  assert.equal(client.endpoints[0].breaker, "closed");
  assert.equal(of("retry").at(-1).attempt, 0);
});

// --- waking up ---------------------------------------------------------------------------------

const wakes = {
  visible: (page) => page.show("visible"),
  online: (page) => page.say("online"),
  resume: (page) => page.document.dispatchEvent(new Event("resume")),
};

for (const [name, wake] of Object.entries(wakes)) {
  test(`on ${name} a connection has five seconds to show that it works`, () => {
    for (const answers of [true, false]) {
      const { clock, client, page, sockets, last } = connected();
      clock.pass(2000);
      wake(page);
      assert.deepEqual(last().take(), [{ type: "ping", sent_at: 3000 }]);
      clock.pass(4999);
      if (answers) last().say({ type: "pong", sent_at: 3000 });
      clock.pass(101);
      assert.equal(client.state, answers ? "connected" : "connecting");
      if (!answers) assert.equal(sockets[0].closedWith[0], 4001);
      clock.pass(8000);
      assert.equal(sockets[0].closedWith?.[0], answers ? undefined : 4001);
    }
  });
}

test("what was on its way before the page woke does not show that the connection works", () => {
  for (const answers of [true, false]) {
    const { clock, client, page, sockets, last } = connected();
    clock.pass(2000);
    page.say("online");
    last().say(message(1), { type: "pong", sent_at: 1000 });
    clock.pass(4999);
    if (answers) last().say({ type: "pong", sent_at: 3000 });
    clock.pass(101);
    assert.equal(client.state, answers ? "connected" : "connecting");
    clock.pass(8000);
    assert.equal(sockets[0].closedWith?.[0], answers ? undefined : 4001);
  }
});

test("a connection that is busy may answer late", () => {
  const { clock, page, sockets, last } = connected();
  page.say("online");
  for (let seq = 1; seq < 10; seq++) {
    clock.pass(4000);
    last().say(message(seq));
  }
  assert.equal(sockets[0].closedWith, null);
  last().say({ type: "pong", sent_at: 1000 });
  clock.pass(13_000);
  assert.equal(sockets[0].closedWith, null);
});

test("waking up does not prolong what has been silent for long", () => {
  const { clock, page, sockets } = connected();
  clock.pass(13_000);
  page.say("online");
  clock.pass(1100);
  assert.equal(sockets[0].closedWith[0], 4001);
});

test("a dial keeps its time when the page wakes", () => {
  const { client, clock, page, sockets } = setUp();
  client.connect();
  clock.pass(1000);
  page.show("visible");
  page.say("online");
  clock.pass(8900);
  assert.equal(sockets[0].closedWith, null);
  clock.pass(200);
  assert.equal(sockets[0].closedWith[0], 4001);
});

// --- put away ----------------------------------------------------------------------------------

test("a frozen page closes 4000 at once and resumes when it runs again", () => {
  const { client, clock, page, last, sockets } = connected();
  page.document.visibilityState = "hidden";
  page.document.dispatchEvent(new Event("freeze"));
  assert.equal(sockets[0].closedWith[0], 4000);
  assert.equal(client.state, "parked");
  page.document.dispatchEvent(new Event("resume"));
  last().welcome();
  assert.equal(last().sent[0].session_token, "token");
  clock.pass(10000);
  last().lose();
  assert.equal(client.state, "parked"); // still hidden
  page.show("visible");
  last().lose();
  assert.equal(client.state, "waiting");
});

test("a page that is put away while it moves leaves both connections", () => {
  const { client, clock, page, sockets } = connected();
  sockets[0].say({ type: "drain", reconnect_in: 0, close_in: 9000, reason: "deploy" });
  clock.pass(0);
  page.say("pagehide");
  assert.deepEqual(sockets.map(({ closedWith }) => closedWith[0]), [4000, 4000]);
  assert.equal(client.state, "parked");
  page.say("pageshow", { persisted: false });
  assert.equal(sockets.length, 2);
  page.say("pageshow", { persisted: true });
  assert.equal(sockets.length, 3);
});

// --- storage -----------------------------------------------------------------------------------

const stored = (storage) => {
  const world = setUp({ storage });
  assert.equal(storage.items.size, 0);
  world.client.connect();
  world.last().open();
  return world.last().sent[0];
};

test("the next page goes on with the session, and a duplicated tab gets its own", () => {
  const storage = new FakeStorage();
  const { page, last } = connected({ storage });
  last().say({ type: "subscribed", stream: "__proto__", epoch: "e", head: 7 }, message(1), message(8, "x", "__proto__"));
  const duplicate = new FakeStorage(storage);
  page.say("pagehide");
  assert.equal("session_token" in stored(duplicate), false);
  const { session_token: token, last_seq_id: seq, positions, pending_from: pending } = stored(storage);
  assert.deepEqual([token, seq, Object.entries(positions), pending], ["token", 1, [["__proto__", ["e", 8]]], undefined]);
  assert.equal("session_token" in stored(new FakeStorage(storage)), false); // taken out
});

test("a page that comes back keeps its session to itself", () => {
  const storage = new FakeStorage();
  const { page, last } = connected({ storage });
  page.say("pagehide");
  page.say("pageshow", { persisted: true });
  last().welcome();
  assert.equal(storage.items.size, 0);
  assert.equal(last().sent[0].session_token, "token");
});

test("what no iterator took is asked for by the next page", () => {
  const storage = new FakeStorage();
  const { client, page, last } = connected({ storage });
  client[Symbol.asyncIterator]().next();
  last().say(message(1), message(2), message(3));
  page.say("pagehide");
  assert.equal(stored(storage).last_seq_id, 1);
});

test("nothing is stored of a session that has ended", () => {
  const storage = new FakeStorage();
  const { client, page } = connected({ storage });
  client.close();
  page.say("pagehide");
  assert.equal(storage.items.size, 0);
});
