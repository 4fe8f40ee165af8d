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
DESCRIPTORS = "tests/attack/test_descriptors.py"
IDENTITY = "tests/real/test_identity.py"

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "a message with descriptors is the end of its sender",
        CLIENTS,
        'if got & TRUNCATED:\n            raise BrokenPeer("it sent descriptors along")',
        "",
        (f"{DESCRIPTORS}::test_descriptors_are_the_end_of_their_sender[empty-1]",),
        "'descriptors' in",
    ),
    Mutant(
        "the control buffer has no room for descriptors",
        "broker/ttybrokerd/linux.py",
        "CREDENTIALS_SPACE = socket.CMSG_SPACE(_UCRED.size)",
        "CREDENTIALS_SPACE = socket.CMSG_SPACE(_UCRED.size) + 2048",
        (f"{DESCRIPTORS}::test_a_flood_of_descriptors_installs_none[open-before 6.16]",),
        "not baited|too many",
    ),
    Mutant(
        "the kernel refuses descriptors at their sender",
        "broker/ttybrokerd/linux.py",
        "socket.SOL_SOCKET, SO_PASSRIGHTS, 0)",
        "socket.SOL_SOCKET, SO_PASSRIGHTS, 1)",
        (f"{DESCRIPTORS}::test_on_this_kernel_no_descriptor_lies_behind_a_request_either",),
        "True is False",
    ),
    Mutant(
        "a client that waits is cut off when it sends descriptors",
        CLIENTS,
        'if got & TRUNCATED:\n            self._cut_off(client, "it sent descriptors along")\n'
        "            return",
        "",
        (
            f"{DESCRIPTORS}::test_a_connection_that_holds_itself_ends_with_its_process"
            "[waiting-itself-before 6.16]",
        ),
        "too many",
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
