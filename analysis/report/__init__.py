"""What every report is made of: parts of a page, files, JSON."""
