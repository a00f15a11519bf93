"""One thin script a stage: read, call the library, write."""

import gc

# Libraries and figures are many objects that stay. To sift them for garbage after every 700 costs a tenth of a stage.
gc.set_threshold(100_000)
