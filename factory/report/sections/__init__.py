"""The built-in sections of a report, a file each, registered like a user's."""
