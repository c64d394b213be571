"""Files, locks, signals and processes: everything that touches the machine."""
