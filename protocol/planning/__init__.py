"""A study planned from what its sites' data are like."""
