/** Who is in the room, and what is said there: each line with its number in the stream. */

const KEPT = 300; // lines
const NEAR = 40; // px from the end within which new lines are scrolled to

const LEFT = {
  bye: "left",
  timeout: "lost the connection",
  node_lost: "was on a node that died",
  closed: "was shown out",
  unsubscribed: "left the room",
};

function element(tag, className, text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

/** A colour of one's own, from a random id. */
const hue = (client) => Number.parseInt(client.slice(-4), 16) % 12 || 0;

export class Room {
  #people;
  #here;
  #lines;
  #names = new Map(); // client → name
  #present = new Map(); // client → whether it is here, as far as is known
  #told = new Set(); // clients of whose coming or going the stream has told
  #pending = new Map(); // own number → its line
  me = null;

  constructor({ people, here, lines }) {
    this.#people = people;
    this.#here = here;
    this.#lines = lines;
  }

  name(client) {
    return this.#names.get(client) ?? "somebody";
  }

  /** Someone has a name now. */
  named(client, name) {
    this.#names.set(client, name);
    for (const place of this.#lines.querySelectorAll(`.unnamed[data-client="${CSS.escape(client)}"]`)) {
      place.textContent = name;
      place.classList.remove("unnamed");
    }
    this.#show();
  }

  /** Who was here when the server looked. What the stream has told of someone is newer, or will be. */
  found(online) {
    for (const client of online) if (!this.#told.has(client)) this.#present.set(client, true);
    this.#show();
  }

  /** A line, a coming or a going, from the stream. `late`: it was said while we were away. */
  receive(seq, data, late) {
    const { type, client_id: client } = data;
    if (type === "line") {
      const line = this.#pending.get(data.number);
      if (client === this.me && line) {
        this.#pending.delete(data.number);
        line.remove();
      }
      this.#append(seq, late, client, [element("span", "text", data.text)], data.node);
    } else if (type === "client_join" || type === "client_exit") {
      const joins = type === "client_join";
      const changed = this.#present.get(client) !== joins;
      this.#present.set(client, joins);
      this.#told.add(client);
      const words = joins ? "is here" : (LEFT[data.cause] ?? "left");
      this.#append(seq, late, client, [element("span", "words", words)], "", "event");
      if (changed) this.#show();
    }
  }

  /** A line that has been written and has no number yet. */
  write(number, text, state) {
    const line = this.#append("·", false, this.me, [element("span", "text", text)], state, "pending");
    this.#pending.set(number, line);
  }

  /** What became of a line without a number. */
  mark(number, state, failed = false) {
    const line = this.#pending.get(number);
    if (!line) return;
    line.lastChild.textContent = state;
    line.classList.toggle("failed", failed);
  }

  /** A new session: who is here is asked anew. */
  startAgain() {
    this.#present.clear();
    this.#told.clear();
    this.#show();
  }

  #append(seq, late, client, content, place, kind = "") {
    const lines = this.#lines;
    const follows = lines.scrollHeight - lines.scrollTop - lines.clientHeight < NEAR;
    const line = element("li", `${kind} ${late ? "late" : ""}`.trim());
    const who = element("b", `who hue-${hue(client ?? "")}`, this.name(client));
    who.dataset.client = client ?? "";
    if (!this.#names.has(client)) who.classList.add("unnamed");
    const said = element("p", "said");
    said.append(who, " ", ...content);
    const number = element("span", "number", seq);
    if (late) number.title = "caught up: said while this page was away";
    line.append(number, said, element("span", "place", place));
    // What has no number yet stays below what has.
    const first = kind === "pending" ? null : lines.querySelector(".pending");
    lines.insertBefore(line, first);
    if (lines.children.length > KEPT) lines.firstChild.remove();
    if (follows || client === this.me) lines.scrollTop = lines.scrollHeight;
    return line;
  }

  #show() {
    const here = [...this.#present].filter(([, is]) => is).map(([client]) => client);
    here.sort((a, b) => (b === this.me) - (a === this.me) || this.name(a).localeCompare(this.name(b)));
    this.#here.textContent = here.length === 1 ? "1 here" : `${here.length} here`;
    this.#people.replaceChildren(
      ...here.map((client) => {
        const person = element("li", `hue-${hue(client)}`, this.name(client));
        if (client === this.me) person.append(element("span", "you", " you"));
        return person;
      }),
    );
  }
}
