"""What a study agrees on, and the facts of one site."""
