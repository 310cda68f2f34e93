"""Every private or patched name of Flower, and nothing of our other rooms.

`private_names` lists them with their reasons; tests/unit/flower_compat says which one has moved.
"""
