"""ttybrokerd: the root side."""
