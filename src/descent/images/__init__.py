"""The user's images, one folder per class: found, decoded by Pillow and resized."""
