"""The walls around the worker: what approved code can reach of its site's machine."""
