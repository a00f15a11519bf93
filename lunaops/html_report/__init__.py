"""An evaluation as one HTML page for people: material -> sections of blocks -> page, with nothing outside the file."""
