"""The users of the tests: ids that no account has."""

NOBODY = 65534
ALICE, BOB, CAROL = 60101, 60102, 60103
