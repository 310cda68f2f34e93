"""What the numbers and names of a label mean in a study."""
