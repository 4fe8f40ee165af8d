"""The lease table: plain data in, plain effects out.

All branches of `ask`, `effects`, `row` and `table`, without a socket: the Makefile's `test`.
"""

from __future__ import annotations

import errno
from unittest import mock

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from ttybroker.wire import YIELD_ALL, YIELD_USER, Holder
from ttybrokerd.root import table as limits
from ttybrokerd.root.ask import NEVER, OPEN_LIMIT, SLOW, Ask
from ttybrokerd.root.effects import Effect, End, Lend, Refuse, Start, Tell, Warn
from ttybrokerd.root.refusal import Absent, Refusal, busy
from ttybrokerd.root.row import WARNING, State
from ttybrokerd.root.table import (
    GRACE,
    HANG_UPS,
    LENT,
    NOWHERE,
    RETRY,
    SLOW_DEVICE,
    WAITS_PER_UID,
    Table,
)

TTY, OTHER = 0x440, 0x441
OUTSIDER = busy(Holder(5, "eve", 666, "minicom", how="lock file"))
BROKEN = Refusal(errno.EIO, "the device does not answer; is it plugged in?")


def ask(
    uid: int = 1,
    *,
    wait: float = 0,
    now: float = 0,
    max_lease: float | None = None,
    yields: int = 0,
    keep: bool = False,
) -> Ask:
    made = Ask(uid, Holder(uid, f"user{uid}"), now=now, wait=wait)
    made.max_lease, made.yields, made.keep = max_lease, yields, keep
    return made


def refused(effects: list[Effect], who: Ask) -> Refusal:
    """The refusal that is all these effects say."""
    assert len(effects) == 1
    assert isinstance(effects[0], Refuse)
    assert effects[0].ask is who
    return effects[0].refusal


def held_by(who: Ask, key: int = TTY, now: float = 0) -> Table:
    """A table in which `who` has the port."""
    table = Table()
    assert table.ask(key, who) == [Start(key, who)]
    assert table.opened(key, now) == []
    return table


def outside(who: Ask, now: float = 0) -> Table:
    """A table in which `who` waits for a port that an outsider has."""
    table = Table()
    assert table.ask(TTY, who) == [Start(TTY, who)]
    assert table.failed(TTY, OUTSIDER, now) == []
    return table


def state(table: Table, key: int = TTY) -> str | None:
    return table.ports[key].state if key in table.ports else None


# one at a time


def test_a_free_port_is_opened_at_once_and_a_closed_one_is_forgotten() -> None:
    table, ann = Table(), ask()
    assert table.ask(TTY, ann) == [Start(TTY, ann)]
    assert state(table) is State.OPENING
    assert table.opened(TTY, 0) == []
    assert state(table) is State.HELD
    assert table.end(TTY, "closed") == [End(TTY, ann, "closed")]
    assert state(table) is State.CLOSING
    assert table.closed(TTY, 0) == []
    assert table.ports == {}
    assert table.next_alarm() is None


def test_the_second_who_asks_is_refused_and_told_who_has_the_port() -> None:
    ann, bob = ask(1), ask(2)
    told = refused(held_by(ann).ask(TTY, bob), bob)
    assert told.number == errno.EBUSY
    assert told.holder is ann.holder


def test_a_port_that_is_being_opened_is_busy_already() -> None:
    table, ann, bob = Table(), ask(1), ask(2)
    table.ask(TTY, ann)
    told = refused(table.ask(TTY, bob), bob)
    assert (told.number, told.holder) == (errno.EBUSY, ann.holder)


def test_ports_do_not_know_of_each_other() -> None:
    ann, bob = ask(1), ask(2)
    table = held_by(ann)
    assert table.ask(OTHER, bob) == [Start(OTHER, bob)]
    assert table.failed(OTHER, BROKEN, 0) == [Refuse(bob, BROKEN)]
    assert state(table) is State.HELD


def test_a_device_that_does_not_open_is_refused_to_who_asked_and_the_next_may_try() -> None:
    table, ann, bob = Table(), ask(1), ask(2, wait=9)
    table.ask(TTY, ann)
    assert table.ask(TTY, bob) == []
    assert table.failed(TTY, BROKEN, 0) == [Refuse(ann, BROKEN), Start(TTY, bob)]


def test_a_lease_ends_once_and_the_first_reason_counts() -> None:
    ann = ask()
    table = held_by(ann)
    assert table.end(TTY, "revoked") == [End(TTY, ann, "revoked")]
    assert table.end(TTY, "closed") == []
    assert table.end(OTHER, "closed") == []


def test_a_lease_that_is_not_yet_one_cannot_end() -> None:
    table = Table()
    table.ask(TTY, ask())
    assert table.end(TTY, "revoked") == []
    assert state(table) is State.OPENING


@pytest.mark.parametrize("method", ["closed", "opened", "failed"])
def test_news_of_a_port_in_another_state_is_a_bug_and_not_believed(method: str) -> None:
    table = held_by(ask())
    if method != "closed":
        table.end(TTY, "closed")
    with pytest.raises(AssertionError):
        {
            "closed": lambda: table.closed(TTY, 0),
            "opened": lambda: table.opened(TTY, 0),
            "failed": lambda: table.failed(TTY, BROKEN, 0),
        }[method]()


# leases from an earlier broker


def test_an_adopted_lease_is_held_and_ends_like_any_other() -> None:
    table, ann, bob = Table(), ask(1), ask(2)
    table.adopt(TTY, ann, None)
    assert state(table) is State.HELD
    assert table.next_alarm() is None
    told = refused(table.ask(TTY, bob), bob)
    assert (told.number, told.holder) == (errno.EBUSY, ann.holder)
    assert table.end(TTY, "closed") == [End(TTY, ann, "closed")]
    assert table.closed(TTY, 0) == []
    assert table.ports == {}


def test_an_adopted_leases_time_is_the_one_it_was_granted() -> None:
    table, ann, bob = Table(), ask(1), ask(2)
    table.adopt(TTY, ann, 10)
    table.adopt(OTHER, bob, -5)
    assert table.tick(0) == [End(OTHER, bob, "time limit")]
    assert table.tick(9.99) == []
    assert table.tick(10) == [End(TTY, ann, "time limit")]


def test_adopted_leases_count_for_their_user_and_may_be_more_than_would_be_granted() -> None:
    table = Table()
    for key in range(limits.LEASES_PER_UID + 1):
        table.adopt(key, ask(1), None)
    eve = ask(1)
    assert refused(table.ask(1000, eve), eve).number == errno.EDQUOT
    for key in range(2):
        table.end(key, "closed")
        table.closed(key, 0)
    assert table.ask(1000, eve) == [Start(1000, eve)]


# the queue


def test_those_who_wait_are_served_in_the_order_they_came() -> None:
    ann, rest = ask(1), [ask(uid, wait=100 - uid) for uid in (2, 3, 4)]
    table = held_by(ann)
    for one in rest:
        assert table.ask(TTY, one) == []
    for one in rest:
        table.end(TTY, "closed")
        assert table.closed(TTY, 0) == [Start(TTY, one)]
        assert table.opened(TTY, 0) == []
        assert table.ports[TTY].holder() is one.holder
    table.end(TTY, "closed")
    assert table.closed(TTY, 0) == []


def test_nobody_overtakes_the_queue_while_the_port_is_being_put_in_order() -> None:
    ann, bob, eve = ask(1), ask(2, wait=9), ask(3)
    table = held_by(ann)
    table.ask(TTY, bob)
    table.end(TTY, "closed")
    told = refused(table.ask(TTY, eve), eve)
    assert (told.number, told.holder) == (errno.EBUSY, bob.holder)
    assert table.closed(TTY, 0) == [Start(TTY, bob)]


def test_a_port_just_given_back_is_free_for_who_does_not_want_to_wait() -> None:
    ann, bob = ask(1), ask(2)
    table = held_by(ann)
    table.end(TTY, "closed")
    assert table.ask(TTY, bob) == []
    assert table.closed(TTY, 0) == [Start(TTY, bob)]


def test_a_port_that_stays_in_disorder_is_blamed_on_nobody() -> None:
    ann, bob, eve = ask(1), ask(2), ask(3, wait=OPEN_LIMIT)
    table = held_by(ann)
    table.end(TTY, "closed")
    table.ask(TTY, bob)
    table.ask(TTY, eve)
    assert table.next_alarm() == OPEN_LIMIT
    first, second = table.tick(OPEN_LIMIT)
    for effect, who in ((first, bob), (second, eve)):
        told = refused([effect], who)
        assert told.number == errno.ETIMEDOUT
        assert told.holder is None
        assert "being reset" in told.reason


def test_who_waits_behind_another_for_a_port_in_disorder_is_told_of_that_one() -> None:
    ann, bob, eve = ask(1), ask(2, wait=9), ask(3, wait=1)
    table = held_by(ann)
    table.ask(TTY, bob)
    table.ask(TTY, eve)
    table.end(TTY, "closed")
    told = refused(table.tick(1), eve)
    assert (told.number, told.holder) == (errno.ETIMEDOUT, bob.holder)


