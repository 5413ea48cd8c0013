"""The supervisor: one per host; starts, watches, signals, interrupts and ends engines."""
