import assert from "node:assert/strict";
import { test } from "node:test";

import { connected, message, outcome, sent, setUp, welcome } from "./fakes.mjs";

// --- reconnecting ------------------------------------------------------------------------------

test("tries grow apart, then it is parked, without end", () => {
  const { client, clock, last, of } = setUp();
  client.connect();
  for (let each = 0; each < 8; each++) {
    last().lose();
    clock.pass(of("retry").at(-1).delayMs);
  }
  const delays = of("retry").map(({ attempt, delayMs }) => [attempt, delayMs]);
  assert.deepEqual(delays, [
    [0, 1000], [1, 2000], [2, 4000], [3, 8000], [4, 16000], [5, 15000], [6, 15000], [7, 15000],
  ]);
  last().lose();
  assert.equal(client.state, "parked");
});

test("the random part is as wide as the server's window", () => {
  const { clock, last, of } = connected({ random: () => 0.5 });
  last().lose();
  assert.deepEqual(of("retry"), [{ attempt: 0, delayMs: 1000 + 2500 }]);
  clock.pass(3500);
  last().welcome();
  clock.pass(5000);
  last().lose(1012);
  assert.deepEqual(of("retry").at(-1), { attempt: 0, delayMs: 2500 });
});

test("only five seconds of being welcomed start the count afresh", () => {
  const { client, clock, last, of } = setUp();
  client.connect();
  last().lose();
  clock.pass(1000);
  last().lose();
  clock.pass(2000);
  last().welcome();
  clock.pass(4999);
  last().lose();
  assert.deepEqual(of("retry").map(({ attempt }) => attempt), [0, 1, 1]);
});

test("several endpoints are tried in turn", () => {
  const { client, clock, last } = setUp({}, ["ws://a/", "ws://b/"]);
  client.connect();
  const urls = [last().url];
  for (const code of [1006, 1006]) {
    last().lose(code);
    clock.pass(4000);
    urls.push(last().url);
  }
  assert.deepEqual(urls, ["ws://a/", "ws://b/", "ws://a/"]);
});

test("a dial that hangs and a welcome that does not come are given up", () => {
  const { client, clock, sockets } = setUp();
  client.connect();
  clock.pass(10000);
  assert.notEqual(sockets[0].closedWith, null);
  clock.pass(1000);
  sockets[1].open();
  clock.pass(15100);
  assert.equal(sockets[1].closedWith[0], 4001);
});

test("a silent server is left with 4001 after 14 s, and any frame counts", () => {
  const { clock, sockets } = connected();
  clock.pass(13000);
  sockets[0].say({ type: "ping", sent_at: 1 });
  clock.pass(13900);
  assert.equal(sockets[0].closedWith, null);
  clock.pass(200);
  assert.equal(sockets[0].closedWith[0], 4001);
});

test("what arrived while the machine slept is read before the timer is believed", () => {
  const { clock, sockets } = connected();
  clock.time += 60000; // nothing runs
  clock.pass(0);
  sockets[0].say({ type: "ping", sent_at: 1 });
  clock.pass(5000);
  assert.equal(sockets[0].closedWith, null);
});

test("late events of an old socket change nothing", () => {
  const { client, clock, sockets } = connected();
  client.cut();
  clock.pass(1000);
  sockets[1].welcome();
  sockets[0].lose(1006);
  sockets[0].say(message(1));
  sockets[0].onopen();
  assert.equal(client.state, "open");
  assert.equal(client.lastSeq, 0);
  assert.deepEqual(sockets[0].take(), []);
});

for (const code of [1006, 1011, 1012, 1013, 4102, 4201]) {
  test(`the token is kept after ${code}`, () => {
    const { clock, last } = connected();
    last().lose(code);
    clock.pass(4000);
    last().open();
    assert.equal(last().sent[0].session_token, "token");
  });
}

for (const code of [4300, 4301, 4403]) {
  test(`the token is dropped and the loss is told after ${code}`, () => {
    const { clock, last, of } = connected();
    last().lose(code);
    clock.pass(1000);
    last().welcome();
    assert.equal("session_token" in last().sent[0], false);
    assert.deepEqual(of("gap").map(({ reason }) => reason), ["expired"]);
  });
}

