/** Where the client could go, where it went, and which lane it is in when it has nowhere. */

const SHOWN = { closed: "works", open: "left alone", half_open: "on trial" };

export class Way {
  #list; #lane; #names = new Map(); // endpoint → the node that answered there
  #retryAt = null; #attempt = 0; #slow = false; #of;

  /** `of`: the tries in the fast lane. */
  constructor({ endpoints, lane, of }) {
    this.#list = endpoints;
    this.#lane = lane;
    this.#of = of;
  }

  opened({ node, endpoint }) {
    this.#names.set(endpoint, node);
    this.#retryAt = null;
  }

  retries({ attempt, delayMs, lane }) {
    this.#attempt = attempt + 1;
    this.#slow = lane === "slow";
    this.#retryAt = Date.now() + delayMs;
  }

  draw({ state, endpoints }) {
    this.#list.replaceChildren(...endpoints.map((each) => this.#row(each)));
    this.#lane.textContent = this.#words(state);
    this.#lane.dataset.lane = this.#retryAt === null ? "none" : this.#slow ? "slow" : "fast";
  }

  #row({ url, rtt, breaker, current }) {
    const row = document.createElement("li");
    row.dataset.breaker = breaker;
    if (current) row.ariaCurrent = "true";
    const where = new URL(url).host;
    for (const [name, text] of [
      ["dot", ""],
      ["endpoint", this.#names.get(url) ?? where],
      ["rtt", rtt === null ? "–" : `${rtt.toFixed(1)} ms`],
      ["breaker", SHOWN[breaker]],
    ]) {
      const cell = document.createElement("span");
      cell.className = name;
      cell.textContent = text;
      row.append(cell);
    }
    row.title = `${where}: circuit breaker ${breaker.replace("_", "-")}`;
    return row;
  }

  #words(state) {
    if (state === "draining") return "told to move: opens the next connection first";
    if (this.#retryAt === null || state === "connected") return "one connection, no hurry";
    const left = Math.max(0, this.#retryAt - Date.now()) / 1000;
    const when = left > 0 ? `in ${left.toFixed(1)} s` : "now";
    return this.#slow ? `slow lane, next try ${when}` : `fast lane, try ${this.#attempt} of ${this.#of} ${when}`;
  }
}