def test_who_waited_long_enough_is_refused_then_and_not_before() -> None:
    ann, bob = ask(1), ask(2, wait=10, now=5)
    table = held_by(ann)
    table.ask(TTY, bob)
    assert table.next_alarm() == 15
    assert table.tick(14.999) == []
    told = refused(table.tick(15), bob)
    assert (told.number, told.holder) == (errno.ETIMEDOUT, ann.holder)
    assert told.reason.startswith("timed out: held by user1 (uid 1)")
    assert "; wait longer (wait=SECONDS in Python" in told.reason and "wait for" not in told.reason
    assert table.next_alarm() is None
    table.end(TTY, "closed")
    assert table.closed(TTY, 0) == []


def test_the_queue_closes_up_when_one_in_it_gives_up() -> None:
    ann, bob, eve = ask(1), ask(2, wait=1), ask(3, wait=9)
    table = held_by(ann)
    table.ask(TTY, bob)
    table.ask(TTY, eve)
    refused(table.tick(1), bob)
    table.end(TTY, "closed")
    assert table.closed(TTY, 0) == [Start(TTY, eve)]


# who goes away


def test_who_goes_away_from_the_queue_is_never_served() -> None:
    ann, bob, eve = ask(1), ask(2, wait=9), ask(3, wait=9)
    table = held_by(ann)
    table.ask(TTY, bob)
    table.ask(TTY, eve)
    table.withdraw(TTY, bob)
    table.end(TTY, "closed")
    assert table.closed(TTY, 0) == [Start(TTY, eve)]


def test_who_goes_away_while_its_port_is_opened_leaves_it_to_the_next() -> None:
    table, ann, bob = Table(), ask(1), ask(2, wait=9)
    table.ask(TTY, ann)
    table.ask(TTY, bob)
    table.withdraw(TTY, ann)
    assert table.opened(TTY, 0) == [End(TTY, ann, "client gone")]
    assert table.closed(TTY, 0) == [Start(TTY, bob)]


def test_who_went_away_is_not_told_that_its_port_failed() -> None:
    table, ann = Table(), ask()
    table.ask(TTY, ann)
    table.withdraw(TTY, ann)
    assert table.failed(TTY, BROKEN, 0) == []
    assert table.ports == {}


def test_who_went_away_does_not_wait_for_an_outsider() -> None:
    table, ann = Table(), ask(wait=9)
    table.ask(TTY, ann)
    table.withdraw(TTY, ann)
    assert table.failed(TTY, OUTSIDER, 0) == []
    assert table.ports == {}


def test_withdrawing_a_lease_or_a_stranger_changes_nothing() -> None:
    ann = ask()
    table = held_by(ann)
    table.withdraw(TTY, ann)
    table.withdraw(TTY, ask(2))
    table.withdraw(OTHER, ann)
    assert state(table) is State.HELD


# outsiders


def test_an_outsider_is_named_to_who_does_not_wait() -> None:
    table, ann = Table(), ask()
    table.ask(TTY, ann)
    assert refused(table.failed(TTY, OUTSIDER, 0), ann) is OUTSIDER
    assert table.ports == {}


def test_a_port_that_an_outsider_has_is_tried_again_and_again_while_somebody_waits() -> None:
    ann = ask(wait=10)
    table = outside(ann, now=1)
    for turn in range(5):
        at = 1 + (turn + 1) * RETRY
        assert table.next_alarm() == at
        assert table.tick(at - 0.001) == []
        assert table.tick(at) == [Start(TTY, ann)]
        assert table.failed(TTY, OUTSIDER, at) == []
    assert table.tick(99) == [Refuse(ann, mock.ANY)]
    assert table.ports == {}


def test_who_waits_for_an_outsider_in_vain_is_told_who_it_is() -> None:
    ann = ask(wait=0.1)
    told = refused(outside(ann).tick(0.1), ann)
    assert (told.number, told.holder) == (errno.ETIMEDOUT, OUTSIDER.holder)


def test_who_asks_while_an_outsider_has_the_port_is_told_so_or_waits_behind() -> None:
    ann, bob, eve = ask(1, wait=9), ask(2), ask(3, wait=9)
    table = outside(ann)
    assert table.ports[TTY].holder() is OUTSIDER.holder
    assert refused(table.ask(TTY, bob), bob) is OUTSIDER
    assert table.ask(TTY, eve) == []
    assert table.tick(RETRY) == [Start(TTY, ann)]
    assert table.failed(TTY, BROKEN, RETRY) == [Refuse(ann, BROKEN), Start(TTY, eve)]


def test_nobody_looks_at_an_outsiders_port_when_nobody_waits_any_more() -> None:
    ann = ask(wait=9)
    table = outside(ann)
    table.withdraw(TTY, ann)
    assert table.ports == {}
    assert table.next_alarm() is None


def test_one_who_gives_up_on_an_outsider_leaves_the_others_waiting() -> None:
    ann, bob = ask(1, wait=9), ask(2, wait=9)
    table = outside(ann)
    table.ask(TTY, bob)
    table.withdraw(TTY, ann)
    assert table.tick(RETRY) == [Start(TTY, bob)]


# limits of time


def test_a_device_that_does_not_open_is_refused_in_time_and_its_late_opening_closed_again() -> None:
    table, ann, bob = Table(), ask(1), ask(2, wait=99)
    table.ask(TTY, ann)
    table.ask(TTY, bob)
    assert table.next_alarm() == SLOW
    assert table.tick(SLOW) == [Tell(ann, SLOW_DEVICE)]
    assert table.next_alarm() == OPEN_LIMIT
    assert refused(table.tick(OPEN_LIMIT), ann).number == errno.EIO
    assert table.next_alarm() == 99
    assert table.opened(TTY, 50) == [End(TTY, ann, "client gone")]
    assert table.closed(TTY, 0) == [Start(TTY, bob)]


def test_who_waits_is_told_of_a_slow_device_once_over_all_its_tries() -> None:
    table, ann = Table(), ask(wait=99)
    table.ask(TTY, ann)
    assert table.tick(SLOW) == [Tell(ann, SLOW_DEVICE)]
    assert table.failed(TTY, OUTSIDER, SLOW) == []
    assert table.tick(SLOW + RETRY) == [Start(TTY, ann)]
    assert table.tick(SLOW + RETRY + SLOW) == []


def test_a_short_wait_leaves_a_free_port_as_much_time_to_open_as_none() -> None:
    table, ann = Table(), ask(wait=0.001)
    table.ask(TTY, ann)
    assert table.tick(OPEN_LIMIT) == [Tell(ann, SLOW_DEVICE)]
    assert table.opened(TTY, OPEN_LIMIT) == []
    assert table.ports[TTY].holder() is ann.holder


def test_who_is_served_at_the_last_moment_has_time_to_get_the_port() -> None:
    ann, bob = ask(1), ask(2, wait=10)
    table = held_by(ann)
    table.ask(TTY, bob)
    table.end(TTY, "closed")
    assert table.closed(TTY, 0) == [Start(TTY, bob)]
    assert table.tick(10) == [Tell(bob, SLOW_DEVICE)]
    assert table.opened(TTY, 10.5) == []


def test_who_finds_an_outsider_after_its_wait_is_refused_at_once() -> None:
    table, ann = Table(), ask(wait=1)
    table.ask(TTY, ann)
    assert table.failed(TTY, OUTSIDER, 5) == []
    assert table.next_alarm() == 1
    assert refused(table.tick(5), ann).number == errno.ETIMEDOUT


def test_a_lease_with_a_time_limit_is_over_then_and_the_next_is_served() -> None:
    ann, bob = ask(1, max_lease=60), ask(2, wait=999)
    table = held_by(ann, now=100)
    table.ask(TTY, bob)
    assert table.next_alarm() == 160
    assert table.tick(159.9) == []
    assert table.tick(160) == [End(TTY, ann, "time limit")]
    assert table.tick(161) == []
    assert table.closed(TTY, 0) == [Start(TTY, bob)]
    assert table.opened(TTY, 162) == []
    assert table.next_alarm() is None


def test_a_lease_without_a_time_limit_is_not_ended_by_time() -> None:
    table = held_by(ask())
    assert table.next_alarm() is None
    assert table.tick(1e9) == []


def test_the_next_alarm_is_the_earliest_of_all_ports() -> None:
    table = held_by(ask(1, max_lease=50))
    table.ask(OTHER, ask(2, now=3))
    table.ask(TTY, eve := ask(3, wait=3.5))
    assert table.next_alarm() == 3.5
    refused(table.tick(3.5), eve)
    assert table.next_alarm() == 3 + SLOW
    table.tick(7)
    assert table.next_alarm() == 3 + OPEN_LIMIT


def test_one_that_waits_can_be_refused_and_the_others_keep_their_places() -> None:
    table = held_by(ask(1))
    bob, eve = ask(2, wait=9), ask(3, wait=9)
    table.ask(TTY, bob)
    table.ask(TTY, eve)
    assert table.waiting() == [(TTY, bob), (TTY, eve)]
    assert table.refuse(TTY, bob, BROKEN) == [Refuse(bob, BROKEN)]
    assert table.waiting() == [(TTY, eve)]
    table.end(TTY, "closed")
    assert table.closed(TTY, 0) == [Start(TTY, eve)]


