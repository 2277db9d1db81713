"""The demo: many small agents at once over the files of a folder, traced and checked from end to end."""
