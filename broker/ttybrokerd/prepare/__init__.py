"""What ends before anybody is served: text, names and libraries become numbers here."""
