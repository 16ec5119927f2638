import assert from "node:assert/strict";
import { test } from "node:test";

import { connected, message, take } from "./fakes.mjs";

/** Begins to iterate; `next` gives the data of the next message, "pending" or "done" by now. */
function iterating(client) {
  const iterator = client[Symbol.asyncIterator]();
  let waiting = null;
  return async () => {
    waiting ??= iterator.next();
    const now = new Promise((resolve) => setImmediate(resolve, "pending"));
    const got = await Promise.race([waiting, now]);
    if (got === "pending") return got;
    waiting = null;
    return got.done ? "done" : got.value.data;
  };
}

test("messages are acknowledged when they are taken, and told then", async () => {
  const { client, clock, last, of } = connected();
  const next = iterating(client);
  assert.equal(await next(), "pending");
  last().say(message(1, "a"), message(2, "b"), message(3, "c"));
  assert.equal(await next(), "a");
  assert.equal(await next(), "b");
  clock.pass(1000);
  assert.deepEqual(take(last(), "ack"), [{ type: "ack", seq: 2 }]);
  assert.deepEqual(of("message").map(({ data }) => data), ["a", "b"]);
  assert.equal(client.lastSeq, 3);
});

test("what was not taken is asked for again", async () => {
  const { client, clock, last, of } = connected();
  const next = iterating(client);
  await next();
  last().say({ type: "subscribed", stream: "s", epoch: "e", head: 4 });
  last().say(message(1, "a"), message(5, "b", "s"), message(2, "c"), message(6, "d", "s"));
  assert.equal(await next(), "a");
  assert.equal(await next(), "b");
  last().lose();
  clock.pass(1000);
  last().welcome({ streams: { s: { state: "resumed", epoch: "e", head: 6 } } });
  const { last_seq_id: seq, positions } = last().sent[0];
  assert.deepEqual([seq, positions], [1, { s: ["e", 5] }]);
  last().say(message(2, "c"), message(6, "d", "s"));
  assert.deepEqual([await next(), await next()], ["c", "d"]);
  assert.equal(of("message").length, 4);
});

test("what came before a gap is not asked for, and stays", async () => {
  const { client, clock, last } = connected();
  const next = iterating(client);
  await next();
  last().say(message(1, "a"), message(2, "b"), { type: "gap", reason: "trimmed", head: 9 }, message(10, "c"));
  assert.equal(await next(), "a");
  last().lose();
  clock.pass(1000);
  last().open();
  assert.equal(last().sent[0].last_seq_id, 9);
  assert.equal(await next(), "b");
  assert.equal(await next(), "pending");
});

test("a move to another connection forgets nothing", async () => {
  const { client, clock, sockets } = connected();
  const next = iterating(client);
  await next();
  sockets[0].say(message(1, "a"), message(2, "b"));
  sockets[0].say({ type: "drain", reconnect_in: 0, close_in: 9000, reason: "" });
  clock.pass(0);
  sockets[1].welcome();
  assert.equal(sockets[1].sent[0].last_seq_id, 2);
  sockets[1].take();
  assert.deepEqual([await next(), await next()], ["a", "b"]);
  sockets[1].say(message(3, "c"));
  assert.equal(await next(), "c");
  clock.pass(1000);
  assert.deepEqual(take(sockets[1], "ack"), [{ type: "ack", seq: 3 }]);
});

test("it ends when the client is closed for good, with what has arrived", async () => {
  const { client, last } = connected();
  const next = iterating(client), other = iterating(client);
  await next();
  last().say(message(1, "a"), message(2, "b"));
  assert.equal(await next(), "a");
  last().lose(4507);
  assert.deepEqual([await next(), await next(), await other()], ["b", "done", "done"]);
});

test("a loop that waits ends", async () => {
  const { client, last } = connected();
  const got = [];
  const loop = (async () => {
    for await (const { seq, stream, data } of client) got.push([seq, stream, data]);
  })();
  last().say(message(1, "a"));
  await new Promise((resolve) => setImmediate(resolve));
  client.close();
  await loop;
  assert.deepEqual(got, [[1, null, "a"]]);
});

test("an exit is a message of its stream, and told as what it is", async () => {
  const { client, last, of } = connected();
  const exit = { type: "client_exit", client_id: "c", cause: "timeout", code: 1006 };
  last().say(message(1, exit, "room"), message(1, { type: "client_exit" }), message(2, null, "room"));
  assert.deepEqual(of("exit"), [{ ...exit, stream: "room" }]);
  assert.equal(of("message").length, 3);
  const next = iterating(client);
  await next();
  last().say(message(3, exit, "room"));
  assert.equal((await next()).client_id, "c");
  assert.equal(of("exit").length, 2);
});

test("a loop that is left takes no further message, and the next one goes on", async () => {
  const { client, clock, last } = connected();
  const first = client[Symbol.asyncIterator]();
  const got = first.next();
  last().say(message(1, "a"));
  assert.equal((await got).value.data, "a");
  const never = first.next();
  assert.deepEqual((await first.return()).done, true);
  assert.equal((await never).done, true);
  last().say(message(2, "b"));
  clock.pass(1000);
  assert.deepEqual(take(last(), "ack"), [{ type: "ack", seq: 1 }]); // nobody has the second one
  const data = [];
  for await (const each of client) {
    data.push(each.data);
    if (each.data === "b") break;
  }
  assert.deepEqual(data, ["b"]);
});

test("one loop that is left leaves the others their turn", async () => {
  const { client, last } = connected();
  const [one, other] = [client[Symbol.asyncIterator](), client[Symbol.asyncIterator]()];
  const [left, stays] = [one.next(), other.next()];
  await one.return();
  last().say(message(1, "a"));
  assert.equal((await left).done, true);
  assert.equal((await stays).value.data, "a");
});
