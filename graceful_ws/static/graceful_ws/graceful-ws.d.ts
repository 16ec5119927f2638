/**
 * The browser client of the protocol graceful.v1: one session over as many WebSockets as it takes.
 * Durations are milliseconds, sizes are bytes.
 */

export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };

/**
 * - `disconnected`: not started yet
 * - `connecting`: dials, or waits for a welcome
 * - `connected`
 * - `draining`: connected, and told to move to another connection
 * - `waiting`: to try again, with growing delays: the fast lane
 * - `parked`: the same far apart and without end: the slow lane
 * - `closed`: for good, until `connect()`, which begins a new session unless the old one can be resumed
 */
export type State =
  | "disconnected" | "connecting" | "connected" | "draining" | "waiting" | "parked" | "closed";

/** `open`: not dialled, for it has failed too often; `half_open`: one connection tries it. */
export type BreakerState = "closed" | "open" | "half_open";

/** What a client does after a connection that ended with a code. */
export type Advice = "resume" | "park" | "back_off" | "new_session" | "refresh" | "stop";

/** The names of the codes that a connection ends with; docs/close-codes.md says what they mean. */
export interface CloseCodes {
  readonly NORMAL: 1000;
  readonly GOING_AWAY: 1001;
  readonly PROTOCOL_ERROR: 1002;
  readonly UNSUPPORTED_DATA: 1003;
  readonly NO_STATUS: 1005;
  readonly ABNORMAL: 1006;
  readonly INVALID_DATA: 1007;
  readonly POLICY_VIOLATION: 1008;
  readonly MESSAGE_TOO_BIG: 1009;
  readonly INTERNAL_ERROR: 1011;
  readonly SERVICE_RESTART: 1012;
  readonly TRY_AGAIN_LATER: 1013;
  readonly SUSPENDED: 4000;
  readonly SERVER_SILENT: 4001;
  readonly HEARTBEAT_LOST: 4102;
  readonly SLOW_CONSUMER: 4103;
  readonly RESYNC: 4104;
  readonly IDLE: 4105;
  readonly RECLAIMED: 4106;
  readonly LIMIT_EXCEEDED: 4201;
  readonly SESSION_EXPIRED: 4300;
  readonly STATE_INVALIDATED: 4301;
  readonly HELLO_TIMEOUT: 4400;
  readonly CREDENTIALS_EXPIRED: 4401;
  readonly OTHER_IDENTITY: 4403;
  readonly SUPERSEDED: 4501;
  readonly CONNECTION_LIMIT: 4503;
  readonly VERSION: 4505;
  readonly CLOSED_BY_OPERATOR: 4506;
  readonly ENDED_BY_APPLICATION: 4507;
}

/** One of the protocol's own codes. Applications may close with 3000-3999 and 4600-4999 as well. */
export type CloseCode = CloseCodes[keyof CloseCodes];

/** A numbered message, once and in order. */
export interface Message<Data = any> {
  readonly seq: number;
  /** null: the session's own sequence. */
  readonly stream: string | null;
  readonly data: Data;
}

/** Messages are missing and will not come: reload what they were about. */
export interface Gap {
  readonly reason: "expired" | "trimmed" | "epoch" | "ahead" | "too_far" | "lost";
  /** Left out for the session's own sequence; with the reason `expired` it stands for everything. */
  readonly stream?: string | null;
  /** The first number that is missing, where it is known. */
  readonly from?: number | null;
  /** The first number that there still is, where it is known. */
  readonly oldest?: number | null;
  /** The last number before those that come now. */
  readonly head: number;
}

/** A client of the stream has gone. */
export interface Exit {
  readonly type: "client_exit";
  readonly stream: string;
  /** The `sessionId` of the one who has gone. */
  readonly client_id: string;
  readonly cause: "bye" | "timeout" | "node_lost" | "closed" | "unsubscribed" | "denied";
  readonly code?: number;
  /** The primary key; left out for an anonymous one. */
  readonly user?: number | string;
}

export interface EndpointStatus {
  readonly url: string;
  /** Round trip, a moving average; null: not known. */
  readonly rtt: number | null;
  readonly breaker: BreakerState;
  readonly current: boolean;
}

/** The `detail` of each event. */
export interface Details {
  /** Welcomed. `resumed`: the session goes on; otherwise it is a new one. */
  open: { readonly resumed: boolean; readonly node: string; readonly endpoint: string };
  /** The application has a message: at once, or when an iterator takes it. */
  message: Message;
  /** A message without a number, which may be missing. */
  volatile: { readonly type: "volatile"; readonly data: any };
  /** What the server complains about. `retry_after`: when it closes now, the next try waits so long, in ms. */
  error: {
    readonly type: "error";
    readonly code: string;
    readonly detail?: string;
    readonly seq?: number;
    readonly retry_after?: number;
  };
  state: { readonly from: State; readonly to: State };
  /** The next try begins in `delayMs`. */
  retry: { readonly attempt: number; readonly delayMs: number; readonly lane: "fast" | "slow" };
  /** The server stops: the client moves in `reconnectIn`, and before the close in `closeIn`. */
  draining: { readonly reconnectIn: number; readonly closeIn: number; readonly reason: string };
  gap: Gap;
  /** Follows the `message` that says the same. */
  exit: Exit;
  /** From here on it tries in the slow lane. */
  parked: null;
  /** A connection ended, or could not be opened. `final`: there will be no other. */
  close: { readonly code: CloseCode | (number & {}); readonly reason: string; readonly final: boolean };
}

export type EventOf<Type extends keyof Details> = CustomEvent<Details[Type]>;