# users take turns


def served(table: Table, count: int) -> list[Ask]:
    """Who gets the port next, one after the other."""
    order = []
    for _ in range(count):
        table.end(TTY, "closed")
        (start,) = table.closed(TTY, 0)
        assert isinstance(start, Start)
        table.opened(TTY, 0)
        order.append(start.ask)
    return order


def test_many_requests_of_one_do_not_stand_in_front_of_anothers_first() -> None:
    table = held_by(ask(1))
    many = [ask(2, wait=9) for _ in range(20)]
    for one in many:
        table.ask(TTY, one)
    bob, eve = ask(3, wait=9), ask(4, wait=9)
    table.ask(TTY, bob)
    table.ask(TTY, eve)
    assert served(table, 5) == [many[0], bob, eve, *many[1:3]]


def test_who_asks_again_and_again_does_not_overtake_who_has_many_requests() -> None:
    table = held_by(ask(1))
    many = [ask(2, wait=9) for _ in range(3)]
    for one in many:
        table.ask(TTY, one)
    order = []
    for _ in range(3):
        table.ask(TTY, ask(3, wait=9))
        order += [one.uid for one in served(table, 2)]
    assert order == [2, 3, 2, 3, 2, 3]


def test_who_withdraws_its_first_request_has_its_second_in_that_turn() -> None:
    table = held_by(ask(1))
    ann, bob, eve = ([ask(uid, wait=9) for _ in range(2)] for uid in (2, 3, 4))
    for one in (*ann, *bob, *eve):
        table.ask(TTY, one)
    table.withdraw(TTY, bob[0])
    assert served(table, 5) == [ann[0], eve[0], bob[1], ann[1], eve[1]]


def test_who_meets_an_outsider_keeps_its_place_and_its_others_stand_behind() -> None:
    ann, again, bob = ask(2, wait=9), ask(2, wait=9), ask(3, wait=9)
    table = Table()
    table.ask(TTY, ann)
    table.ask(TTY, again)
    table.ask(TTY, bob)
    table.failed(TTY, OUTSIDER, 0)
    assert list(table.ports[TTY].queue) == [ann, bob, again]


# limits of number


def test_nobody_can_fill_the_queue_and_others_still_can_wait() -> None:
    table = held_by(ask(1))
    for _ in range(limits.WAITS_PER_UID):
        assert table.ask(TTY, ask(2, wait=9)) == []
    one_more, other = ask(2, wait=9), ask(3, wait=9)
    assert refused(table.ask(TTY, one_more), one_more).number == errno.EDQUOT
    assert table.ask(TTY, other) == []


def test_a_request_counts_until_it_is_answered() -> None:
    table = held_by(ask(1))
    waiting = [ask(2, wait=9) for _ in range(limits.WAITS_PER_UID)]
    for one in waiting:
        table.ask(TTY, one)
    table.withdraw(TTY, waiting[3])
    assert table.ask(TTY, ask(2, wait=9)) == []


def test_one_who_leaves_while_its_port_is_stuck_opening_does_not_get_to_stick_another() -> None:
    table = Table()
    for key in range(limits.WAITS_PER_UID):
        one = ask(2)
        assert table.ask(key, one) == [Start(key, one)]
        table.withdraw(key, one)
    one_more = ask(2)
    assert refused(table.ask(999, one_more), one_more).number == errno.EDQUOT
    table.failed(0, BROKEN, 0)
    assert table.ask(999, one_more) == [Start(999, one_more)]


def fill(table: Table, uid: int, count: int) -> None:
    for key in range(count):
        table.ask(key, ask(uid))
        table.opened(key, 0)


def test_nobody_can_lease_every_port() -> None:
    table = Table()
    fill(table, 2, limits.LEASES_PER_UID)
    one_more, other = ask(2), ask(3)
    assert refused(table.ask(999, one_more), one_more).number == errno.EDQUOT
    assert table.ask(999, other) == [Start(999, other)]


def test_a_lease_counts_until_its_port_is_in_order_again() -> None:
    table = Table()
    fill(table, 2, limits.LEASES_PER_UID)
    one_more = ask(2)
    table.end(0, "closed")
    assert refused(table.ask(999, one_more), one_more).number == errno.EDQUOT
    table.closed(0, 0)
    assert table.ask(999, one_more) == [Start(999, one_more)]


def test_what_one_waits_for_counts_towards_what_one_may_lease() -> None:
    table = Table()
    fill(table, 2, limits.LEASES_PER_UID - 1)
    assert table.ask(998, ask(2)) != []
    one_more = ask(2, wait=9)
    assert refused(table.ask(999, one_more), one_more).number == errno.EDQUOT


def test_descriptors_kept_open_after_a_revoke_count_as_leases() -> None:
    table, ann = Table(), ask()
    told = refused(table.ask(TTY, ann, ghosts=limits.LEASES_PER_UID), ann)
    assert told.number == errno.EDQUOT
    assert table.ask(TTY, ann, ghosts=limits.LEASES_PER_UID - 1) == [Start(TTY, ann)]


# hand-over


def lent(yields: int = YIELD_USER, uid: int = 1) -> tuple[Table, Ask, Ask]:
    """A table in which a session that yields has lent the port, it, and who has it."""
    monitor, flasher = ask(1, yields=yields), ask(uid)
    table = held_by(monitor)
    assert table.ask(TTY, flasher) == [Lend(TTY, monitor, flasher, GRACE)]
    assert table.end(TTY, "closed") == [End(TTY, monitor, "closed")]
    assert table.closed(TTY, 0) == [Start(TTY, flasher)]
    assert table.opened(TTY, 0) == []
    return table, monitor, flasher


def give_back(table: Table, now: float = 0) -> list[Effect]:
    """What follows when the lease of the one who has the port ends."""
    (end,) = table.end(TTY, "closed")
    assert isinstance(end, End)
    return table.closed(TTY, now)


def test_a_port_that_was_lent_comes_back_by_itself_and_is_shown_so_meanwhile() -> None:
    table, monitor, flasher = lent()
    assert table.ports[TTY].holder() is flasher.holder
    assert table.ports[TTY].lender() is monitor.holder
    assert table.next_alarm() is None
    assert give_back(table, 1000) == [Start(TTY, monitor)]
    assert table.next_alarm() == 1000 + SLOW
    assert table.tick(1000 + SLOW) == [Tell(monitor, SLOW_DEVICE)]
    assert table.next_alarm() == 1000 + OPEN_LIMIT
    assert table.opened(TTY, 1000) == []
    assert table.ports[TTY].holder() is monitor.holder
    assert table.ports[TTY].lender() is None
    assert give_back(table) == []
    assert table.ports == {}


def test_a_session_that_does_not_let_go_is_hung_up_when_its_time_is_over() -> None:
    monitor, flasher = ask(1, yields=YIELD_USER), ask(1)
    table = held_by(monitor)
    table.ask(TTY, flasher)
    assert table.next_alarm() == GRACE
    assert table.tick(GRACE - 0.01) == []
    assert table.tick(GRACE) == [End(TTY, monitor, LENT)]
    assert table.tick(GRACE + 1) == []
    assert table.closed(TTY, GRACE) == [Start(TTY, flasher)]


@pytest.mark.parametrize(
    ("yields", "uid", "keep", "lends"),
    [
        (YIELD_USER, 1, False, True),
        (YIELD_USER, 2, False, False),
        (YIELD_ALL, 2, False, True),
        (YIELD_ALL, 1, True, False),
        (0, 1, False, False),
    ],
)
def test_it_yields_to_whom_it_said(yields: int, uid: int, keep: bool, lends: bool) -> None:
    monitor, other = ask(1, yields=yields), ask(uid, keep=keep)
    effects = held_by(monitor).ask(TTY, other)
    if lends:
        assert effects == [Lend(TTY, monitor, other, GRACE)]
    else:
        told = refused(effects, other)
        assert (told.number, told.holder) == (errno.EBUSY, monitor.holder)


def test_who_keeps_is_told_that_it_need_not() -> None:
    table = held_by(ask(1, yields=YIELD_USER))
    one, other = ask(1, keep=True), ask(2, keep=True)
    assert "borrow it" in refused(table.ask(TTY, one), one).advice
    assert "borrow it" not in refused(table.ask(TTY, other), other).advice


def test_who_asks_is_served_before_others_who_wait_and_the_claim_too() -> None:
    monitor, bob, flasher = ask(1, yields=YIELD_USER), ask(2, wait=99), ask(1)
    table = held_by(monitor)
    assert table.ask(TTY, bob) == []
    assert table.ask(TTY, flasher) == [Lend(TTY, monitor, flasher, GRACE)]
    assert give_back(table) == [Start(TTY, flasher)]
    table.opened(TTY, 0)
    assert give_back(table) == [Start(TTY, monitor)]
    table.opened(TTY, 0)
    assert give_back(table) == [Start(TTY, bob)]


def test_a_second_flasher_passes_the_claim_and_another_user_does_not() -> None:
    table, monitor, _ = lent()
    bob, second = ask(2, wait=99), ask(1, wait=99)
    assert table.ask(TTY, bob) == table.ask(TTY, second) == []
    assert give_back(table) == [Start(TTY, second)]
    table.opened(TTY, 0)
    assert give_back(table) == [Start(TTY, monitor)]
    table.opened(TTY, 0)
    assert give_back(table) == [Start(TTY, bob)]


