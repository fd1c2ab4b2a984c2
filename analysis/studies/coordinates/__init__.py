"""The coordinate check: do activations change alike at every width or depth?"""
