"""Who may ask the service, and under which host names."""
