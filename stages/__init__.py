"""One thin script a stage: read, call the library, write."""
