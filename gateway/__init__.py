"""The edge: HTTP, portal, command line, client. Nothing imports it."""
