"""Every guard of the root side, and what goes wrong without it, as plain data.

A mutant replaces `old`, which stands exactly once in `file`, by `new`; then each of `tests` must
fail with a text in which the expression `why` is found. Run by mutate.py; test_mutants.py keeps
the list true.
"""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """One guard taken away."""

    guard: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    why: str


CLIENTS = "broker/ttybrokerd/clients.py"
HOSTILE = "tests/real/test_hostile.py"
IDENTITY = "tests/real/test_identity.py"

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "a message with descriptors is the end of its sender",
        CLIENTS,
        "if got & TRUNCATED:",
        "if False:",
        (f"{HOSTILE}::test_descriptors_sent_along_are_never_taken[-1]",),
        "no last word|Timeout|waited",
    ),
    Mutant(
        "each message's credentials are compared with those at connect",
        CLIENTS,
        "if not client.identity.sent(sender):",
        "if False:",
        (
            f"{IDENTITY}::test_a_forked_child_on_its_parents_connection_is_cut_off",
            f"{IDENTITY}::test_who_changes_its_ids_is_cut_off",
            f"{IDENTITY}::test_credentials_sent_by_hand_count_as_what_they_are",
        ),
        "isinstance",
    ),
)
