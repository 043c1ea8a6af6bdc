"""The portal: server-rendered pages over the same answers that the JSON interface gives."""
