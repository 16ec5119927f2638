/**
 * The last hour, in steps of time: begins with what graceful_ws/live/history.py has made of the
 * samples, and goes on with what the nodes publish, by the same rules. Times are UNIX milliseconds
 * by the server's clock.
 */

const OTHERS = "others";

/** What happened between two figures of a node, which count from its start. */
function differences(now, before) {
  const known = new Map(before.hellos.map(([result, cause, number]) => [`${result} ${cause}`, number]));
  const hellos = now.hellos.map(([result, cause, number]) => [result, number - (known.get(`${result} ${cause}`) ?? 0)]);
  return {
    in: now.messages_in - before.messages_in,
    out: now.messages_out - before.messages_out,
    resumes: hellos.filter(([result]) => result !== "new"),
    closes: Object.entries(now.closes).map(([code, number]) => [code, number - (before.closes[code] ?? 0)]),
    rtt: now.rtt.counts.map((number, i) => number - before.rtt.counts[i]),
  };
}

/** What a node that has begun within the hour had then: nothing. null: it counts from longer ago. */
function beginning({ since, stats }, start, at) {
  if (!since || since < start || since >= at) return null;
  const counts = stats.rtt.counts.map(() => 0);
  return { at: since, figures: { stats: { messages_in: 0, messages_out: 0, hellos: [], closes: {}, rtt: { counts } } } };
}

/** The value below which a part (0 to 1) of the observations is, by their counts in ranges that end
 *  at `bounds`; null: there are none. Beyond the last bound it is not known: the bound itself. */
export function quantile(counts, bounds, part) {
  const all = counts.reduce((sum, count) => sum + count, 0);
  if (!all) return null;
  let rest = part * all;
  for (const [i, count] of counts.entries()) {
    if (count && rest <= count) {
      const low = i ? bounds[i - 1] : 0, high = bounds[i] ?? low;
      return low + (high - low) * rest / count;
    }
    rest -= count;
  }
  return bounds.at(-1);
}

export class History {
  constructor({ history, nodes, now }) {
    Object.assign(this, history); // start, step, count, hold, most, nodes, resumes, closes, rtt
    this.now = now;
    this.last = new Map(); // by node's id: what was heard of it last
    for (const node of nodes) {
      if (node.figures) this.last.set(node.id, { name: node.name, at: node.at, figures: node.figures });
    }
    this.roll(now);
  }

  /** What a node says of itself. Returns its rates, per second; null when there is nothing to compare. */
  add({ id, name }, at, figures) {
    const last = this.last.get(id);
    if (last && at <= last.at) return null; // a copy, or older than the snapshot
    this.roll(at);
    const before = last ?? beginning(figures, this.start, at);
    this.last.set(id, { name, at, figures });
    this.fill();
    if (!before) return null;
    const { in: came, out: sent, resumes, closes, rtt } = differences(figures.stats, before.figures.stats);
    const series = this.seriesOf(name);
    this.spread(series.in, before.at, at, came);
    this.spread(series.out, before.at, at, sent);
    const step = this.stepOf(at);
    for (const [into, counts] of [[this.resumes, resumes], [this.closes, closes]]) {
      for (const [key, number] of counts) {
        if (number) (into[key] ??= new Array(this.count).fill(0))[step] += number;
      }
    }
    if (rtt.some(Boolean)) {
      this.rtt.bounds = figures.stats.rtt.bounds;
      this.rtt.counts[step] = rtt.map((number, i) => number + (this.rtt.counts[step]?.[i] ?? 0));
    }
    const seconds = (at - before.at) / 1000;
    return { in: came / seconds, out: sent / seconds };
  }

  seriesOf(name) {
    const isOther = !Object.hasOwn(this.nodes, name)
      && Object.keys(this.nodes).filter((key) => key !== OTHERS).length >= this.most;
    const zeros = () => new Array(this.count).fill(0);
    return this.nodes[isOther ? OTHERS : name]
      ??= { connections: new Array(this.count).fill(null), in: zeros(), out: zeros() };
  }

  stepOf(at) {
    return Math.min(this.count - 1, Math.floor((at - this.start) / this.step));
  }

  /** Evenly over the steps between two moments. */
  spread(into, since, at, number) {
    if (!number) return;
    for (let step = Math.max(0, this.stepOf(since)); step <= this.stepOf(at); step++) {
      const begin = this.start + step * this.step;
      const part = Math.min(at, begin + this.step) - Math.max(since, begin);
      into[step] += number * Math.max(0, part) / (at - since);
    }
  }

  /** Time passes: steps leave on the left, and come on the right. */
  roll(now) {
    this.now = Math.max(this.now, now);
    for (let over = Math.floor((this.now - this.start) / this.step) + 1 - this.count; over > 0; over--) {
      this.start += this.step;
      for (const { connections, in: came, out: sent } of Object.values(this.nodes)) {
        shift(connections, null);
        shift(came, 0);
        shift(sent, 0);
      }
      for (const counts of [...Object.values(this.resumes), ...Object.values(this.closes)]) shift(counts, 0);
      shift(this.rtt.counts, null);
      this.fill();
    }
  }

  /** The connections of the last step: what each node said last, unless that is long ago. */
  fill() {
    const step = this.count - 1, end = this.start + this.count * this.step;
    const sums = new Map();
    for (const { name, at, figures } of this.last.values()) {
      if (end - at > (this.hold + 1) * this.step) continue;
      const series = this.seriesOf(name);
      sums.set(series, (sums.get(series) ?? 0) + figures.connections);
    }
    for (const series of Object.values(this.nodes)) series.connections[step] = sums.get(series) ?? null;
  }

  /** A node that is gone has no connections, whatever it said last. */
  forget(id) {
    const gone = this.last.get(id);
    if (!gone?.figures.connections) return;
    gone.figures = { ...gone.figures, connections: 0 };
    this.fill();
  }

  /** How many of the last steps there is something to show of, at least `least`. */
  shown(least) {
    const rows = Object.values(this.nodes).map(({ connections }) => connections);
    const first = Math.min(...rows.map((row) => row.findIndex((value) => value !== null)).filter((i) => i >= 0), this.count);
    return Math.min(this.count, Math.max(least, this.count - first));
  }
}

function shift(list, value) {
  list.shift();
  list.push(value);
}
