"""Who may use the service, and the host names it answers to."""
