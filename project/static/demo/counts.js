/** What this page has counted, and what all pages have. */

import { Ledger } from "./ledger.js";

const IDS = ["sent", "received", "lost", "duplicated", "out_of_order", "replayed", "resumed"];

export class Counts {
  sent = 0;
  received = 0;
  replayed = 0;
  resumed = 0;
  #ledgers = new Map(); // sequence → ledger
  #closed = []; // ledgers of sessions that are gone
  #others = new Map(); // client → its counts

  /** A numbered thing has come; `first` is the number that had to come first, if one had to.
   * Returns the highest number before it, 0 when it is the first. */
  receive(sequence, number, first = number) {
    let ledger = this.#ledgers.get(sequence);
    if (!ledger) this.#ledgers.set(sequence, (ledger = new Ledger(first)));
    const before = ledger.received ? ledger.highest : 0;
    ledger.receive(number);
    return before;
  }

  /** The next numbers are of a new session: nothing is known of what came between. */
  startAgain() {
    this.#closed.push(...this.#ledgers.values());
    this.#ledgers.clear();
  }

  /** What the page of another visitor says it has counted. */
  learn(client, counts) {
    this.#others.set(client, counts);
  }

  /** This page's own, in the words of the server. */
  own() {
    const ledgers = [...this.#closed, ...this.#ledgers.values()];
    const sum = (name) => ledgers.reduce((total, ledger) => total + ledger[name], 0);
    return {
      sent: this.sent,
      received: this.received,
      lost: sum("lost"),
      duplicated: sum("duplicated"),
      out_of_order: sum("outOfOrder"),
      replayed: this.replayed,
      resumed: this.resumed,
    };
  }

  /** Sums over all visitors; `me` is counted as this page knows itself. */
  total(me) {
    const all = [this.own()];
    for (const [client, counts] of this.#others) if (client !== me) all.push(counts);
    return Object.fromEntries(
      IDS.map((id) => [id, all.reduce((total, counts) => total + (counts[id] ?? 0), 0)]),
    );
  }
}
