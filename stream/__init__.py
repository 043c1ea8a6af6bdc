"""The facts: their vocabulary, transport, storage and folding."""
