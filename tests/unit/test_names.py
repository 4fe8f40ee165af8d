"""A user or group of the policy is a number, or nobody; and none is looked up while serving."""

from __future__ import annotations

import pytest

from ttybrokerd.prepare import names


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "_users", {})
    monkeypatch.setattr(names, "_groups", {})
    monkeypatch.setattr(names, "_closed", False)


def test_a_name_is_a_number_or_nobody() -> None:
    assert names.user_id("root") == names.group_id("root") == 0
    for name in ("no-such-user", "", "a\0b", "x" * 5000):
        assert names.user_id(name) is None
        assert names.group_id(name) is None


def test_after_the_close_the_answers_of_before_stay_and_a_new_name_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert (names.user_id("root"), names.group_id("no-such-group")) == (0, None)
    names.close()
    monkeypatch.setattr("pwd.getpwnam", None)  # to call it would fail
    monkeypatch.setattr("grp.getgrnam", None)
    assert (names.user_id("root"), names.group_id("no-such-group")) == (0, None)
    for look_up in (names.user_id, names.group_id):
        with pytest.raises(names.Unanswered, match="restart it, or write the number"):
            look_up("daemon")
