"""What a hospital agrees to before anything runs there: the code, and the study."""
