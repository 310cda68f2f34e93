"""Reports as one HTML file, figures, and the output of commands."""
