"""The wavefront: all layers of a stack compute at once, each on another minibatch, with the plain order's results."""
