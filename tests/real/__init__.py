"""End to end: real processes, real uids, ptys as ports."""
