"""A report as one HTML file: blocks, figures, and the page that holds them."""
