/** Counts a sequence by the numbers inside its data, and trusts nothing below it. */
export class Ledger {
  received = 0;
  duplicated = 0;
  outOfOrder = 0;
  highest;
  #missing = new Set();

  /** `first`: the number that has to come first. */
  constructor(first = 1) {
    this.highest = first - 1;
  }

  /** Numbers below the highest that have not come. One that comes later was out of order. */
  get lost() {
    return this.#missing.size;
  }

  /** Takes a number. Returns false for one that had come before. */
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
