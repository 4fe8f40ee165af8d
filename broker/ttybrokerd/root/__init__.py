"""The process that stays root while it serves: audit this folder."""
