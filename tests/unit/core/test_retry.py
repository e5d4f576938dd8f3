"""Backoff laws, and which errors are tried again at all."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from starling.core.retry import Backoff, RetryPolicy, is_retryable
from starling.errors import (
    CallTimeout,
    CantHandle,
    DecodeError,
    DoNotRetry,
    HandlerFailed,
    MailboxFull,
    TooLarge,
    UnknownAgentType,
    UnknownPool,
    UnregisteredType,
)

FAILED = (1, 2, 3, 4, 5, 100)


@pytest.mark.row("RT-27", part="table of laws")
@pytest.mark.parametrize(
    ("law", "pauses"),
    [
        (Backoff.FIXED, (2, 2, 2, 2, 2, 2)),
        (Backoff.LINEAR, (2, 4, 6, 8, 10, 20)),
        (Backoff.EXPONENTIAL, (2, 4, 8, 16, 20, 20)),
    ],
)
def test_each_law_gives_its_pauses_up_to_the_cap(law: Backoff, pauses: tuple[float, ...]) -> None:
    policy = RetryPolicy(backoff=law, initial=2.0, cap=20.0, jitter=False)
    assert tuple(policy.pause(failed, 0.3) for failed in FAILED) == pauses


def test_the_default_is_five_attempts_from_one_second_doubling_to_a_minute() -> None:
    policy = RetryPolicy()
    assert (policy.attempts, policy.initial, policy.cap, policy.jitter) == (5, 1.0, 60.0, True)
    assert [policy.pause(failed, 1.0) for failed in (1, 2, 3, 7, 8)] == [1, 2, 4, 60, 60]


@pytest.mark.row("RT-27", part="jitter spreads, cap holds after it")
@given(
    st.sampled_from(Backoff),
    st.floats(0, 100),
    st.floats(0, 100),
    st.integers(1, 10_000),
    st.floats(0, 1),
)
def test_jitter_spreads_over_half_of_the_pause_and_never_passes_the_cap(
    law: Backoff, initial: float, cap: float, failed: int, chance: float
) -> None:
    plain = RetryPolicy(backoff=law, initial=initial, cap=cap, jitter=False).pause(failed, chance)
    spread = RetryPolicy(backoff=law, initial=initial, cap=cap)
    assert plain / 2 <= spread.pause(failed, chance) <= plain <= cap
    assert spread.pause(failed, 0.0) == plain / 2
    assert spread.pause(failed, 1.0) == plain


@pytest.mark.row("RT-27", part="no retries means one try", completes=True)
def test_one_attempt_means_no_retry() -> None:
    assert not RetryPolicy(attempts=1).retries(ValueError(), 1)
    assert [RetryPolicy(attempts=3).retries(ValueError(), attempt) for attempt in (1, 2, 3, 4)] == [
        *(True, True, False, False)
    ]


def _validation_error() -> ValidationError:
    class Model(BaseModel):
        number: int

    with pytest.raises(ValidationError) as raised:
        Model.model_validate({"number": "x"})
    return raised.value


@pytest.mark.row("RT-29", part="classes")
@pytest.mark.parametrize(
    ("error", "again"),
    [
        (ValueError("x"), True),
        (OSError("x"), True),
        (TimeoutError(), True),
        (HandlerFailed("E", "x"), True),
        (CallTimeout("x"), True),
        (MailboxFull("x"), True),
        (KeyError("x"), True),
        (DoNotRetry("x"), False),
        (DecodeError("x"), False),
        (UnregisteredType("x"), False),
        (CantHandle("x"), False),
        (TooLarge("x"), False),
        (UnknownAgentType("x"), False),
        (UnknownPool("x"), False),
        (TypeError("x"), False),
        (_validation_error(), False),
        (asyncio.CancelledError(), False),
        (KeyboardInterrupt(), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_errors_that_may_pass_are_tried_again(error: BaseException, again: bool) -> None:
    assert is_retryable(error) is again
    assert RetryPolicy().retries(error, 1) is again
