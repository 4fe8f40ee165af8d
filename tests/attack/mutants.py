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


DEVICE = "broker/ttybrokerd/device.py"
TRUST = "broker/ttybrokerd/trust.py"
PATHS = "tests/attack/test_paths.py"
CLIENTS = "broker/ttybrokerd/clients.py"
DESCRIPTORS = "tests/attack/test_descriptors.py"
ATTACK_IDENTITY = "tests/attack/test_identity.py"
IDENTITY = "tests/real/test_identity.py"

ASSERTS = r"(?m)^E +(AssertionError|assert)(?!.*did not start)"

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
    Mutant(
        "a message is its sender's by pid",
        "broker/ttybrokerd/peer.py",
        "credentials == (self.pid, self.uid, self.gid)",
        "credentials[1:] == (self.uid, self.gid)",
        (
            f"{IDENTITY}::test_a_forked_child_on_its_parents_connection_is_cut_off",
            f"{ATTACK_IDENTITY}::test_in_a_pid_namespace_of_ones_own_no_other_pid_can_be_claimed",
        ),
        "isinstance|waited",
    ),
    Mutant(
        "a message is its sender's by uid",
        "broker/ttybrokerd/peer.py",
        "credentials == (self.pid, self.uid, self.gid)",
        "credentials[::2] == (self.pid, self.gid)",
        (f"{ATTACK_IDENTITY}::test_a_thread_that_becomes_another_user_is_cut_off",),
        "isinstance|Timeout|AssertionError",
    ),
    Mutant(
        "who asks for another process must own it",
        "broker/ttybrokerd/peer.py",
        "if not owns(caller.uid, pid):",
        "if False:",
        (f"{IDENTITY}::test_asking_for_another_process_is_for_ones_own_alone",),
        "DID NOT RAISE",
    ),
    Mutant(
        "a pid is asked about again when the port is granted",
        "broker/ttybrokerd/broker.py",
        "return job.pid if job.pid and peer.owns(job.uid, job.pid) else 0",
        "return job.pid",
        (
            f"{ATTACK_IDENTITY}::test_a_lock_is_not_taken_for_ones_own_because_a_pid_came_again",
            f"{ATTACK_IDENTITY}::test_a_lock_does_not_name_who_got_a_dead_clients_pid",
        ),
        "two have the port|read_bytes",
    ),
    # names and paths
    Mutant(
        "a name is ASCII",
        "frontend/ttybroker/wire.py",
        "        and name.isascii()\n",
        "",
        (f"{PATHS}::test_no_name_leads_anywhere_but_where_the_policy_says",),
        ASSERTS,
    ),
    Mutant(
        "a name is of the grammar, or refused",
        "broker/ttybrokerd/broker.py",
        "if not wire.valid_name(name):\n            what",
        "if False:\n            what",
        (f"{PATHS}::test_no_name_leads_anywhere_but_where_the_policy_says",),
        ASSERTS,
    ),
    Mutant(
        "no link is followed at the look",
        DEVICE,
        "os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd",
        "os.O_PATH | os.O_CLOEXEC, dir_fd",
        ("tests/unit/test_device.py::test_what_is_no_serial_port_is_no_such_port",),
        "symbolic link|DID NOT RAISE",
    ),
    Mutant(
        "no link is followed at the open",
        DEVICE,
        "os.O_NONBLOCK | os.O_NOFOLLOW |",
        "os.O_NONBLOCK |",
        (
            f"{PATHS}::test_a_swap_between_look_and_open_gains_nothing[symlink]",
            f"{PATHS}::test_a_swap_between_look_and_open_gains_nothing[link to its like]",
        ),
        "what the link leads to was opened|never met",
    ),
    Mutant(
        "what was opened is what was looked at",
        DEVICE,
        " or status.st_rdev != seen.rdev:",
        ":",
        (
            f"{PATHS}::test_a_swap_between_look_and_open_gains_nothing[node]",
            f"{PATHS}::test_a_swap_between_look_and_open_gains_nothing[recreated node]",
            "tests/unit/test_device.py::test_a_node_that_is_another_between_look_and_open_is_gone",
        ),
        "st_mode=|DID NOT RAISE",
    ),
    Mutant(
        "the directory that was looked into is opened in",
        DEVICE,
        "os.open(base, OPEN_FLAGS, dir_fd=seen.directory)",
        "os.open(seen.target.path, OPEN_FLAGS)",
        (f"{PATHS}::test_a_swap_of_the_directory_gains_nothing",),
        "ENODEV",
    ),
    Mutant(
        "a port belongs to a serial driver",
        DEVICE,
        "if not self._serial(status.st_rdev):",
        "if False:",
        (f"{PATHS}::test_no_device_number_of_another_driver_is_a_port",),
        ASSERTS,
    ),
    Mutant(
        "a port is a character device",
        DEVICE,
        'if not stat.S_ISCHR(status.st_mode):\n            what = "a sym',
        'if False:\n            what = "a sym',
        (f"{PATHS}::test_no_device_number_of_another_driver_is_a_port",),
        ASSERTS,
    ),
    Mutant(
        "the active console needs a rule",
        DEVICE,
        "if not target.console and kernel_name in self._consoles():",
        "if False:",
        ("tests/unit/test_device.py::test_the_active_console_needs_a_rule_that_says_so",),
        "DID NOT RAISE",
    ),
    Mutant(
        "a rule for ptys means ptys alone",
        DEVICE,
        "if os.major(status.st_rdev) not in linux.PTY_SLAVES:",
        "if False:",
        ("tests/unit/test_device.py::test_where_a_rule_says_pty_only_a_pty_will_do",),
        "DID NOT RAISE",
    ),
    Mutant(
        "what leads to a device is root's",
        TRUST,
        "if status.st_uid != 0:",
        "if False:",
        (
            f"{PATHS}::test_the_link_of_an_alias_is_swapped_while_it_is_asked_for",
            "tests/real/test_devices.py::test_an_alias_that_somebody_else_could_redirect_is_refused",
        ),
        "DID NOT RAISE|KeyError|EACCES|outcomes|followed|Counter",
    ),
    Mutant(
        "a link is judged each time that it is followed",
        TRUST,
        "return resolve(here) if stat.S_ISLNK(os.lstat(here).st_mode) else here",
        "return os.path.realpath(here)",
        (f"{PATHS}::test_the_link_of_an_alias_is_swapped_while_it_is_asked_for",),
        "KeyError|Counter|followed",
    ),
)