def test_a_claim_asks_nobody_to_yield() -> None:
    first, second = ask(1, yields=YIELD_ALL), ask(1, yields=YIELD_ALL)
    table = held_by(first)
    table.ask(TTY, second)
    assert give_back(table) == [Start(TTY, second)]
    assert table.opened(TTY, 0) == []
    flasher = ask(1)
    assert table.ask(TTY, flasher) == [Lend(TTY, second, flasher, GRACE)]
    for one in (flasher, second, first):
        assert give_back(table) == [Start(TTY, one)]
        assert table.opened(TTY, 0) == []
    assert give_back(table) == []


def test_who_asks_while_the_port_goes_or_comes_back_need_not_wait_either() -> None:
    table, monitor, _ = lent()
    table.end(TTY, "closed")
    second, third = ask(1), ask(1)
    assert table.ask(TTY, second) == []
    assert refused(table.ask(TTY, third), third).holder is second.holder
    table.withdraw(TTY, second)
    assert table.closed(TTY, 0) == [Start(TTY, monitor)]
    assert table.ask(TTY, third) == []
    assert table.opened(TTY, 0) == [Lend(TTY, monitor, third, GRACE)]


def test_one_who_asks_during_the_grace_is_told_of_the_one_before() -> None:
    monitor, first, second = ask(1, yields=YIELD_USER), ask(1), ask(1)
    table = held_by(monitor)
    table.ask(TTY, first)
    assert refused(table.ask(TTY, second), second).holder is first.holder
    table.withdraw(TTY, first)
    assert table.ask(TTY, second) == []
    assert give_back(table) == [Start(TTY, second)]


def test_who_was_lent_the_port_does_not_wait_in_vain_for_the_grace() -> None:
    monitor, flasher, next_ = ask(1, yields=YIELD_USER), ask(1, wait=0.2), ask(1, wait=0.3)
    table = held_by(monitor)
    table.ask(TTY, flasher)
    table.ask(TTY, next_)
    assert table.tick(0.25) == []
    assert refused(table.tick(0.3), next_).number == errno.ETIMEDOUT
    table.end(TTY, "closed")
    told = refused(table.tick(OPEN_LIMIT), flasher)
    assert (told.number, told.holder) == (errno.ETIMEDOUT, None)


def test_one_who_waits_yields_as_soon_as_it_has_the_port() -> None:
    monitor, flasher = ask(1, wait=9, yields=YIELD_USER), ask(1, wait=9)
    table = held_by(ask(2))
    table.ask(TTY, monitor)
    table.ask(TTY, flasher)
    assert give_back(table) == [Start(TTY, monitor)]
    assert table.opened(TTY, 0) == [Lend(TTY, monitor, flasher, GRACE)]


def test_a_claim_ends_with_its_client_and_so_does_its_wish_to_be_asked() -> None:
    table, monitor, _ = lent()
    table.withdraw(TTY, monitor)
    assert table.ports[TTY].lender() is None
    assert give_back(table) == []
    assert table.ports == {}


def test_a_lease_whose_client_is_gone_is_hung_up_and_has_no_claim_in_the_end() -> None:
    monitor, flasher = ask(1, yields=YIELD_USER), ask(1)
    table = held_by(monitor)
    table.withdraw(TTY, monitor)
    assert table.ask(TTY, flasher) == [Lend(TTY, monitor, flasher, GRACE)]
    assert table.tick(GRACE) == [End(TTY, monitor, LENT)]
    assert table.closed(TTY, 0) == [Start(TTY, flasher)]
    table.opened(TTY, 0)
    (told,) = give_back(table)
    assert isinstance(told, Refuse) and told.ask is monitor
    assert table.ports == {}


def test_a_claim_that_is_refused_is_none_and_is_not_counted_twice() -> None:
    table, monitor, _ = lent()
    assert table.refuse(TTY, monitor, BROKEN) == [Refuse(monitor, BROKEN)]
    assert give_back(table) == []
    assert not table._waiting._counts and not table._leases._counts


def test_a_claim_whose_device_is_gone_is_refused_and_one_that_meets_an_outsider_waits() -> None:
    table, monitor, _ = lent()
    give_back(table)
    assert table.failed(TTY, OUTSIDER, 0) == []
    assert table.tick(RETRY) == [Start(TTY, monitor)]
    assert table.failed(TTY, BROKEN, 0) == [Refuse(monitor, BROKEN)]
    assert table.ports == {}
    assert not table._waiting._counts


def test_who_is_hung_up_again_and_again_has_no_claim_any_more() -> None:
    monitor = ask(1, yields=YIELD_USER)
    table = held_by(monitor)
    for number in range(1, HANG_UPS + 1):
        flasher = ask(1)
        table.ask(TTY, flasher)
        effects = table.tick(GRACE)
        assert effects[-1] == End(TTY, monitor, LENT)
        assert len(effects) == (2 if number == HANG_UPS else 1)
        table.closed(TTY, 0)
        table.opened(TTY, 0)
        after = give_back(table)
        if number < HANG_UPS:
            table.opened(TTY, 0)
    assert refused(effects[:1], monitor).number == errno.EDQUOT
    assert after == []


def test_who_lets_go_in_time_begins_to_count_anew() -> None:
    monitor = ask(1, yields=YIELD_USER)
    table = held_by(monitor)
    for _ in range(HANG_UPS - 1):
        table.ask(TTY, ask(1))
        table.tick(GRACE)
        table.closed(TTY, 0)
        table.opened(TTY, 0)
        give_back(table)
        table.opened(TTY, 0)
    assert monitor.hung == HANG_UPS - 1
    table.ask(TTY, ask(1))
    table.end(TTY, "closed")
    assert monitor.hung == 0


def test_nobody_has_more_sessions_that_yield_than_the_limit() -> None:
    table = Table()
    for key in range(limits.YIELDERS_PER_UID):
        table.ask(key, ask(1, yields=YIELD_USER))
        table.opened(key, 0)
    one_more = ask(1, yields=YIELD_ALL)
    assert refused(table.ask(999, one_more), one_more).number == errno.EDQUOT
    assert table.ask(0, ask(1)) != []  # a claim counts as well, and once
    table.end(0, "closed")
    table.closed(0, 0)
    assert refused(table.ask(999, one_more), one_more).number == errno.EDQUOT
    assert table.ask(999, ask(1)) != []
    assert table.ask(1000, ask(2, yields=YIELD_ALL)) != []


def test_who_left_the_queue_for_a_port_of_an_outsider_does_not_count_as_one_that_yields() -> None:
    first = ask(1, wait=9, yields=YIELD_USER)
    table = outside(first)
    table.ask(TTY, ask(2, wait=9))
    table.withdraw(TTY, first)
    for key in range(limits.YIELDERS_PER_UID):
        one = ask(1, yields=YIELD_USER)
        assert table.ask(key, one) == [Start(key, one)]
        table.opened(key, 0)


# hand-over and time limits


def test_the_time_of_a_chain_counts_from_its_first_grant() -> None:
    monitor, flasher = ask(1, yields=YIELD_USER, max_lease=20), ask(1, max_lease=20)
    table = held_by(monitor)
    table.ask(TTY, flasher)
    give_back(table)
    table.opened(TTY, 5)
    assert table.next_alarm() == 20
    give_back(table)
    table.opened(TTY, 10)
    assert table.next_alarm() == 20
    assert table.tick(20) == [End(TTY, monitor, "time limit")]


def test_who_borrows_has_its_own_limit_and_the_lenders() -> None:
    monitor, flasher = ask(1, yields=YIELD_USER), ask(1, max_lease=3)
    table = held_by(monitor)
    table.ask(TTY, flasher)
    give_back(table)
    table.opened(TTY, 5)
    assert table.tick(8) == [End(TTY, flasher, "time limit")]
    assert table.closed(TTY, 8) == [Start(TTY, monitor)]
    table.opened(TTY, 8)
    assert table.next_alarm() is None


def test_after_the_time_of_a_chain_its_claim_stands_behind_those_who_wait() -> None:
    monitor, flasher = ask(1, yields=YIELD_USER, max_lease=20), ask(1)
    table = held_by(monitor)
    bob = ask(2, wait=99, max_lease=20)
    table.ask(TTY, bob)
    table.ask(TTY, flasher)
    give_back(table)
    table.opened(TTY, 5)
    assert table.tick(20) == [End(TTY, flasher, "time limit")]
    assert table.closed(TTY, 20) == [Start(TTY, bob)]
    table.opened(TTY, 20)
    assert table.tick(40) == [End(TTY, bob, "time limit")]
    assert table.closed(TTY, 40) == [Start(TTY, monitor)]
    table.opened(TTY, 41)
    assert table.next_alarm() == 61


