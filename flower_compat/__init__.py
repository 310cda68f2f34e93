"""Everything that uses a private name of Flower; imports none of our other rooms.

`private_names` lists them with their reasons; tests/unit/flower_compat names one that has moved.
"""
