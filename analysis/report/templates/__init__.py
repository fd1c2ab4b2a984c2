"""The Jinja2 templates of every page: the document, its style, one macro for each part."""
