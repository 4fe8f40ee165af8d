"""URL handlers for pyserial, found by it when `ttybroker` has been imported."""
