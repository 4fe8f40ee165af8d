"""The adversary: attacks on the broker, on privilege separation and on the setuid launcher.

`make test` runs each at a small scale, `make attack` at its full one, and `make attack MUTATE=1`
proves that each guard is needed: without it the tests that mutants.py names for it go red.
"""
