"""From a photo, file or bytes, to the pixels of the network's input."""
