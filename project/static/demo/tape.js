/** The strip of ticks: one mark a number, the newest on the right. */

const KEPT = 400; // marks; the strip shows as many as fit
const LABELLED = 25; // every so many marks carry their number

export class Tape {
  #element;
  #marks = new Map(); // number → element

  constructor(element) {
    this.#element = element;
  }

  /** A number has come: live, or late because it had to wait for us. */
  show(number, kind) {
    const mark = this.#mark(number);
    mark.className = `tick ${kind}`;
  }

  /** The server has said a number by now, and we are away. */
  expect(number) {
    if (!this.#marks.has(number)) this.show(number, "away");
  }

  /** What was expected beyond `highest` was never said. */
  settle(highest) {
    for (const [number, mark] of this.#marks) {
      if (number > highest) {
        mark.remove();
        this.#marks.delete(number);
      }
    }
  }

  clear() {
    this.settle(0);
  }

  #mark(number) {
    let mark = this.#marks.get(number);
    if (mark) return mark;
    mark = document.createElement("i");
    if (number % LABELLED === 0) mark.dataset.number = number.toLocaleString("en");
    const after = this.#marks.get(number - 1);
    if (after) after.after(mark);
    else this.#element.append(mark);
    this.#marks.set(number, mark);
    if (this.#marks.size > KEPT) {
      const oldest = this.#marks.keys().next().value;
      this.#marks.get(oldest).remove();
      this.#marks.delete(oldest);
    }
    return mark;
  }
}
