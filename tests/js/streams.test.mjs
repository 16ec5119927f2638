import assert from "node:assert/strict";
import { test } from "node:test";

import { connected, message, welcome } from "./fakes.mjs";

const subscribed = (stream, head, epoch = "e") => ({ type: "subscribed", stream, epoch, head });

/** A client that has 11 and 12 of a stream, and a second connection that has said hello. */
function twelveOf(stream) {
  const set = connected();
  set.last().say(subscribed(stream, 10), message(11, "a", stream), message(12, "b", stream));
  set.last().take();
  set.last().lose();
  set.clock.pass(1000);
  set.last().open();
  return { ...set, hello: set.last().take()[0] };
}

const again = (streams) => welcome({ resumed: true, session_token: null, streams });
const got = (of) => of("message").map(({ seq, data }) => [seq, data]);

test("what came since the hello had left is not delivered again", () => {
  const { last, of } = twelveOf("s");
  last().say(again({ s: { state: "new", epoch: "e", head: 10 } }));
  last().say(message(11, "a", "s"), message(12, "b", "s"), message(13, "c", "s"));
  assert.deepEqual(got(of), [[11, "a"], [12, "b"], [13, "c"]]);
});

test("a stream that begins further on, or anew, begins there", () => {
  for (const told of [{ epoch: "e", head: 20 }, { epoch: "f", head: 5 }]) {
    const { last, of } = twelveOf("s");
    last().say(again({ s: { state: "new", ...told } }));
    last().say(message(told.head + 1, "x", "s"));
    assert.deepEqual(got(of).at(-1), [told.head + 1, "x"]);
    assert.equal(last().closedWith, null);
  }
});

test("a stream that is denied is forgotten", () => {
  const { clock, last } = twelveOf("s");
  last().say(again({ s: { state: "denied" } }));
  last().lose();
  clock.pass(1000);
  last().open();
  assert.deepEqual(last().take()[0].positions, {});
});

test("a stream may have the name of what every object has", () => {
  for (const name of ["__proto__", "constructor", "toString"]) {
    const { clock, last, hello } = twelveOf(name);
    assert.deepEqual(Object.entries(hello.positions), [[name, ["e", 12]]]);
    last().say(again(JSON.parse(`{"${name}": {"state": "resumed", "epoch": "e", "head": 12}}`)));
    last().say(message(13, "c", name));
    clock.pass(1000);
    const ack = last().take().find(({ type }) => type === "ack");
    assert.deepEqual(Object.entries(ack.streams), [[name, 13]]);
  }
});
