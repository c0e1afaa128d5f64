"""A page that shows builds while they run: it reads a store's files and writes none."""