def test_who_lent_the_port_and_goes_away_leaves_its_time_limit_to_the_chain() -> None:
    monitor, flasher = (ask(1, yields=YIELD_USER, max_lease=20) for _ in range(2))
    table = held_by(monitor)
    bob = ask(2, wait=99, now=1)
    table.ask(TTY, bob)
    table.ask(TTY, flasher)
    table.end(TTY, "closed")
    table.withdraw(TTY, monitor)
    assert table.closed(TTY, 15) == [Start(TTY, flasher)]
    table.opened(TTY, 15)
    assert table.tick(20) == [End(TTY, flasher, "time limit")]
    assert table.closed(TTY, 20) == [Start(TTY, bob)]


def test_a_chain_whose_time_ends_while_the_port_is_put_in_order_is_over_then() -> None:
    monitor, flasher = (ask(1, yields=YIELD_USER, max_lease=20) for _ in range(2))
    table = held_by(monitor)
    bob = ask(2, wait=99, max_lease=20)
    table.ask(TTY, bob)
    flasher.asked = 19
    table.ask(TTY, flasher)
    table.end(TTY, "closed")
    for one, now in (bob, 21), (flasher, 41), (monitor, 61):
        assert table.closed(TTY, now) == [Start(TTY, one)]
        table.opened(TTY, now)
        assert table.next_alarm() == now + 20
        assert table.tick(now + 20) == [End(TTY, one, "time limit")]


def test_who_was_let_in_before_others_is_behind_them_when_the_time_of_the_chain_is_over() -> None:
    monitor, bob = ask(1, yields=YIELD_USER, max_lease=20), ask(2, wait=99, now=1)
    table = held_by(monitor)
    table.ask(TTY, bob)
    table.ask(TTY, ask(1, yields=YIELD_USER, now=19.5, max_lease=20))
    assert table.tick(20) == [End(TTY, monitor, "time limit")]
    assert table.closed(TTY, 20) == [Start(TTY, bob)]


def test_a_claim_whose_time_begins_anew_shares_it_with_whom_it_lends_to() -> None:
    monitor, bob = ask(1, yields=YIELD_USER, max_lease=20), ask(2, wait=99)
    table = held_by(monitor)
    table.ask(TTY, bob)
    table.ask(TTY, ask(1))
    give_back(table)
    table.opened(TTY, 5)
    table.tick(20)  # the claim is behind bob
    assert table.closed(TTY, 20) == [Start(TTY, bob)]
    table.opened(TTY, 20)
    carol = ask(3, wait=99)
    for who in (ask(1, wait=99, max_lease=20), carol):
        table.ask(TTY, who)
    give_back(table, 30)
    table.opened(TTY, 30)
    give_back(table, 40)
    table.opened(TTY, 40)
    assert table.next_alarm() == 50
    assert table.tick(50) == [End(TTY, monitor, "time limit")]
    assert table.closed(TTY, 50) == [Start(TTY, carol)]


# hand-over and a broker that is started again


def listens(max_lease: float, *, yields: int = YIELD_USER) -> Ask:
    """A session that hears when its time is nearly over."""
    made = ask(1, yields=yields, max_lease=max_lease)
    made.listens = True
    return made


def test_who_listens_is_told_once_when_its_time_is_nearly_over() -> None:
    table = held_by(monitor := listens(20))
    assert table.next_alarm() == 20 - WARNING
    assert table.tick(20 - WARNING - 1) == []
    assert table.tick(20 - WARNING) == [Warn(monitor, WARNING)]
    assert table.next_alarm() == 20
    assert table.tick(19) == []
    assert table.tick(20) == [End(TTY, monitor, "time limit")]


def test_a_short_time_is_told_at_once_and_one_that_is_over_is_not() -> None:
    table = held_by(monitor := listens(2))
    assert table.next_alarm() is not None and table.tick(0) == [Warn(monitor, 2)]
    table = held_by(monitor := listens(20))
    assert table.tick(20) == [End(TTY, monitor, "time limit")]


def test_who_has_the_port_again_and_who_comes_back_are_told_again() -> None:
    table = held_by(monitor := listens(20))
    assert table.tick(16) == [Warn(monitor, 4)]
    flasher = ask(1, now=16)
    table.ask(TTY, flasher)
    give_back(table, 16)
    table.opened(TTY, 16)
    give_back(table, 16.5)
    table.opened(TTY, 16.5)
    assert table.tick(17) == [Warn(monitor, 3)]
    again = listens(20)
    table.renew(TTY, monitor, again, 17)
    assert table.tick(18) == [Warn(again, 2)]


def adopted(*claims: Ask, yields: int = 0, expires: float | None = None) -> tuple[Table, Ask]:
    """A table with a lease of an earlier broker and the claims on it."""
    table, was = Table(), ask(1, yields=yields)
    table.adopt(TTY, was, expires, claims)
    return table, was


def test_a_claim_of_an_earlier_broker_waits_for_its_client() -> None:
    old = ask(1)
    table, _ = adopted(old, expires=50)
    again = ask(1, yields=YIELD_USER)
    assert table.renew(TTY, old, again, 0) == []
    assert table.ports[TTY].lender() is again.holder
    assert give_back(table) == [Start(TTY, again)]
    table.opened(TTY, 0)
    assert table.next_alarm() == 50


def test_a_claim_whose_client_does_not_come_back_is_void_when_its_turn_comes() -> None:
    old, bob = ask(1), ask(2, wait=9)
    table, _ = adopted(old)
    table.ask(TTY, bob)
    told, start = give_back(table)
    assert isinstance(told, Refuse) and told.ask is old
    assert start == Start(TTY, bob)


def test_an_adopted_lease_yields_and_its_client_has_its_place_when_it_comes_back() -> None:
    table, was = adopted(yields=YIELD_USER)
    flasher, again = ask(1), ask(1, yields=YIELD_USER)
    assert table.ask(TTY, flasher) == [Lend(TTY, was, flasher, GRACE)]
    assert table.renew(TTY, was, again, 0.25) == [Lend(TTY, again, flasher, GRACE - 0.25)]
    assert give_back(table) == [Start(TTY, flasher)]
    table.opened(TTY, 1)
    assert give_back(table) == [Start(TTY, again)]


def test_who_comes_back_to_a_lease_that_somebody_waits_for_is_asked() -> None:
    table, was = adopted()
    flasher, again = ask(1, wait=9), ask(1, yields=YIELD_USER)
    assert table.ask(TTY, flasher) == []
    assert table.renew(TTY, was, again, 0) == [Lend(TTY, again, flasher, GRACE)]
    assert table.next_alarm() == GRACE


def test_who_comes_back_when_the_asker_has_left_is_not_asked() -> None:
    table, was = adopted(yields=YIELD_USER)
    flasher, again = ask(1), ask(1, yields=YIELD_USER)
    table.ask(TTY, flasher)
    table.withdraw(TTY, flasher)
    assert table.renew(TTY, was, again, 0.25) == []


# places of those who waited, after a restart


def place(uid: int, pid: int, asked: float = -1, keep: bool = False) -> Ask:
    """Where a process stood in the queue of the broker before."""
    made = ask(uid, now=asked, keep=keep)
    made.process = pid, 0.5
    return made


def again(uid: int, pid: int, *, wait: float = 9, began: float = 0.5, now: float = 0) -> Ask:
    """What a process asks, from which the broker before has gone away."""
    made = ask(uid, wait=wait, now=now)
    made.process = pid, began
    return made


def test_who_asks_again_has_his_place_whoever_comes_first() -> None:
    table, was = adopted()
    table.expect(TTY, [place(2, 20), place(3, 30), place(4, 40)], 2)
    ann, bob, new, eve = again(2, 20), again(3, 30), ask(5, wait=9), again(4, 40)
    for one in (new, eve, bob, ann):
        assert table.ask(TTY, one) == []
    assert table.ports[TTY].queue == [ann, bob, eve, new]
    assert table.end(TTY, "closed") == [End(TTY, was, "closed")]
    for one in (ann, bob, eve, new):
        assert table.closed(TTY, 1) == [Start(TTY, one)]
        table.opened(TTY, 1)
        table.end(TTY, "closed")
    assert table.closed(TTY, 1) == [] and table.ports == {}


@pytest.mark.parametrize(
    "other",
    [again(3, 20), again(2, 21), again(2, 20, began=0.75), again(2, 20, wait=0)],
    ids=["another user", "another process", "one with the same pid", "one that does not wait"],
)
def test_nobody_else_has_his_place(other: Ask) -> None:
    table, _ = adopted(yields=YIELD_ALL)
    mine = place(2, 20)
    table.expect(TTY, [mine], 2)
    table.ask(TTY, other)
    assert table.ports[TTY].queue[0] is mine


def test_a_free_port_is_kept_for_the_first_place_and_no_longer() -> None:
    table = Table()
    table.expect(TTY, [place(2, 20), place(3, 30)], 2)
    bob, new, hasty = again(3, 30), ask(5, wait=9), ask(6)
    assert table.ask(TTY, new) == table.ask(TTY, bob) == []
    told = refused(table.ask(TTY, hasty), hasty)
    assert (told.number, told.holder) == (errno.EBUSY, None)
    assert told.cause == "busy: kept for who waited for it before the broker was restarted"
    assert table.tick(0) == [] and table.ports[TTY].holder() is None
    assert table.next_alarm() == 2
    late, start = table.tick(2)
    assert isinstance(late, Refuse) and late.ask.process == (20, 0.5)
    assert start == Start(TTY, bob)
    assert table.opened(TTY, 2) == [] and table.ports[TTY].queue == [new]


