"""The parts that a laptop brings itself: broker, event log, and their supervisor."""
