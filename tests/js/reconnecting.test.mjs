import assert from "node:assert/strict";
import { test } from "node:test";

import { connected, message, outcome, setUp, welcome } from "./fakes.mjs";

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
  assert.equal(of("parked").length, 4); // one for each time that it was
});

test("the random part is as wide as the server's window", () => {
  const { clock, last, of } = connected({ random: () => 0.5 });
  last().lose();
  assert.deepEqual(of("retry"), [{ attempt: 0, delayMs: 1000 + 2500, lane: "fast" }]);
  clock.pass(3500);
  last().welcome();
  clock.pass(5000);
  last().lose(1012);
  assert.deepEqual(of("retry").at(-1), { attempt: 0, delayMs: 2500, lane: "fast" });
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

test("the last try is the end where that is wanted", () => {
  const { client, clock, last, of, sockets } = setUp({ whenExhausted: "stop", maxRetries: 2 });
  client.connect();
  for (let each = 0; each < 2; each++) {
    last().lose();
    clock.pass(of("retry").at(-1).delayMs);
  }
  last().lose();
  assert.equal(client.state, "closed");
  assert.deepEqual(of("close").at(-1), { code: 1006, reason: "", final: true });
  assert.equal(sockets.length, 3);
  assert.equal(clock.pending, 0);
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
  clock.pass(10100);
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

test("only a welcome counts before the welcome", () => {
  const { client, clock, sockets } = setUp();
  client.connect();
  sockets[0].open();
  for (let second = 0; second < 15; second += 5) {
    sockets[0].say({ type: "news" });
    clock.pass(5000);
  }
  clock.pass(100);
  assert.equal(sockets[0].closedWith[0], 4001);
});

test("after 1013 it begins with the third delay", () => {
  const { last, of } = connected();
  last().lose(1013);
  assert.deepEqual(of("retry"), [{ attempt: 2, delayMs: 4000, lane: "fast" }]);
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
  assert.equal(client.state, "connected");
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
    last().say(message(1), message(2));
    last().lose(code);
    clock.pass(1000);
    last().welcome();
    last().say(message(1, "of the new session"));
    assert.equal(of("message").length, 3);
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

test("refusals before a welcome do not count after it", () => {
  const { clock, last, of } = connected();
  const lose = (code) => {
    last().lose(code);
    clock.pass(of("retry").at(-1).delayMs);
    last().open();
  };
  for (const code of [1006, 1002, 1002]) lose(code);
  last().say(welcome({ resumed: true, session_token: null }));
  for (const code of [1006, 1008, 1008]) lose(code);
  assert.equal(last().sent[0].session_token, "token");
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
  assert.equal(client.state, "connected");
});

test("messages behind the one whose listener cut the connection come again", () => {
  const { client, last, of } = connected();
  client.addEventListener("message", () => client.cut(), { once: true });
  last().say(message(1), message(2), welcome({ resumed: true }));
  assert.equal(client.state, "waiting");
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
