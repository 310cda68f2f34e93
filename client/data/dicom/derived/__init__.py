"""DICOM objects made of a series: segments and structures for the site's own use."""
