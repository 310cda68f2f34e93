"""What crosses between centre and sites: messages, weights, their packing."""