test("the third refusal in a row drops the token", () => {
  const { clock, last, of } = connected();
  last().lose();
  const offered = [];
  for (let each = 0; each < 4; each++) {
    clock.pass(of("retry").at(-1).delayMs);
    last().open();
    offered.push("session_token" in last().sent[0]);
    last().lose(1002);
    clock.pass(of("retry").at(-1).delayMs);
    last().lose(); // a dial that did not get as far as its hello
  }
  assert.deepEqual(offered, [true, true, true, false]);
});

// --- the end -----------------------------------------------------------------------------------

test("close says bye and leaves nothing behind", async () => {
  const { client, clock, last, of } = connected();
  const waits = client.send("x");
  last().take();
  client.close("done");
  assert.deepEqual(last().take(), [{ type: "bye", reason: "done" }]);
  assert.equal(last().closedWith[0], 1000);
  assert.deepEqual(await outcome(waits), { error: "closed" });
  assert.deepEqual(await outcome(client.send("y")), { error: "closed" });
  assert.equal(clock.pending, 0);
  assert.deepEqual(of("close"), [{ code: 1000, reason: "done", final: true }]);
});

for (const code of [4501, 4503, 4506, 4507, 3000, 4700]) {
  test(`the client stops after ${code} until it is asked to connect`, () => {
    const { client, clock, last, of, sockets } = setUp();
    client.connect();
    last().welcome();
    const [{ instance }] = last().take();
    last().lose(code, "why");
    assert.deepEqual(of("close"), [{ code, reason: "why", final: true }]);
    assert.equal(client.state, "closed");
    clock.pass(100000);
    assert.equal(sockets.length, 1);
    client.connect();
    last().open();
    assert.equal(last().sent[0].attempt, 1);
    assert.notEqual(last().sent[0].instance, instance);
  });
}

test("superseded by itself it goes on", () => {
  const { clock, client, last } = setUp();
  client.connect();
  last().open();
  const [{ instance }] = last().take();
  last().say(welcome());
  last().say({ type: "superseded", instance });
  last().lose(4501);
  clock.pass(1000);
  last().welcome();
  assert.equal(client.state, "open");
});

// --- make before break -------------------------------------------------------------------------

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
  assert.equal(client.state, "open");
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
  sockets[0].say({ type: "ping", sent_at: 2 });
  assert.deepEqual(sockets[0].take(), [{ type: "pong", sent_at: 2, seq: 1 }]);
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
  assert.equal(client.state, "open");
});

test("an old connection that ends while the new one is dialled costs no back-off", () => {
  const { client, clock, sockets, of } = connected();
  sockets[0].say({ ...drain, reconnect_in: 0 });
  clock.pass(0);
  sockets[0].lose(1012);
  assert.equal(client.state, "connecting");
  sockets[1].welcome();
  assert.equal(client.state, "open");
  assert.deepEqual(of("retry"), []);
});

// --- the page ----------------------------------------------------------------------------------

test("a page that is hidden away closes 4000 at once and comes back with its session", () => {
  const { client, page, sockets } = connected();
  page.dispatchEvent(new Event("pagehide"));
  assert.equal(sockets[0].closedWith[0], 4000);
  assert.equal(client.state, "waiting");
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

test("messages behind the one whose listener cut the connection come again", () => {
  const { client, last, of } = connected();
  client.addEventListener("message", () => client.cut(), { once: true });
  last().say(message(1), message(2));
  assert.equal(client.lastSeq, 1);
  assert.equal(of("message").length, 1);
});

test("a listener may connect or close from any event", () => {
  const { client, clock, last, sockets } = connected();
  client.addEventListener("close", () => client.connect(), { once: true });
  last().lose();
  assert.equal(sockets.length, 2);
  last().welcome();
  client.addEventListener("message", () => client.close());
  last().say(message(1), message(2));
  assert.equal(client.state, "closed");
  assert.equal(client.lastSeq, 0);
  assert.equal(clock.pending, 0);
});
