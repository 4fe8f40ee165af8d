"""Every guard of the root side, and what goes wrong without it, as plain data.

A mutant replaces `old`, which stands exactly once in `file`, by `new`; then each of `tests` must
fail with a text in which the expression `why` is found. Run by mutate.py; test_mutants.py keeps
the list true.
"""

from __future__ import annotations

from typing import NamedTuple

ASSERTS = "^E +(AssertionError|assert)(?!.*daemon did not start)"
FAILS = f"{ASSERTS}|DID NOT RAISE"


class Mutant(NamedTuple):
    """One guard taken away."""

    guard: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    why: str = FAILS


DEVICE = "broker/ttybrokerd/root/device.py"
TRUST = "broker/ttybrokerd/root/trust.py"
PATHS = "tests/attack/test_paths.py"
BACKEND = "broker/ttybrokerd/backend.py"
BROKER = "broker/ttybrokerd/root/broker.py"
CONFINE = "broker/ttybrokerd/root/confine.py"
SECCOMP = "broker/ttybrokerd/root/seccomp.py"
CALLS = "tests/real/test_seccomp_inside.py"
LOCKS = "broker/ttybrokerd/root/locks.py"
POLICY = "broker/ttybrokerd/prepare/policy.py"
PORT = "broker/ttybrokerd/root/port.py"
PORTNAME = "broker/ttybrokerd/root/portname.py"
TOML = "broker/ttybrokerd/prepare/toml.py"
WIRE = "frontend/ttybroker/wire.py"
TTYRUN = "packaging/launcher/ttyrun.c"
MAIN = "packaging/launcher/ttyrun_main.py"
CONFINED = "tests/real/test_confined.py"
LAUNCH = "tests/attack/test_launcher.py"
LEASE = "tests/real/test_lease.py"
TEST_LOCKS = "tests/unit/test_locks.py"
FRONTEND = "tests/real/test_forked.py::test_the_frontend_keeps_nothing_of_root"
FORKED_CAPS = "tests/real/test_forked.py::test_the_backend_holds_only_the_capabilities_of_its_job"
STORE = "broker/ttybrokerd/root/store.py"
KEPT = "tests/real/test_restart.py::test_what_does_not_fit_together_is_dropped_and_the_lock_tells"
CLIENTS = "broker/ttybrokerd/root/clients.py"
DESCRIPTORS = "tests/attack/test_descriptors.py"
ATTACK_IDENTITY = "tests/attack/test_identity.py"
IDENTITY = "tests/real/test_identity.py"
LINUX = "broker/ttybrokerd/root/linux.py"
TABLE = "broker/ttybrokerd/root/lease.py"
FAULTS = "tests/attack/test_faults.py"
LEASES = "tests/attack/test_leases.py"
PROTOCOL = "tests/attack/test_protocol.py"
ON_THE_WAY = "test_whatever_fails_on_the_way_to_a_grant_it_is_an_answer_and_leaves_nothing"
AT_THE_END = "test_whatever_fails_at_the_end_of_a_lease_the_port_is_free"
AS_THE_ORACLE = "test_conversations_go_as_the_oracle_says"
CANCELLED = "test_a_wait_may_be_cancelled_in_every_state_of_the_port"
BROKEN = "is stuck|the daemon ended|waited|no word of it"

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
        "broker/ttybrokerd/root/linux.py",
        "CREDENTIALS_SPACE = socket.CMSG_SPACE(_UCRED.size)",
        "CREDENTIALS_SPACE = socket.CMSG_SPACE(_UCRED.size) + 2048",
        (f"{DESCRIPTORS}::test_a_flood_of_descriptors_installs_none[before 6.16]",),
        "not baited|too many",
    ),
    Mutant(
        "the kernel refuses descriptors at their sender",
        "broker/ttybrokerd/root/linux.py",
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
        "broker/ttybrokerd/root/peer.py",
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
        "broker/ttybrokerd/root/peer.py",
        "credentials == (self.pid, self.uid, self.gid)",
        "credentials[::2] == (self.pid, self.gid)",
        (f"{ATTACK_IDENTITY}::test_a_thread_that_becomes_another_user_is_cut_off",),
        "isinstance|Timeout|AssertionError",
    ),
    Mutant(
        "who asks for another process must own it",
        "broker/ttybrokerd/root/peer.py",
        "if not owns(caller.uid, pid):",
        "if False:",
        (f"{IDENTITY}::test_asking_for_another_process_is_for_ones_own_alone",),
    ),
    Mutant(
        "a pid is asked about again when the port is granted",
        "broker/ttybrokerd/root/broker.py",
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
    ),
    Mutant(
        "a name is of the grammar, or refused",
        "broker/ttybrokerd/root/broker.py",
        "if not wire.valid_name(name):\n            what",
        "if False:\n            what",
        (f"{PATHS}::test_no_name_leads_anywhere_but_where_the_policy_says",),
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
        "what the link leads to was opened|Timeout",
    ),
    Mutant(
        "what was opened is what was looked at",
        DEVICE,
        "if not os.path.samestat(os.fstat(descriptor), os.fstat(seen.node)):",
        "if not stat.S_ISCHR(os.fstat(descriptor).st_mode):",
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
    ),
    Mutant(
        "a port is a character device",
        DEVICE,
        'if not stat.S_ISCHR(status.st_mode):\n            what = "a sym',
        'if False:\n            what = "a sym',
        (f"{PATHS}::test_no_device_number_of_another_driver_is_a_port",),
    ),
    Mutant(
        "the active console needs a rule",
        DEVICE,
        "if not target.console and kernel_name in self._consoles():",
        "if False:",
        ("tests/unit/test_device.py::test_the_active_console_needs_a_rule_that_says_so",),
    ),
    Mutant(
        "a rule for ptys means ptys alone",
        DEVICE,
        "if os.major(status.st_rdev) not in linux.PTY_SLAVES:",
        "if False:",
        ("tests/unit/test_device.py::test_where_a_rule_says_pty_only_a_pty_will_do",),
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
    # what is held, and its end
    Mutant(
        "a port that somebody made exclusive is busy",
        PORT,
        "if linux.is_exclusive(port.guard) and not ghosts:",
        "if False:",
        (
            "tests/real/test_real_programs.py::test_an_outsiders_lock_is_respected_and_named_until_it_ends",
        ),
    ),
    Mutant(
        "a port that somebody has flocked is busy",
        PORT,
        "        if not ghosts:\n            raise busy(flock",
        "        if False:\n            raise busy(flock",
        (
            "tests/real/test_real_programs.py"
            "::test_an_outsiders_lock_is_respected_and_named_until_it_ends[lock_by_flock-flock]",
        ),
    ),
    Mutant(
        "a leased port is flocked",
        PORT,
        "fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "pass",
        (f"{LEASE}::test_a_lease_is_locked_by_every_convention",),
    ),
    Mutant(
        "a leased port is exclusive",
        PORT,
        "fcntl.ioctl(holder, linux.TIOCEXCL)",
        "pass",
        (f"{LEASE}::test_a_lease_is_locked_by_every_convention",),
    ),
    Mutant(
        "a lease lives until the last copy is closed: an epoll entry tells",
        PORT,
        "return self.watcher is not None and linux.still_open(self.watcher)",
        "return False",
        (f"{LEASE}::test_a_lease_lives_until_the_last_duplicate_is_closed",),
        FAILS + "|Error",
    ),
    Mutant(
        "the port is hung up at the end",
        PORT,
        "        partial(fcntl.ioctl, guard, linux.TIOCVHANGUP),\n",
        "",
        (
            f"{LEASE}::test_a_controlling_terminal_is_no_way_to_keep_the_port",
            f"{LEASE}::test_a_revoked_holder_sees_a_hang_up_and_the_port_is_free_at_once",
            f"{LEASES}::test_what_is_hidden_is_dead_when_the_port_is_taken_back[io_uring]",
            f"{LEASES}::test_what_is_hidden_is_dead_when_the_port_is_taken_back[pidfd_getfd]",
            f"{LEASES}::test_whom_a_holder_lets_in_is_out_when_the_lease_is_over",
        ),
        FAILS + "|waited",
    ),
    Mutant(
        "exclusive use ends with the lease",
        PORT,
        "        partial(fcntl.ioctl, guard, linux.TIOCNXCL),\n",
        "",
        (f"{LEASE}::test_a_second_lease_is_whole_beside_a_revoked_one_that_locked_all_it_could",),
        FAILS + "|PortBusy|exclusive",
    ),
    Mutant(
        "what was not read is not the next user's",
        PORT,
        "        partial(termios.tcflush, guard, termios.TCIOFLUSH),\n",
        "",
        ("tests/unit/test_port.py::test_settings_are_put_back_and_what_was_not_read_is_gone",),
    ),
    Mutant(
        "settings are put back",
        PORT,
        "        partial(termios.tcsetattr, guard, termios.TCSANOW, port.settings),\n",
        "",
        ("tests/unit/test_port.py::test_settings_are_put_back_and_what_was_not_read_is_gone",),
    ),
    Mutant(
        "a descriptor is never a controlling terminal",
        DEVICE,
        "os.O_RDWR | os.O_NOCTTY |",
        "os.O_RDWR |",
        ("tests/unit/test_device.py::test_a_port_is_opened_as_it_must_be",),
    ),
    Mutant(
        "dead descriptors of one user are bounded",
        "broker/ttybrokerd/root/lease.py",
        " + ghosts >=",
        " >=",
        (f"{LEASE}::test_who_revokes_for_ever_cannot_pile_up_dead_descriptors",),
        FAILS + "|Timeout",
    ),
    Mutant(
        "leases of one user are bounded",
        "broker/ttybrokerd/root/lease.py",
        "LEASES_PER_UID = 64",
        "LEASES_PER_UID = 1 << 30",
        (f"{LEASE}::test_one_process_holds_many_ports_up_to_its_limit",),
    ),
    Mutant(
        "waits of one user are bounded",
        "broker/ttybrokerd/root/lease.py",
        "if self._waiting[ask.uid] >= WAITS_PER_UID:",
        "if False:",
        ("tests/unit/test_lease.py::test_nobody_can_fill_the_queue_and_others_still_can_wait",),
        FAILS + "|IndexError|ValueError",
    ),
    Mutant(
        "connections of one user are bounded",
        CLIENTS,
        "CLIENTS_PER_UID = 256",
        "CLIENTS_PER_UID = 1 << 30",
        ("tests/real/test_hostile.py::test_300_connections_of_one_user_are_bounded",),
        FAILS + "|waited",
    ),
    Mutant(
        "half of the descriptors are for ports",
        CLIENTS,
        "most = min(CLIENTS, descriptors // 2)",
        "most = CLIENTS",
        (
            "tests/real/test_hostile.py::test_a_broker_with_few_descriptors_refuses_clients_and_keeps_some_for_ports",
        ),
        "waited|Error",
    ),
    Mutant(
        "who does not read is cut off",
        CLIENTS,
        'self._cut_off(client, "it does not read its answers")\n            return False',
        "return False",
        (
            "tests/real/test_hostile.py::test_a_client_that_never_reads_is_cut_off_and_delays_nobody",
        ),
        "waited|Timeout",
    ),
    Mutant(
        "a daemon's client gets no further connection",
        CLIENTS,
        "if not client.forked:\n            refusal",
        "if False:\n            refusal",
        ("tests/real/test_hostile.py::test_a_daemon_is_no_peer_to_connect_through",),
    ),
    Mutant(
        "a message without credentials is nobody's",
        CLIENTS,
        "client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)\n        linux",
        "linux",
        ("tests/real/test_forked.py::test_the_frontend_keeps_nothing_of_root",),
        "credentials|EPROTO|cut off|Error",
    ),
    # the protocol
    Mutant(
        "a request has a largest size",
        WIRE,
        "if len(data) > MAX_REQUEST:",
        "if False:",
        (
            "tests/unit/test_wire.py::test_a_request_of_the_largest_size_is_read_and_one_byte_more_is_not",
        ),
    ),
    Mutant(
        "a version is ours",
        WIRE,
        "if version != VERSION:",
        "if False:",
        ("tests/unit/test_wire.py::test_a_bad_request_is_named_for_what_is_wrong_with_it",),
    ),
    Mutant(
        "reserved bytes are zero",
        WIRE,
        "    if zero:\n",
        "    if False:\n",
        ("tests/unit/test_wire.py::test_a_bad_request_is_named_for_what_is_wrong_with_it",),
    ),
    Mutant(
        "nothing follows a message",
        WIRE,
        "if self.at != len(self.data):",
        "if False:",
        ("tests/unit/test_wire.py::test_nothing_may_follow_a_request_without_a_name",),
    ),
    Mutant(
        "a check has a largest number of groups",
        WIRE,
        "if count > MAX_GROUPS:",
        "if False:",
        ("tests/unit/test_wire.py::test_a_bad_request_is_named_for_what_is_wrong_with_it",),
    ),
    # the policy
    Mutant(
        "the first rule that applies decides",
        POLICY,
        "if rule.subjects.name(uid, gids):",
        "if rule.subjects.name(uid, gids) and rule.allows:",
        ("tests/unit/test_policy.py::test_the_first_rule_that_applies_decides",),
    ),
    Mutant(
        "without a rule nobody may anything",
        POLICY,
        "return Decision(False, bool(matching), None, device)",
        "return Decision(True, bool(matching), None, device)",
        ("tests/unit/test_policy.py::test_without_a_rule_nobody_may_anything",),
    ),
    Mutant(
        "taking a port back is for its holder and admins",
        BROKER,
        "if not own and not self.policy.is_admin(who.uid, who.groups):",
        "if False:",
        (f"{LEASE}::test_the_holder_and_an_admin_may_revoke_and_nobody_else",),
    ),
    Mutant(
        "asking about others is for admins",
        BROKER,
        "if not self.policy.is_admin(uid, gids):",
        "if False:",
        (f"{IDENTITY}::test_check_is_for_oneself_and_for_others_by_admins",),
    ),
    Mutant(
        "the groups that somebody claims of himself count nothing",
        BROKER,
        "if request.uid is not None and request.uid != uid:",
        "if request.uid is not None:",
        (f"{IDENTITY}::test_check_is_for_oneself_and_for_others_by_admins",),
        "NotPermitted|" + ASSERTS,
    ),
    Mutant(
        "a list shows one's own ports",
        "broker/ttybrokerd/root/report.py",
        "if decision.allowed or (everything and decision.known):",
        "if decision.known:",
        (f"{IDENTITY}::test_a_list_shows_ones_own_ports_and_everything_to_admins",),
    ),
    Mutant(
        "the policy's file is root's alone",
        TRUST,
        "    resolved = resolve(path)\n",
        "    resolved = os.path.realpath(path)\n",
        ("tests/real/test_daemon.py::test_a_policy_that_others_may_change_is_refused",),
        ASSERTS + "|Timeout",
    ),
    Mutant(
        "what others may write is not trusted",
        TRUST,
        "if status.st_mode & 0o022 and not",
        "if False and not",
        (
            "tests/unit/test_trust.py::test_what_others_may_write_is_not_trusted_anywhere_on_the_way",
        ),
    ),
    # lock files
    Mutant(
        "a lock is made by link(2), which replaces nothing",
        LOCKS,
        "            self._link(temporary, name)\n            return temporary",
        "            os.rename(temporary, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)\n"
        "            return temporary",
        (
            f"{TEST_LOCKS}::test_the_second_is_refused_and_told_who_holds_the_lock",
            f"{TEST_LOCKS}::test_of_two_who_find_a_stale_lock_one_gets_it",
        ),
    ),
    Mutant(
        "a temporary lock is a file that was not there",
        LOCKS,
        "os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC",
        "os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC",
        (f"{TEST_LOCKS}::test_a_temporary_name_that_somebody_guessed_is_not_written",),
    ),
    Mutant(
        "a link in a temporary lock's place is not followed",
        LOCKS,
        "dst_dir_fd=self._fd, follow_symlinks=False)",
        "dst_dir_fd=self._fd)",
        (f"{TEST_LOCKS}::test_a_link_slipped_in_for_our_temporary_file_is_not_followed",),
    ),
    Mutant(
        "a lock that is a link is not read",
        LOCKS,
        "os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC",
        "os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC",
        (f"{TEST_LOCKS}::test_a_link_is_not_followed_and_what_it_leads_to_is_untouched",),
    ),
    Mutant(
        "a lock is a regular file",
        LOCKS,
        "if not stat.S_ISREG(status.st_mode):\n                raise self._no",
        "if False:\n                raise self._no",
        (f"{TEST_LOCKS}::test_what_no_program_makes_for_a_lock_is_busy_and_left_alone",),
    ),
    Mutant(
        "a stale lock is looked at again when it is moved aside",
        LOCKS,
        "if self._judge(aside) is not None:",
        "if False:",
        (f"{TEST_LOCKS}::test_a_lock_taken_between_look_and_removal_is_put_back",),
    ),
    Mutant(
        "only one's own lock is removed",
        LOCKS,
        "        if self._pid(name) == pid:\n            try:\n                self._unlink(name)",
        "        if True:\n            try:\n                self._unlink(name)",
        (f"{TEST_LOCKS}::test_only_the_lock_that_names_the_holder_is_released",),
        FAILS + "|FileNotFoundError",
    ),
    Mutant(
        "a process's name is printable",
        LOCKS,
        'chr(byte) if 32 <= byte < 127 else "?"',
        "chr(byte)",
        (f"{TEST_LOCKS}::test_what_is_shown_is_printable_ascii_of_the_same_length",),
        FAILS + "|Falsif|distinct failures",
    ),
    # names and the policy's text
    Mutant(
        "a kernel name has one spelling: no leading zeros",
        PORTNAME,
        'if number[0] == "0" and number != "0":',
        "if False:",
        ("tests/unit/test_portname.py::test_a_kernel_name_is_letters_and_a_number",),
    ),
    Mutant(
        "a glob is matched to its end",
        PORTNAME,
        'return not glob[here:].strip("*")',
        "return True",
        ("tests/unit/test_portname.py::test_a_glob_matches_what_fnmatch_says",),
    ),
    Mutant(
        "a set that begins with ! is of all others",
        PORTNAME,
        'wanted = not inside.startswith("!")',
        "wanted = True",
        ("tests/unit/test_portname.py::test_a_glob_matches_what_fnmatch_says",),
    ),
    Mutant(
        "a policy says each thing once",
        TOML,
        "        if key in table:\n",
        "        if False:\n",
        ("tests/unit/test_toml.py::test_whatever_the_text_tomllib_reads_the_same",),
        "tomllib refuses it",
    ),
    Mutant(
        "behind a value there is nothing but the end of its line",
        TOML,
        '        if self.at < len(self.text) and not self.take("\\n"):\n',
        '        self.take("\\n")\n        if False:\n',
        ("tests/unit/test_toml.py::test_what_it_cannot_read_it_says_where",),
        "DID NOT RAISE|expected",
    ),
    # privilege
    Mutant(
        "nothing is inheritable but what is kept",
        CONFINE,
        'int(account["CapInh"], 16) & permitted)',
        'int(account["CapInh"], 16))',
        (
            "tests/unit/test_confine.py::test_one_capability_too_many_in_one_set_of_one_thread_is_the_end",
        ),
    ),
    Mutant(
        "the bounding set is cut",
        CONFINE,
        "    _cut_bounding_set(CAPABILITIES)\n",
        "",
        (FORKED_CAPS,),
        "CapBnd is",
    ),
    Mutant(
        "capabilities are cut",
        CONFINE,
        "    _cut_sets(CAPABILITIES)\n",
        "",
        (FORKED_CAPS,),
        "CapPrm is",
    ),
    Mutant(
        "no_new_privs is set",
        CONFINE,
        "    _cut_sets(CAPABILITIES)\n    prctl.set_no_new_privs(1)\n",
        "    _cut_sets(CAPABILITIES)\n",
        (FORKED_CAPS,),
        "no_new_privs is not set",
    ),
    Mutant(
        "the root side is not dumpable",
        CONFINE,
        "    prctl.set_dumpable(0)\n",
        "    prctl.set_dumpable(1)\n",
        (FORKED_CAPS,),
        "still dumpable",
    ),
    Mutant(
        "securebits are set and locked",
        CONFINE,
        "        linux.set_securebits(SECUREBITS)\n",
        "        pass\n",
        (FORKED_CAPS,),
        "the securebits are",
    ),
    Mutant(
        "what the kernel says afterwards is read",
        CONFINE,
        "            if int(account[field], 16) != value:",
        "            if False:",
        (
            "tests/unit/test_confine.py::test_one_capability_too_many_in_one_set_of_one_thread_is_the_end",
        ),
    ),
    Mutant(
        "no_new_privs is read back",
        CONFINE,
        'if account["NoNewPrivs"] != "1":',
        "if False:",
        ("tests/unit/test_confine.py::test_without_no_new_privs_it_is_the_end",),
    ),
    Mutant(
        "no thread runs when privilege shrinks",
        CONFINE,
        'if len(os.listdir("/proc/self/task")) != 1:',
        "if False:",
        ("tests/real/test_confined_inside.py::test_threads_that_would_stay_free_are_the_end",),
    ),
    Mutant(
        "files that are made are nobody else's",
        CONFINE,
        "    os.umask(0o077)\n",
        "",
        (f"{CONFINED}::test_every_thread_has_the_two_capabilities_of_the_job_and_gets_no_other",),
    ),
    Mutant(
        "the root side stands nowhere",
        CONFINE,
        '    os.chdir("/")\n',
        "",
        (f"{CONFINED}::test_it_stands_nowhere",),
    ),
    Mutant(
        "no core is dumped",
        CONFINE,
        "    (resource.RLIMIT_CORE, 0),\n",
        "",
        (f"{CONFINED}::test_its_limits_are_those_of_its_job",),
    ),
    Mutant(
        "no memory is locked",
        CONFINE,
        "    (resource.RLIMIT_MEMLOCK, 0),\n",
        "",
        (f"{CONFINED}::test_its_limits_are_those_of_its_job",),
    ),
    Mutant(
        "descriptors have a number",
        CONFINE,
        "    (resource.RLIMIT_NOFILE, 16384),  # clients and four a lease, with room\n",
        "",
        (f"{CONFINED}::test_its_limits_are_those_of_its_job",),
    ),
    Mutant(
        "a file can have one size",
        CONFINE,
        "_limit(resource.RLIMIT_FSIZE, FILE_SIZE)",
        "pass",
        (f"{CONFINED}::test_its_limits_are_those_of_its_job",),
    ),
    Mutant(
        "the file system is given up",
        CONFINE,
        "    landlock.enforce(rules)\n",
        "",
        ("tests/real/test_confined_inside.py::test_no_other_file_can_be_read",),
        "can still be read",
    ),
    Mutant(
        "the frontend gives up its groups",
        CONFINE,
        "    os.setgroups(groups)\n",
        "",
        (FRONTEND,),
        "supplementary groups are not|exit|EOFError",
    ),
    Mutant(
        "the frontend gives up its uid",
        CONFINE,
        "    os.setresuid(uid, uid, uid)\n",
        "",
        (FRONTEND,),
        "EOFError|ids are not",
    ),
    Mutant(
        "the frontend gives up its capabilities",
        CONFINE,
        "    _cut_sets(())\n",
        "",
        ("tests/real/test_forked.py::test_what_a_setuid_does_not_take_is_taken_too",),
        ASSERTS + "|EOFError",
    ),
    Mutant(
        "the frontend tries to come back",
        CONFINE,
        '        raise NotConfined("privilege came back after it was given up")',
        "        pass",
        ("tests/unit/test_confine.py::test_a_way_back_that_works_is_the_end",),
    ),
    Mutant(
        "who asks for names has no rights",
        "broker/ttybrokerd/prepare/names.py",
        "        confine.give_up_everything(NOBODY, NOBODY, ())\n",
        "",
        ("tests/real/test_names.py::test_it_is_nobody_and_has_nothing_of_the_brokers",),
    ),
    Mutant(
        "who asks for names has no descriptor of the broker's",
        "broker/ttybrokerd/prepare/names.py",
        "        _leave_behind(sock.fileno())\n",
        "",
        ("tests/real/test_names.py::test_it_is_nobody_and_has_nothing_of_the_brokers",),
    ),
    # the forked backend
    Mutant(
        "a backend needs root",
        BACKEND,
        "if os.geteuid() != 0:",
        "if False:",
        ("tests/real/test_forked.py::test_without_root_it_says_so",),
        "DID NOT RAISE|Error",
    ),
    Mutant(
        "a backend comes before threads",
        BACKEND,
        'if len(os.listdir("/proc/self/task")) > 1:',
        "if False:",
        ("tests/real/test_forked.py::test_it_comes_too_late_when_threads_run",),
        "DID NOT RAISE|Error",
    ),
    Mutant(
        "the frontend is not root",
        BACKEND,
        "if entry.pw_uid == 0:",
        "if False:",
        ("tests/real/test_forked.py::test_it_must_know_whom_to_become",),
        "DID NOT RAISE|NotConfined|EOFError|came back",
    ),
    Mutant(
        "privilege is given up though the backend did not start",
        BACKEND,
        "    finally:\n        _become(become)\n",
        "    except ZeroDivisionError:\n        pass\n    else:\n        _become(become)\n",
        (
            "tests/real/test_forked.py::test_a_backend_that_cannot_start_is_an_error_and_privilege_is_gone_all_the_same",
        ),
    ),
    Mutant(
        "a program runs once, though its backend cannot be forked",
        BACKEND,
        "        pair.send(str(error).encode())\n    os._exit(0)",
        "        raise\n    os._exit(0)",
        (f"{LAUNCH}::test_a_full_process_table_is_told_and_leaves_nothing",),
    ),
    # leases, continued
    Mutant(
        "a time limit ends a lease",
        "broker/ttybrokerd/root/lease.py",
        "        if port.current.max_lease is not None:\n",
        "        if False:\n",
        (f"{LEASE}::test_a_lease_with_a_time_limit_is_hung_up_when_it_is_over",),
        FAILS + "|waited|Timeout",
    ),
    Mutant(
        "the broker signs for a lease whose process has ended",
        PORT,
        "            self.lock_pid = pid\n\n    def close",
        "            self.lock_pid = self.lock_pid\n\n    def close",
        (f"{LEASE}::test_a_copy_in_another_process_keeps_the_lease_and_the_broker_signs_for_it",),
        FAILS + "|waited|left",
    ),
    Mutant(
        "a close that is told of too early is looked at again",
        BROKER,
        "LOOK_AGAIN = (0.002, 0.02, 0.2, 2.0)",
        "LOOK_AGAIN = (1e9,)",
        (f"{LEASE}::test_a_close_is_noticed_though_the_kernel_tells_of_it_too_early",),
        FAILS + "|waited|Timeout|PortBusy",
    ),
    Mutant(
        "a client that is gone waits for nothing",
        BROKER,
        "            self._do(self.table.withdraw(key, job))",
        "            pass",
        (f"{LEASE}::test_a_waiter_that_dies_is_forgotten_and_the_next_is_served",),
        FAILS + "|waited|Timeout|Broken pipe",
    ),
    Mutant(
        "an unplugged device ends its lease",
        BROKER,
        "self._loop.add(held.guard, NOTHING, partial(self._on_hangup, key))",
        "self._loop.add(held.guard, NOTHING, lambda: None)",
        (f"{LEASE}::test_a_lost_device_frees_port_and_lock_at_once",),
        FAILS + "|waited|Timeout",
    ),
    Mutant(
        "a stuck device is left to another thread",
        "broker/ttybrokerd/root/workers.py",
        "                signal.setitimer(signal.ITIMER_REAL, PATIENCE)\n",
        "                pass\n",
        (
            "tests/unit/test_takeover.py::test_another_thread_leads_while_a_job_is_stuck_and_gets_its_result",
        ),
        FAILS + "|Timeout|Empty|waited",
    ),
    Mutant(
        "a device that changed its name while somebody waited is another",
        BROKER,
        "        if seen.rdev != key:\n            seen.close()\n",
        "        if False:\n            seen.close()\n",
        (f"{PATHS}::test_the_device_is_another_when_who_waited_gets_its_turn",),
        FAILS,
    ),
    # the log
    Mutant(
        "no value in the log makes a field or a line",
        "broker/ttybrokerd/root/log.py",
        "    if text.isascii() and text.isprintable() and",
        "    if True or",
        ("tests/unit/test_log.py::test_no_value_forges_a_field_or_a_line",),
        FAILS,
    ),
    # the socket
    Mutant(
        "a live daemon's socket is not replaced",
        "broker/ttybrokerd/daemon.py",
        "if result != errno.ECONNREFUSED:",
        "if False:",
        ("tests/real/test_daemon.py::test_a_live_daemons_socket_is_refused_and_it_lives_on",),
        FAILS + "|waited|Timeout",
    ),
    Mutant(
        "what is no socket is left alone",
        "broker/ttybrokerd/daemon.py",
        "if not stat.S_ISSOCK(mode):",
        "if False:",
        ("tests/real/test_daemon.py::test_what_is_no_socket_is_left_alone",),
        FAILS + "|Error",
    ),
    # system calls
    Mutant(
        "system calls are filtered",
        CONFINE,
        "    bounds.calls.load()\n",
        "",
        (FORKED_CAPS,),
        "system calls are not filtered",
    ),
    Mutant(
        "that system calls are filtered is read back",
        CONFINE,
        'if filtered and account["Seccomp"] != "2":',
        "if False:",
        ("tests/real/test_confined_inside.py::test_a_step_that_did_not_take_is_the_end",),
        FAILS,
    ),
    Mutant(
        "a system call that is not listed is the end",
        SECCOMP,
        "library.KILL_PROCESS\n    rules = ",
        "library.ALLOW\n    rules = ",
        (f"{CALLS}::test_no_other_system_call_is_there",),
        FAILS,
    ),
    Mutant(
        "no other ABI is a way round",
        SECCOMP,
        "    rules.set_attr(library.Attr.ACT_BADARCH, library.KILL_PROCESS)\n",
        "    rules.set_attr(library.Attr.ACT_BADARCH, library.ALLOW)\n",
        (f"{CALLS}::test_no_other_abi_is_a_way_round",),
        FAILS,
    ),
    Mutant(
        "an error for developers is an error",
        SECCOMP,
        "library.ERRNO(errno.EPERM) if",
        "library.ERRNO(0) if",
        (f"{CALLS}::test_developers_get_an_error_instead",),
        FAILS,
    ),
    *(
        Mutant(
            f"the arguments of {what} are looked at",
            "broker/ttybrokerd/prepare/syscalls.py",
            old,
            new,
            (f"{CALLS}::test_what_is_there_is_there_for_what_it_is_for_alone",),
            FAILS,
        )
        for what, old, new in (
            ("ioctl", "return Call(\"ioctl\", why, (Is(1, number),), unseen)",
             "return Call(\"ioctl\", why, (), unseen)"),
            ("kill", "A signal it is not\", (Is(1, 0),))", "A signal it is not\")"),
            ("socketpair", "frontend\", (Is(0, socket.AF_UNIX),))", "frontend\")"),
            ("clone", " | CLONE_PTRACE | CLONE_NEW),)", "),)"),
            ("mmap and mprotect", "NO_CODE = Is(2, 0, mmap.PROT_EXEC)", "NO_CODE = Is(2, 0, 0)"),
            ("prlimit64", "no limit is set\", (Is(0, 0), Is(2, 0, 2**64 - 1)))",
             "no limit is set\")"),
            ("prctl", "dumpable?\", (Is(0, linux.PR_GET_DUMPABLE),))", "dumpable?\")"),
            ("setsockopt", "what it sends\", (Is(2, socket.SO_PASSCRED),))", "what it sends\")"),
            ("fcntl", "is it sealed?\", (Is(1, fcntl.F_GET_SEALS),))", "is it sealed?\")"),
        )
    ),
    # Landlock
    Mutant(
        "Landlock forbids what is not named",
        "frontend/ttybroker/landlock.py",
        "        _call(_RESTRICT_SELF, rules.descriptor, 0)\n",
        "",
        ("tests/unit/test_landlock.py::test_what_is_not_named_can_neither_be_read_nor_made",),
        FAILS,
    ),
    Mutant(
        "signals and abstract sockets stay within",
        "frontend/ttybroker/landlock.py",
        "_SCOPES if level >= 6 else 0",
        "0",
        (
            "tests/unit/test_landlock.py::test_no_signal_reaches_a_process_outside",
            "tests/unit/test_landlock.py::test_no_abstract_socket_outside_can_be_reached",
        ),
        FAILS,
    ),
    Mutant(
        "that the file system is given up is tried",
        CONFINE,
        '    raise NotConfined(f"{FORBIDDEN} can still be read")',
        "    return",
        ("tests/real/test_confined_inside.py::test_a_step_that_did_not_take_is_the_end",),
        FAILS,
    ),
    Mutant(
        "a limit is read back",
        CONFINE,
        '        raise NotConfined(f"resource limit {what} was not taken")',
        "        pass",
        ("tests/real/test_confined_inside.py::test_a_step_that_did_not_take_is_the_end",),
        FAILS,
    ),
    Mutant(
        "Landlock leaves no right over directories of all",
        CONFINE,
        "    return path if directory in CROWDED else directory",
        "    return directory",
        ("tests/real/test_confined_inside.py::test_beside_a_policy_in_etc_nothing_of_etc_is_open",),
        FAILS,
    ),
    Mutant(
        "the policy is asked",
        BROKER,
        "        if not decision.allowed:\n            rule = None",
        "        if False:\n            rule = None",
        (
            f"{IDENTITY}::test_who_is_not_in_the_group_is_refused_and_who_is_gets_the_port",
            f"{IDENTITY}::test_root_too_needs_a_rule_to_open",
        ),
        FAILS + "|NoSuchPort",
    ),
    Mutant(
        "a backend keeps nothing of its parent's open",
        BACKEND,
        "        _forget_parent(keep | server.descriptors | log.descriptors)\n",
        "",
        ("tests/launcher/test_launcher_whole.py::test_backend_is_out_of_the_callers_reach",),
    ),
    Mutant(
        "a backend has no group of its parent's",
        BACKEND,
        "        os.setgroups([])\n",
        "",
        (FRONTEND,),
    ),
    Mutant(
        "no more clients than there is room for",
        CLIENTS,
        "        if len(self._all) >= most:",
        "        if False:",
        (
            "tests/real/test_hostile.py"
            "::test_a_broker_with_few_descriptors_refuses_clients_and_keeps_some_for_ports",
        ),
        "waited|Error",
    ),
    # what systemd has kept
    Mutant(
        "a kept guard is of the device that its record names",
        STORE,
        "if status.st_rdev != lease.rdev:",
        "if False:",
        (f"{KEPT}[another device]",),
        f"{FAILS}|waited",
    ),
    Mutant(
        "what is over is forgotten by systemd, too",
        BROKER,
        "        self._store.forget(key)\n",
        "",
        ("tests/real/test_restart.py::test_each_lease_is_kept_once_and_only_while_it_lasts",),
    ),
    Mutant(
        "a lock that is not finished is swept with its broker",
        LOCKS,
        "                if status is not None and status.st_ino == left.st_ino:",
        "                if False:",
        (f"{TEST_LOCKS}::test_a_lock_for_a_port_that_nobody_got_any_more_is_removed",),
    ),
    Mutant(
        "a kept pidfd is of the process that its record names",
        STORE,
        "if exit_fd >= 0 and linux.pidfd_process(exit_fd) not in (lease.pid, -1):",
        "if False:",
        (f"{KEPT}[another's pidfd]",),
        f"{FAILS}|waited",
    ),
    Mutant(
        "a kept watcher lists the port and nothing else",
        STORE,
        "if not set(linux.listed(watcher)) <= {(status.st_dev, status.st_ino)}:",
        "if False:",
        (f"{KEPT}[another port's watcher]", f"{KEPT}[a watcher of more]"),
        f"{FAILS}|waited",
    ),
    Mutant(
        "a kept record is sealed",
        STORE,
        "elif linux.seals(descriptor) & SEALS == SEALS and memory < 0:",
        "elif memory < 0:",
        (f"{KEPT}[not sealed]",),
        f"{FAILS}|waited",
    ),
    Mutant(
        "of two kept leases of a port one is believed",
        STORE,
        "    if lease.rdev in others:",
        "    if False:",
        ("tests/real/test_restart.py::test_of_two_leases_of_one_port_one_is_believed",),
        f"{FAILS}|waited",
    ),
    # the launcher
    Mutant(
        "standard descriptors are open",
        TTYRUN,
        "for (int fd = 0; fd <= 2; fd++)",
        "for (int fd = 3; fd <= 2; fd++)",
        ("tests/launcher/test_launcher_root_half.py::test_closed_standard_descriptors_are_filled",),
        ASSERTS + "|CompletedProcess",
    ),
    Mutant(
        "it has a name",
        TTYRUN,
        "if (argc < 1 || argv[0] == NULL || argv[0][0] == '\\0')",
        "if (argc < 0)",
        ("tests/launcher/test_launcher_refusals.py::test_no_name_is_refused",),
    ),
    Mutant(
        "it is root's and set-user-ID",
        TTYRUN,
        "if (geteuid() != 0)",
        "if (0)",
        ("tests/launcher/test_launcher_refusals.py::test_without_the_bit_it_says_what_to_do",),
    ),
    Mutant(
        "the caller's descriptors are closed",
        TTYRUN,
        "\tclosefrom(3);\n",
        "",
        ("tests/launcher/test_launcher_root_half.py::test_callers_other_descriptors_are_closed",),
    ),
    Mutant(
        "limits are known",
        TTYRUN,
        "\treset_limits();\n",
        "\t(void)reset_limits;\n",
        ("tests/launcher/test_launcher_root_half.py::test_soft_limit_is_set_to_a_known_value",),
    ),
    Mutant(
        "the launcher dumps no core",
        TTYRUN,
        "{ RLIMIT_CORE, 0 }",
        "{ RLIMIT_CORE, RLIM_INFINITY }",
        ("tests/launcher/test_launcher_root_half.py::test_soft_limit_is_set_to_a_known_value",),
    ),
    Mutant(
        "signals and timers are known",
        TTYRUN,
        "\treset_signals();\n",
        "\t(void)reset_signals;\n",
        (
            "tests/launcher/test_launcher_root_half.py::test_everything_ignored_and_blocked_is_reset",
            "tests/launcher/test_launcher_root_half.py::test_timers_are_stopped",
        ),
    ),
    Mutant(
        "scheduling is known",
        TTYRUN,
        "\treset_scheduling();\n",
        "\t(void)reset_scheduling;\n",
        ("tests/launcher/test_launcher_root_half.py::test_umask_nice_policy_and_slack_are_reset",),
    ),
    Mutant(
        "the umask is known",
        TTYRUN,
        "kept.umask = umask(022);",
        "umask((mode_t)(kept.umask = umask(022)));",
        ("tests/launcher/test_launcher_root_half.py::test_umask_nice_policy_and_slack_are_reset",),
    ),
    Mutant(
        "the interpreter is root's",
        TTYRUN,
        "\tcheck_path(PYTHON);\n",
        "",
        (
            "tests/launcher/test_launcher_refusals.py::test_interpreter_that_others_can_change_is_refused",
        ),
    ),
    Mutant(
        "the library is root's",
        TTYRUN,
        "\tcheck_path(STDLIB); /*",
        "\t/*",
        (
            "tests/launcher/test_launcher_refusals.py::test_interpreter_that_others_can_change_is_refused",
        ),
    ),
    Mutant(
        "the way to the code is root's",
        TTYRUN,
        "\tcheck_path(CODE);   /*",
        "\t/*",
        ("tests/launcher/test_launcher_refusals.py::test_code_that_others_can_change_is_refused",),
    ),
    Mutant(
        "all of the code is root's",
        TTYRUN,
        "if (nftw(CODE, check, 16, FTW_PHYS) == -1)",
        "if (0)",
        ("tests/launcher/test_launcher_refusals.py::test_code_that_others_can_change_is_refused",),
    ),
    Mutant(
        "a path of the code is no link",
        TTYRUN,
        "if (S_ISLNK(st->st_mode))",
        "if (0)",
        ("tests/launcher/test_launcher_refusals.py::test_code_that_others_can_change_is_refused",),
    ),
    Mutant(
        "code that others can change is not run",
        TTYRUN,
        "if (st->st_uid != 0 || st->st_mode & (S_IWGRP | S_IWOTH))",
        "if (0)",
        (
            "tests/launcher/test_launcher_refusals.py::test_code_that_others_can_change_is_refused",
            "tests/launcher/test_launcher_refusals.py::test_root_of_a_user_namespace_is_nobody_here",
        ),
    ),
    Mutant(
        "a compiled-in path is absolute",
        TTYRUN,
        "if (path[0] != '/')",
        "if (0)",
        (
            "tests/launcher/test_launcher_refusals.py::test_relative_path_is_refused_wherever_it_is_started",
        ),
    ),
    Mutant(
        "the root half has an environment of its own",
        TTYRUN,
        "execve(PYTHON, args, environment);",
        "execve(PYTHON, args, environment[0] ? environ : environment);",
        ("tests/launcher/test_launcher_root_half.py::test_environment_is_fresh",),
    ),
    Mutant(
        "Python is isolated",
        TTYRUN,
        '"-ISB"',
        '"-SB"',
        ("tests/launcher/test_launcher_root_half.py::test_python_is_isolated",),
    ),
    Mutant(
        "what is kept is sealed",
        TTYRUN,
        "F_SEAL_SEAL | F_SEAL_WRITE |",
        "F_SEAL_SEAL |",
        ("tests/launcher/test_launcher_root_half.py::test_kept_data_cannot_be_changed",),
    ),
    Mutant(
        "no parent's death ends it",
        TTYRUN,
        "\tprctl(PR_SET_PDEATHSIG, 0); /*",
        "\t/*",
        ("tests/launcher/test_launcher_root_half.py::test_parent_death_signal_is_cleared[root]",),
    ),
    Mutant(
        "nothing is started without /proc",
        TTYRUN,
        "if (keep() == -1)",
        "if (keep() == -2)",
        (f"{LAUNCH}::test_without_proc_nothing_is_started",),
    ),
    Mutant(
        "the launcher's frontend gets the caller's limits back",
        MAIN,
        "    kept.give_back_rights()\n",
        "",
        (
            "tests/launcher/test_launcher_given_back.py::test_frontend_can_be_neither_traced_nor_read",
        ),
    ),
    Mutant(
        "root is no caller of the launcher",
        MAIN,
        "    if os.getuid() == 0:\n",
        "    if False:\n",
        (
            "tests/launcher/test_launcher_given_back.py::test_root_is_told_that_there_is_nobody_to_become",
        ),
    ),
    Mutant(
        "a connection that cannot be set up is the end of itself alone",
        CLIENTS,
        "        except OSError as error:\n            self._log(\"cut-off\"",
        "        except ZeroDivisionError as error:\n            self._log(\"cut-off\"",
        (f"{FAULTS}::{ON_THE_WAY}",),
        BROKEN,
    ),
    Mutant(
        "a look that fails gives its descriptors back",
        DEVICE,
        "            os.close(directory)\n            os.close(node)\n            raise",
        "            raise",
        (f"{FAULTS}::{ON_THE_WAY}",),
        "left over",
    ),
    Mutant(
        "an open that fails gives its descriptor back",
        DEVICE,
        "        except BaseException:\n            os.close(descriptor)\n            raise",
        "        except BaseException:\n            raise",
        (f"{FAULTS}::{ON_THE_WAY}",),
        "left over",
    ),
    Mutant(
        "nothing of a grant fails after TIOCEXCL",
        PORT,
        "        port.watcher = linux.weak_reference(holder)\n",
        "        _lock(holder, seen, ghosts)\n"
        "        port.watcher = linux.weak_reference(holder)\n",
        (f"{FAULTS}::{ON_THE_WAY}",),
        "is stuck",
    ),
    Mutant(
        "a lease of which the end would not be heard is over at once",
        BROKER,
        '        except OSError as error:\n            self._record("watch-failed"',
        '        except ZeroDivisionError as error:\n            self._record("watch-failed"',
        (f"{FAULTS}::{ON_THE_WAY}",),
        BROKEN,
    ),
    Mutant(
        "a queue of closes that cannot be read has all ports looked at",
        LINUX,
        "    except OSError:\n        return set(), True",
        "    except ZeroDivisionError:\n        return set(), True",
        (f"{FAULTS}::{AT_THE_END}",),
        BROKEN,
    ),
    Mutant(
        "what cannot be told of a description is asked again",
        LINUX,
        '.fileno()}")\n    except OSError:\n        return True',
        '.fileno()}")\n    except ZeroDivisionError:\n        return True',
        (f"{FAULTS}::{AT_THE_END}",),
        BROKEN,
    ),
    Mutant(
        "a lock that cannot be removed is logged and ends nobody",
        PORT,
        "            except Refusal as refusal:\n                self.lock_left = refusal",
        "            except ZeroDivisionError as refusal:\n                self.lock_left = None",
        (f"{FAULTS}::{AT_THE_END}",),
        BROKEN,
    ),
    Mutant(
        "first come, first served",
        TABLE,
        "            port.queue.append(ask)",
        "            port.queue.appendleft(ask)",
        (f"{PROTOCOL}::{AS_THE_ORACLE}",),
        "Different",
    ),
    Mutant(
        "a flock of a holder that was hung up means nothing to a list",
        BROKER,
        "elif key in haunted and row.holder",
        "elif False and row.holder",
        (f"{PROTOCOL}::{AS_THE_ORACLE}",),
        "Different",
    ),
    Mutant(
        "the queue keeps its order when a port has been put in order",
        TABLE,
        "        port = self._port(key, State.CLOSING)\n",
        "        port = self._port(key, State.CLOSING)\n        port.queue.rotate(1)\n",
        (f"{PROTOCOL}::{AS_THE_ORACLE}",),
        "Different",
    ),
    Mutant(
        "a close is looked for again where inotify told of it too early",
        BROKER,
        "LOOK_AGAIN = (0.002, 0.02, 0.2, 2.0)",
        "LOOK_AGAIN = (3600.0,)",
        (f"{LEASE}::test_a_close_is_noticed_though_the_kernel_tells_of_it_too_early",),
        "waited",
    ),
)