def test_a_free_port_goes_to_the_first_as_soon_as_he_is_back() -> None:
    table = Table()
    table.expect(TTY, [place(2, 20)], 2)
    ann = again(2, 20, now=1)
    assert table.ask(TTY, ann) == [] and table.next_alarm() == 1
    assert table.tick(1) == [Start(TTY, ann)]
    assert table.failed(TTY, OUTSIDER, 1) == [] and table.ports[TTY].holder() is OUTSIDER.holder


def test_a_port_for_which_nobody_comes_back_is_forgotten() -> None:
    table = Table()
    table.expect(TTY, [place(2, 20), place(3, 30)], 2)
    assert all(isinstance(effect, Refuse) for effect in table.tick(2))
    assert table.ports == {} and table.next_alarm() is None and not table._waiting._counts


def test_a_port_that_is_given_back_is_kept_for_the_first_place() -> None:
    table, _ = adopted()
    table.expect(TTY, [place(2, 20)], 2)
    new = ask(5, wait=9)
    table.ask(TTY, new)
    assert give_back(table) == []
    assert state(table) is State.OUTSIDE
    assert table.tick(1.99) == []
    assert Start(TTY, new) in table.tick(2)


def test_a_place_counts_for_no_limit_and_who_has_it_is_within_his() -> None:
    table = Table()
    table.expect(TTY, [place(1, pid) for pid in range(1, WAITS_PER_UID + 1)], 2)
    waits = [ask(1, wait=9) for _ in range(WAITS_PER_UID)]
    for key, one in enumerate(waits, 2 * TTY):
        table.ask(key, one)
    late = again(1, 1)
    assert refused(table.ask(TTY, late), late).number == errno.EDQUOT
    table.failed(2 * TTY, BROKEN, 0)
    assert table.ask(TTY, late) == [] and table.ports[TTY].queue[0] is late


def test_a_place_asks_nobody_to_yield_and_who_has_it_does() -> None:
    table, was = adopted(yields=YIELD_ALL)
    table.expect(TTY, [place(2, 20), place(3, 30, keep=True), place(4, 40)], 2)
    assert table.ask(TTY, keeps := ask(5, wait=9, keep=True)) == []
    eve = again(4, 40)
    assert table.ask(TTY, eve) == [Lend(TTY, was, eve, GRACE)]
    line = table.ports[TTY].queue
    assert [one.process[0] for one in line[:4]] == [20, 40, 0, 30]
    assert line[2] is was and line[4] is keeps
    ann = again(2, 20)
    assert table.ask(TTY, ann) == [] and table.ports[TTY].queue[0] is ann


def test_places_stand_before_and_behind_claims_as_they_did() -> None:
    one, two = ask(1), ask(1)
    table, _ = adopted(one, two)
    ann, bob, eve = place(2, 20), place(3, 30), place(4, 40)
    table.expect(TTY, [ann, None, bob, eve], 2)
    assert table.ports[TTY].queue == [ann, one, bob, eve, two]
    table.expect(OTHER, [None, kim := place(5, 50)], 2)  # a claim that nobody knows of
    assert table.ports[OTHER].queue == [kim]


def test_who_asks_again_keeps_the_moment_at_which_he_asked() -> None:
    """When the time of all that was lent is over, requests stand in that order."""
    old = ask(1)
    table, was = adopted(old, expires=1)
    ann, bob = again(2, 20), again(3, 30)
    table.expect(TTY, [place(2, 20, asked=-1), None, place(3, 30, asked=-2)], 2)
    for one in (ann, bob):
        table.ask(TTY, one)
    assert table.ports[TTY].queue == [ann, old, bob]
    assert table.tick(1) == [End(TTY, was, "time limit")]
    assert table.ports[TTY].queue == [bob, ann, old]


def test_who_waits_for_an_absent_device_has_his_place_too() -> None:
    table = Table()
    table.expect(NOWHERE, [place(2, 20), place(3, 30)], 2)
    assert table.missing() == []
    new, bob, ann = ask(5, wait=9), again(3, 30), again(2, 20)
    for one in (new, bob, ann):
        assert table.miss(one) == []
    assert table.missing() == [ann, bob, new]


def test_the_places_are_who_waits_and_claims_in_the_order_of_each_queue() -> None:
    table = held_by(monitor := ask(1, yields=YIELD_USER), OTHER)
    ann, hasty, bob, eve = ask(2, wait=9), ask(1), ask(3, wait=9), ask(4, wait=9)
    kim = ask(5, wait=9)
    assert table.places() == []
    table.ask(OTHER, hasty)
    assert table.places() == []  # a claim alone, and one that does not wait
    for one in (ann, bob):
        table.ask(OTHER, one)
    table.ask(TTY, eve)
    table.ask(TTY, kim)
    assert table.places() == [(OTHER, monitor), (TTY, eve), (OTHER, ann), (TTY, kim), (OTHER, bob)]
    table.withdraw(TTY, eve)
    assert [one for key, one in table.places() if key == TTY] == [kim]
    table.expect(0x442, [lee := place(6, 60)], 2)
    assert (0x442, lee) in table.places()  # until its time is over


# every order of everything


