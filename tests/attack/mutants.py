"""Every security check, what goes wrong without it, and the tests that see it, as plain data.

Each mutant takes away the check that bears its anchor in the code, `# guard: NAME`: see
anchors.py. Then each of `tests` must fail with a text in which the expression `why` is found.
Run by mutate.py; test_mutants.py keeps the list true.
"""

from __future__ import annotations

from typing import NamedTuple

from attack.anchors import Do

ASSERTS = "^E +(AssertionError|assert)(?!.*daemon did not start)"
FAILS = f"{ASSERTS}|DID NOT RAISE"
REMOVE, NEVER, ALWAYS = Do.REMOVE, Do.NEVER, Do.ALWAYS


class Mutant(NamedTuple):
    """One guard taken away.

    `name` is that of its anchor. `guard` says what holds as long as it is there. `do` is what
    becomes of the anchored code: it is removed, its condition is decided (anchors.py, `Do`), or a
    text takes its place, of an `if` that of the condition.
    """

    name: str
    guard: str
    do: Do | str
    tests: tuple[str, ...]
    why: str = FAILS


PATHS = "tests/attack/test_paths.py"
TABLE = "tests/unit/test_table.py"
ORDER = "tests/real/test_restart_order.py"
AT_A_PACE = "test_nothing_is_kept_while_nobody_waits_and_little_while_many_come_and_go"
LET_IN = "test_who_was_let_in_before_others_is_behind_them_when_the_time_of_the_chain_is_over"
CLIENTS = "tests/unit/test_clients.py"
MANY_LOOKS = "test_a_look_for_many_leaves_each_turn_to_others_and_looks_for_nobody_who_left"
MANY_LISTS = (
    "test_one_of_many_lists_is_answered_in_a_turn_if_that_takes_its_time_and_each_has_its_turn"
)
COPIES = "tests/unit/test_dead_copies.py"
WORKERS = "tests/unit/test_workers.py"
COPIES_BACK = "tests/real/test_restart_copies.py"
LEND = "tests/real/test_lend.py"
PLAN = "tests/unit/test_plan.py"
DENIES_ALL = (
    f"{PLAN}::test_a_denied_name_that_nobody_knows_fails_a_reload_and_at_a_start_denies_all"
)
FILES = "tests/unit/test_files.py"
DROP_INS = f"{FILES}::test_a_drop_in_that_cannot_be_believed_is_a_bad_policy"
JUDGE = "tests/unit/test_judge.py"
ARRIVALS = "tests/unit/test_arrivals.py"
WORDS = "tests/unit/test_words.py"
SEATS, SITS = "tests/unit/test_seats.py", "tests/real/test_seats.py"
UNNAMED = "test_what_any_other_rule_names_is_not_unnamed"
DENIED_BY_WORDS = f"{WORDS}::test_a_device_that_is_denied_by_words_is_denied_by_its_kernels_name"
EVERY_NAME = (
    "tests/real/test_judged.py::test_a_device_denied_under_one_of_its_names_is_denied_under_all"
)
JUDGED = "tests/real/test_judged.py"
RULE_GONE = "test_a_lease_whose_rule_is_gone_is_listed_and_can_be_taken_back"
BETWEEN = "tests/real/test_devices.py::test_a_reload_while_a_port_opens_decides_over_its_grant"
CALLS = "tests/real/test_seccomp_inside.py"
CONFINED = "tests/real/test_confined.py"
LAUNCH = "tests/attack/test_launcher.py"
LAUNCHER_BROKER = "tests/launcher/test_launcher_broker.py"
LEASE = "tests/real/test_lease.py"
TEST_LOCKS = "tests/unit/test_locks.py"
FRONTEND = "tests/real/test_forked.py::test_the_frontend_keeps_nothing_of_root"
FORKED_CAPS = "tests/real/test_forked.py::test_the_backend_holds_only_the_capabilities_of_its_job"
PORT = "tests/unit/test_port.py"
BESIDE_SHARED = (
    "test_beside_dead_copies_that_share_nobody_waits_for_a_new_reading_of_all_locks"
)
AFTER_A_CLOSE = f"{PORT}::test_after_a_close_all_is_as_it_was_and_nothing_is_opened_again"
SETTINGS = "tests/real/test_settings.py"
KEPT = "tests/real/test_restart.py::test_what_does_not_fit_together_is_dropped_and_the_lock_tells"
DESCRIPTORS = "tests/attack/test_descriptors.py"
ATTACK_IDENTITY = "tests/attack/test_identity.py"
IDENTITY = "tests/real/test_identity.py"
FAULTS = "tests/attack/test_faults.py"
LEASES = "tests/attack/test_leases.py"
PROTOCOL = "tests/attack/test_protocol.py"
ON_THE_WAY = "test_whatever_fails_on_the_way_to_a_grant_it_is_an_answer_and_leaves_nothing"
AT_THE_END = "test_whatever_fails_at_the_end_of_a_lease_the_port_is_free"
AS_THE_ORACLE = "test_conversations_go_as_the_oracle_says"
OUTSIDERS = "tests/real/test_outsiders.py"
OUTLIVED = "test_a_copy_that_outlived_its_lease_and_its_broker_is_dead_when_the_next_has_the_port"
BROKEN = "is stuck|the daemon ended|waited|no word of it"

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "message-with-descriptors",
        "a message with descriptors is the end of its sender",
        REMOVE,
        (f"{DESCRIPTORS}::test_descriptors_are_the_end_of_their_sender[empty-1]",),
        "'descriptors' in",
    ),
    Mutant(
        "control-buffer-size",
        "the control buffer has no room for descriptors",
        "CREDENTIALS_SPACE = socket.CMSG_SPACE(_UCRED.size) + 2048",
        (f"{DESCRIPTORS}::test_a_flood_of_descriptors_installs_none[before 6.16]",),
        "not baited|too many",
    ),
    Mutant(
        "no-descriptors-to-the-broker",
        "the kernel refuses descriptors at their sender",
        "sock.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 1)",
        (f"{DESCRIPTORS}::test_on_this_kernel_no_descriptor_lies_behind_a_request_either",),
        "True is False",
    ),
    Mutant(
        "waiting-client-with-descriptors",
        "a client that waits is cut off when it sends descriptors",
        REMOVE,
        (
            f"{DESCRIPTORS}::test_a_connection_that_holds_itself_ends_with_its_process"
            "[waiting-itself-before 6.16]",
        ),
        "too many",
    ),
    Mutant(
        "message-credentials",
        "each message's credentials are compared with those at connect",
        NEVER,
        (
            f"{IDENTITY}::test_a_forked_child_on_its_parents_connection_is_cut_off",
            f"{IDENTITY}::test_who_changes_its_ids_is_cut_off",
            f"{IDENTITY}::test_credentials_sent_by_hand_count_as_what_they_are",
        ),
        "isinstance",
    ),
    Mutant(
        "sender-pid",
        "a message is its sender's by pid",
        "return credentials[1:] == (self.uid, self.gid)",
        (
            f"{IDENTITY}::test_a_forked_child_on_its_parents_connection_is_cut_off",
            f"{ATTACK_IDENTITY}::test_in_a_pid_namespace_of_ones_own_no_other_pid_can_be_claimed",
        ),
        "isinstance|waited",
    ),
    Mutant(
        "sender-uid",
        "a message is its sender's by uid",
        "return credentials[::2] == (self.pid, self.gid)",
        (f"{ATTACK_IDENTITY}::test_a_thread_that_becomes_another_user_is_cut_off",),
        "isinstance|AssertionError",
    ),
    Mutant(
        "process-of-a-thread",
        "who asks for a thread asks for its process",
        REMOVE,
        (f"{IDENTITY}::test_the_number_of_a_thread_means_its_process",),
        "AssertionError|No such file",
    ),
    Mutant(
        "few-looks-at-copies",
        "an open looks at few dead copies of others",
        "due = True",
        (f"{COPIES}::test_what_one_keeps_costs_the_others_few_looks",),
    ),
    Mutant(
        "one-look-a-user",
        "an open looks at no more dead copies of its device than there are users",
        "copy.device == device and _is_open(copy)",
        (f"{COPIES}::test_what_one_keeps_costs_the_others_few_looks",),
    ),
    Mutant(
        "each-copy-has-its-turn",
        "a dead copy is forgotten though its user never asks again",
        "self._turn = 0",
        (f"{COPIES}::test_those_of_a_user_who_never_asks_again_are_forgotten",),
    ),
    Mutant(
        "copy-forgotten-meanwhile",
        "a dead copy that the loop forgets ends no list",
        NEVER,
        (f"{COPIES}::test_one_that_is_forgotten_while_a_list_is_made_ends_no_list",),
        "ValueError",
    ),
    Mutant(
        "no-wait-beside-who-shares",
        "an open beside dead copies waits for no new reading of all locks",
        "shares = False",
        (f"{PORT}::{BESIDE_SHARED}",),
    ),
    Mutant(
        "links-are-followed-anew",
        "an alias's directory that is a link is followed anew each time",
        ALWAYS,
        ("tests/unit/test_trust.py::test_a_directory_that_is_a_link_is_followed_anew_each_time",),
    ),
    Mutant(
        "revoke-what-no-rule-names",
        "a lease whose rule is gone can be taken back",
        REMOVE,
        (f"{JUDGED}::{RULE_GONE}",),
        "only its holder",
    ),
    Mutant(
        "unlisted-for-holder-and-admins",
        "of a lease whose rule is gone only its holder and admins hear",
        "not listed",
        (f"{JUDGED}::{RULE_GONE}",),
    ),
    Mutant(
        "zombie-has-ended",
        "a process that its parent has not asked for has no lock",
        NEVER,
        (f"{TEST_LOCKS}::test_a_process_that_its_parent_has_not_asked_for_has_ended",),
    ),
    Mutant(
        "owner-of-the-named-process",
        "who asks for another process must own it",
        NEVER,
        (f"{IDENTITY}::test_asking_for_another_process_is_for_ones_own_alone",),
    ),
    Mutant(
        "pid-of-another-namespace",
        "a pid of another pid namespace is looked up in none here",
        "return False",
        (
            "tests/real/test_versions.py::"
            "test_a_pid_that_an_older_client_in_another_pid_namespace_sends_means_nothing_here",
        ),
    ),
    Mutant(
        "pid-at-the-grant",
        "a pid is asked about again when the port is granted",
        "return self.pid",
        (
            f"{ATTACK_IDENTITY}::test_a_lock_is_not_taken_for_ones_own_because_a_pid_came_again",
            f"{ATTACK_IDENTITY}::test_a_lock_does_not_name_who_got_a_dead_clients_pid",
        ),
        "two have the port|read_bytes",
    ),
    Mutant(
        "ascii-name",
        "a name is ASCII",
        "return (\n"
        "    0 < len(name) <= MAX_NAME\n"
        "    and name[0].isalpha()\n"
        '    and name.replace("_", "a").replace("-", "a").isalnum()\n'
        ")",
        (f"{PATHS}::test_no_name_leads_anywhere_but_where_the_policy_says",),
    ),
    Mutant(
        "valid-name",
        "a name is of the grammar, or refused",
        NEVER,
        (f"{PATHS}::test_no_name_leads_anywhere_but_where_the_policy_says",),
    ),
    Mutant(
        "no-link-at-the-look",
        "no link is followed at the look",
        "node = os.open(base, os.O_PATH | os.O_CLOEXEC, dir_fd=directory)",
        ("tests/unit/test_device.py::test_what_is_no_serial_port_is_no_such_port",),
        "symbolic link|DID NOT RAISE",
    ),
    Mutant(
        "no-link-at-the-open",
        "no link is followed at the open",
        "OPEN_FLAGS = os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC",
        (
            f"{PATHS}::test_a_swap_between_look_and_open_gains_nothing[symlink]",
            f"{PATHS}::test_a_swap_between_look_and_open_gains_nothing[link to its like]",
        ),
        "what the link leads to was opened",
    ),
    Mutant(
        "same-device-at-the-open",
        "what was opened is what was looked at",
        "not stat.S_ISCHR(os.fstat(descriptor).st_mode)",
        (
            f"{PATHS}::test_a_swap_between_look_and_open_gains_nothing[node]",
            f"{PATHS}::test_a_swap_between_look_and_open_gains_nothing[recreated node]",
            "tests/unit/test_device.py::test_a_node_that_is_another_between_look_and_open_is_gone",
        ),
        "st_mode=|DID NOT RAISE",
    ),
    Mutant(
        "same-directory-at-the-open",
        "the directory that was looked into is opened in",
        "descriptor = os.open(seen.target.path, OPEN_FLAGS)",
        (f"{PATHS}::test_a_swap_of_the_directory_gains_nothing",),
        "ENODEV",
    ),
    Mutant(
        "serial-driver",
        "a port belongs to a serial driver",
        NEVER,
        (f"{PATHS}::test_no_device_number_of_another_driver_is_a_port",),
    ),
    Mutant(
        "character-device",
        "a port is a character device",
        NEVER,
        (f"{PATHS}::test_no_device_number_of_another_driver_is_a_port",),
    ),
    Mutant(
        "active-console",
        "the active console needs a rule",
        NEVER,
        ("tests/unit/test_device.py::test_the_active_console_needs_a_rule_that_says_so",),
    ),
    Mutant(
        "pty-rule",
        "a rule for ptys means ptys alone",
        NEVER,
        ("tests/unit/test_device.py::test_where_a_rule_says_pty_only_a_pty_will_do",),
    ),
    Mutant(
        "root-owned-path",
        "what leads to a device is root's",
        NEVER,
        (
            f"{PATHS}::test_the_link_of_an_alias_is_swapped_while_it_is_asked_for",
            "tests/real/test_devices.py::test_an_alias_that_somebody_else_could_redirect_is_refused",
        ),
        FAILS + "|KeyError|EACCES|outcomes|followed|Counter",
    ),
    Mutant(
        "judge-each-link",
        "a link is judged each time that it is followed",
        "return os.path.realpath(here)",
        (f"{PATHS}::test_the_link_of_an_alias_is_swapped_while_it_is_asked_for",),
        "KeyError|Counter|followed",
    ),
    Mutant(
        "exclusive-port-is-busy",
        "a port that somebody made exclusive is busy",
        NEVER,
        (
            "tests/real/test_real_programs.py::test_an_outsiders_lock_is_respected_and_named_until_it_ends",
        ),
    ),
    Mutant(
        "flocked-port-is-busy",
        "a port that somebody has flocked is busy",
        ALWAYS,
        (
            "tests/real/test_real_programs.py"
            "::test_an_outsiders_lock_is_respected_and_named_until_it_ends[lock_by_flock-flock]",
        ),
    ),
    Mutant(
        "flock-that-just-went",
        "a flock that is gone when it is asked who has it does not keep the port",
        ALWAYS,
        (f"{PORT}::test_a_flock_that_ends_while_it_is_looked_at_keeps_nobody_off",),
        FAILS,
    ),
    Mutant(
        "flock-the-port",
        "a leased port is flocked",
        REMOVE,
        (
            "tests/real/test_real_programs.py"
            "::test_an_outsiders_lock_is_respected_and_named_until_it_ends[lock_by_flock-flock]",
        ),
    ),
    Mutant(
        "make-the-port-exclusive",
        "a leased port is exclusive",
        REMOVE,
        (f"{LEASE}::test_a_lease_is_locked_by_every_convention",),
    ),
    Mutant(
        "watch-the-last-copy",
        "a lease lives until the last copy is closed: an epoll entry tells",
        "return False",
        (f"{LEASE}::test_a_lease_lives_until_the_last_duplicate_is_closed",),
        FAILS + "|Error",
    ),
    Mutant(
        "hang-up-at-the-end",
        "the port is hung up at the end",
        REMOVE,
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
        "end-exclusive-use",
        "exclusive use ends with the lease",
        REMOVE,
        (AFTER_A_CLOSE,),
    ),
    Mutant(
        "end-exclusive-use-afresh",
        "a dead copy's exclusive use ends, whoever hung it up",
        REMOVE,
        (f"{PORT}::test_a_port_that_somebody_else_hung_up_is_put_back_afresh",),
    ),
    Mutant(
        "flush-unread-input",
        "what was not read is not the next user's",
        REMOVE,
        (AFTER_A_CLOSE,),
    ),
    Mutant(
        "restore-settings",
        "settings are put back before the hang-up",
        "failed: list[str] = []",
        (AFTER_A_CLOSE,),
    ),
    Mutant(
        "settings-stay-put-back",
        "who goes on setting after a close is seen",
        "return not failed",
        (f"{PORT}::test_what_is_set_again_after_it_was_put_back_is_put_back_again",),
    ),
    Mutant(
        "put-back-afresh",
        "after a hang-up the settings are put back on a new description",
        REMOVE,
        (
            f"{PORT}::test_a_port_that_somebody_else_hung_up_is_put_back_afresh",
            f"{SETTINGS}::test_what_cannot_be_put_back_is_logged_and_tried_at_the_next_grant",
        ),
        FAILS + "|waited|no log record",
    ),
    Mutant(
        "lines-fall-once",
        "the lines fall once at a lease's end",
        REMOVE,
        (f"{PORT}::test_the_lines_fall_once",),
    ),
    Mutant(
        "no-wait-for-a-writer",
        "no end of a lease waits until what its holder writes is sent",
        "settings.put_back(own_fd, lease.settings.without_hupcl())",
        (f"{PORT}::test_no_end_waits_for_what_a_holder_goes_on_writing",),
    ),
    Mutant(
        "same-device-afresh",
        "what is put in order after a lease is its own device",
        NEVER,
        (f"{PORT}::test_a_node_that_is_another_device_by_now_is_not_opened",),
    ),
    Mutant(
        "handed-out-clean",
        "a port is handed out in the usual line discipline",
        REMOVE,
        (f"{PORT}::test_a_port_in_anothers_line_discipline_is_granted_in_the_usual_one",),
    ),
    Mutant(
        "owed-to-the-next-grant",
        "what a dead copy may still set is put back at the next grant",
        REMOVE,
        (f"{PORT}::test_a_debt_is_paid_at_the_next_grant_if_a_dead_copy_was_there",),
    ),
    Mutant(
        "pay-the-debt",
        "what is owed to a port is paid at its next grant",
        REMOVE,
        (f"{PORT}::test_a_debt_is_paid_at_the_next_grant_if_a_dead_copy_was_there",),
    ),
    Mutant(
        "debt-of-the-same-device",
        "another device with the same number is owed nothing",
        "return debt",
        (f"{PORT}::test_another_device_with_the_same_number_is_owed_nothing",),
    ),
    Mutant(
        "discipline-first",
        "what a line discipline refuses is set after that is gone",
        REMOVE,
        ("tests/unit/test_settings.py::test_what_was_found_is_put_back",),
    ),
    Mutant(
        "start-stopped-output",
        "output that a holder stopped goes on for the next one",
        REMOVE,
        (f"{SETTINGS}::test_stopped_output_goes_on_for_the_next_holder",),
        FAILS + "|Blocking|no 8 bytes|waited",
    ),
    Mutant(
        "no-discipline-for-the-next-open",
        "no line discipline is armed for the next open",
        REMOVE,
        ("tests/unit/test_settings.py::test_what_is_handed_out_is_clean",),
    ),
    Mutant(
        "holders-flags-alone",
        "what root set by setserial(8) is not put back to what it was",
        'now = _with(now, "I", _FLAGS, serial[0])',
        (
            "tests/unit/test_settings.py"
            "::test_a_holders_flags_divisor_and_rs485_are_put_back_and_roots_stay",
        ),
    ),
    Mutant(
        "no-controlling-terminal",
        "a descriptor is never a controlling terminal",
        "OPEN_FLAGS = os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC",
        ("tests/unit/test_device.py::test_a_port_is_opened_as_it_must_be",),
    ),
    Mutant(
        "count-dead-descriptors",
        "dead descriptors of one user are bounded",
        "self._leases.of(uid) + self._waiting.of(uid) >= LEASES_PER_UID",
        (f"{LEASE}::test_who_revokes_for_ever_cannot_pile_up_dead_descriptors",),
    ),
    Mutant(
        "leases-per-user",
        "leases of one user are bounded",
        "LEASES_PER_UID = 1 << 30",
        (f"{LEASE}::test_one_process_holds_many_ports_up_to_its_limit",),
    ),
    Mutant(
        "waits-per-user",
        "waits of one user are bounded",
        NEVER,
        ("tests/unit/test_table.py::test_nobody_can_fill_the_queue_and_others_still_can_wait",),
        FAILS + "|IndexError|ValueError",
    ),
    Mutant(
        "clients-per-user",
        "connections of one user are bounded",
        "CLIENTS_PER_UID = 1 << 30",
        ("tests/real/test_hostile.py::test_300_connections_of_one_user_are_bounded",),
        FAILS + "|waited",
    ),
    Mutant(
        "descriptors-for-ports",
        "half of the descriptors are for ports",
        "most = CLIENTS",
        (
            "tests/real/test_hostile.py::test_a_broker_with_few_descriptors_has_few_clients_and_keeps_some_for_ports",
        ),
        "waited|Error",
    ),
    Mutant(
        "cut-off-a-stuck-reader",
        "who does not read is cut off",
        REMOVE,
        (
            "tests/real/test_hostile.py::test_a_client_that_never_reads_is_cut_off_and_delays_nobody",
        ),
    ),
    Mutant(
        "only-forked-clients-connect-again",
        "a daemon's client gets no further connection",
        NEVER,
        ("tests/real/test_hostile.py::test_a_daemon_is_no_peer_to_connect_through",),
    ),
    Mutant(
        "further-connections-are-bounded",
        "a frontend leaves its backend descriptors for ports",
        NEVER,
        (f"{CLIENTS}::test_a_frontend_has_so_many_further_connections_to_its_backend",),
    ),
    Mutant(
        "one-request-at-a-time",
        "a request is read when the one before it is answered",
        NEVER,
        (f"{CLIENTS}::test_a_request_behind_another_is_read_when_that_is_answered",),
    ),
    Mutant(
        "gone-behind-a-request",
        "who leaves with a request behind another is gone at once",
        "not (data or ancillary)",
        (f"{CLIENTS}::test_who_leaves_with_a_request_behind_another_is_gone_at_once",),
    ),
    Mutant(
        "failed-request-is-a-refusal",
        "a request for which the broker has no means ends nobody else",
        NEVER,
        (f"{FAULTS}::{ON_THE_WAY}",),
        BROKEN,
    ),
    Mutant(
        "ask-for-credentials",
        "a message without credentials is nobody's",
        REMOVE,
        ("tests/real/test_forked.py::test_the_frontend_keeps_nothing_of_root",),
        "credentials|EPROTO|cut off|Error",
    ),
    Mutant(
        "request-size",
        "a request has a largest size",
        NEVER,
        (
            "tests/unit/test_wire.py::test_a_request_of_the_largest_size_is_read_and_one_byte_more_is_not",
        ),
    ),
    Mutant(
        "protocol-version",
        "a version is ours",
        NEVER,
        ("tests/unit/test_wire.py::test_a_bad_request_is_named_for_what_is_wrong_with_it",),
    ),
    Mutant(
        "reserved-bytes",
        "reserved bytes are zero",
        NEVER,
        ("tests/unit/test_wire.py::test_a_bad_request_is_named_for_what_is_wrong_with_it",),
    ),
    Mutant(
        "trailing-bytes",
        "nothing follows a message",
        NEVER,
        ("tests/unit/test_wire.py::test_nothing_may_follow_a_request_without_a_name",),
    ),
    Mutant(
        "group-count",
        "a check has a largest number of groups",
        NEVER,
        ("tests/unit/test_wire.py::test_a_bad_request_is_named_for_what_is_wrong_with_it",),
    ),
    Mutant(
        "open-flags",
        "an open has only flags that there are",
        NEVER,
        ("tests/unit/test_wire.py::test_a_bad_request_is_named_for_what_is_wrong_with_it",),
    ),
    Mutant(
        "label-size",
        "a label has a largest size",
        NEVER,
        ("tests/unit/test_wire.py::test_a_bad_request_is_named_for_what_is_wrong_with_it",),
    ),
    Mutant(
        "a-row-fits",
        "many dead copies with long labels do not break everybody's list",
        "first = port.copies[:255]",
        ("tests/unit/test_wire.py::test_of_more_copies_than_a_row_has_room_for_the_first_are_told",),
    ),
    Mutant(
        "label-fits-a-record",
        "a label does not keep a lease out of the store",
        "holder.label = request.label",
        ("tests/real/test_restart.py::test_a_label_keeps_no_lease_out_of_the_store",),
    ),
    Mutant(
        "list-flags",
        "a list has only flags that there are",
        NEVER,
        ("tests/unit/test_wire.py::test_a_bad_request_is_named_for_what_is_wrong_with_it",),
    ),
    Mutant(
        "name-count",
        "a list has a largest number of names",
        NEVER,
        ("tests/unit/test_wire.py::test_a_bad_request_is_named_for_what_is_wrong_with_it",),
    ),
    Mutant(
        "errno-of-a-device",
        "a driver's errno is not taken for the caller's mistake",
        NEVER,
        ("tests/unit/test_device.py::test_a_drivers_errno_is_not_the_callers_mistake",),
    ),
    Mutant(
        "first-matching-rule",
        "the first rule that applies decides",
        "number != NONE",
        ("tests/unit/test_policy.py::test_the_first_rule_that_applies_decides",),
    ),
    Mutant(
        "no-rule-no-access",
        "without a rule nobody may anything",
        "return Decision(True, bool(entries), None, device)",
        ("tests/unit/test_policy.py::test_without_a_rule_nobody_may_anything",),
    ),
    Mutant(
        "revoke-is-for-holder-and-admins",
        "taking a port back is for its holder and admins",
        NEVER,
        (f"{LEASE}::test_the_holder_and_an_admin_may_revoke_and_nobody_else",),
    ),
    Mutant(
        "check-others-is-for-admins",
        "asking about others is for admins",
        NEVER,
        (f"{IDENTITY}::test_check_is_for_oneself_and_for_others_by_admins",),
    ),
    Mutant(
        "claimed-groups",
        "the groups that somebody claims of himself count nothing",
        "request.uid is not None",
        (f"{IDENTITY}::test_check_is_for_oneself_and_for_others_by_admins",),
        "NotPermitted|" + ASSERTS,
    ),
    Mutant(
        "list-own-ports",
        "a list shows one's own ports",
        "not decision.known",
        (f"{IDENTITY}::test_a_list_shows_ones_own_ports_and_everything_to_admins",),
    ),
    Mutant(
        "trusted-policy-path",
        "the policy's file is root's alone",
        REMOVE,
        ("tests/real/test_daemon.py::test_a_policy_that_others_may_change_permits_nothing",),
    ),
    Mutant(
        "trusted-plan-path",
        "the plan's file is root's alone",
        "resolved = os.path.realpath(path)",
        (f"{PLAN}::test_a_plan_that_others_could_have_written_is_refused_and_said_to_be[mode]",),
    ),
    Mutant(
        "plan-directory",
        "a plan is not written where others could put another in its place",
        REMOVE,
        (f"{PLAN}::test_a_plan_is_not_written_where_others_could_change_it",),
    ),
    Mutant(
        "stale-plan",
        "a plan whose ground has changed is made anew",
        ALWAYS,
        (f"{PLAN}::test_a_plan_whose_ground_has_changed_is_made_anew[text]",),
    ),
    Mutant(
        "old-names",
        "names from LDAP and the like are looked up again at a start",
        "stale is None",
        (f"{PLAN}::test_names_from_elsewhere_are_good_for_ten_minutes_at_a_start",),
    ),
    Mutant(
        "plan-of-another-system",
        "a plan is for the system that it was made on",
        NEVER,
        (f"{PLAN}::test_a_plan_made_for_another_system_is_made_anew[release]",),
    ),
    Mutant(
        "try-the-filter",
        "a filter that would end this interpreter is not used",
        NEVER,
        (
            "tests/unit/test_filter.py::test_a_filter_that_would_end_this_interpreter_is_refused_with_the_name_of_the_call[clone]",
        ),
    ),
    Mutant(
        "reload-of-a-stale-plan",
        "a reload wants a plan made since the last change",
        NEVER,
        (f"{PLAN}::test_a_reload_wants_a_plan_made_since_the_last_change",),
    ),
    Mutant(
        "plan-checksum",
        "a torn plan is none",
        NEVER,
        (f"{PLAN}::test_a_plan_with_a_wrong_bit_is_refused",),
    ),
    Mutant(
        "plan-length",
        "behind a plan there is nothing",
        NEVER,
        (f"{PLAN}::test_a_plan_is_exactly_that_long",),
    ),
    Mutant(
        "plan-rule-numbers",
        "a plan names no rule that it does not have",
        NEVER,
        (f"{PLAN}::test_a_plan_whose_numbers_do_not_fit_together_is_refused",),
    ),
    Mutant(
        "plan-order",
        "a plan's users are where a search finds them",
        NEVER,
        (f"{PLAN}::test_a_plan_whose_numbers_do_not_fit_together_is_refused",),
    ),
    Mutant(
        "young-text",
        "a file is told from another by its text where its times cannot tell",
        NEVER,
        (f"{PLAN}::test_a_plan_whose_ground_has_changed_is_made_anew[in the same tick]",),
    ),
    Mutant(
        "mistake-refuses-all",
        "a bad policy permits nothing, and says why",
        NEVER,
        ("tests/real/test_daemon.py::test_a_bad_policy_is_served_as_its_mistake",),
    ),
    Mutant(
        "writable-by-others",
        "what others may write is not trusted",
        NEVER,
        (
            "tests/unit/test_trust.py::test_what_others_may_write_is_not_trusted_anywhere_on_the_way",
        ),
    ),
    Mutant(
        "link-replaces-nothing",
        "a lock is made by link(2), which replaces nothing",
        "os.rename(temporary, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)",
        (
            f"{TEST_LOCKS}::test_the_second_is_refused_and_told_who_holds_the_lock",
            f"{TEST_LOCKS}::test_of_two_who_find_a_stale_lock_one_gets_it",
        ),
    ),
    Mutant(
        "new-temporary-lock",
        "a temporary lock is a file that was not there",
        "flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC",
        (f"{TEST_LOCKS}::test_a_temporary_name_that_somebody_guessed_is_not_written",),
    ),
    Mutant(
        "do-not-follow-a-temporary-link",
        "a link in a temporary lock's place is not followed",
        "os.link(source, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)",
        (f"{TEST_LOCKS}::test_a_link_slipped_in_for_our_temporary_file_is_not_followed",),
    ),
    Mutant(
        "do-not-read-a-linked-lock",
        "a lock that is a link is not read",
        "flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC",
        (f"{TEST_LOCKS}::test_a_link_is_not_followed_and_what_it_leads_to_is_untouched",),
    ),
    Mutant(
        "lock-is-a-regular-file",
        "a lock is a regular file",
        NEVER,
        (f"{TEST_LOCKS}::test_what_no_program_makes_for_a_lock_is_busy_and_left_alone",),
    ),
    Mutant(
        "judge-the-lock-moved-aside",
        "a stale lock is looked at again when it is moved aside",
        ALWAYS,
        (f"{TEST_LOCKS}::test_a_lock_taken_between_look_and_removal_is_put_back",),
    ),
    Mutant(
        "remove-own-lock-only",
        "only one's own lock is removed",
        ALWAYS,
        (f"{TEST_LOCKS}::test_only_the_lock_that_names_the_holder_is_released",),
        FAILS + "|FileNotFoundError",
    ),
    Mutant(
        "printable-process-name",
        "a process's name is printable",
        'return "".join(chr(byte) for byte in raw)',
        (f"{TEST_LOCKS}::test_what_is_shown_is_printable_ascii_of_the_same_length",),
        FAILS + "|Falsif|distinct failures",
    ),
    Mutant(
        "no-leading-zeros",
        "a kernel name has one spelling: no leading zeros",
        NEVER,
        ("tests/unit/test_portname.py::test_a_kernel_name_is_letters_and_a_number",),
    ),
    Mutant(
        "glob-to-the-end",
        "a glob is matched to its end",
        "return True",
        ("tests/unit/test_portname.py::test_a_glob_matches_what_fnmatch_says",),
    ),
    Mutant(
        "negated-set",
        "a set that begins with ! is of all others",
        "wanted = True",
        ("tests/unit/test_portname.py::test_a_glob_matches_what_fnmatch_says",),
    ),
    Mutant(
        "inheritable-read-back",
        "nothing is inheritable but what is kept",
        '("CapInh", int(found["CapInh"], 16))',
        (
            "tests/unit/test_confine.py::test_one_capability_too_many_in_one_set_of_one_thread_is_the_end",
        ),
    ),
    Mutant(
        "cut-the-bounding-set",
        "the bounding set is cut",
        REMOVE,
        (FORKED_CAPS,),
        "CapBnd is",
    ),
    Mutant(
        "cut-capabilities",
        "capabilities are cut",
        REMOVE,
        (FORKED_CAPS,),
        "CapPrm is",
    ),
    Mutant(
        "no-new-privs",
        "no_new_privs is set",
        REMOVE,
        (FORKED_CAPS,),
        "no_new_privs is not set",
    ),
    Mutant(
        "not-dumpable",
        "the root side is not dumpable",
        "prctl.set_dumpable(1)",
        (FORKED_CAPS,),
        "still dumpable",
    ),
    Mutant(
        "lock-securebits",
        "securebits are set and locked",
        REMOVE,
        (FORKED_CAPS,),
        "the securebits are",
    ),
    Mutant(
        "capabilities-read-back",
        "what the kernel says afterwards is read",
        NEVER,
        (
            "tests/unit/test_confine.py::test_one_capability_too_many_in_one_set_of_one_thread_is_the_end",
        ),
    ),
    Mutant(
        "no-new-privs-read-back",
        "no_new_privs is read back",
        NEVER,
        ("tests/unit/test_confine.py::test_without_no_new_privs_it_is_the_end",),
    ),
    Mutant(
        "one-thread-when-confined",
        "no thread runs when privilege shrinks",
        NEVER,
        ("tests/real/test_confined_inside.py::test_threads_that_would_stay_free_are_the_end",),
    ),
    Mutant(
        "umask",
        "files that are made are nobody else's",
        REMOVE,
        (f"{CONFINED}::test_every_thread_has_the_two_capabilities_of_the_job_and_gets_no_other",),
    ),
    Mutant(
        "working-directory",
        "the root side stands nowhere",
        REMOVE,
        (f"{CONFINED}::test_it_stands_nowhere",),
    ),
    Mutant(
        "no-core",
        "no core is dumped",
        REMOVE,
        (f"{CONFINED}::test_its_limits_are_those_of_its_job",),
    ),
    Mutant(
        "no-locked-memory",
        "no memory is locked",
        REMOVE,
        (f"{CONFINED}::test_its_limits_are_those_of_its_job",),
    ),
    Mutant(
        "descriptor-limit",
        "descriptors have a number",
        REMOVE,
        (f"{CONFINED}::test_its_limits_are_those_of_its_job",),
    ),
    Mutant(
        "file-size-limit",
        "a file can have one size",
        REMOVE,
        (f"{CONFINED}::test_its_limits_are_those_of_its_job",),
    ),
    Mutant(
        "enforce-landlock",
        "the file system is given up",
        REMOVE,
        ("tests/real/test_confined_inside.py::test_no_other_file_can_be_read",),
        "can still be read",
    ),
    Mutant(
        "frontend-groups",
        "the frontend gives up its groups",
        REMOVE,
        (FRONTEND,),
        "supplementary groups are not|exit|EOFError",
    ),
    Mutant(
        "frontend-uid",
        "the frontend gives up its uid",
        REMOVE,
        (FRONTEND,),
        "EOFError|ids are not",
    ),
    Mutant(
        "frontend-capabilities",
        "the frontend gives up its capabilities",
        REMOVE,
        ("tests/real/test_forked.py::test_what_a_setuid_does_not_take_is_taken_too",),
        ASSERTS + "|EOFError",
    ),
    Mutant(
        "frontend-cannot-come-back",
        "the frontend tries to come back",
        REMOVE,
        ("tests/unit/test_confine.py::test_a_way_back_that_works_is_the_end",),
    ),
    Mutant(
        "backend-needs-root",
        "a backend needs root",
        NEVER,
        ("tests/real/test_forked.py::test_without_root_it_says_so",),
        "DID NOT RAISE|Error",
    ),
    Mutant(
        "backend-before-threads",
        "a backend comes before threads",
        NEVER,
        ("tests/real/test_forked.py::test_it_comes_too_late_when_threads_run",),
        "DID NOT RAISE|Error",
    ),
    Mutant(
        "frontend-is-not-root",
        "the frontend is not root",
        NEVER,
        ("tests/real/test_forked.py::test_it_must_know_whom_to_become",),
        "DID NOT RAISE|NotConfined|EOFError|came back",
    ),
    Mutant(
        "give-up-after-a-failed-start",
        "privilege is given up though the backend did not start",
        "import sys\nif sys.exc_info()[0] is None:\n    become(user)",
        (
            "tests/real/test_forked.py::test_a_backend_that_cannot_start_is_an_error_and_privilege_is_gone_all_the_same",
        ),
    ),
    Mutant(
        "child-never-returns",
        "a program runs once, though its backend cannot be forked",
        "raise",
        (
            "tests/unit/test_backend.py::test_the_process_between_ends_though_no_backend_can_be_forked",
        ),
    ),
    Mutant(
        "time-limit",
        "a time limit ends a lease",
        ALWAYS,
        (f"{LEASE}::test_a_lease_with_a_time_limit_is_hung_up_when_it_is_over",),
        FAILS + "|waited",
    ),
    Mutant(
        "broker-signs-for-the-dead",
        "the broker signs for a lease whose process has ended",
        REMOVE,
        (f"{LEASE}::test_a_copy_in_another_process_keeps_the_lease_and_the_broker_signs_for_it",),
        FAILS + "|waited|left",
    ),
    Mutant(
        "withdraw-a-lost-client",
        "a client that is gone waits for nothing",
        REMOVE,
        (f"{LEASE}::test_a_waiter_that_dies_is_forgotten_and_the_next_is_served",),
        "waited",
    ),
    Mutant(
        "watch-for-unplugging",
        "an unplugged device ends its lease",
        REMOVE,
        (f"{SETTINGS}::test_a_hang_up_is_heard_under_a_discipline_without_poll",),
        FAILS + "|waited",
    ),
    Mutant(
        "hang-up-under-any-discipline",
        "a hang-up is heard under a line discipline without poll, after a restart too",
        REMOVE,
        (f"{SETTINGS}::test_a_hang_up_is_heard_under_a_discipline_without_poll[True]",),
        FAILS + "|waited",
    ),
    Mutant(
        "jobs-give-way",
        "a job that computes gives the interpreter to the loop soon",
        REMOVE,
        (
            "tests/unit/test_takeover.py::test_a_job_that_computes_keeps_the_loop_waiting_less_than_the_interpreter_would_let_it",
        ),
    ),
    Mutant(
        "watch-a-stuck-open",
        "a stuck device is left to another thread",
        REMOVE,
        (
            "tests/unit/test_takeover.py::test_another_thread_leads_while_a_job_is_stuck_and_gets_its_result",
        ),
        FAILS + "|Empty|waited",
    ),
    Mutant(
        "bounded-threads",
        "the number of threads is bounded",
        "self.busy > self._threads and self._start(self._work)",
        (
            "tests/unit/test_workers.py::"
            "test_there_are_never_more_threads_than_the_bound_and_every_job_runs",
        ),
    ),
    Mutant(
        "no-thread-is-no-end",
        "a thread that cannot be made is not the end",
        NEVER,
        (
            "tests/unit/test_workers.py::"
            "test_a_job_waits_for_a_thread_that_is_there_when_no_other_can_be_made",
        ),
        "RuntimeError",
    ),
    Mutant(
        "no-stuck-open-without-a-standby",
        "where nobody stands by no device keeps the loop",
        NEVER,
        (
            "tests/unit/test_takeover.py::"
            "test_without_a_thread_to_stand_by_a_stuck_job_does_not_keep_the_loop",
        ),
        FAILS + "|waited",
    ),
    Mutant(
        "few-lists-at-once",
        "at most two lists are made at once",
        ALWAYS,
        ("tests/unit/test_lists.py::test_at_most_two_lists_are_made_at_once",),
    ),
    Mutant(
        "one-list-a-user",
        "of a user one list is made at a time",
        "free = list(self._waiting)",
        ("tests/unit/test_lists.py::test_of_one_user_one_list_is_made_at_a_time",),
    ),
    Mutant(
        "lists-by-turns",
        "users take turns for lists",
        "self._waiting = {free[0]: line, **self._waiting}",
        ("tests/unit/test_lists.py::test_users_take_turns_for_lists",),
    ),
    Mutant(
        "no-list-for-who-left",
        "nothing of a list waits whose client has left",
        "left = self._waiting.get(uid, [])",
        ("tests/unit/test_lists.py::test_who_is_gone_gets_no_list",),
    ),
    Mutant(
        "failed-list-is-a-refusal",
        "a list for which there are no descriptors is a refusal",
        NEVER,
        ("tests/unit/test_lists.py::test_a_list_that_cannot_be_made_is_a_refusal",),
        "OSError",
    ),
    Mutant(
        "no-memory-ends-a-list-alone",
        "a list for which there is no memory is a refusal",
        NEVER,
        ("tests/unit/test_lists.py::test_a_list_that_cannot_be_made_is_a_refusal",),
        "MemoryError",
    ),
    Mutant(
        "fold-joins",
        "a session that opens its port again and again does not fill the log",
        'self._record("join", lease, INFO)',
        ("tests/real/test_sessions.py::test_of_many_joins_the_log_has_the_first_and_a_count",),
        FAILS + "|waited",
    ),
    Mutant(
        "fold-refusals",
        "refusals of a user are folded in the log",
        NEVER,
        (
            "tests/unit/test_fold.py::"
            "test_of_ten_thousand_refusals_some_are_written_and_the_rest_is_counted",
        ),
    ),
    Mutant(
        "folded-users-are-bounded",
        "the users whose refusals are counted are bounded",
        NEVER,
        ("tests/unit/test_fold.py::test_the_number_of_users_that_are_counted_is_bounded",),
    ),
    Mutant(
        "last-count-of-refusals",
        "the count of folded refusals is written at the end",
        REMOVE,
        ("tests/real/test_log.py::test_ten_thousand_refusals_do_not_drown_a_grant",),
        FAILS + "|no word",
    ),
    Mutant(
        "turns-by-user",
        "users take turns in the loop",
        "uid = 0",
        ("tests/unit/test_turns.py::test_many_connections_of_one_do_not_stand_before_anothers",),
    ),
    Mutant(
        "least-taken-first",
        "who took the least of the loop's time is next",
        "uid = next(iter(self._lines))",
        (
            "tests/unit/test_turns.py::test_who_took_the_least_time_lately_is_next",
            "tests/unit/test_clients.py::test_who_took_little_time_is_served_before_who_took_much",
        ),
    ),
    Mutant(
        "others-time-is-not-theirs",
        "a user took of the loop's time what the processor worked for him",
        "self._turns.took(client.identity.uid, now - began, now)",
        (f"{CLIENTS}::test_while_others_had_the_processor_no_time_is_taken",),
    ),
    Mutant(
        "time-of-a-turn",
        "a turn ends after a request that took its time",
        NEVER,
        ("tests/unit/test_clients.py::test_a_turn_ends_after_a_request_that_took_its_time",),
    ),
    Mutant(
        "requests-in-a-turn",
        "a turn of the loop serves a bounded number of requests",
        "for _ in range(1 << 30):\n    client = self._turns.next()\n    if client is None:\n"
        "        return\n    if not client.gone:\n        self._on_turn(client)\n"
        "    if not client.gone:\n        client.listen_on()",
        ("tests/unit/test_clients.py::test_a_turn_serves_a_bounded_number_of_requests",),
    ),
    Mutant(
        "an-unheard-connection-ends",
        "a connection that cannot be heard any more ends, and nothing else",
        NEVER,
        (
            "tests/unit/test_clients.py::"
            "test_a_connection_that_cannot_be_heard_any_more_ends_and_nothing_else_does",
        ),
        "OSError",
    ),
    Mutant(
        "accept-many",
        "a turn of the loop accepts more than one connection",
        "self._accept(listener)",
        ("tests/unit/test_clients.py::test_a_turn_accepts_many_connections_and_not_all",),
    ),
    Mutant(
        "no-greeting-for-who-has-left",
        "a client that has left costs no greeting",
        NEVER,
        (
            "tests/unit/test_clients.py::"
            "test_a_client_that_left_before_it_was_accepted_is_not_looked_at",
        ),
    ),
    Mutant(
        "pause-without-descriptors",
        "without a descriptor for a connection the loop does not spin",
        REMOVE,
        (
            "tests/unit/test_clients.py::test_without_a_descriptor_it_pauses_and_accepts_again_later",
        ),
    ),
    Mutant(
        "places-for-root",
        "some connections are for root",
        NEVER,
        ("tests/real/test_fair.py::test_when_all_places_are_busy_others_are_refused_and_not_root",),
        FAILS + "|BrokerError|waited",
    ),
    Mutant(
        "descriptors-for-root",
        "users' leases leave descriptors for what root asks",
        NEVER,
        (
            "tests/real/test_fair.py::"
            "test_leases_and_connections_of_others_leave_descriptors_for_root",
        ),
        FAILS + "|waited|BrokerError|Unavailable|OSError",
    ),
    Mutant(
        "connections-leave-descriptors",
        "users' connections leave descriptors for what root asks",
        "full = len(self._all) >= most",
        (
            "tests/real/test_fair.py::"
            "test_leases_and_connections_of_others_leave_descriptors_for_root",
        ),
        FAILS + "|waited|BrokerError|Unavailable|OSError",
    ),
    Mutant(
        "strangers-share",
        "users without a place in the policy share one allowance",
        NEVER,
        ("tests/real/test_fair.py::test_users_that_no_rule_allows_anything_share_their_places",),
        FAILS + "|waited",
    ),
    Mutant(
        "only-idle-ones-give-way",
        "a connection whose request is not read yet does not give way",
        ALWAYS,
        ("tests/unit/test_clients.py::test_a_connection_with_an_unread_request_does_not_give_way",),
    ),
    Mutant(
        "who-has-most-gives-way",
        "the user with the most connections gives way, and not one with few",
        """for connections in list(self._of.values()):
    if ended := self._idle(list(connections.values()), strangers):
        for one in ended:
            self._end(one, "", told=False)
        return True""",
        (f"{CLIENTS}::test_the_user_with_the_most_connections_gives_way_with_the_oldest",),
    ),
    Mutant(
        "few-give-way",
        "one that connects does not end all idle connections of a user",
        NEVER,
        (f"{CLIENTS}::test_the_user_with_the_most_connections_gives_way_with_the_oldest",),
    ),
    Mutant(
        "no-second-search-in-vain",
        "connections that nothing gives way to cost no search each",
        NEVER,
        (
            "tests/unit/test_clients.py::"
            "test_who_finds_all_places_busy_is_refused_without_a_search_for_each",
        ),
    ),
    Mutant(
        "a-lease-keeps-its-connection",
        "a connection with a lease does not give way",
        NEVER,
        ("tests/real/test_fair.py::test_idle_connections_give_way_and_no_others",),
        FAILS + "|BrokenPipe|ConnectionReset|cut off",
    ),
    Mutant(
        "a-wait-keeps-its-connection",
        "a connection whose request waits does not give way",
        "return not (self.forked or self.identity.uid == 0)",
        ("tests/real/test_fair.py::test_idle_connections_give_way_and_no_others",),
    ),
    Mutant(
        "root-keeps-its-connections",
        "root's connections do not give way",
        "return not (self.busy or self.forked)",
        (f"{CLIENTS}::test_roots_connections_do_not_give_way",),
    ),
    Mutant(
        "store-at-a-pace",
        "leases go into systemd's store at a pace",
        ALWAYS,
        (
            "tests/real/test_restart.py::test_leases_go_into_the_store_at_a_pace",
            "tests/real/test_restart.py::"
            "test_who_opens_and_closes_in_a_loop_gives_systemd_nothing_to_do",
        ),
    ),
    Mutant(
        "nothing-kept-of-an-ended-lease",
        "nothing of a lease that ended goes into the store",
        REMOVE,
        ("tests/real/test_restart.py::test_a_lease_that_has_ended_is_not_kept_when_the_daemon_ends",),
    ),
    Mutant(
        "keep-young-leases-at-the-end",
        "a daemon that is asked to end has all leases kept",
        REMOVE,
        (
            "tests/real/test_restart.py::"
            "test_a_lease_too_young_for_the_store_goes_on_when_the_daemon_is_asked_to_end",
        ),
    ),
    Mutant(
        "renamed-device",
        "a device that changed its name while somebody waited is another",
        NEVER,
        (f"{PATHS}::test_the_device_is_another_when_who_waited_gets_its_turn",),
    ),
    Mutant(
        "escape-log-values",
        "no value in the log makes a field or a line",
        ALWAYS,
        ("tests/unit/test_log.py::test_no_value_forges_a_field_or_a_line",),
    ),
    Mutant(
        "live-socket",
        "a live daemon's socket is not replaced",
        NEVER,
        ("tests/real/test_daemon.py::test_a_live_daemons_socket_is_refused_and_it_lives_on",),
        FAILS + "|waited",
    ),
    Mutant(
        "own-socket-only",
        "a daemon that ends leaves another's socket",
        ALWAYS,
        (
            "tests/real/test_daemon.py::test_a_daemon_ends_well_and_leaves_the_socket_of_another_in_its_place",
        ),
        FAILS + "|Error",
    ),
    Mutant(
        "foreign-file",
        "what is no socket is left alone",
        NEVER,
        ("tests/real/test_daemon.py::test_what_is_no_socket_is_left_alone",),
        FAILS + "|Error",
    ),
    Mutant(
        "load-seccomp",
        "system calls are filtered",
        REMOVE,
        (FORKED_CAPS,),
        "system calls are not filtered",
    ),
    Mutant(
        "seccomp-read-back",
        "that system calls are filtered is read back",
        NEVER,
        ("tests/real/test_confined_inside.py::test_a_step_that_did_not_take_is_the_end",),
    ),
    Mutant(
        "kill-unlisted-calls",
        "a system call that is not listed is the end",
        "denied = library.ERRNO(errno.EPERM) if sys.flags.dev_mode else library.ALLOW",
        (f"{CALLS}::test_no_other_system_call_is_there",),
    ),
    Mutant(
        "kill-other-abis",
        "no other ABI is a way round",
        "rules.set_attr(library.Attr.ACT_BADARCH, library.ALLOW)",
        (f"{CALLS}::test_no_other_abi_is_a_way_round",),
    ),
    Mutant(
        "developer-error",
        "an error for developers is an error",
        "denied = library.ERRNO(0) if sys.flags.dev_mode else library.KILL_PROCESS",
        (f"{CALLS}::test_developers_get_an_error_instead",),
    ),
    Mutant(
        "ioctl-arguments",
        "the arguments of ioctl are looked at",
        'return Call("ioctl", why, (), unseen)',
        (f"{CALLS}::test_what_is_there_is_there_for_what_it_is_for_alone",),
    ),
    Mutant(
        "kill-arguments",
        "the arguments of kill are looked at",
        'Call("kill", "any signal")',
        (f"{CALLS}::test_what_is_there_is_there_for_what_it_is_for_alone",),
    ),
    Mutant(
        "socketpair-arguments",
        "the arguments of socketpair are looked at",
        'Call("socketpair", "of any family")',
        (f"{CALLS}::test_what_is_there_is_there_for_what_it_is_for_alone",),
    ),
    Mutant(
        "clone-arguments",
        "the arguments of clone are looked at",
        'Call("clone", "with any flags", (Is(0, CLONE_VM | CLONE_THREAD, CLONE_VM | '
        "CLONE_THREAD),))",
        (f"{CALLS}::test_what_is_there_is_there_for_what_it_is_for_alone",),
    ),
    Mutant(
        "no-executable-memory",
        "the arguments of mmap and mprotect are looked at",
        "NO_CODE = Is(2, 0, 0)",
        (f"{CALLS}::test_what_is_there_is_there_for_what_it_is_for_alone",),
    ),
    Mutant(
        "prlimit64-arguments",
        "the arguments of prlimit64 are looked at",
        'Call("prlimit64", "set any limit")',
        (f"{CALLS}::test_what_is_there_is_there_for_what_it_is_for_alone",),
    ),
    Mutant(
        "prctl-arguments",
        "the arguments of prctl are looked at",
        'Call("prctl", "any operation")',
        (f"{CALLS}::test_what_is_there_is_there_for_what_it_is_for_alone",),
    ),
    Mutant(
        "setsockopt-arguments",
        "the arguments of setsockopt are looked at",
        'Call("setsockopt", "any option")',
        (f"{CALLS}::test_what_is_there_is_there_for_what_it_is_for_alone",),
    ),
    Mutant(
        "fcntl-arguments",
        "the arguments of fcntl are looked at",
        'Call("fcntl", "any command")',
        (f"{CALLS}::test_what_is_there_is_there_for_what_it_is_for_alone",),
    ),
    Mutant(
        "landlock-restrict",
        "Landlock forbids what is not named",
        REMOVE,
        ("tests/unit/test_landlock.py::test_what_is_not_named_can_neither_be_read_nor_made",),
    ),
    Mutant(
        "landlock-scopes",
        "signals and abstract sockets stay within",
        "wanted = _Ruleset(handled, _NETWORK if level >= 4 else 0, 0)",
        (
            "tests/unit/test_landlock.py::test_no_signal_reaches_a_process_outside",
            "tests/unit/test_landlock.py::test_no_abstract_socket_outside_can_be_reached",
        ),
    ),
    Mutant(
        "landlock-sockets",
        "sockets with a path are given up where the kernel can",
        "pass",
        ("tests/unit/test_landlock_sockets.py::test_they_are_given_up_if_the_kernel_can",),
    ),
    Mutant(
        "landlock-tried",
        "that the file system is given up is tried",
        "return",
        ("tests/real/test_confined_inside.py::test_a_step_that_did_not_take_is_the_end",),
        f"{FAILS}|the other side has ended",
    ),
    Mutant(
        "limit-read-back",
        "a limit is read back",
        REMOVE,
        ("tests/real/test_confined_inside.py::test_a_step_that_did_not_take_is_the_end",),
    ),
    Mutant(
        "crowded-directories",
        "Landlock leaves no right over directories of all",
        "return directory",
        ("tests/real/test_confined_inside.py::test_beside_a_plan_in_run_nothing_of_run_is_open",),
    ),
    Mutant(
        "ask-the-policy",
        "the policy is asked",
        NEVER,
        (
            f"{IDENTITY}::test_who_is_not_in_the_group_is_refused_and_who_is_gets_the_port",
            f"{IDENTITY}::test_root_too_needs_a_rule_to_open",
        ),
        FAILS + "|NoSuchPort",
    ),
    Mutant(
        "close-the-parents-files",
        "a backend keeps nothing of its parent's open",
        REMOVE,
        ("tests/launcher/test_launcher_whole.py::test_backend_is_out_of_the_callers_reach",),
    ),
    Mutant(
        "drop-the-parents-groups",
        "a backend has no group of its parent's",
        REMOVE,
        (FRONTEND,),
    ),
    Mutant(
        "client-limit",
        "no more clients than there is room for",
        NEVER,
        ("tests/real/test_fair.py::test_when_all_places_are_busy_others_are_refused_and_not_root",),
        FAILS + "|waited",
    ),
    Mutant(
        "kept-descriptor-matches-record",
        "a kept descriptor is of the device that its record names",
        NEVER,
        (f"{KEPT}[another device]",),
        f"{FAILS}|waited",
    ),
    Mutant(
        "forget-the-kept-lease",
        "what is over is forgotten by systemd, too",
        REMOVE,
        ("tests/real/test_restart.py::test_each_lease_is_kept_once_and_only_while_it_lasts",),
    ),
    Mutant(
        "remove-unconfirmed-lock",
        "a lock that is not confirmed is removed with its broker",
        NEVER,
        (f"{TEST_LOCKS}::test_a_lock_for_a_port_that_nobody_got_any_more_is_removed",),
    ),
    Mutant(
        "kept-pidfd-matches-record",
        "a kept pidfd is of the process that its record names",
        NEVER,
        (f"{KEPT}[another's pidfd]",),
        f"{FAILS}|waited",
    ),
    Mutant(
        "kept-watcher-lists-the-port",
        "a kept watcher lists the port and nothing else",
        NEVER,
        (f"{KEPT}[another port's watcher]", f"{KEPT}[a watcher of more]"),
        f"{FAILS}|waited",
    ),
    Mutant(
        "kept-copy-is-of-its-node",
        "a kept watcher lists the copy that its record names and nothing else",
        NEVER,
        (
            f"{COPIES_BACK}::"
            "test_what_is_no_copy_is_refused_with_its_reason_and_leases_go_on[another's watcher]",
        ),
        f"{FAILS}|waited",
    ),
    Mutant(
        "forget-the-kept-copy",
        "a dead copy that is closed is forgotten by systemd, too",
        REMOVE,
        (f"{COPIES_BACK}::test_a_copy_that_is_closed_is_kept_no_more_when_the_daemon_ends",),
    ),
    Mutant(
        "nothing-stays-of-a-closed-copy",
        "a dead copy that was closed while there was no daemon is forgotten at the start",
        REMOVE,
        (
            f"{COPIES_BACK}::"
            "test_a_copy_that_is_closed_while_there_is_no_daemon_is_kept_no_more[15]",
        ),
    ),
    Mutant(
        "places-for-leases",
        "dead copies take no place of a lease in systemd's store",
        "copy.stays = True",
        (
            f"{COPIES}::test_no_more_are_kept_than_have_places_and_a_place_is_taken_again",
            f"{COPIES_BACK}::test_copies_have_so_many_places_and_leases_have_theirs",
        ),
    ),
    Mutant(
        "copies-behind-leases",
        "dead copies delay no lease on its way into systemd's store",
        "self._dead and self._may(now)",
        (f"{COPIES_BACK}::test_copies_go_in_behind_leases",),
    ),
    Mutant(
        "paid-is-paid-for-good",
        "what a port was owed and got is not put back once more after a restart",
        NEVER,
        (
            f"{COPIES}::test_what_is_paid_is_kept_as_paid_once_and_of_that_device_alone",
            f"{COPIES_BACK}::test_what_was_paid_is_not_paid_again[15]",
        ),
    ),
    Mutant(
        "kept-record-is-sealed",
        "a kept record is sealed",
        "memory < 0",
        (f"{KEPT}[not sealed]",),
        f"{FAILS}|waited",
    ),
    Mutant(
        "one-kept-lease-a-port",
        "of two kept leases of a port one is believed",
        NEVER,
        ("tests/real/test_restart.py::test_of_two_leases_of_one_port_one_is_believed",),
        f"{FAILS}|waited",
    ),
    Mutant(
        "ttyrun-standard-descriptors",
        "standard descriptors are open",
        "for (int fd = 3; fd <= 2; fd++)",
        ("tests/launcher/test_launcher_root_half.py::test_closed_standard_descriptors_are_filled",),
        ASSERTS + "|CompletedProcess",
    ),
    Mutant(
        "ttyrun-has-a-name",
        "it has a name",
        NEVER,
        ("tests/launcher/test_launcher_refusals.py::test_no_name_is_refused",),
    ),
    Mutant(
        "ttyrun-is-root",
        "it is root's and set-user-ID",
        NEVER,
        ("tests/launcher/test_launcher_refusals.py::test_without_the_bit_it_says_what_to_do",),
    ),
    Mutant(
        "ttyrun-close-descriptors",
        "the caller's descriptors are closed",
        REMOVE,
        ("tests/launcher/test_launcher_root_half.py::test_callers_other_descriptors_are_closed",),
    ),
    Mutant(
        "ttyrun-reset-limits",
        "limits are known",
        "(void)reset_limits;",
        ("tests/launcher/test_launcher_root_half.py::test_soft_limit_is_set_to_a_known_value",),
    ),
    Mutant(
        "ttyrun-no-core",
        "the launcher dumps no core",
        "{ LIMIT(CORE), RLIM_INFINITY },",
        ("tests/launcher/test_launcher_root_half.py::test_soft_limit_is_set_to_a_known_value",),
    ),
    Mutant(
        "ttyrun-reset-signals",
        "signals and timers are known",
        "(void)reset_signals;",
        (
            "tests/launcher/test_launcher_root_half.py::test_everything_ignored_and_blocked_is_reset",
            "tests/launcher/test_launcher_root_half.py::test_timers_are_stopped",
        ),
    ),
    Mutant(
        "ttyrun-reset-scheduling",
        "scheduling is known",
        "(void)reset_scheduling;",
        ("tests/launcher/test_launcher_root_half.py::test_umask_nice_policy_and_slack_are_reset",),
    ),
    Mutant(
        "ttyrun-umask",
        "the umask is known",
        "umask((mode_t)(kept.umask = umask(022)));",
        ("tests/launcher/test_launcher_root_half.py::test_umask_nice_policy_and_slack_are_reset",),
    ),
    Mutant(
        "ttyrun-trusted-python",
        "the interpreter is root's",
        REMOVE,
        (
            "tests/launcher/test_launcher_refusals.py::test_interpreter_that_others_can_change_is_refused",
        ),
    ),
    Mutant(
        "ttyrun-trusted-library",
        "the library is root's",
        REMOVE,
        (
            "tests/launcher/test_launcher_refusals.py::test_interpreter_that_others_can_change_is_refused",
        ),
    ),
    Mutant(
        "ttyrun-trusted-code-path",
        "the way to the code is root's",
        REMOVE,
        ("tests/launcher/test_launcher_refusals.py::test_code_that_others_can_change_is_refused",),
    ),
    Mutant(
        "ttyrun-trusted-code",
        "all of the code is root's",
        NEVER,
        ("tests/launcher/test_launcher_refusals.py::test_code_that_others_can_change_is_refused",),
    ),
    Mutant(
        "ttyrun-no-link",
        "a path of the code is no link",
        NEVER,
        ("tests/launcher/test_launcher_refusals.py::test_code_that_others_can_change_is_refused",),
    ),
    Mutant(
        "ttyrun-writable-by-others",
        "code that others can change is not run",
        NEVER,
        (
            "tests/launcher/test_launcher_refusals.py::test_code_that_others_can_change_is_refused",
            "tests/launcher/test_launcher_refusals.py::test_root_of_a_user_namespace_is_nobody_here",
        ),
    ),
    Mutant(
        "ttyrun-absolute-path",
        "a compiled-in path is absolute",
        NEVER,
        (
            "tests/launcher/test_launcher_refusals.py::test_relative_path_is_refused_wherever_it_is_started",
        ),
    ),
    Mutant(
        "ttyrun-own-environment",
        "the root half has an environment of its own",
        "execve(PYTHON, args, environment[0] ? environ : environment);",
        ("tests/launcher/test_launcher_root_half.py::test_environment_is_fresh",),
    ),
    Mutant(
        "ttyrun-isolated-python",
        "Python is isolated",
        'char *python[] = { PYTHON, "-SB", "-Xutf8", CODE "/ttyrun_main.py" };',
        ("tests/launcher/test_launcher_root_half.py::test_python_is_isolated",),
    ),
    Mutant(
        "ttyrun-seal-what-is-kept",
        "what is kept is sealed",
        "F_SEAL_SEAL | F_SEAL_GROW | F_SEAL_SHRINK);",
        ("tests/launcher/test_launcher_root_half.py::test_kept_data_cannot_be_changed",),
    ),
    Mutant(
        "ttyrun-parent-death-signal",
        "no parent's death ends it",
        REMOVE,
        ("tests/launcher/test_launcher_root_half.py::test_parent_death_signal_is_cleared[root]",),
    ),
    Mutant(
        "ttyrun-needs-proc",
        "nothing is started without /proc",
        "if (keep() == -2)",
        (f"{LAUNCH}::test_without_proc_nothing_is_started",),
    ),
    Mutant(
        "ttyrun-frontend-limits",
        "the launcher's frontend gets the caller's limits back",
        REMOVE,
        (
            "tests/launcher/test_launcher_given_back.py::test_frontend_can_be_neither_traced_nor_read",
        ),
    ),
    Mutant(
        "ttyrun-caller-is-not-root",
        "root is no caller of the launcher",
        NEVER,
        (
            "tests/launcher/test_launcher_given_back.py::test_root_is_told_that_there_is_nobody_to_become",
        ),
    ),
    Mutant(
        "facts-are-for-holder-and-admins",
        "what a line is like is for its holder, root and admins",
        "leases = held",
        (
            "tests/real/test_details.py::test_the_holder_root_and_admins_are_told_of_the_line_and"
            "_nobody_else",
        ),
    ),
    Mutant(
        "stuck-line-keeps-no-list",
        "a line that does not answer keeps no list",
        NEVER,
        ("tests/unit/test_facts.py::test_a_line_that_does_not_answer_keeps_nobody",),
    ),
    Mutant(
        "one-look-a-device",
        "a device that does not answer costs one worker",
        NEVER,
        (
            "tests/unit/test_facts.py::test_a_device_is_looked_at_once_at_a_time_whosever_it_is"
            "_meanwhile",
        ),
    ),
    Mutant(
        "no-descriptor-for-a-look",
        "a look at a line for which there is no descriptor does not end the broker",
        NEVER,
        ("tests/unit/test_facts.py::test_a_look_for_which_there_is_no_descriptor_ends_no_list",),
        "OSError",
    ),
    Mutant(
        "watches-per-user",
        "a user watches so many lists and no more",
        NEVER,
        (
            "tests/unit/test_watches.py::test_a_user_has_so_many",
            "tests/real/test_watch.py::test_a_user_watches_so_many_and_others_their_own",
        ),
    ),
    Mutant(
        "paced-watches",
        "a list that is watched is answered at a pace",
        "watch.seen != self._leases.table.changes",
        ("tests/unit/test_watches.py::test_changes_are_told_at_a_pace_and_the_last_one_always",),
    ),
    Mutant(
        "time-of-the-watches",
        "no more lists are answered in a turn than fit into it",
        NEVER,
        (f"tests/unit/test_watches.py::{MANY_LISTS}",),
    ),
    Mutant(
        "watches-leave-time",
        "lists that are watched leave the most of the time to others",
        NEVER,
        (f"tests/unit/test_watches.py::{MANY_LISTS}",),
    ),
    Mutant(
        "one-look-a-watch",
        "for a list that is watched one look at all ports is asked for at a time",
        "stale or watch.renew_at <= now",
        (
            "tests/unit/test_watches.py::"
            "test_after_a_change_of_nodes_while_it_looks_it_looks_again",
        ),
    ),
    Mutant(
        "paced-lines",
        "who watches lines has them looked at once a second",
        REMOVE,
        ("tests/unit/test_watches.py::test_lines_are_looked_at_once_a_second",),
    ),
    Mutant(
        "watch-of-who-left",
        "nobody is looked for on behalf of who watched and has left",
        REMOVE,
        ("tests/real/test_watch.py::test_nothing_is_left_of_a_watch_that_ended",),
    ),
    Mutant(
        "room-for-the-grant",
        "a client that does not read what it waits for has its port all the same",
        NEVER,
        ("tests/unit/test_waiting.py::test_what_is_not_read_leaves_room_for_the_grant",),
    ),
    Mutant(
        "a-client-that-went-meanwhile",
        "who moves up is told, whoever is found gone while others are told",
        "return None",
        ("tests/unit/test_waiting.py::test_who_moves_up_because_another_is_found_gone_is_told",),
    ),
    Mutant(
        "paced-progress",
        "who waits is told at a pace",
        NEVER,
        (
            "tests/unit/test_waiting.py::test_changes_are_told_at_a_pace_and_the_last_one_always",
            "tests/unit/test_waiting.py::test_most_of_the_time_is_left_to_others",
        ),
    ),
    Mutant(
        "watched-by-the-policy-in-force",
        "a list that is watched is by the policy in force",
        "watch.rows is None",
        (
            "tests/unit/test_watches.py::test_by_another_policy_nothing_is_told_before_all_is_looked"
            "_at_again",
        ),
    ),
    Mutant(
        "no-rest-by-an-earlier-policy",
        "of a list that is watched no more is told by an earlier policy",
        REMOVE,
        (
            "tests/unit/test_watches.py"
            "::test_a_long_answer_by_another_policy_is_not_gone_on_with",
        ),
    ),
    Mutant(
        "facts-of-the-holder-in-a-watch",
        "what a line is like is not told to who had the port before",
        NEVER,
        ("tests/unit/test_watches.py::test_a_line_is_not_told_to_who_had_the_port_before",),
    ),
    Mutant(
        "kept-off",
        "a port is kept from whom it was taken back from",
        NEVER,
        (
            "tests/unit/test_holds.py::test_a_hold_is_for_one_user_and_one_device_and_ends",
            "tests/real/test_cli.py::test_held_back_the_port_is_free_for_others_alone",
        ),
    ),
    Mutant(
        "bounded-holds",
        "what is kept from users is bounded",
        NEVER,
        ("tests/unit/test_holds.py::test_holds_are_bounded_in_time_and_number",),
    ),
    Mutant(
        "ttyrun-asks-the-daemon",
        "where a daemon listens the launcher has no table of its own",
        NEVER,
        (f"{LAUNCHER_BROKER}::test_where_a_daemon_listens_the_lease_is_the_daemons",),
    ),
    Mutant(
        "ttyrun-probes-as-its-caller",
        "the launcher looks for a daemon as its caller, and not as root",
        REMOVE,
        (f"{LAUNCHER_BROKER}::test_nobody_is_asked_as_root_whoever_listens",),
    ),
    Mutant(
        "ttyrun-asks-as-its-caller",
        "the daemon sees the launcher's caller, and not root",
        REMOVE,
        (f"{LAUNCHER_BROKER}::test_the_daemon_is_not_asked_as_root",),
    ),
    Mutant(
        "ttyrun-backends-per-caller",
        "a caller has so many root halves and no more",
        "import itertools\nfor byte in itertools.count():\n"
        "    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK,"
        " _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, os.getpid(), 1, 0))\n"
        "    return descriptor",
        (f"{LAUNCHER_BROKER}::test_its_root_processes_are_counted_for_each_caller",),
    ),
    Mutant(
        "no-limit-without-the-daemon",
        "the launcher alone leases nothing that it would have to end",
        NEVER,
        (f"{LAUNCHER_BROKER}::test_alone_it_refuses_a_rule_with_a_time_limit",),
    ),
    Mutant(
        "failed-setup-ends-one-client",
        "a connection that cannot be set up is the end of itself alone",
        NEVER,
        (f"{FAULTS}::{ON_THE_WAY}",),
        BROKEN,
    ),
    Mutant(
        "close-after-a-failed-look",
        "a look that fails gives its descriptors back",
        REMOVE,
        (f"{FAULTS}::{ON_THE_WAY}",),
        "left over",
    ),
    Mutant(
        "close-after-a-failed-open",
        "an open that fails gives its descriptor back",
        REMOVE,
        (f"{FAULTS}::{ON_THE_WAY}",),
        "left over",
    ),
    Mutant(
        "exclusive-is-the-last-step",
        "nothing of a grant fails after TIOCEXCL",
        "fcntl.ioctl(holder, linux.TIOCEXCL)\nlease.watcher = linux.weak_reference(holder)",
        (f"{FAULTS}::{ON_THE_WAY}",),
        "is stuck",
    ),
    Mutant(
        "failed-end-is-logged",
        "a hang-up that fails at the end of a lease is in the log",
        NEVER,
        (
            "tests/real/test_daemon.py"
            "::test_a_port_that_cannot_be_hung_up_is_in_the_log_and_one_that_is_gone_is_not",
        ),
    ),
    Mutant(
        "news-of-others-without-memory",
        "what finds no memory keeps no news from others",
        NEVER,
        (
            "tests/unit/test_loop.py::test_a_handler_without_memory_keeps_no_news_from_the_others_and_is_called_again",
        ),
        FAILS + "|MemoryError|nobody woke",
    ),
    Mutant(
        "no-client-without-memory",
        "without memory no connection is accepted",
        NEVER,
        (
            f"{CLIENTS}::test_without_memory_no_connection_is_accepted_and_each_request_is_refused",
        ),
        FAILS + "|MemoryError|nobody woke",
    ),
    Mutant(
        "no-request-without-memory",
        "without memory a request is refused",
        ALWAYS,
        (
            f"{CLIENTS}::test_without_memory_no_connection_is_accepted_and_each_request_is_refused",
        ),
        FAILS + "|MemoryError|nobody woke",
    ),
    Mutant(
        "no-memory-ends-one-client",
        "a request that finds no memory ends its connection alone",
        NEVER,
        (
            f"{CLIENTS}::test_a_request_that_finds_no_memory_is_the_end_of_its_connection_alone",
        ),
        FAILS + "|MemoryError|nobody woke",
    ),
    Mutant(
        "job-without-memory",
        "a job that finds no memory is run again",
        NEVER,
        (
            f"{WORKERS}::test_a_job_that_finds_no_memory_is_run_again_until_there_is_some[submit]",
        ),
        FAILS + "|MemoryError|nobody woke",
    ),
    Mutant(
        "job-of-the-loop-without-memory",
        "a job of the loop that finds no memory is run again",
        NEVER,
        (
            f"{WORKERS}::test_a_job_that_finds_no_memory_is_run_again_until_there_is_some[soon]",
        ),
        FAILS + "|MemoryError|nobody woke",
    ),
    Mutant(
        "sighup-waits",
        "a SIGHUP while the daemon starts is not its end",
        REMOVE,
        ("tests/real/test_daemon.py::test_sighup_at_any_moment_of_the_start_is_not_its_end",),
    ),
    Mutant(
        "refuse-an-unwatched-lease",
        "a lease of which the end would not be heard is not granted",
        NEVER,
        (
            f"{FAULTS}::{ON_THE_WAY}",
            "tests/real/test_daemon.py"
            "::test_without_inotify_watches_a_port_is_refused_with_the_next_step",
        ),
        BROKEN,
    ),
    Mutant(
        "unreadable-queue",
        "a queue of closes that cannot be read has all ports looked at",
        NEVER,
        (f"{FAULTS}::{AT_THE_END}",),
        BROKEN,
    ),
    Mutant(
        "unreadable-description",
        "what cannot be told of a description is asked again",
        NEVER,
        (f"{FAULTS}::{AT_THE_END}",),
        BROKEN,
    ),
    Mutant(
        "lock-of-its-own-user",
        "a lock file that its maker could not have made for that process is forged",
        NEVER,
        (
            f"{TEST_LOCKS}::test_a_lock_that_its_maker_could_not_have_made_is_forged_and_taken",
            f"{OUTSIDERS}::test_a_lock_file_that_nobody_believes_is_in_nobodys_way",
        ),
        f"{FAILS}|busy",
    ),
    Mutant(
        "lock-older-than-its-process",
        "a lock file is not of a process that began after it was written",
        NEVER,
        (f"{TEST_LOCKS}::test_a_process_that_began_after_the_lock_was_written_is_another_one",),
    ),
    Mutant(
        "clock-set-since-the-lock",
        "two times are compared only where the clock was not set in between",
        ALWAYS,
        (
            f"{TEST_LOCKS}"
            "::test_where_the_clock_was_set_since_the_lock_is_believed_and_the_refusal_says_so",
        ),
    ),
    Mutant(
        "survive-any-name",
        "no name in the lock directory ends the root process",
        NEVER,
        (
            f"{TEST_LOCKS}::test_a_file_that_not_even_root_may_look_at_ends_nobody",
            f"{OUTSIDERS}::test_a_file_of_which_the_kernel_tells_root_nothing_ends_no_daemon"
            "[.ttybroker.999999.0123456789abcdef]",
        ),
        "Permission denied",
    ),
    Mutant(
        "bounded-look-at-the-directory",
        "a crowded lock directory costs a start no more than MOST_NAMES",
        "for _, entry in enumerate(entries):\n"
        '    if entry.name.startswith("LCK.."):\n'
        "        locks[entry.inode()] = entry.name\n"
        "    elif _maker(entry.name) is not None:\n"
        "        temporary.append(entry)",
        (
            f"{TEST_LOCKS}"
            "::test_of_a_crowded_directory_a_part_is_looked_at_and_leftovers_are_found_in_it",
        ),
    ),
    Mutant(
        "guessed-temporary-names",
        "whoever makes the names that a broker would use next keeps nobody from a port",
        NEVER,
        (
            f"{TEST_LOCKS}::test_whoever_guesses_the_next_temporary_names_keeps_nobody_from_the_port",
        ),
        "File exists",
    ),
    Mutant(
        "stale-until-hung-up",
        "that a port must be hung up is not forgotten when the one who asked is refused",
        NEVER,
        (
            f"{TEST_LOCKS}::test_a_stale_lock_of_roots_is_told_until_the_port_was_hung_up",
            f"{OUTSIDERS}::{OUTLIVED}[True]",
        ),
        f"{FAILS}|No such file",
    ),
    Mutant(
        "hang-up-after-a-lost-broker",
        "what outlived its lease and its broker is hung up before the next has the port",
        NEVER,
        (
            f"{OUTSIDERS}::{OUTLIVED}[False]",
            f"{OUTSIDERS}::{OUTLIVED}[True]",
            f"{LAUNCHER_BROKER}::test_what_outlived_its_root_half_is_hung_up_before_the_next_has"
            "_the_port",
        ),
        f"{ASSERTS}|does not end",
    ),
    Mutant(
        "flock-of-another-is-no-ghosts",
        "an outsider's flock beside a dead copy is believed",
        NEVER,
        (
            "tests/unit/test_others.py::test_beside_a_dead_copy_only_its_own_flock_means_nothing",
            f"{OUTSIDERS}::test_an_outsiders_lock_beside_a_dead_copy_is_believed[flock]",
        ),
    ),
    Mutant(
        "bounded-proc-locks",
        "of too many locks no more are read, and nobody is named by a part of them",
        ALWAYS,
        ("tests/unit/test_others.py::test_more_locks_than_are_read_tell_nothing_of_anybody",),
    ),
    Mutant(
        "untold-is-no-excuse",
        "an flock of which nothing can be told keeps the port",
        "return True",
        ("tests/unit/test_others.py::test_beside_a_dead_copy_only_its_own_flock_means_nothing",),
    ),
    Mutant(
        "paced-reading",
        "what is dear to read is read once for all who ask meanwhile",
        NEVER,
        ("tests/unit/test_others.py::test_what_is_dear_is_read_once_for_all_who_ask_meanwhile",),
    ),
    Mutant(
        "login-by-the-kernels-word",
        "a login counts only with the port as its terminal",
        "process(pid) is not None and (found := process(pid)) is not None",
        ("tests/unit/test_logins.py::test_what_utmp_says_counts_for_nothing_without_the_terminal",),
    ),
    Mutant(
        "login-lingers",
        "a port whose login has just ended is not granted before it is hung up",
        NEVER,
        (
            "tests/unit/test_logins.py"
            "::test_a_login_that_ended_is_over_only_when_its_terminal_was_hung_up",
        ),
    ),
    Mutant(
        "lock-left-is-logged",
        "a lock that cannot be removed is logged and ends nobody",
        NEVER,
        (f"{FAULTS}::{AT_THE_END}",),
        BROKEN,
    ),
    Mutant(
        "place-of-its-process",
        "a place in the queue is its process's",
        "one.expected and ask.patient",
        (
            f"{TABLE}::test_nobody_else_has_his_place[another user]",
            f"{TABLE}::test_nobody_else_has_his_place[another process]",
            f"{TABLE}::test_nobody_else_has_his_place[one with the same pid]",
        ),
    ),
    Mutant(
        "a-place-asks-nobody-to-yield",
        "who has not come back after a restart asks nobody to yield",
        "asks = bool(first)",
        (f"{TABLE}::test_a_place_asks_nobody_to_yield_and_who_has_it_does",),
    ),
    Mutant(
        "kept-for-who-comes-back",
        "after a restart nobody behind a place has the port while its client may come back",
        NEVER,
        (
            f"{TABLE}::test_a_port_that_is_given_back_is_kept_for_the_first_place",
            f"{ORDER}::test_a_newcomer_overtakes_nobody",
        ),
        f"{FAILS}|does not become so",
    ),
    Mutant(
        "order-at-a-pace",
        "the order of those who wait goes into systemd's store at a pace",
        ALWAYS,
        (f"{ORDER}::{AT_A_PACE}",),
    ),
    Mutant(
        "forget-the-old-order",
        "systemd keeps one order, and none when nobody waits",
        REMOVE,
        (f"{ORDER}::{AT_A_PACE}",),
    ),
    Mutant(
        "keep-the-order-at-the-end",
        "a daemon that is asked to end has the order kept as it is then",
        REMOVE,
        (f"{ORDER}::test_they_keep_it_when_the_daemon_is_asked_to_end_at_once",),
    ),
    Mutant(
        "kept-order-is-sealed",
        "a kept order is sealed",
        NEVER,
        (f"{ORDER}::test_what_is_no_order_is_dropped_and_the_log_says_so[not sealed]",),
        f"{FAILS}|waited|no log record",
    ),
    Mutant(
        "first-come-first-served",
        "first come, first served",
        "port.queue.insert(0, ask)",
        (f"{PROTOCOL}::{AS_THE_ORACLE}",),
        "Different",
    ),
    Mutant(
        "users-take-turns",
        "users take turns in the queue",
        REMOVE,
        (
            f"{PROTOCOL}::{AS_THE_ORACLE}",
            "tests/unit/test_table.py::"
            "test_many_requests_of_one_do_not_stand_in_front_of_anothers_first",
        ),
        f"{FAILS}|Different",
    ),
    Mutant(
        "keep-the-queue",
        "the queue keeps its order when a port has been put in order",
        "port = self._port(key, State.CLOSING)\nport.queue.reverse()",
        (f"{PROTOCOL}::{AS_THE_ORACLE}",),
        "Different",
    ),
    Mutant(
        "look-again-for-a-close",
        "a close is looked for again where inotify told of it too early",
        "LOOK_AGAIN = (3600.0,)",
        (f"{LEASE}::test_a_close_is_noticed_though_the_kernel_tells_of_it_too_early",),
        "waited",
    ),
    Mutant(
        "judge-who-waited-for-a-device",
        "whoever waited for a device is judged when it comes",
        "refusal = None",
        ("tests/real/test_absent.py::test_who_waits_for_it_is_judged_by_the_groups_of_the_moment",),
    ),
    Mutant(
        "paced-looks",
        "looks for what is not there leave the most of the time to others",
        NEVER,
        (f"{ARRIVALS}::test_looks_leave_the_most_of_the_time_to_others",),
    ),
    Mutant(
        "time-of-a-look",
        "a look for what is not there leaves each turn of the loop to others",
        NEVER,
        (f"{ARRIVALS}::{MANY_LOOKS}",),
    ),
    Mutant(
        "no-look-for-who-left",
        "nobody who left is looked for",
        ALWAYS,
        (f"{ARRIVALS}::{MANY_LOOKS}",),
    ),
    Mutant(
        "look-after-a-new-watch",
        "what comes before its directory is watched is found",
        REMOVE,
        (f"{ARRIVALS}::test_a_device_that_comes_while_it_is_looked_for_is_found",),
    ),
    Mutant(
        "look-for-a-lost-directory",
        "a directory that went before it was watched is looked for again",
        REMOVE,
        (
            f"{ARRIVALS}::"
            "test_a_directory_that_goes_while_it_is_looked_for_is_looked_for_again",
        ),
    ),
    Mutant(
        "failed-look-is-a-refusal",
        "a look for a device that fails does not end the broker",
        NEVER,
        (f"{ARRIVALS}::test_a_look_that_fails_is_a_refusal_and_the_others_are_looked_for",),
        "OSError",
    ),
    Mutant(
        "nobody-waits-unwatched",
        "nobody waits for a name of which nothing would tell",
        NEVER,
        (f"{ARRIVALS}::test_nobody_waits_for_a_name_of_which_nothing_would_tell",),
    ),
    Mutant(
        "judge-who-waited",
        "whoever waited is judged by the policy in force when the port is free",
        "refusal = None",
        (
            "tests/real/test_judged.py::test_a_request_that_waits_is_judged_by_the_groups_of_the_grant",
        ),
    ),
    Mutant(
        "judge-what-waits-at-a-reload",
        "a reload goes through the queues",
        REMOVE,
        (
            "tests/real/test_judged.py::test_a_reload_refuses_what_waits_and_is_not_allowed_any_more",
        ),
        FAILS + "|waited",
    ),
    Mutant(
        "deny-every-name",
        "a device that is denied under one name is denied under all",
        NEVER,
        (EVERY_NAME,),
        "DID NOT RAISE",
    ),
    Mutant(
        "first-directory-counts",
        "a drop-in of the administrator's counts before a package's of the same name",
        "chosen[name] = directory",
        (f"{FILES}::test_of_two_files_of_a_name_the_first_directorys_counts[file]",),
    ),
    Mutant(
        "stamp-of-drop-ins",
        "a drop-in that is new makes a plan stale",
        REMOVE,
        (f"{FILES}::test_a_plan_whose_drop_ins_have_changed_is_made_anew[one more]",),
    ),
    Mutant(
        "trusted-drop-in-directory",
        "the directories of drop-ins are root's alone",
        NEVER,
        (f"{FILES}::test_a_directory_that_others_may_write_is_a_bad_policy_though_it_is_empty",),
    ),
    Mutant(
        "trusted-drop-in",
        "a drop-in is root's alone",
        NEVER,
        (f"{DROP_INS}[a user's-lib]", f"{DROP_INS}[a user's mask-etc]"),
        "ValueError",
    ),
    Mutant(
        "no-link-out",
        "a drop-in is in its directory",
        NEVER,
        (f"{DROP_INS}[link out-lib]",),
        "ValueError",
    ),
    Mutant(
        "link-to-no-directory",
        "a link to a directory that is not there hides no deny",
        "return []",
        (f"{FILES}::test_a_directory_that_is_a_link_to_nothing_is_a_bad_policy[etc]",),
    ),
    Mutant(
        "admins-in-etc-alone",
        "a package makes nobody an admin",
        NEVER,
        (f"{FILES}::test_admins_are_named_below_etc_alone[lib]",),
    ),
    Mutant(
        "plan-rule-files",
        "a plan names no file that it does not have",
        NEVER,
        (f"{PLAN}::test_a_plan_whose_numbers_do_not_fit_together_is_refused",),
    ),
    Mutant(
        "plan-of-a-size",
        "a plan that is too large to be read is not written",
        NEVER,
        (f"{PLAN}::test_a_policy_whose_plan_is_too_large_to_be_read_is_a_mistake",),
    ),
    Mutant(
        "every-word-fits",
        "an alias is a device that fits each of its words",
        NEVER,
        (f"{WORDS}::test_all_words_must_fit[usb=0403:6001 serial=A2-False]",),
    ),
    Mutant(
        "one-device-fits",
        "of two devices that fit none is meant",
        NEVER,
        (f"{WORDS}::test_two_devices_that_fit_are_named_and_neither_is_meant",),
    ),
    Mutant(
        "words-of-the-very-node",
        "what was looked at fits the words, and not what was there before",
        NEVER,
        (f"{WORDS}::test_another_device_that_comes_before_the_look_is_not_taken",),
    ),
    Mutant(
        "deny-by-words",
        "a device that is denied by words is denied by its other names",
        NEVER,
        (f"{DENIED_BY_WORDS}[no sysfs]",),
    ),
    Mutant(
        "words-of-a-rule",
        "a rule with words is about the devices that fit",
        "return found",
        (f"{WORDS}::test_a_rule_with_words_is_about_the_devices_that_fit",),
    ),
    Mutant(
        "unheard-seats-are-empty",
        "nobody sits at a seat whose changes would not be heard",
        REMOVE,
        (f"{SEATS}::test_where_an_end_would_not_be_heard_nobody_sits",),
    ),
    Mutant(
        "session-is-a-name",
        "no path is read as a session's file",
        NEVER,
        (f"{SEATS}::test_a_session_is_looked_for_among_sessions_alone",),
    ),
    Mutant(
        "session-of-a-user",
        "a greeter, a remote or closed session is nobody's seat",
        "return uid",
        (f"{SEATS}::test_what_is_no_active_session_of_a_user_names_nobody",),
    ),
    Mutant(
        "logind-is-root",
        "files that others could write say nothing of a seat",
        'text = os.read(os.open(f"{TOP}/{name}", os.O_NONBLOCK), MOST).decode("ascii", "replace")',
        (f"{SEATS}::test_a_file_that_cannot_be_believed_names_nobody",),
    ),
    Mutant(
        "number-of-a-length",
        "a uid of thousands of digits names nobody, and ends no broker",
        "uid.isdecimal() and int(uid) < 0xFFFFFFFF",
        (f"{SEATS}::test_what_is_no_uid_names_nobody",),
        "Exceeds the limit",
    ),
    Mutant(
        "no-group-is-a-seat",
        "a group with the number of a seat gives nobody a port",
        "real = who.groups",
        (f"{SITS}::test_a_group_with_the_number_of_a_seat_is_none",),
    ),
    Mutant(
        "words-with-a-name-that-matches",
        "a rule whose words and name no port can have both, which would deny nobody, is a mistake",
        NEVER,
        ("tests/unit/test_policy.py::test_a_bad_policy_is_refused_with_line_and_key",),
    ),
    Mutant(
        "no-usb-behind-ttys",
        "a rule about a UART that is a USB adapter, which would deny nobody, is a mistake",
        NEVER,
        ("tests/unit/test_policy.py::test_a_bad_policy_is_refused_with_line_and_key",),
    ),
    Mutant(
        "deny-that-can-match",
        "a deny by a glob that no port is called like, which would deny nobody, is a mistake",
        NEVER,
        ("tests/unit/test_policy.py::test_a_bad_policy_is_refused_with_line_and_key",),
    ),
    Mutant(
        "path-that-can-match",
        "a rule by a path that no device has, which would deny nobody, is a mistake",
        NEVER,
        ("tests/unit/test_policy.py::test_a_bad_policy_is_refused_with_line_and_key",),
    ),
    Mutant(
        "driver-that-can-match",
        "a rule by a name that no driver has, which would deny nobody, is a mistake",
        NEVER,
        ("tests/unit/test_policy.py::test_a_bad_policy_is_refused_with_line_and_key",),
    ),
    Mutant(
        "seats-are-for-allow",
        "a deny or admins by who sits there is a mistake",
        NEVER,
        ("tests/unit/test_policy.py::test_a_bad_policy_is_refused_with_line_and_key",),
    ),
    Mutant(
        "while-active",
        "who does not sit there gets no port of such a rule",
        NEVER,
        (f"{SITS}::test_such_a_rule_refuses_a_user_whom_it_names_and_who_sits_elsewhere",),
    ),
    Mutant(
        "judge-what-waits-for-a-seat",
        "who waits and does not sit there any more is refused",
        REMOVE,
        (f"{SITS}::test_who_waits_and_sits_there_no_more_is_refused",),
    ),
    Mutant(
        "end-while-active",
        "a lease ends with the session that it is for",
        REMOVE,
        (f"{SITS}::test_a_lease_ends_when_its_user_does_not_sit_there_any_more",),
    ),
    Mutant(
        "adopted-while-active",
        "a lease ends whose user left while no daemon ran",
        REMOVE,
        (f"{SITS}::test_a_daemon_that_is_started_again_ends_the_leases_of_who_left_meanwhile",),
    ),
    Mutant(
        "unread-is-unknown",
        "a denial by words holds when what the device says cannot be read",
        'return _start(path).decode().strip() if os.path.isfile(path) else ""',
        (f"{WORDS}::test_what_cannot_be_read_is_unknown_and_so_denied",),
    ),
    Mutant(
        "unknown-is-denied",
        "a denial by words holds where nothing says what the device is",
        "return [one for one in entries if not one.words]",
        (f"{WORDS}::test_of_what_sysfs_does_not_know_the_denials_hold_and_nothing_is_allowed",),
    ),
    Mutant(
        "unknown-is-not-absent",
        "a device of which nothing is known is not taken for one that is not there",
        "return {}",
        (f"{WORDS}::test_of_what_sysfs_does_not_know_the_denials_hold_and_nothing_is_allowed",),
    ),
    Mutant(
        "links-to-come",
        "a new device is nobody's by its node before udev has made its links",
        NEVER,
        (f"{WORDS}::test_nobody_has_a_new_device_before_udev_has_made_its_links",),
    ),
    Mutant(
        "look-at-the-unnamed",
        "who waits for a device that udev never names has it in the end",
        "again = False",
        (f"{ARRIVALS}::test_what_udev_never_names_is_looked_for_again_though_no_name_comes",),
    ),
    Mutant(
        "another-node-of-the-device",
        "a node that root made of a device is a name of it",
        NEVER,
        (f"{WORDS}::test_another_node_of_the_device_is_a_name",),
    ),
    Mutant(
        "named-before-it-came",
        "what udev noted of an earlier device with this number is not about the new one",
        "return True",
        (f"{WORDS}::test_what_udev_noted_of_the_device_before_is_not_about_this_one",),
    ),
    Mutant(
        "named-for-this-node-alone",
        "that udev has named a node says nothing of the next node at its path",
        ALWAYS,
        (f"{WORDS}::test_a_node_that_udev_has_named_stays_named",),
    ),
    Mutant(
        "unsafe-alias-is-a-name",
        "an alias that others could redirect may be a name of any device",
        REMOVE,
        (f"{WORDS}::test_an_alias_that_others_could_redirect_may_be_a_name",),
    ),
    Mutant(
        "unnamed-is-last",
        "a rule about unnamed ports is about none that another rule names",
        "return entries",
        (f"{WORDS}::{UNNAMED}",),
    ),
    Mutant(
        "alias-is-a-name",
        "a device that an alias leads to is not unnamed",
        NEVER,
        (f"{WORDS}::{UNNAMED}",),
    ),
    Mutant(
        "rule-of-the-very-node",
        "what was looked at is what was judged",
        NEVER,
        (f"{WORDS}::test_another_device_than_the_one_that_was_judged_is_not_taken",),
    ),
    Mutant(
        "check-every-name",
        "check says of a device that it is denied under another name",
        "return None",
        (EVERY_NAME,),
    ),
    Mutant(
        "deny-by-the-kernels-name",
        "what a glob denies is denied under an alias with a kernel's name too",
        NEVER,
        (f"{JUDGE}::test_a_glob_that_denies_the_kernels_name_denies_every_alias",),
    ),
    Mutant(
        "same-device-by-the-new-policy",
        "a reload while a port opens may give its name to another device",
        NEVER,
        (f"{BETWEEN}[another device]",),
    ),
    Mutant(
        "every-name-by-the-new-policy",
        "a reload while a port opens may deny the device under another name",
        REMOVE,
        (f"{BETWEEN}[denied by another name]",),
    ),
    Mutant(
        "members-of-a-denied-group",
        "a denied group is its members too, who can get rid of the group",
        NEVER,
        (f"{PLAN}::test_a_denied_group_is_its_members_too",),
    ),
    Mutant(
        "unknown-name-denies-all",
        "a deny of a name that nobody knows denies everybody",
        "return NOBODY",
        (f"{DENIES_ALL}[ghost]", f"{DENIES_ALL}[@ghosts]"),
    ),
    Mutant(
        "reload-with-unknown-names",
        "a deny of a name that nobody knows fails a reload",
        "mistakes := made.mistakes",
        (f"{DENIES_ALL}[ghost]",),
    ),
    Mutant(
        "check-unknown-names",
        "a deny of a name that nobody knows is a mistake in a draft",
        "mistakes",
        (f"{DENIES_ALL}[ghost]",),
    ),
    Mutant(
        "keep-whole-plans-only",
        "a plan without a name is not kept in place of one that has it",
        "keep_it and not made.mistakes",
        (f"{DENIES_ALL}[ghost]",),
    ),
    Mutant(
        "groups-as-they-are-now",
        "a connection that lives long has the groups that its process has now",
        "return caller",
        ("tests/real/test_judged.py::test_a_long_connection_is_judged_by_the_groups_of_now",),
    ),
    Mutant(
        "session-of-its-user",
        "a session is joined by its user alone",
        "session is None",
        (
            "tests/real/test_sessions.py::test_a_session_is_joined_by_its_user_alone_and_by_its_number",
        ),
    ),
    Mutant(
        "no-join-of-an-ended-lease",
        "a join that meets the end of its lease does not end the broker",
        NEVER,
        (
            "tests/real/test_sessions.py::test_a_session_that_joins_a_lease_which_ends_meanwhile_is_refused",
        ),
        FAILS,
    ),
    Mutant(
        "sessions-per-connection",
        "a connection does not keep any number of sessions",
        NEVER,
        ("tests/real/test_sessions.py::test_a_connection_keeps_so_many_sessions_and_no_more",),
    ),
    Mutant(
        "watch-each-description",
        "a lease lasts until the last description of its session is closed",
        REMOVE,
        (
            "tests/real/test_sessions.py::test_a_session_opens_its_port_again_and_the_lease_lasts_until_the_last_is_closed",
        ),
    ),
    Mutant(
        "join-by-the-same-node",
        "a session joins by the node at which its closes are heard",
        NEVER,
        (f"{PORT}::test_a_session_joins_by_the_node_that_it_has_and_by_no_other",),
    ),
    Mutant(
        "settings-of-its-session",
        "what a session left on a port is for that session alone",
        ALWAYS,
        ("tests/real/test_sessions.py::test_what_a_session_left_is_nobody_elses",),
    ),
    Mutant(
        "no-ping-pong",
        "a claim asks nobody to yield, and neither does who asks to keep",
        NEVER,
        (
            f"{TABLE}::test_a_claim_asks_nobody_to_yield",
            "tests/real/test_lend.py::test_it_yields_to_whom_it_said[32-60101-64-False]",
        ),
    ),
    Mutant(
        "claims-of-others",
        "who takes back his own port does not end what others wait for or have lent",
        NEVER,
        ("tests/real/test_lend.py::test_a_user_revokes_his_own_lease_and_not_anothers_claim",),
    ),
    Mutant(
        "yields-to-its-user",
        "what is yielded to one's own user is not yielded to others",
        "return self.yields != 0",
        ("tests/real/test_lend.py::test_it_yields_to_whom_it_said[16-60102-0-False]",),
    ),
    Mutant(
        "one-time-limit-a-chain",
        "handing a port back and forth does not lengthen the time of a lease",
        "one.ends = limit",
        (
            "tests/real/test_lend.py::test_the_time_limit_is_that_of_the_whole_chain",
            f"{TABLE}::test_the_time_of_a_chain_counts_from_its_first_grant",
        ),
    ),
    Mutant(
        "a-lender-leaves-its-limit",
        "who lent the port and goes away does not give the next one more time",
        NEVER,
        (f"{TABLE}::test_who_lent_the_port_and_goes_away_leaves_its_time_limit_to_the_chain",),
    ),
    Mutant(
        "no-grant-after-its-time",
        "nobody gets a port whose time is over already",
        NEVER,
        (f"{TABLE}::test_a_chain_whose_time_ends_while_the_port_is_put_in_order_is_over_then",),
    ),
    Mutant(
        "nobody-let-in-after-the-time",
        "who is let in before others by a session that yields does not stay there for ever",
        "self.queue.sort(key=lambda one: one.claim)",
        (f"{TABLE}::{LET_IN}",),
    ),
    Mutant(
        "dead-descriptors-of-claims",
        "a claim does not pile up dead descriptors beyond the limit",
        REMOVE,
        (f"{LEND}::test_a_session_that_never_lets_go_cannot_pile_up_dead_descriptors",),
        FAILS + "|waited",
    ),
    Mutant(
        "join-of-the-very-lease",
        "who joins its own session late gets no port that another has by then",
        "not self._held(lease.key)",
        ("tests/real/test_sessions.py::test_a_join_that_ends_when_another_has_the_port_is_refused",),
    ),
    Mutant(
        "no-end-before-a-join",
        "a program whose one thread closes the port while another opens it again gets it",
        "lease.watch is not None and not lease.held()",
        ("tests/real/test_sessions.py::test_a_lease_lasts_until_the_open_that_joins_it_is_over",),
    ),
    Mutant(
        "join-within-limits",
        "who joins its own session does not yield beyond the limit",
        NEVER,
        (f"{LEND}::test_who_joins_its_own_session_does_not_yield_beyond_the_limit",),
    ),
    Mutant(
        "bounded-hang-ups",
        "a session that never lets go does not pile up dead descriptors",
        NEVER,
        (f"{TABLE}::test_who_is_hung_up_again_and_again_has_no_claim_any_more",),
    ),
    Mutant(
        "yielders-per-user",
        "nobody has more sessions that yield than the limit",
        NEVER,
        (f"{TABLE}::test_nobody_has_more_sessions_that_yield_than_the_limit",),
    ),
    Mutant(
        "longest-wait",
        "a long wait of a client does not end the broker",
        "pass",
        ("tests/unit/test_loop.py::test_a_wait_for_longer_than_the_kernel_counts_is_a_long_one",),
        "OverflowError",
    ),
    Mutant(
        "sessions-are-used-again",
        "a connection has no more sessions than ports, and one",
        NEVER,
        (
            "tests/unit/test_sessions.py"
            "::test_a_connection_that_opens_and_closes_for_ever_has_few_sessions",
        ),
    ),
    Mutant(
        "ended-session-is-forgotten",
        "connections that come and go leave no sessions",
        NEVER,
        (
            "tests/unit/test_sessions.py"
            "::test_a_session_ends_with_its_last_connection_and_its_last_lease",
        ),
    ),
)
