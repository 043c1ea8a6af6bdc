"""The machine learning: values in, values out; no input or output but package files."""
