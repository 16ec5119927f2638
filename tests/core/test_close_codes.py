from __future__ import annotations

import pytest

from graceful_ws.core.close_codes import (
    CLOSE_CODES,
    NEVER_SENT,
    Advice,
    CloseCode,
    Sender,
    advice,
    cut_reason,
    is_application_code,
    plain_code,
)


def test_every_code_has_a_meaning() -> None:
    assert set(CLOSE_CODES) == set(CloseCode)


def test_codes_that_nobody_sends_are_never_sent() -> None:
    assert {code for code, meaning in CLOSE_CODES.items() if meaning.sender is Sender.NOBODY} == {
        code for code in NEVER_SENT if code in set(CloseCode)
    }


@pytest.mark.parametrize("code", [code for code in CloseCode if code >= 4100])
def test_private_code_of_the_table_agrees_with_its_range(code: CloseCode) -> None:
    ranges = {
        41: Advice.RESUME,
        42: Advice.BACK_OFF,
        43: Advice.NEW_SESSION,
        44: Advice.REFRESH,
        45: Advice.STOP,
    }
    expected = ranges[code // 100]
    # The exceptions. Resuming could never succeed; or it would bring back at once what was in the
    # way, as an old client does for want of anything better.
    exceptions = {CloseCode.OTHER_IDENTITY: Advice.NEW_SESSION, CloseCode.RECLAIMED: Advice.PARK}
    expected = exceptions.get(code, expected)
    assert advice(code) is expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (4107, Advice.RESUME),
        (4199, Advice.RESUME),
        (4299, Advice.BACK_OFF),
        (4399, Advice.NEW_SESSION),
        (4499, Advice.REFRESH),
        (4599, Advice.STOP),
        (3000, Advice.STOP),
        (3999, Advice.STOP),
        (4999, Advice.STOP),
        (4050, Advice.BACK_OFF),
        (1014, Advice.BACK_OFF),
        (2999, Advice.BACK_OFF),
    ],
)
def test_old_client_obeys_a_code_it_has_never_seen(code: int, expected: Advice) -> None:
    assert advice(code) is expected


def test_graceful_close_never_resumes_worse_than_a_crash() -> None:
    crash = advice(CloseCode.ABNORMAL)
    assert crash is Advice.BACK_OFF
    for code in (CloseCode.NORMAL, CloseCode.GOING_AWAY, CloseCode.SERVICE_RESTART):
        assert advice(code) is Advice.RESUME


@pytest.mark.parametrize(
    ("code", "application"),
    [(2999, False), (3000, True), (3999, True), (4000, False), (4599, False), (4600, True)],
)
def test_application_codes_are_passed_through(code: int, application: bool) -> None:
    assert is_application_code(code) is application
    if application:
        assert plain_code(code) == code


@pytest.mark.parametrize("code", list(CloseCode))
def test_plain_client_gets_a_standard_code(code: CloseCode) -> None:
    assert plain_code(code) < 3000
    if code < 4000:
        assert plain_code(code) == code


def test_plain_client_of_a_session_that_the_application_ended_gets_a_normal_close() -> None:
    assert plain_code(CloseCode.ENDED_BY_APPLICATION) == CloseCode.NORMAL
    assert plain_code(CloseCode.SLOW_CONSUMER) == CloseCode.TRY_AGAIN_LATER
    assert plain_code(CloseCode.CONNECTION_LIMIT) == CloseCode.POLICY_VIOLATION


def test_reason_fits_a_control_frame_and_holds_no_control_characters() -> None:
    assert cut_reason("deploy") == "deploy"
    assert cut_reason("a\r\nb\x00c") == "a  b c"
    assert len(cut_reason("x" * 200).encode()) == 123
    cut = cut_reason("ü" * 100)
    assert len(cut.encode()) == 122
    assert set(cut) == {"ü"}
    assert cut_reason("\ud800") == " "
