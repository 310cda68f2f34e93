"""One file of a scan or label map: opened, its bytes and geometry checked, read and written."""
