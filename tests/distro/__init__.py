"""The releases of Debian that people have, each in a root of its own; see __main__.py."""
