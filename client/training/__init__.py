"""One site's share of a round: training and evaluation."""
