"""The lab: a machine with real serial drivers, built here and run in QEMU; see __main__.py."""