class Tables(RuleBasedStateMachine):
    """The table against a model that only knows who stands where in line, who was answered, and
    who has which device."""

    WAITS, LEASES, YIELDERS = 3, 4, 3
    keys = st.sampled_from([1, 2, 3])
    users = st.sampled_from([10, 11, 12])

    def __init__(self) -> None:
        super().__init__()
        self.limits = mock.patch.multiple(
            limits,
            WAITS_PER_UID=self.WAITS,
            LEASES_PER_UID=self.LEASES,
            YIELDERS_PER_UID=self.YIELDERS,
        )
        self.limits.start()
        self.table = Table()
        self.now = 0.0
        self.asked: list[tuple[int, Ask]] = []  # in line, not yet answered and still there
        self.opening: dict[int, Ask] = {}  # a worker is at it
        self.held: dict[int, tuple[Ask, float | None]] = {}
        self.closing: dict[int, Ask] = {}
        self.told: list[Ask] = []  # that the device is slow
        self.claims: set[Ask] = set()
        self.graces: dict[int, float] = {}  # until when who was asked has to let go
        self.over: set[int] = set()  # ports with a chain whose time is over
        self.places: set[Ask] = set()  # of those who have not come back after a restart

    def teardown(self) -> None:
        """However it went, all comes to an end."""
        for _ in range(100):
            self.now += 10
            self.tick()
            for key in list(self.opening):
                self.fail_with(key, BROKEN)
            for key in list(self.held):
                self.do(self.table.end(key, "closed"))
            for key in list(self.closing):
                self.finish(key)
        self.limits.stop()
        assert self.asked == []
        assert self.table.ports == {}
        assert self.table.next_alarm() is None
        assert not self.table._waiting._counts
        assert not self.table._leases._counts

    def waiting(self, key: int) -> list[Ask]:
        return [one for at, one in self.asked if at == key]

    def line_up(self, key: int) -> None:
        """Users take turns, behind the one for whom the port is being opened, and on each side
        of a claim."""
        opening = self.opening.get(key)
        line = [one for one in self.waiting(key) if one is opening]
        rest = [one for one in self.waiting(key) if one is not opening]
        while rest:
            at = next((at for at, one in enumerate(rest) if one in self.claims), len(rest))
            left, rest = rest[:at], rest[at:]
            while left:
                first = {one.uid: one for one in reversed(left)}
                line += [one for one in left if first[one.uid] is one]
                left = [one for one in left if first[one.uid] is not one]
            line += rest[:1]
            rest = rest[1:]
        self.put(key, line)

    def put(self, key: int, line: list[Ask]) -> None:
        self.asked = [at for at in self.asked if at[0] != key] + [(key, one) for one in line]

    def lends(self, one: Ask, other: Ask) -> bool:
        """Whether it lets another pass."""
        if other.keep or other in self.claims:
            return False
        return one.yields == YIELD_ALL or (one.yields == YIELD_USER and one.uid == other.uid)

    def place(self, key: int, who: Ask) -> int:
        line = [one for one in self.waiting(key) if one is not self.opening.get(key)]
        return next((at for at, one in enumerate(line)
                     if one in self.claims and self.lends(one, who)), len(line))  # fmt: skip

    def answered(self, who: Ask) -> None:
        (key,) = [key for key, one in self.asked if one is who]  # asked, and not answered twice
        self.asked.remove((key, who))
        if who not in self.opening.values():
            self.claims.discard(who)
        self.line_up(key)

    def count_waiting(self, uid: int) -> int:
        live = [one for _, one in self.asked
                if one.uid == uid and one not in self.claims | self.places]  # fmt: skip
        stuck = [one for one in self.opening.values() if one.uid == uid and one not in live
                 and one not in self.claims]  # fmt: skip
        return len(live) + len(stuck)

    def count_yielders(self, uid: int) -> int:
        ours = {one for _, one in self.asked} | {one for one, _ in self.held.values()}
        ours |= {*self.closing.values(), *self.opening.values()}
        return sum(one.yields != 0 and one.uid == uid for one in ours)

    def count_leases(self, uid: int) -> int:
        held = [one for one, _ in self.held.values()]
        return sum(one.uid == uid for one in [*held, *self.closing.values()])

    def do(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Start):
                self.start(effect.key, effect.ask)
            elif isinstance(effect, End):
                lease_of, expires = self.held.pop(effect.key)
                assert effect.ask is lease_of
                due = self.graces.pop(effect.key, None)
                if effect.reason == "time limit":
                    assert expires is not None
                    assert expires <= self.now
                    self.to_the_back(effect.key)
                if effect.reason == LENT:
                    assert due is not None
                    assert due <= self.now
                self.closing[effect.key] = lease_of
            elif isinstance(effect, Lend):
                self.lend(effect)
            elif isinstance(effect, Tell):
                assert effect.ask in self.opening.values()
                assert effect.ask not in self.told, "told twice"
                self.told.append(effect.ask)
            else:
                self.refuse(effect.ask, effect.refusal)

    def lend(self, effect: Lend) -> None:
        key, who = effect.key, self.held[effect.key][0]
        assert effect.ask is who
        assert key not in self.graces, "asked twice"
        line = self.waiting(key)
        first = [one for one in line if self.lends(who, one)]
        assert first, "asked for nobody"
        self.graces[key] = self.now + GRACE
        self.claims.add(who)
        self.put(key, [*first, who, *(one for one in line if one not in first)])
        self.line_up(key)
        assert effect.asker is self.asker(key)

    def asker(self, key: int) -> Ask:
        """The first who is there."""
        return next(one for one in self.waiting(key) if one not in self.places)

    def to_the_back(self, key: int) -> None:
        line = self.waiting(key)
        claims = [one for one in line if one in self.claims]
        others = [one for one in line if one not in claims]
        self.put(key, sorted(others, key=lambda one: one.asked) + claims)
        self.line_up(key)

    def look_at_chains(self) -> None:
        """Note whose time is over, before the table does."""
        self.over = {
            key
            for key, port in self.table.ports.items()
            if any(one.ends <= self.now for one in port.queue
                   if one in self.claims or one.deadline > self.now)
        }  # fmt: skip

    def kept(self, *keys: int) -> None:
        """The table looked for the next of these ports. It looks at the time of a chain first, also
        where it then keeps the port for who may come back."""
        for key in self.over.intersection(keys) - self.opening.keys():
            self.to_the_back(key)
        self.over = set()

    def tick(self) -> list[Effect]:
        self.look_at_chains()
        due = [key for key, port in self.table.ports.items()
               if port.retry is not None and port.retry <= self.now]  # fmt: skip
        effects = self.table.tick(self.now)
        self.do(effects)
        self.kept(*due)
        return effects

    def start(self, key: int, who: Ask) -> None:
        assert key not in {**self.opening, **self.held, **self.closing}, "two at a time"
        if key in self.over:
            self.to_the_back(key)
        assert self.waiting(key)[0] is who, "somebody overtook"
        self.opening[key] = who
        self.line_up(key)

    def refuse(self, who: Ask, refusal: Refusal) -> None:
        if refusal.number == errno.EDQUOT and who in self.claims:
            assert who.hung == HANG_UPS - 1
        if refusal.number == errno.ETIMEDOUT:
            assert who not in self.claims
        self.answered(who)
        if refusal.number == errno.ETIMEDOUT:
            assert who.deadline <= self.now
            assert refusal.holder is not who.holder

    @initialize(
        before=st.dictionaries(
            keys, st.tuples(users, st.sampled_from([None, -1.0, 2.0, 20.0])), max_size=3
        ),
        places=st.lists(st.tuples(keys, users, st.booleans(), st.integers(-9, -1)), max_size=6),
    )
    def adopt(
        self,
        before: dict[int, tuple[int, float | None]],
        places: list[tuple[int, int, bool, int]],
    ) -> None:
        for key, (uid, expires) in before.items():
            who = ask(uid)
            self.table.adopt(key, who, expires)
            self.held[key] = who, expires
        for pid, (key, uid, keep, asked) in enumerate(places, 1):
            place = ask(uid, now=asked, keep=keep)
            place.process = pid, 0.5
            self.asked.append((key, place))
            self.places.add(place)
        for key in {key for key, *_ in places}:
            self.table.expect(key, self.waiting(key), 2.0)
            self.line_up(key)

    @rule(
        key=keys,
        uid=users,
        wait=st.sampled_from([0.0, 0.5, 3.0, 50.0]),
        limit=st.sampled_from([None, 2.0, 20.0]),
        ghosts=st.sampled_from([0, 0, 0, 3]),
        yields=st.sampled_from([0, YIELD_USER, YIELD_ALL]),
        keep=st.sampled_from([False, False, True]),
    )
    def ask(
        self,
        key: int,
        uid: int,
        wait: float,
        limit: float | None,
        ghosts: int,
        yields: int,
        keep: bool,
    ) -> None:
        who = ask(uid, wait=wait, now=self.now, max_lease=limit, yields=yields, keep=keep)
        waits, leases = self.count_waiting(uid), self.count_leases(uid)
        yielders = self.count_yielders(uid)
        has = self.opening.get(key) or self.held.get(key, (None,))[0]
        asks = has is not None and key not in self.graces and self.lends(has, who)
        at = self.place(key, who)
        soon = asks if has is not None and key not in self.graces else at == 0
        free = key not in self.table.ports
        soon &= key in self.opening or key in self.held or key in self.closing
        effects = self.table.ask(key, who, ghosts)
        line = self.waiting(key)
        at += key in self.opening and self.opening[key] in line
        self.put(key, [*line[:at], who, *line[at:]])
        self.line_up(key)
        self.do(effects)
        over = yields != 0 and yielders >= self.YIELDERS
        if waits >= self.WAITS or leases + waits + ghosts >= self.LEASES or over:
            assert refused(effects, who).number == errno.EDQUOT
        elif free:
            assert effects == [Start(key, who)]
        elif wait == 0 and not soon:
            assert refused(effects, who).number == errno.EBUSY
        elif asks and key in self.held:
            assert has is not None
            assert effects == [Lend(key, has, self.asker(key), GRACE)]
        else:
            assert effects == []

    @precondition(lambda self: any(one in self.places for _, one in self.asked))
    @rule(data=st.data(), wait=st.sampled_from([0.5, 50.0]), ghosts=st.sampled_from([0, 0, 3]))
    def ask_again(self, data: st.DataObject, wait: float, ghosts: int) -> None:
        """Who waited before the restart has his place, within the limits."""
        there = [(key, one) for key, one in self.asked if one in self.places]
        key, place = data.draw(st.sampled_from(there))
        who = ask(place.uid, wait=wait, now=self.now, keep=place.keep)
        who.process = place.process
        has = self.held.get(key, (None,))[0]
        asks = has is not None and key not in self.graces and self.lends(has, who)
        waits = self.count_waiting(who.uid)
        effects = self.table.ask(key, who, ghosts)
        if waits >= self.WAITS or self.count_leases(who.uid) + waits + ghosts >= self.LEASES:
            assert refused(effects, who).number == errno.EDQUOT
            return
        self.put(key, [who if one is place else one for one in self.waiting(key)])
        self.do(effects)
        assert who.asked == place.asked
        assert effects == ([Lend(key, has, self.asker(key), GRACE)] if has and asks else [])

    @precondition(lambda self: self.opening)
    @rule(data=st.data())
    def opened(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.opening)))
        who = self.opening.pop(key)
        gone = who not in self.waiting(key)
        effects = self.table.opened(key, self.now)
        self.claims.discard(who)
        limit = None if who.max_lease is None else self.now + who.max_lease
        expires = self.table.ports[key].expires
        assert gone or limit is None or (expires is not None and expires <= limit)
        self.held[key] = who, expires
        if gone:
            assert effects == [End(key, who, "client gone")]
        else:
            self.answered(who)
            line = self.waiting(key)
            asks = [one for one in line if self.lends(who, one) and one not in self.places]
            assert len(effects) == (1 if asks else 0)
            assert all(isinstance(effect, Lend) for effect in effects)
        self.do(effects)

    def fail_with(self, key: int, refusal: Refusal) -> None:
        who = self.opening.pop(key)
        there = who in self.waiting(key)
        if not there:
            self.claims.discard(who)
        self.look_at_chains()
        effects = self.table.failed(key, refusal, self.now)
        waits = there and refusal is OUTSIDER and who.patient
        if not there or waits:
            assert not any(isinstance(e, Refuse) for e in effects)
            self.line_up(key)
        else:
            assert effects[0] == Refuse(who, refusal)
        self.do(effects)
        if not waits:
            self.kept(key)

    @precondition(lambda self: self.opening)
    @rule(data=st.data(), refusal=st.sampled_from([OUTSIDER, OUTSIDER, BROKEN]))
    def failed(self, data: st.DataObject, refusal: Refusal) -> None:
        self.fail_with(data.draw(st.sampled_from(sorted(self.opening))), refusal)

    @rule(key=keys, reason=st.sampled_from(["closed", "revoked"]))
    def end(self, key: int, reason: str) -> None:
        due = [End(key, self.held[key][0], reason)] if key in self.held else []
        effects = self.table.end(key, reason)
        assert effects == due
        self.do(effects)

    def finish(self, key: int) -> None:
        del self.closing[key]
        self.look_at_chains()
        self.do(self.table.closed(key, self.now))
        self.kept(key)

    @precondition(lambda self: self.closing)
    @rule(data=st.data())
    def closed(self, data: st.DataObject) -> None:
        self.finish(data.draw(st.sampled_from(sorted(self.closing))))

    @precondition(lambda self: any(one not in self.places for _, one in self.asked))
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        there = [(key, one) for key, one in self.asked if one not in self.places]
        key, who = data.draw(st.sampled_from(there))
        self.asked.remove((key, who))
        if who is not self.opening.get(key):
            self.claims.discard(who)
        self.line_up(key)
        self.table.withdraw(key, who)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def withdraw_after_the_grant(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.held)))
        who = self.held[key][0]
        self.table.withdraw(key, who)
        who.yields = 0  # its claim would be void, and not more
        if (key, who) in self.asked:
            self.answered(who)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), yields=st.sampled_from([YIELD_USER, YIELD_ALL]))
    def come_back(self, data: st.DataObject, yields: int) -> None:
        key = data.draw(st.sampled_from(sorted(self.held)))
        who, expires = self.held[key]
        again = ask(who.uid, now=self.now, yields=yields)
        if not who.yields and self.table.too_many_yield(again):
            return
        self.claims.discard(who)
        self.put(key, [one for one in self.waiting(key) if one is not who])
        self.line_up(key)  # its claim stood between some
        self.held[key] = again, expires
        until = self.graces.pop(key, NEVER)
        effects = self.table.renew(key, who, again, self.now)
        there = [one for one in self.waiting(key) if one not in self.places]
        asks = any(self.lends(again, one) for one in there)
        self.do(effects)
        assert len(effects) == asks
        if asks:
            self.graces[key] = min(until, self.now + GRACE)

    @rule(seconds=st.sampled_from([0.0, 0.1, RETRY, 1.0, 5.0, 60.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        alarm = self.table.next_alarm()
        effects = self.tick()
        if alarm is None or alarm > self.now:
            assert effects == []
        for key, who in self.asked:
            if self.opening.get(key) is who:
                assert who.opens_by > self.now
            else:
                assert who.deadline > self.now or who in self.claims
        assert all(due > self.now for due in self.graces.values())
        for _, expires in self.held.values():
            assert expires is None or expires > self.now
        later = self.table.next_alarm()
        assert later is None or later > self.now, "it would tick without end"

    @invariant()
    def the_table_knows_just_those_who_have_and_want(self) -> None:
        busy_keys = {*self.opening, *self.held, *self.closing}
        assert set(self.table.ports) == busy_keys | {key for key, _ in self.asked}
        for key, port in self.table.ports.items():
            current = [self.opening[key]] if key in self.opening else []
            assert [one for one in self.waiting(key) if one not in current] == list(port.queue)
            if key in self.held:
                assert port.holder() is self.held[key][0].holder
            elif key in self.closing:
                assert port.holder() is None
            elif key in self.opening:
                assert port.holder() is self.opening[key].holder
            else:  # or it is kept for somebody
                assert port.holder() is OUTSIDER.holder or (self.places and not port.holder())

    @invariant()
    def no_user_is_over_the_limits(self) -> None:
        for uid in (10, 11, 12):
            assert self.count_waiting(uid) <= self.WAITS
            assert self.count_leases(uid) <= self.LEASES
            assert self.table._waiting.of(uid) == self.count_waiting(uid)
            assert self.table._leases.of(uid) == self.count_leases(uid)
            assert self.count_yielders(uid) <= self.YIELDERS

    @invariant()
    def the_alarm_rings_for_everybody(self) -> None:
        due = [who.deadline for key, who in self.asked
               if self.opening.get(key) is not who and who not in self.claims]  # fmt: skip
        due += self.graces.values()
        due += [who.opens_by for key, who in self.asked if self.opening.get(key) is who]
        due += [expires for _, expires in self.held.values() if expires is not None]
        alarm = self.table.next_alarm()
        assert not due or (alarm is not None and alarm <= min(due))


TestTables = Tables.TestCase
TestTables.settings = settings(deadline=None, max_examples=120, stateful_step_count=40)
TestTables.pytestmark = [pytest.mark.timeout(600)]  # a minute, with its branches counted


def test_who_comes_back_when_its_claim_and_its_asker_are_gone_keeps_the_port() -> None:
    monitor, again = ask(1, yields=YIELD_USER), ask(1, yields=YIELD_USER)
    table = held_by(monitor)
    flasher, other = ask(1), ask(1)
    table.ask(TTY, flasher)
    table.withdraw(TTY, monitor)
    table.withdraw(TTY, flasher)
    assert table.renew(TTY, monitor, again, 0.25) == []
    assert table.next_alarm() is None
    assert table.ask(TTY, other) == [Lend(TTY, again, other, GRACE)]


def test_who_comes_back_within_its_grace_has_a_claim_again_and_no_more_time() -> None:
    monitor, again = ask(1, yields=YIELD_USER), ask(1, yields=YIELD_USER)
    table, flasher, bob = held_by(monitor), ask(1), ask(2, wait=99)
    table.ask(TTY, bob)
    table.ask(TTY, flasher)
    table.withdraw(TTY, monitor)
    assert table.renew(TTY, monitor, again, 0.25) == [Lend(TTY, again, flasher, GRACE - 0.25)]
    assert table.tick(GRACE) == [End(TTY, again, LENT)]
    for one in (flasher, again, bob):
        assert table.closed(TTY, 0) == [Start(TTY, one)]
        table.opened(TTY, 0)
        table.end(TTY, "closed")


GONE = Absent(errno.ENOENT, "no such port")


def test_who_waits_for_a_device_that_is_not_there_asks_when_it_is() -> None:
    table = Table()
    ann, bob = ask(1, wait=60), ask(2, wait=60)
    assert table.miss(ann) == table.miss(bob) == []
    assert table.missing() == [ann, bob] and table.waiting() == [(NOWHERE, ann), (NOWHERE, bob)]
    table.found(ann, 30)
    assert table.missing() == [bob]
    assert table.ask(TTY, ann) == [Start(TTY, ann)]
    assert table.tick(30 + SLOW / 2) == []  # until it came no device was slow
    assert table.opened(TTY, 31) == []
    table.found(bob, 31)
    assert table.missing() == [] and NOWHERE not in table.ports
    assert table.ask(TTY, bob) == [] and table.ports[TTY].queue == [bob]


def test_a_wait_for_a_device_that_does_not_come_says_so() -> None:
    table = Table()
    ann = ask(1, wait=5)
    assert table.miss(ann) == [] and table.next_alarm() == 5
    refusal = refused(table.tick(5), ann)
    assert (refusal.number, refusal.cause) == (errno.ETIMEDOUT, "timed out: absent")
    assert table.ports == {} and not table.waiting()


def test_waits_for_devices_that_are_not_there_count() -> None:
    table = Table()
    waits = [ask(1, wait=5) for _ in range(WAITS_PER_UID)]
    assert [table.miss(one) for one in waits] == [[]] * WAITS_PER_UID
    late = ask(1, wait=5)
    assert refused(table.miss(late), late).number == errno.EDQUOT
    table.withdraw(NOWHERE, waits[0])
    assert table.miss(late) == []


def test_whose_device_goes_while_it_waits_waits_on() -> None:
    ann, bob, hasty = ask(1), ask(2, wait=60), ask(3)
    table = held_by(ann)
    assert table.ask(TTY, bob) == []
    assert table.end(TTY, "hung up") and table.closed(TTY, 1) == [Start(TTY, bob)]
    assert table.failed(TTY, GONE, 1) == []
    assert table.missing() == [bob] and TTY not in table.ports
    assert table.ask(TTY, hasty) == [Start(TTY, hasty)]
    assert refused(table.failed(TTY, GONE, 2), hasty) is GONE


def test_users_take_turns_also_when_a_claim_that_stood_between_them_is_gone() -> None:
    table = held_by(monitor := ask(1, yields=YIELD_ALL))
    first, second, other = ask(3, wait=9), ask(3, wait=9), ask(1, wait=9, keep=True)
    for one in (first, other, second):
        table.ask(TTY, one)
    table.renew(TTY, monitor, ask(1, yields=YIELD_USER), 0)
    assert table.ports[TTY].queue == [first, other, second]


def test_users_take_turns_before_who_comes_back_has_a_claim_again() -> None:
    table = held_by(monitor := ask(1, yields=YIELD_USER))
    keeps, borrows, other = ask(1, wait=9, keep=True), ask(1, wait=9), ask(2, wait=9)
    for one in (keeps, borrows, other):
        table.ask(TTY, one)
    assert table.ports[TTY].queue == [borrows, monitor, keeps, other]
    table.renew(TTY, monitor, again := ask(1, yields=YIELD_USER), 0)
    assert table.ports[TTY].queue == [borrows, again, other, keeps]
