"""Parse, one call, answer: one file a resource."""
