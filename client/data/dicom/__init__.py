"""DICOM: series, contours and segments, read and written."""
