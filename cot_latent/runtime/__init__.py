"""Files, locks, signals and processes: what touches the machine."""
