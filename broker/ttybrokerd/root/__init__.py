"""The process that stays root while it serves: audit this folder."""

TYPE_CHECKING = False  # typing's own costs every start 3 ms
