/** A question before an action, and the POST behind it. */

const WORDS = {
  drain: {
    title: ({ name }) => `Drain ${name}`,
    text: ({ connections }) => `It refuses new connections, sends its clients (${connections}) elsewhere, and keeps running`
      + " until it is stopped or the drain is undone. No message is lost.",
    go: "Drain",
  },
  undo: {
    title: ({ name }) => `Undo the drain of ${name}`,
    text: () => "It accepts connections again. Clients that have gone stay elsewhere.",
    go: "Undo the drain",
  },
  close: {
    title: ({ uuid }) => `Close session ${uuid.slice(0, 8)}`,
    text: ({ user }) => `The session of ${user ?? "an anonymous user"} ends for good: its client gets close code 4506 and does not`
      + " come back by itself. What it had not received yet is discarded.",
    go: "Close the session",
    required: true,
  },
};

const LONGEST = 123; // bytes of a reason: what a close frame has room for

export class Asking {
  /** `done(text)` says what became of it; `fallback(what)`: where the focus goes when the button
   *  that asked has gone. */
  constructor(dialog, token, done, fallback) {
    const find = (id) => dialog.querySelector(`#gws-${id}`);
    Object.assign(this, { dialog, token, done, fallback, form: dialog.querySelector("form"), error: find("dialog-error") });
    Object.assign(this, { title: find("dialog-title"), text: find("dialog-text"), reason: find("reason"), optional: find("optional"), go: find("go") });
    find("cancel").addEventListener("click", () => dialog.close());
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
    dialog.addEventListener("close", () => {
      if (!this.opener?.isConnected || this.opener.hidden) fallback(this.what).focus();
    });
  }

  ask(what, subject, warning = "") {
    const words = WORDS[what];
    Object.assign(this, { what, id: subject.id ?? subject.uuid, opener: document.activeElement, subject });
    this.title.textContent = words.title(subject);
    this.text.textContent = [words.text(subject), warning].filter(Boolean).join(" ");
    this.go.textContent = words.go;
    this.reason.value = "";
    this.reason.required = Boolean(words.required);
    this.optional.hidden = this.reason.required;
    this.fail("");
    this.dialog.showModal();
    this.reason.focus();
  }

  fail(text) {
    this.error.textContent = text;
    this.error.hidden = !text;
    this.reason.setAttribute("aria-invalid", String(Boolean(text)));
  }

  async send() {
    const reason = this.reason.value.trim();
    if (this.reason.required && !reason) return this.fail("A reason is needed.");
    if (new TextEncoder().encode(reason).length > LONGEST) return this.fail(`At most ${LONGEST} bytes.`);
    this.go.disabled = true;
    try {
      const said = await this.post(reason);
      this.dialog.close();
      this.done(`${WORDS[this.what].title(this.subject)}: ${said}`);
    } catch (error) {
      this.fail(error.message);
    } finally {
      this.go.disabled = false;
    }
  }

  async post(reason) {
    let response;
    try {
      response = await fetch(`${this.what}/`, {
        method: "POST",
        headers: { "X-CSRFToken": this.token, Accept: "application/json" },
        body: new URLSearchParams({ id: this.id, reason }),
      });
    } catch {
      throw new Error("The server does not answer. Try again.");
    }
    // To who is logged out the admin sends its login page, and to a stale token a page as well.
    const isJSON = response.headers.get("Content-Type")?.startsWith("application/json");
    if (!isJSON) throw new Error("You are logged out, or the page is old: load it again.");
    const { said, error } = await response.json();
    if (error) throw new Error(error);
    return said;
  }
}
