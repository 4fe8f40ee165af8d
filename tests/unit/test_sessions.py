"""Which session an open belongs to."""

from __future__ import annotations

from ttybrokerd.root.sessions import Session, Sessions


def test_a_connection_that_opens_and_closes_for_ever_has_few_sessions() -> None:
    sessions = Sessions()
    mine: list[Session] = []
    held: list[Session] = []
    for _ in range(1000):
        session = sessions.unused(mine, 1000)
        if session not in mine:
            mine.append(session)
            session.connections += 1
        session.leases += 1
        held.append(session)
        if len(held) == 3:
            held.pop(0).leases -= 1
    assert len(mine) == len(sessions._all) == 3


def test_a_session_ends_with_its_last_connection_and_its_last_lease() -> None:
    sessions = Sessions()
    session = sessions.unused([], 1000)
    session.connections = session.leases = 1
    for count in ("connections", "leases"):
        sessions.tidy(session)
        assert sessions.find(session.number, 1000) is session
        setattr(session, count, 0)
    sessions.tidy(session)
    assert len(sessions._all) == 0
