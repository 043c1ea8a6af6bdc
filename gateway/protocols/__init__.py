"""Protocols: each decodes a request into `Asked` and encodes the answer; one pipeline serves them all."""