/** Why a message has no result. */
export class GracefulError extends Error {
  /**
   * What the server said (`error`, `timeout` of the handler, `outcome_unknown`; `try_again` or `interrupted` after the
   * last try), or `timeout` (of a request), `circuit_open` (no endpoint works), `queue_full`,
   * `too_big`, `poison` (in flight when the server closed for what was sent), `other_identity`
   * (written in the name of another user), `closed`.
   */
  readonly code: string;
  /** False: it was not handled and will not be. True: it may have been, or may be still. */
  readonly sent: boolean;
  constructor(code: string, detail?: string, sent?: boolean);
}

/** What a client does after a close code; codes that it has never seen go by their range. */
export function adviceOf(code: number): Advice;

export interface Defaults {
  /** Tries that end before a welcome until the client is parked. 5 */
  readonly maxRetries: number;
  /** Before the first try; doubles with each. 1000 */
  readonly baseDelay: number;
  /** Where the doubling ends; a random part comes on top. 30000 */
  readonly maxDelay: number;
  /** Between tries in the slow lane, give or take half of it. 30000 */
  readonly parkedDelay: number;
  /** `stop`: closed after the last try. */
  readonly whenExhausted: "park" | "stop";
  /** Welcomed for so long, a connection makes the count of tries start afresh. 5000 */
  readonly minUptime: number;
  /** For a WebSocket to open. 10000 */
  readonly openTimeout: number;
  /** For the welcome, behind the hello. 15000 */
  readonly welcomeTimeout: number;
  /** For a sign of life when the page wakes up, until the pong that was asked for. 5000 */
  readonly wakeProbe: number;
  /** Messages that wait for their outcome; further ones are rejected with `queue_full`. 100 */
  readonly queueMessages: number;
  /** The same in bytes. 1048576 */
  readonly queueBytes: number;
  /** Path of a page on the host of each endpoint, by which round trips are compared; null: never. */
  readonly probe: string | null;
  /** Such as `sessionStorage`: the next page of this tab goes on with the session; null: none. */
  readonly storage: Pick<Storage, "getItem" | "setItem" | "removeItem"> | null;
}

export const DEFAULTS: Readonly<Defaults>;

/** In place of what the page has, for tests. */
export interface Replacements {
  readonly WebSocket: new (url: string, protocol: string) => any;
  readonly fetch: typeof fetch;
  /** 0 <= r < 1 */
  readonly random: () => number;
  /** Milliseconds of a clock that never goes back. */
  readonly now: () => number;
  readonly setTimeout: (call: () => void, delay: number) => unknown;
  readonly clearTimeout: (timer: any) => void;
  /** Where the events of a page are heard; undefined: there is no page. */
  readonly window: any;
}

export type Options = Partial<Defaults & Replacements>;

export interface RequestOptions {
  /** For all tries together. 10000 */
  readonly timeout?: number;
  /** Sendings, when the server says that it is busy: 50 ms apart and doubling, or as it says. 3 */
  readonly tries?: number;
}

type Listener<Type extends keyof Details> =
  | ((this: GracefulSocket, event: EventOf<Type>) => void)
  | { handleEvent(event: EventOf<Type>): void }
  | null;

/** What is a property here is one of the object: it cannot be overridden as a method. */
export class GracefulSocket extends EventTarget {
  /** `urls`: absolute ones, of one endpoint or of several nodes of one site. TypeError: none. */
  constructor(urls: string | readonly string[], options?: Options);

  readonly state: State;
  /** What others see as `client_id`; null before the first welcome. */
  readonly sessionId: string | null;
  /** The name of the node that welcomed last. */
  readonly node: string | null;
  /** The last number received in the session's own sequence. */
  readonly lastSeq: number;
  /** Round trip to the endpoint that welcomed last; null: not known yet. */
  readonly rtt: number | null;
  /** The URL of the connection; null without one. */
  readonly endpoint: string | null;
  readonly endpoints: EndpointStatus[];

  /** Dials now, from any state, and the count of tries starts afresh. */
  readonly connect: () => void;

  /** Says bye, which ends the session, and closes. What has no outcome fails with `closed`. */
  readonly close: (reason?: string) => void;

  /** Drops the connection as a lost network would; the session is resumed. */
  readonly cut: () => void;

  /**
   * Sends once, over as many connections as it takes: a promise of what the handler returned, null
   * if nothing. Rejects with GracefulError. Throws RangeError or TypeError for what the server
   * would close the connection for: NaN, ill-formed Unicode, nested too deep, too big, not JSON.
   */
  readonly send: <Result = any>(data: Json) => Promise<Result>;

  /**
   * The same for an answer that is of no use late. One that is given up before it was sent, or that
   * the server always was too busy for, is taken back: it will not be handled.
   */
  readonly request: <Result = any>(data: Json, options?: RequestOptions) => Promise<Result>;

  /** Sends without a number; false when it was dropped for want of a connection. Throws as `send`. */
  readonly volatile: (data: Json) => boolean;

  /**
   * From the first call on, messages wait for an iterator, and are acknowledged when it takes them.
   * Iterators share them: each message goes to one. They end when the client is closed for good; one
   * that is left (`break`, `return()`) takes no further message.
   */
  readonly [Symbol.asyncIterator]: () => AsyncIterator<Message, undefined>;

  addEventListener<Type extends keyof Details>(
    type: Type, listener: Listener<Type>, options?: boolean | AddEventListenerOptions,
  ): void;
  removeEventListener<Type extends keyof Details>(
    type: Type, listener: Listener<Type>, options?: boolean | EventListenerOptions,
  ): void;
}
