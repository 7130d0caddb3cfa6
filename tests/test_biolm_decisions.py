"""What follows a failure: the rules without sockets, and the table in the documentation."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from skesm.backends.biolm.decisions import (
    RETRYABLE_STATUSES,
    Attempt,
    Budget,
    Fail,
    Halve,
    Outcome,
    Send,
    Stop,
    Wait,
    decide,
    out_of_budget,
)
from skesm.exceptions import (
    AuthenticationError,
    InvalidAnswerError,
    RateLimitError,
    RequestRejectedError,
    ServiceUnavailableError,
)

FIRST = Attempt(items=8, failures=1)
PASSING = [*(Outcome(status) for status in sorted(RETRYABLE_STATUSES)), Outcome(), Outcome(slow=True)]
DOCS = Path(__file__).resolve().parents[1] / "docs" / "remote.md"

#: Row of the table in docs/remote.md → outcomes, how the batch has gone, and what is decided.
TABLE = {
    "resets, times out, cuts an answer short; 408, 425, 429, 500, 502, 503, 504": (PASSING, FIRST, Wait),
    "`Retry-After` of more than 300 s": ([Outcome(429, retry_after=301.0), Outcome(503, retry_after=1e6)], FIRST, Stop),
    "500, 504 or a timeout, twice for the same batch": (
        [Outcome(500), Outcome(504), Outcome(slow=True)],
        Attempt(items=8, failures=2, suspicions=2),
        Halve,
    ),
    "413": ([Outcome(413)], FIRST, Halve),
    "400, 422 that name items": ([Outcome(s, named=1) for s in (200, 400, 422)], FIRST, Send),
    "too many items": ([Outcome(s, too_many=True) for s in (400, 422)], FIRST, Send),
    "400, 422 without names; an answer that is not what was asked, or larger": (
        [Outcome(400), Outcome(422), Outcome(200), Outcome(200, invalid=True)],
        FIRST,
        Fail,
    ),
    "303, and then the answer cannot be fetched": (
        [replace(outcome, accepted=True) for outcome in (*PASSING, Outcome(404), Outcome(410))],
        FIRST,
        Fail,
    ),
    "402, 403, 404, 405 and all else": ([Outcome(s) for s in (402, 403, 404, 405, 418, 501, 204)], FIRST, Stop),
}
#: Rows that tell what happens before there is an outcome to decide on.
OTHER_ROWS = {"`Retry-After`", "401", "303"}


def table_in_docs() -> dict[str, str]:
    lines = iter(DOCS.read_text(encoding="utf-8").splitlines())
    rows = itertools.takewhile(bool, itertools.dropwhile(lambda line: line != "| the service | the client |", lines))
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in list(rows)[2:]]
    return dict(cells)


def test_the_documentation_has_these_rows() -> None:
    assert table_in_docs().keys() == {*TABLE, *OTHER_ROWS}


@pytest.mark.parametrize("row", TABLE)
def test_what_the_documentation_says(row: str) -> None:
    outcomes, attempt, expected = TABLE[row]
    said = table_in_docs()[row]
    words = {Wait: "again", Stop: "the job", Halve: "halves", Send: "sen", Fail: "failed"}
    assert words[expected] in said
    for outcome in outcomes:
        assert type(decide(outcome, attempt, Budget())) is expected, outcome


@pytest.mark.parametrize("outcome", PASSING, ids=str)
def test_a_failure_that_may_pass_is_borne_until_attempts_or_budget_end(outcome: Outcome) -> None:
    error = RateLimitError if outcome.status == 429 else ServiceUnavailableError
    assert decide(outcome, Attempt(failures=4), Budget(max_attempts=5)) == Wait()
    alone = decide(outcome, Attempt(failures=5), Budget(max_attempts=5))
    assert isinstance(alone, Stop)
    assert alone.error is error
    among_others = decide(outcome, Attempt(items=1, failures=5, alone=False), Budget(max_attempts=5))
    assert isinstance(among_others, Fail)
    assert not among_others.counted
    spent = decide(outcome, Attempt(failures=1), Budget(retries=0))
    assert spent == out_of_budget(throttled=outcome.status == 429)
    assert spent.error is error
    lasting = decide(outcome, Attempt(failures=1), Budget(outage=True))
    assert isinstance(lasting, Stop)


def test_who_cannot_be_reached_is_given_up_unless_it_was_reached() -> None:
    unreachable = Outcome(unreachable=True)
    decision = decide(unreachable, FIRST, Budget())
    assert isinstance(decision, Stop)
    assert "{remedy}" in decision.reason
    assert decide(unreachable, FIRST, Budget(reached=True)) == Wait()


@pytest.mark.parametrize("outcome", [Outcome(500), Outcome(413), Outcome(400, user_error=True)], ids=str)
def test_a_batch_is_halved_until_one_item_is_left(outcome: Outcome) -> None:
    for items in (8, 3, 2):
        assert isinstance(decide(outcome, Attempt(items, 2, 2), Budget()), Halve)
    assert isinstance(decide(outcome, Attempt(1, 2, 2, halved=True), Budget()), Fail)


def test_only_what_failed_for_the_services_sake_costs_retries() -> None:
    assert decide(Outcome(500), Attempt(8, 2, 2), Budget()).counted
    assert not decide(Outcome(413), Attempt(8), Budget()).counted


@pytest.mark.parametrize(
    ("outcome", "error"),
    [
        (Outcome(402), RequestRejectedError),
        (Outcome(403), AuthenticationError),
        (Outcome(404), RequestRejectedError),
        (Outcome(200, invalid=True), InvalidAnswerError),
        (Outcome(400), RequestRejectedError),
        (Outcome(429, retry_after=301.0), RateLimitError),
        (Outcome(502, accepted=True), ServiceUnavailableError),
    ],
)
def test_errors(outcome: Outcome, error: type[Exception]) -> None:
    decision = decide(outcome, FIRST, Budget())
    assert isinstance(decision, Fail | Stop)
    assert decision.error is error


def test_nothing_that_was_taken_is_sent_again_as_it_was() -> None:
    """Whatever the state: an outcome after a 303 is never answered with the same request."""
    statuses = (None, 200, 404, 410, 418, *RETRYABLE_STATUSES)
    for status, slow, items, failures, halved in itertools.product(
        statuses, (False, True), (1, 8), (0, 1, 9), (False, True)
    ):
        outcome = Outcome(status, slow=slow, accepted=True)
        decision = decide(outcome, Attempt(items, failures, failures, halved), Budget())
        assert isinstance(decision, Fail), outcome
