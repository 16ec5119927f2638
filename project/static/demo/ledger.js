/** Counts a sequence by the numbers inside its data, and trusts nothing below it. */
export class Ledger {
  received = 0;
  duplicated = 0;
  outOfOrder = 0;
  highest = 0;
  #missing = new Set();

  /** Numbers below the highest that have not come. One that comes later was out of order. */
  get lost() {
    return this.#missing.size;
  }

  isMissing(number) {
    return this.#missing.has(number);
  }

  /** Takes a number, counted from 1. Returns false for one that had come before. */
  receive(number) {
    if (number > this.highest) {
      for (let hole = this.highest + 1; hole < number; hole++) this.#missing.add(hole);
      this.highest = number;
    } else if (this.#missing.delete(number)) {
      this.outOfOrder++;
    } else {
      this.duplicated++;
      return false;
    }
    this.received++;
    return true;
  }
}
