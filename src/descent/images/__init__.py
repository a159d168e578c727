"""A person's own images, a folder for each class: found, decoded by Pillow, brought to one size."""
