"""Where tests make directories that only root writes."""

# Not /run, which systemd mounts nosuid and nodev: no device node and no set-user-ID program works
# there. Not /tmp: others may write in it.
PLACE = "/var/lib"
