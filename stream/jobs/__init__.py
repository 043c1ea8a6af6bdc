"""Long work: one kind a file, run by the trainer."""
