"""A trained model on new scans."""
