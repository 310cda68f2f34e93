"""Speed and memory beside what a user would pick instead; `make bench` prints and writes it."""
