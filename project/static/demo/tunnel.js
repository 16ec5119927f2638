/** A network that can be taken away: in the tunnel every attempt to connect fails. */

const FAILS_AFTER = 50; // ms

export class Tunnel {
  #inside = false;

  /** To be used in place of the browser's own. */
  WebSocket = this.#make();

  /** Likewise. */
  fetch = (...request) =>
    this.#inside ? Promise.reject(new TypeError("no network")) : fetch(...request);

  enter() {
    this.#inside = true;
  }

  leave() {
    this.#inside = false;
  }

  #make() {
    const isInside = () => this.#inside;
    return function (url, protocol) {
      if (!isInside()) return new WebSocket(url, protocol);
      const unreachable = { protocol: "", close() {} };
      setTimeout(() => unreachable.onclose?.({ code: 1006, reason: "" }), FAILS_AFTER);
      return unreachable;
    };
  }
}
