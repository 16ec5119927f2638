"""The rules that the models obey; each can be taken out, and then some promise must break."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import ClassVar

from .explorer import Model, S


class Rule(enum.Enum):
    """One rule each. Its model says, where it asks for the rule, what happens without it."""

    # Rows and rounds
    FRAMES_ARE_TEXT = "a frame is stored as its encoded text, not in a JSON column"
    BISECT_A_REFUSED_ROUND = "a data error bisects the round and fails its own entry only"
    SKIP_LOCKED = "the writer skips sessions that are locked elsewhere"
    STREAM_IS_A_NAME = "a stream message names its stream; there is no foreign key"
    # Locking
    LOCK_BEFORE_READ = "generation and numbers are read under the lock of the session's row"
    ATTACH_ADDS_A_GENERATION = "an attach adds 1 to the generation"
    DETACH_ADDS_A_GENERATION = "whoever ends or detaches a session of others adds 1 as well"
    LOCK_NO_KEY = "the lock is FOR NO KEY UPDATE: a foreign key to the session does not wait"
    LOCK_IN_ID_ORDER = "several sessions are locked in the order of their ids"
    # Numbering
    NUMBER_UNDER_LOCK = "numbers are given in the writing transaction, from last_seq"
    CALLBACK_FILLS_OUTBOX = "the commit's callback fills the outbox, not the waiting coroutine"
    OUTBOX_BY_NUMBER = "the outbox releases strictly by number"
    # A session has two writers on its node, the round and an in-transaction handler: a last_seq
    # that is reached may have been reached by the other.
    ASK_AFTER_UNKNOWN_COMMIT = "after a commit of unknown outcome the database is asked"
    ASK_UNDER_LOCK = "... under the lock, as the commit may still be under way"
    ASK_FOR_THE_ROW = "... for the row under my number, as others may have moved last_seq"
    NUMBER_IN_A_SECOND_STATEMENT = "a stream is locked first, and read in a second statement"
    RESUME_BY_NUMBER = "a reader's position is a number of the sequence, never a row's id"
    # Exits
    EXIT_WITH_ITS_MARK = "an exit is inserted by the transaction that notes it was told"
    EXIT_ASKED_UNDER_LOCK = "whether somebody is away is asked again under the session's lock"
    RETURN_IS_TOLD = "an attach tells of a return whose exit was told"
    # receive_in_transaction
    NOTHING_WAITS_FOR_THE_WRITER = "in the user's transaction sends are collected, not awaited"
    STORE_PART_LAST = "the claim of the number follows the user's code"
    CLAIM_CHECKS_GENERATION = "the claim is conditional on the generation"
    CLAIM_CHECKS_NUMBER = "the claim is conditional on last_client_seq = n - 1"
    # Attach and resume
    GREATER_ATTEMPT_ONLY = "the same instance attaches only with a greater attempt"
    NUMBER_FROM_DONE = "a new instance numbers from last_client_seq + 1"
    RESUME_READS = "a resume reads, it never consumes"
    ROW_BEFORE_WELCOME = "the session's row is committed before the welcome leaves"
    DROP_WHO_IS_GONE = "an attach whose socket is gone is dropped before the database"
    POSITION_HAS_AN_EPOCH = "a position counts only in its epoch"
    POSITION_FROM_SUBSCRIPTION = "a position is never before the subscription's from_seq"
    POSITION_ELSE_ACKED = "without a position of its own a client starts at what was acked"
    # Pages
    ENTER_LIVE_AT_ONCE = "no await between comparing with the hub and entering its live set"
    PAGE_HAS_NO_HOLE = "a page starts at cursor + 1, has no hole, and is not empty below head"
    # Inbound
    DONE_WITH_REPLIES = "last_client_seq moves only together with the result and the replies"
    TRIES_BEFORE_SECOND_START = "a possibly second start commits its try first"
    NO_THIRD_START = "a possibly third start is not made"
    DOUBT_WHAT_RAN_AHEAD = "after a resume the first two numbers may have been started before"
    ONE_AHEAD = "a handler starts when the outcome of the one before the last is committed"
    RETRY_CONSUMES_NOTHING = "nack with retry leaves last_client_seq where it is"
    RETRY_DROPS_LATER = "after a nack with retry later numbers are dropped until it returns"
    NACK_IS_CONDITIONAL = "a final nack consumes n only if last_client_seq = n - 1"
    NACK_AFTER_WRITE = "the nack leaves after its write"
    HANDLER_HAS_WON = "if the nack's write matched no row, the handler's outcome is told"
    # Credit
    ACK_WHAT_ARRIVED_HERE = "a client acknowledges on a connection only what arrived on it"
    READER_NEVER_STOPS = "the reader goes on while a handler is slow"
    CREDIT_IS_BOUNDED = "a client that sends past its credit is closed"
    PAST_THE_WINDOW_SPILL = "past the send window frames are forgotten and read again"


ALL_RULES = frozenset(Rule)


class Scenario(Model[S]):
    """A model that obeys ``rules``: all of them, or all but the one under test."""

    at_least: ClassVar[int]  # states; fewer mean that the scenario does not happen any more

    def __init__(self, rules: Iterable[Rule] = ALL_RULES) -> None:
        self.rules = frozenset(rules)

    def on(self, rule: Rule) -> bool:
        return rule in self.rules
